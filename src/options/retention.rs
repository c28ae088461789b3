//! What a log keeps, and what it lets go.

use std::time::Duration;

use super::check_age;
use crate::error::{Error, Result};

/// How much a log keeps. Whole segments go, the oldest first, as soon as one of the limits says so;
/// without any limit nothing goes.
///
/// ```
/// use std::time::Duration;
/// use duralog::Retention;
///
/// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// let policy = Retention::new().max_age(7 * DAY).max_bytes(10 << 30);
/// assert_eq!(policy.age(), Some(7 * DAY));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Retention {
    pub(crate) age: Option<Duration>,
    pub(crate) bytes: Option<u64>,
    pub(crate) segments: Option<u64>,
}

impl Retention {
    /// No limit.
    pub const fn new() -> Self {
        Self {
            age: None,
            bytes: None,
            segments: None,
        }
    }

    /// A segment goes once its newest record is older than this, by append time; at least a
    /// millisecond.
    #[doc(alias = "retention.ms")]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// The oldest segments go while the log's segments have more bytes than this; at least 1.
    #[doc(alias = "retention.bytes")]
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// The oldest segments go while there are more than this, the active one included; at least 1.
    pub const fn max_segments(mut self, segments: u64) -> Self {
        self.segments = Some(segments);
        self
    }

    /// The age, if there is such a limit.
    pub const fn age(&self) -> Option<Duration> {
        self.age
    }

    /// Whether there is anything to do for it.
    pub(crate) fn is_set(&self) -> bool {
        *self != Self::new()
    }

    /// # Errors
    ///
    /// `InvalidOption`.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(age) = self.age {
            check_age("retention", age)?;
        }
        if self.bytes == Some(0) || self.segments == Some(0) {
            return Err(Error::option("retention", "a limit must be at least 1"));
        }
        Ok(())
    }
}
