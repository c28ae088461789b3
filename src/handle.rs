//! What every handle to a log that is open for writing holds.

use std::{fmt, ops::Deref, sync::Arc};

use crate::log::Shared;

/// The log as its handles hold it: the log itself, producers, consumers, receipts. When the last
/// of them is dropped, the log is closed. (Its thread holds [`Shared`] alone.)
pub(crate) struct LogHandle {
    shared: Arc<Shared>,
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
        Arc::new(Self { shared })
    }

    /// The log without the handle: does not keep it from being closed.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
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
