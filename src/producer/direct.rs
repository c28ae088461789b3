//! A direct producer that tries again: the send does, and those behind it wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::line::{Line, Ticket};
use crate::{
    backoff::{Backoff, Waits},
    error::{Error, ErrorKind, Result},
    fs::{Mutex, wake_all},
    log::Shared,
};

/// How sends are tried again. While one is, the others wait behind it, in line.
#[derive(Debug)]
pub(super) struct Retries {
    timeout: Duration,
    policy: Waits,
    /// Somebody is in the line.
    busy: AtomicBool,
    line: Mutex<Line>,
}

impl Retries {
    pub(super) fn new(timeout: Duration, policy: Waits) -> Self {
        Self {
            timeout,
            policy,
            busy: AtomicBool::new(false),
            line: Mutex::default(),
        }
    }

    /// Calls `append`, which appends; again and again, as long as that may help.
    ///
    /// # Errors
    ///
    /// Those of an append, and `DeliveryTimeout`.
    pub(super) fn append<T>(&self, log: &Arc<Shared>, append: impl Fn() -> Result<T>) -> Result<T> {
        if !self.busy.load(Ordering::Acquire) {
            match append() {
                Err(error) if error.is_transient() => {}
                other => return other,
            }
        }
        self.append_in_turn(log, append)
    }

    #[cold]
    fn append_in_turn<T>(&self, log: &Arc<Shared>, append: impl Fn() -> Result<T>) -> Result<T> {
        let host = &log.site.host;
        let deadline = host.monotonic().saturating_add(self.timeout);
        let parker = host.parker();
        let ticket = {
            let mut line = self.line.lock();
            self.busy.store(true, Ordering::Release);
            line.join(parker.waker())
        };
        let _turn = Turn {
            retries: self,
            ticket,
        };
        // Each gives up in the end, and those in front came first: nobody waits much longer than
        // its own timeout.
        while !self.line.lock().is_turn(Some(ticket)) {
            parker.park(None);
        }
        let mut backoff = Backoff::new(self.policy);
        loop {
            let error = match append() {
                Err(error) if error.is_transient() => error,
                other => return other,
            };
            let now = host.monotonic();
            if now >= deadline {
                return Err(self.give_up(error));
            }
            let wait = backoff.next(host.random());
            parker.park(Some(now.saturating_add(wait).min(deadline)));
        }
    }

    fn give_up(&self, source: Error) -> Error {
        ErrorKind::DeliveryTimeout {
            after: self.timeout,
            source,
        }
        .into()
    }
}

/// A place in the line; given up when dropped.
struct Turn<'a> {
    retries: &'a Retries,
    ticket: Ticket,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut line = self.retries.line.lock();
        let next = line.leave(self.ticket);
        self.retries.busy.store(next.is_some(), Ordering::Release);
        drop(line);
        wake_all(next);
    }
}
