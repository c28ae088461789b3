//! What every handle to a log that is open for writing holds.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

use crate::{
    error::{Error, ErrorKind, Result},
    fs::Mutex,
    log::Shared,
};

/// The log as its handles hold it: the log itself, producers, consumers, receipts. When the last
/// of them is dropped, the log is closed. (Its thread holds [`Shared`] alone.)
pub(crate) struct LogHandle {
    shared: Arc<Shared>,
    /// Those who hold records that are not in the log yet.
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

/// Somebody who took records that are not in the log yet.
pub(crate) trait Holder: Send + Sync {
    /// Takes no more, and appends what is there: each record is tried once. Returns what came of
    /// those that nobody was told of by a flush.
    fn hand_over(&self) -> Unwritten;
}

/// Records that were taken and not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    pub(crate) records: u64,
    /// Why the first of them was not.
    pub(crate) reason: Option<Error>,
}

impl Unwritten {
    /// One more, or several, for the same reason.
    pub(crate) fn add(&mut self, records: u64, reason: &Error) {
        self.records += records;
        self.reason.get_or_insert_with(|| reason.clone());
    }

    /// # Errors
    ///
    /// `NotAcknowledged` if there are any.
    pub(crate) fn check(self) -> Result<()> {
        let Self { records, reason } = self;
        match reason {
            None => Ok(()),
            Some(source) => Err(ErrorKind::NotAcknowledged { records, source }.into()),
        }
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.shared.site.dir)
            .finish_non_exhaustive()
    }
}

impl LogHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        let holders = Mutex::default();
        Arc::new(Self { shared, holders })
    }

    /// The log without the handle: does not keep it from being closed.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Before the log is closed, this one hands over what it holds.
    pub(crate) fn register(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.holders.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    /// Closes the log, with all that its producers have taken in it.
    ///
    /// # Errors
    ///
    /// Those of [`Shared::close`]; `NotAcknowledged` if a record that a producer had taken could
    /// not be written. The log is closed all the same.
    pub(crate) fn close(&self) -> Result<()> {
        let holders = std::mem::take(&mut *self.holders.lock());
        let mut unwritten = Unwritten::default();
        for holder in holders.iter().filter_map(Weak::upgrade) {
            let of_holder = holder.hand_over();
            if let Some(reason) = &of_holder.reason {
                unwritten.add(of_holder.records, reason);
            }
        }
        self.shared.close()?;
        unwritten.check()
    }
}

impl Deref for LogHandle {
    type Target = Arc<Shared>;

    #[inline]
    fn deref(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        // `close` tells the error; whoever drops instead has said not to care. What is not synced
        // now is recovered by the next opening.
        drop(self.shared.close());
    }
}
