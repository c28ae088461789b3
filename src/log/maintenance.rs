//! What is done in the background, so that the append path need not. Threads that serve all
//! logs of a file system ([`pool`](super::pool)); each calls a log's step, which does what is due
//! and says when to look again:
//!
//! * [`ahead`](super::ahead) makes room, reserves offsets and rolls by age, and does not wait for
//!   large writes to reach the device: a flush of seconds must not let the writer run out of room;
//! * [`settle`](super::settle) syncs by the flush policy or when asked, seals, and writes
//!   checkpoints;
//! * [`clean`](super::clean), for logs whose options ask for it, lets go of what is not to be kept.
//!
//! The append path wakes neither while they are active (that would be a system call): `ahead`
//! looks again after a time that follows the rate of appends. Only when nothing was appended for a
//! while does it sleep until it is woken, by the first append after that; and it wakes `settle`.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    Shared, ahead::AheadPace, clean::CleanPace, pool::Place, segments::Segment, settle::SettlePace,
};
use crate::fs::Mutex;

/// Time until something that failed is tried again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The maintenance of one log.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    place: OnceLock<Place>,
    /// `settle` sleeps until it is woken...
    pub(super) settle_rests: AtomicBool,
    /// ...or does not know yet of records that are not durable.
    pub(super) settle_unaware: AtomicBool,
    /// Durable segments that have no footer yet.
    pub(super) sealable: Mutex<VecDeque<Arc<Segment>>>,
    /// Held while they are sealed.
    pub(super) sealing: Mutex<()>,
    pub(super) ahead_pace: Mutex<AheadPace>,
    pub(super) settle_pace: Mutex<SettlePace>,
    pub(super) clean_pace: Mutex<CleanPace>,
}

impl Maintenance {
    /// Something was appended after a pause.
    pub(crate) fn wake_ahead(&self) {
        if let Some(place) = self.place.get() {
            place.wake_ahead();
        }
    }

    /// There is something to sync, to seal or to record.
    pub(crate) fn wake_settle(&self) {
        if let Some(place) = self.place.get() {
            place.wake_settle();
        }
    }

    /// There may be something to clean.
    pub(crate) fn wake_clean(&self) {
        if let Some(place) = self.place.get() {
            place.wake_clean();
        }
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

    /// Takes out the oldest.
    pub(super) fn next_sealable(&self) -> Option<Arc<Segment>> {
        self.sealable.lock().pop_front()
    }

    pub(crate) fn add_sealable(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            self.sealable.lock().extend(segments);
        }
    }

    /// Ends the maintenance; no step is running then.
    pub(crate) fn stop(&self) {
        if let Some(place) = self.place.get() {
            place.leave();
        }
    }
}

impl Shared {
    /// Starts the maintenance.
    ///
    /// # Errors
    ///
    /// What the platform says; nothing is left running then.
    pub(super) fn start_maintenance(self: &Arc<Self>) -> io::Result<()> {
        let place = Place::take(&self.site.host, &self.site.dir)?;
        let place = self.maintenance.place.get_or_init(|| place);
        place.begin(self).inspect_err(|_| place.leave())
    }

    /// A step panicked: nothing is promised any more, as after a failed sync.
    pub(super) fn latch_by_panic(&self, message: &str) {
        self.latch_log(&self.site.dir, Arc::new(io::Error::other(message)));
    }
}
