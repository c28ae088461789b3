//! What a log keeps, and what it does when it is full.

use std::{fmt, sync::Arc, time::Duration};

use super::{CleanupPolicy, check_age};
use crate::{
    error::{Error, Result},
    format::{file_name, meta::StoredOptions},
};

/// How much a log keeps. Whole segments go, the oldest first, as soon as one of the limits says so,
/// in the background; without any limit nothing goes. Groups that have not read them may hold them
/// back: [`GroupRetention`].
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

    /// A segment goes once its newest record is this old; at least a millisecond. What counts is
    /// when records were [appended](crate::RecordRef::append_time). The active segment is rolled
    /// once its first record is this old, so that idle logs expire too, and no record stays longer
    /// than twice this time (and a moment).
    ///
    /// While the log is open, ages advance by the monotonic clock: a wall clock that is set ahead
    /// or back deletes nothing and keeps nothing, and
    /// [is reported](crate::RetentionReport::clock_ahead). What passed while the log was closed is
    /// told by the wall clock, as nothing else knows it. Records that were appended while the
    /// clock was ahead count from the moment at which their segment was rolled, if the clock was
    /// right then and when it was begun, else from the opening of the log. Records that were
    /// appended while it was behind count as older than they are, and so do those before them, if
    /// the clock was ahead or is behind now: none counts as younger than one behind it.
    #[doc(alias = "retention.ms")]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// The oldest segments go so that the log has at most this many bytes in its segments, even
    /// once the active one is full; at least two segments
    /// ([`segment_bytes`](crate::LogOptions::segment_bytes)). What is allocated ahead, and files
    /// beside the segments (indexes, some kilobytes of others), do not count.
    ///
    /// Where groups hold back what would have to go
    /// ([`GroupRetention::KeepUnconsumed`]), the log takes nothing more:
    /// [`WhenFull`] decides what becomes of it.
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

    /// The number of bytes, if there is such a limit.
    pub const fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// The number of segments, if there is such a limit.
    pub const fn segments(&self) -> Option<u64> {
        self.segments
    }

    /// Whether there is any limit.
    pub(crate) fn is_set(&self) -> bool {
        *self != Self::new()
    }

    /// # Errors
    ///
    /// `InvalidOption` for a limit on a log that is only compacted.
    pub(crate) fn check_policy(&self, policy: CleanupPolicy) -> Result<()> {
        if self.is_set() && !policy.deletes() {
            let reason = format!("a limit {CONTRADICTION}Retention::new()");
            return Err(Error::option("retention", reason));
        }
        Ok(())
    }

    /// # Errors
    ///
    /// `InvalidOption`.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(age) = self.age {
            check_age("retention", age)?;
        }
        if self.bytes == Some(0) || self.segments == Some(0) {
            return Err(Error::option("retention", "a limit must be at least 1"));
        }
        Ok(())
    }
}

/// What retention does about groups that have not read what is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GroupRetention {
    /// It goes, as Kafka does it. Groups that had not read it are told the gap when they come, and
    /// are [warned](crate::LogOptions::on_retention_warning) before. The default.
    #[default]
    Drop,
    /// Nothing goes that a registered group has not durably committed, unless the group
    /// [does not count](crate::LogOptions::exclude_group) or
    /// [is stale](crate::LogOptions::groups_stale_after). A group is registered from its first
    /// [`build`](crate::ConsumerBuilder::build) on. What it committed without a sync counts too:
    /// its file is synced before anything is deleted because of it. Compaction heeds no group:
    /// what a later record of its key supersedes goes on a compacted log, and is no gap.
    ///
    /// # Concurrency
    ///
    /// Groups of other processes count as well: their files are read before each deletion. A group
    /// that is registered while a deletion is under way may begin with the gap that it leaves.
    KeepUnconsumed,
}

