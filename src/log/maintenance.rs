//! What is done in the background, so that the append path need not. Two threads, each of which
//! calls a step in a loop that does what is due and says when to look again:
//!
//! * [`ahead`](super::ahead) makes room, reserves offsets and rolls by age, and does not wait for
//!   large writes to reach the device: a flush of seconds must not let the writer run out of room;
//! * [`settle`](super::settle) syncs by the flush policy or when asked, seals, and writes
//!   checkpoints.
//!
//! The append path wakes neither while they are active (that would be a system call): `ahead`
//! looks again after a time that follows the rate of appends. Only when nothing was appended for a
//! while does it sleep until it is woken, by the first append after that; and it wakes `settle`.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use super::{Shared, ahead::AheadPace, segments::Segment, settle::SettlePace};
use crate::fs::{Joiner, Mutex};

/// Time until something that failed is tried again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The maintenance of one log.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    ahead: Worker,
    settle: Worker,
    stop: AtomicBool,
    /// `settle` sleeps until it is woken...
    pub(super) settle_rests: AtomicBool,
    /// ...or does not know yet of records that are not durable.
    pub(super) settle_unaware: AtomicBool,
    /// Durable segments that have no footer yet.
    pub(super) sealable: Mutex<Vec<Arc<Segment>>>,
    pub(super) ahead_pace: Mutex<AheadPace>,
    pub(super) settle_pace: Mutex<SettlePace>,
}

/// One of the two threads.
#[derive(Debug, Default)]
struct Worker {
    waker: OnceLock<Waker>,
    thread: Mutex<Option<Box<dyn Joiner>>>,
}

impl Worker {
    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    fn join(&self) {
        self.wake();
        // Taken out first: the thread may be this one, which must not wait for itself.
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join();
        }
    }
}

impl Maintenance {
    /// Something was appended after a pause.
    pub(crate) fn wake_ahead(&self) {
        self.ahead.wake();
    }

    /// There is something to sync, to seal or to record.
    pub(crate) fn wake_settle(&self) {
        self.settle.wake();
    }

    /// There is something to sync by the flush policy.
    pub(crate) fn wake_settle_if_unaware(&self) {
        if self.settle_unaware.swap(false, Ordering::SeqCst) {
            self.wake_settle();
        }
    }

    /// There is something to seal or to record. While the thread has a moment to wait for, it sees
    /// that in time; so a send that syncs by itself seldom pays for waking it.
    pub(crate) fn wake_settle_if_resting(&self) {
        if self.settle_rests.swap(false, Ordering::SeqCst) {
            self.wake_settle();
        }
    }

    pub(crate) fn add_sealable(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            self.sealable.lock().extend(segments);
        }
    }

    /// Ends both threads, and waits until they have.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ahead.join();
        self.settle.join();
    }
}

/// Starts the threads.
///
/// # Errors
///
/// What the platform says; no thread is left running then.
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let maintenance = &shared.maintenance;
    spawn(
        shared,
        "duralog-ahead",
        |maintenance| &maintenance.ahead,
        Shared::step_ahead,
    )
    .and_then(|()| {
        spawn(
            shared,
            "duralog-settle",
            |maintenance| &maintenance.settle,
            Shared::step_settle,
        )
    })
    .inspect_err(|_| maintenance.stop())
}

fn spawn(
    shared: &Arc<Shared>,
    name: &str,
    worker: fn(&Maintenance) -> &Worker,
    step: fn(&Shared) -> Option<Duration>,
) -> io::Result<()> {
    let served = Arc::clone(shared);
    let run = move || {
        let parker = served.site.host.parker();
        worker(&served.maintenance)
            .waker
            .get_or_init(|| parker.waker());
        while !served.maintenance.stop.load(Ordering::Acquire) {
            let until = step(&served);
            parker.park(until);
        }
    };
    let thread = shared.site.host.spawn(name, Box::new(run))?;
    *worker(&shared.maintenance).thread.lock() = Some(thread);
    Ok(())
}
