//! Cleaning: what the log may let go of, by its policy, goes in the background.

use std::time::Duration;

use super::Shared;

/// What one step remembers for the next.
#[derive(Debug, Default)]
pub(crate) struct CleanPace {}

impl Shared {
    /// Whether its options give the thread that cleans anything to do. Without that it is not even
    /// started for this log.
    pub(super) fn wants_cleaning(&self) -> bool {
        self.site.config.retention.is_set()
    }

    /// Does what is due, a bounded part of it at a time, and says when to look again; `None` is
    /// when woken.
    ///
    /// What fails here is tried again later; a failed sync latches the log.
    pub(crate) fn step_clean(&self) -> Option<Duration> {
        let _pace = self.maintenance.clean_pace.lock();
        None
    }
}