/// What becomes of a send while the log is full: its [byte limit](Retention::max_bytes) is reached
/// and groups hold back what would have to go, the [free space](crate::LogOptions::min_free_bytes)
/// of the disk is, or the disk really is full. What may go by the log's retention goes first. With
/// [`CleanupPolicy::Compact`] no segment may go.
///
/// A log that is [compacted](CleanupPolicy) in the background is looked at for that as soon as a
/// send finds it full. It is compacted if enough of it is
/// [dirty](crate::LogOptions::min_dirty_ratio), and at its
/// [rate](crate::LogOptions::compaction_rate); until then it is full. A disk that really is full
/// may have no room for what compaction writes, so leave it some with
/// [`min_free_bytes`](crate::LogOptions::min_free_bytes).
///
/// Groups are looked at every 10 ms at most, so a send may meet the limit for that long after a
/// commit. Each case is counted: see [`Stats`](crate::Stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The send fails with [`ErrorKind::LogFull`](crate::ErrorKind::LogFull), or
    /// [`StorageFull`](crate::ErrorKind::StorageFull) on a disk that is full; the record is handed
    /// back. The default.
    #[default]
    Reject,
    /// The send waits for so long at most, and fails then. It looks again every 20 ms. Producers
    /// that try again by themselves (buffered ones, and those with a
    /// [`delivery_timeout`](crate::ProducerBuilder::delivery_timeout)) wait as long as that says
    /// instead.
    Block(Duration),
    /// The record is dropped: the send returns a receipt, whose
    /// [`wait`](crate::Receipt::wait) fails with
    /// [`ErrorKind::Dropped`](crate::ErrorKind::Dropped). So senders that do not wait go on
    /// undisturbed. Named producers leave none of their records out, so their sends fail as with
    /// `Reject`.
    DropNewest,
    /// The oldest segment goes, although groups have not read it: they are told the gap
    /// ([`GapReason::DropOldest`](crate::GapReason::DropOldest)). Where even that does not help, as
    /// with `Reject`.
    DropOldest,
}

/// A group is about to lose records that it has not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionWarning {
    /// Which group.
    pub group: String,
    /// So many records.
    pub records: u64,
    /// In about this time: by their age, or by how fast the log has grown lately.
    pub within: Duration,
}

impl fmt::Display for RetentionWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            records,
            within,
        } = self;
        write!(
            f,
            "group {group} will lose {records} records in about {within:?}"
        )
    }
}

/// What is called with such a warning.
#[derive(Clone)]
pub(crate) struct WarningCall(pub(crate) Arc<dyn Fn(&RetentionWarning) + Send + Sync>);

impl fmt::Debug for WarningCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WarningCall")
    }
}

const CONTRADICTION: &str = "contradicts CleanupPolicy::Compact, which deletes no segments; choose \
                             CompactAndDelete, or ";

/// At most this many groups can be excluded.
pub(crate) const EXCLUDED_MAX: usize = 16;

/// What is let go, and what then if nothing may go: with every choice made and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keeping {
    pub(crate) limits: Retention,
    pub(crate) groups: GroupRetention,
    pub(crate) excluded: Vec<String>,
    pub(crate) stale_after: Option<Duration>,
    pub(crate) when_full: WhenFull,
    pub(crate) min_free: Option<u64>,
}

impl Keeping {
    /// # Errors
    ///
    /// `InvalidOption`.
    pub(super) fn resolve(stored: &StoredOptions, segment_bytes: u64) -> Result<Self> {
        let limits = stored.retention.unwrap_or_default();
        limits.check()?;
        let two = 2 * segment_bytes;
        if let Some(bytes) = limits.bytes.filter(|bytes| *bytes < two) {
            let reason = format!(
                "max_bytes of {bytes} is less than two segments, {two}: set segment_bytes to at \
                 most half of it"
            );
            return Err(Error::option("retention", reason));
        }
        if let Some(age) = stored.stale_after {
            check_age("groups_stale_after", age)?;
        }
        let excluded = stored.excluded.clone().unwrap_or_default();
        if excluded.len() > EXCLUDED_MAX {
            let reason = format!("at most {EXCLUDED_MAX} groups can be excluded");
            return Err(Error::option("exclude_group", reason));
        }
        for name in &excluded {
            file_name::check_name(name)
                .map_err(|error| Error::option("exclude_group", error.to_string()))?;
        }
        Ok(Self {
            limits,
            groups: stored.groups.unwrap_or_default(),
            excluded,
            stale_after: stored.stale_after,
            when_full: stored.when_full.unwrap_or_default(),
            min_free: stored.min_free.filter(|bytes| *bytes > 0),
        })
    }

    /// A log that only compacts keeps the last record of each key, whatever its age and size.
    ///
    /// # Errors
    ///
    /// `InvalidOption`.
    pub(super) fn check_policy(&self, policy: CleanupPolicy) -> Result<()> {
        self.limits.check_policy(policy)?;
        if self.when_full == WhenFull::DropOldest && !policy.deletes() {
            let reason = format!("DropOldest {CONTRADICTION}another WhenFull");
            return Err(Error::option("when_full", reason));
        }
        Ok(())
    }

    /// Whether there is anything to do for it in the background.
    pub(crate) fn is_set(&self) -> bool {
        self.limits.is_set() || self.min_free.is_some()
    }

    /// Whether a log that is full has anything to do about it.
    pub(crate) fn acts_when_full(&self) -> bool {
        self.limits.bytes.is_some()
            || self.min_free.is_some()
            || self.when_full != WhenFull::default()
    }
}
