//! Telling who holds a batch for too long.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    ConsumerBuilder,
    reader::{Origin, Reader},
};
use crate::{
    error::{Error, Result},
    log::{ConsumerInfo, Member, Membership, OnOverdue},
    offset::Offset,
};

/// [`ConsumerBuilder::max_poll_interval`] by default.
pub const DEFAULT_MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

/// How long a batch may be held, and who is told of one that is held for longer.
pub(super) struct HoldOptions {
    max_poll_interval: Duration,
    on_overdue: Option<OnOverdue>,
}

impl Default for HoldOptions {
    fn default() -> Self {
        Self {
            max_poll_interval: DEFAULT_MAX_POLL_INTERVAL,
            on_overdue: None,
        }
    }
}

impl fmt::Debug for HoldOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldOptions")
            .field("max_poll_interval", &self.max_poll_interval)
            .finish_non_exhaustive()
    }
}

impl HoldOptions {
    /// # Errors
    ///
    /// `InvalidOption` for an interval of 0.
    pub(super) fn check(&self) -> Result<()> {
        if self.max_poll_interval.is_zero() {
            return Err(Error::option("max_poll_interval", "must be more than 0"));
        }
        Ok(())
    }

    /// From now on it is seen how long the consumer that reads with `reader` holds its batches.
    pub(super) fn watch(self, reader: &mut Reader, group: &str, committed: Offset) {
        let Self {
            max_poll_interval,
            on_overdue,
        } = self;
        let log = match reader.origin() {
            Origin::Live(log) => Some(log.shared()),
            Origin::ReadOnly(_) => None,
        };
        let member = Member::new(group, committed, max_poll_interval, on_overdue);
        reader.join(Membership::new(member, log));
    }
}

impl ConsumerBuilder {
    /// How long the consumer may hold a batch without polling again before that counts as overdue;
    /// by default 5 minutes ([`DEFAULT_MAX_POLL_INTERVAL`]), and more than 0. A batch is held from
    /// the moment a poll returned records until the next poll, whether or not it was committed.
    ///
    /// Nothing is taken from a consumer that is overdue: it is the group's only one, and goes on.
    /// But somebody should know that it is stuck: [`Stats::overdue_consumers`],
    /// [`Log::consumers`] and [`on_overdue`](ConsumerBuilder::on_overdue) tell, while it is.
    ///
    /// It costs a poll one look at the clock. The log's own thread looks when a batch would be
    /// overdue, at most once in this time, and not at all while none is held.
    ///
    /// Of a log that is open read-only, it is noticed at the consumer's next poll, and only
    /// `on_overdue` tells.
    ///
    /// [`Stats::overdue_consumers`]: crate::Stats::overdue_consumers
    /// [`Log::consumers`]: crate::Log::consumers
    #[doc(alias = "max.poll.interval.ms")]
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.hold.max_poll_interval = interval;
        self
    }

    /// What to call when a batch is held for longer than
    /// [`max_poll_interval`](ConsumerBuilder::max_poll_interval), once for each such batch, while
    /// it is held.
    ///
    /// # Concurrency
    ///
    /// It is called from a thread that serves other logs too, so it must not block for long. It may
    /// use the log. A panic in it is contained. (Of a log that is open read-only it is called by
    /// the next poll.)
    pub fn on_overdue(mut self, callback: impl Fn(&ConsumerInfo) + Send + Sync + 'static) -> Self {
        self.hold.on_overdue = Some(Arc::new(callback));
        self
    }
}
