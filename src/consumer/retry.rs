//! How often a record is tried before it is given up.

use std::time::Duration;

use crate::{
    backoff::Waits,
    error::{Error, Result},
};

/// How often [`Consumer::process`](crate::Consumer::process) tries a record, and how long it waits
/// between two tries: twice as long each time, up to a limit, and up to a fifth more or less.
///
/// ```
/// use std::time::Duration;
/// use duralog::RetryPolicy;
///
/// let policy = RetryPolicy::new().attempts(3).backoff(Duration::from_millis(10));
/// assert_ne!(policy, RetryPolicy::new());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RetryPolicy {
    pub(super) attempts: u32,
    backoff: Duration,
    backoff_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// Five attempts, 100 ms after the first one, at most 10 seconds after a later one.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often a record is tried, the first time included; at least 1, by default 5.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// How long to wait after the first attempt; by default 100 ms. 0 does not wait.
    #[doc(alias = "retry.backoff.ms")]
    pub fn backoff(mut self, time: Duration) -> Self {
        self.backoff = time;
        self
    }

    /// How long to wait at most; by default 10 seconds.
    #[doc(alias = "retry.backoff.max.ms")]
    pub fn backoff_max(mut self, time: Duration) -> Self {
        self.backoff_max = time;
        self
    }

    pub(super) fn waits(self) -> Waits {
        Waits {
            first: self.backoff.min(self.backoff_max),
            max: self.backoff_max,
        }
    }

    /// # Errors
    ///
    /// `InvalidOption`.
    pub(super) fn check(self) -> Result<()> {
        if self.attempts == 0 {
            return Err(Error::option("retry", "attempts must be at least 1"));
        }
        Ok(())
    }
}
