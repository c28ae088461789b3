//! Threads of the operating system, and waiting in them.

use std::{
    io,
    sync::Arc,
    task::{Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{Joiner, Parker};

/// Waits on a condition variable: unlike `std::thread::park`, it takes no wake-up that was meant
/// for other code of the thread.
#[derive(Debug)]
pub(super) struct OsParker {
    start: Instant,
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl OsParker {
    /// `start` is the moment at which the clock was zero.
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            inner: Arc::default(),
        }
    }
}

impl Parker for OsParker {
    fn park(&self, until: Option<Duration>) {
        let deadline = until.and_then(|until| self.start.checked_add(until));
        let mut woken = self.inner.woken.lock();
        while !*woken {
            match deadline {
                None => self.inner.changed.wait(&mut woken),
                Some(deadline) => {
                    if self
                        .inner
                        .changed
                        .wait_until(&mut woken, deadline)
                        .timed_out()
                    {
                        break;
                    }
                }
            }
        }
        *woken = false;
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.inner))
    }
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }
}

#[derive(Debug)]
struct OsJoiner(thread::JoinHandle<()>);

impl Joiner for OsJoiner {
    fn join(self: Box<Self>) {
        if thread::current().id() != self.0.thread().id() {
            // A panic in the thread was printed there; there is nothing to add here.
            drop(self.0.join());
        }
    }
}

pub(super) fn spawn(name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<Box<dyn Joiner>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(Box::new(OsJoiner(thread)))
}
