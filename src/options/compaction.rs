//! The options of compaction.

use std::time::Duration;

use super::{LogOptions, check_range, to_usize};
use crate::error::{Error, Result};

/// What becomes of records that are not needed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CleanupPolicy {
    /// Old segments are deleted as a whole, by retention. The default.
    #[default]
    #[doc(alias = "cleanup.policy=delete")]
    Delete,
    /// The last record of each key is kept, whatever its age; those before it are removed in time.
    /// Every record needs a key, and one without a value (a
    /// [tombstone](crate::Record::tombstone)) removes the key. Nothing is deleted by
    /// age or size: limits of [`retention`](crate::LogOptions::retention), and
    /// [`WhenFull::DropOldest`](crate::WhenFull::DropOldest), are refused. Segments stay, however few
    /// records are left in them, with some kilobytes each: they are best not too small.
    #[doc(alias = "cleanup.policy=compact")]
    Compact,
    /// Both.
    #[doc(alias = "cleanup.policy=compact,delete")]
    CompactAndDelete,
}

impl CleanupPolicy {
    /// Whether the last record of each key is kept, and those before it are removed.
    pub const fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }

    /// Whether retention deletes old segments.
    pub const fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }
}

/// Default of [`LogOptions::tombstone_retention`]: a day, as Kafka's.
pub const DEFAULT_TOMBSTONE_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// Default of [`LogOptions::min_dirty_ratio`]: a half, as Kafka's.
pub const DEFAULT_MIN_DIRTY_RATIO: f64 = 0.5;
/// Default of [`LogOptions::compaction_memory`]: 128 MiB, as Kafka's.
pub const DEFAULT_COMPACTION_MEMORY: u64 = 128 << 20;
/// Smallest [`LogOptions::compaction_memory`]: 64 KiB.
pub const MIN_COMPACTION_MEMORY: u64 = 64 << 10;
/// Largest [`LogOptions::compaction_memory`]: 4 GiB.
pub const MAX_COMPACTION_MEMORY: u64 = 4 << 30;
/// Smallest [`LogOptions::compaction_rate`].
const MIN_COMPACTION_RATE: u64 = 64 << 10;
/// Default of [`LogOptions::compaction_rate`]: 32 MiB a second.
pub const DEFAULT_COMPACTION_RATE: u64 = 32 << 20;
impl LogOptions {
    /// *Stored.* What becomes of records that are not needed any more; by default
    /// [`CleanupPolicy::Delete`]. Records without a key that were sent under another policy are
    /// kept.
    #[doc(alias = "cleanup.policy")]
    pub fn cleanup_policy(mut self, policy: CleanupPolicy) -> Self {
        self.stored.compaction.cleanup_policy = Some(policy);
        self
    }

    /// *Stored.* How long compaction keeps a tombstone, from when it first removed the records before
    /// it: who reads the log from its start and takes no longer than this learns of every deletion.
    /// By default [a day](DEFAULT_TOMBSTONE_RETENTION). Measured by the wall clock as it was when the log was
    /// opened, and from then on by the monotonic one: a clock that jumps while the log is open ends
    /// nothing early. Where too little comes for the log to be [compacted](Self::min_dirty_ratio),
    /// that moment does not come, and the tombstone stays.
    #[doc(alias = "delete.retention.ms")]
    pub fn tombstone_retention(mut self, time: Duration) -> Self {
        self.stored.compaction.tombstone_retention = Some(time);
        self
    }

    /// *Stored.* Records younger than this are not compacted, and nothing is removed because of
    /// them: what was sent within this time is all there. By default none. A segment is compacted
    /// once its last record is this old, by the time of the append and the clock of
    /// [`tombstone_retention`](Self::tombstone_retention); the active one never is. (What is sent
    /// while the wall clock is behind counts as that much older.)
    #[doc(alias = "min.compaction.lag.ms")]
    pub fn min_compaction_lag(mut self, lag: Duration) -> Self {
        self.stored.compaction.min_compaction_lag = Some(lag);
        self
    }

    /// *Stored.* The log is compacted in the background once this part of its bytes is in segments
    /// that may be compacted and have not been; from 0 to 1, by default
    /// [a half](DEFAULT_MIN_DIRTY_RATIO). Lower is less space for more work. It is looked at every
    /// 15 s (Kafka's `log.cleaner.backoff.ms`), and where a send finds the log full, at once: then
    /// any part is enough. The active segment never is among them, so a log that is smaller than
    /// [`segment_bytes`](Self::segment_bytes) is not compacted before that one is
    /// [rolled by its age](Self::segment_age).
    #[doc(alias = "min.cleanable.dirty.ratio")]
    pub fn min_dirty_ratio(mut self, ratio: f64) -> Self {
        self.stored.compaction.min_dirty_ratio = Some(Ratio::of(ratio));
        self
    }

    /// *Stored.* Most memory for the keys that a compaction remembers, in bytes; 64 KiB to 4 GiB, by default
    /// [128 MiB](DEFAULT_COMPACTION_MEMORY), which holds some 3.5 million keys of 16 bytes. With more keys
    /// the log is read once for each part of them that fits, however often each key was sent. A key
    /// that is larger than all this is remembered alone, and takes what it takes.
    #[doc(alias = "log.cleaner.dedupe.buffer.size")]
    pub fn compaction_memory(mut self, bytes: u64) -> Self {
        self.stored.compaction.compaction_memory = Some(bytes);
        self
    }

    /// *Stored.* How much a compaction in the background reads and writes, in bytes a second; at
    /// least 64 KiB, by default [32 MiB](DEFAULT_COMPACTION_RATE).
    /// [`Log::compact`](crate::Log::compact) is not held back.
    #[doc(alias = "log.cleaner.io.max.bytes.per.second")]
    pub fn compaction_rate(mut self, bytes: u64) -> Self {
        self.stored.compaction.compaction_rate = Some(bytes);
        self
    }
}

/// Options of compaction as they are stored; `None` where never given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredCompaction {
    pub(crate) cleanup_policy: Option<CleanupPolicy>,
    pub(crate) tombstone_retention: Option<Duration>,
    pub(crate) min_compaction_lag: Option<Duration>,
    pub(crate) min_dirty_ratio: Option<Ratio>,
    pub(crate) compaction_memory: Option<u64>,
    pub(crate) compaction_rate: Option<u64>,
}

impl StoredCompaction {
    /// These, where given, else `older`.
    pub(crate) fn over(self, older: Self) -> Self {
        Self {
            cleanup_policy: self.cleanup_policy.or(older.cleanup_policy),
            tombstone_retention: self.tombstone_retention.or(older.tombstone_retention),
            min_compaction_lag: self.min_compaction_lag.or(older.min_compaction_lag),
            min_dirty_ratio: self.min_dirty_ratio.or(older.min_dirty_ratio),
            compaction_memory: self.compaction_memory.or(older.compaction_memory),
            compaction_rate: self.compaction_rate.or(older.compaction_rate),
        }
    }
}

/// A part of a whole, in millionths. What is no such part stays one that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ratio(pub(crate) u64);

impl Ratio {
    const WHOLE: u64 = 1_000_000;
    const IMPOSSIBLE: Self = Self(u64::MAX);

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it lies between 0 and a million"
    )]
    fn of(part: f64) -> Self {
        if (0.0..=1.0).contains(&part) {
            Self((part * 1e6).round() as u64)
        } else {
            Self::IMPOSSIBLE
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "it is a million at most")]
    pub(crate) fn get(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Whether `part` of `whole` is this or more.
    pub(crate) fn is_reached(self, part: u64, whole: u64) -> bool {
        u128::from(part) * u128::from(Self::WHOLE) >= u128::from(whole) * u128::from(self.0)
    }
}

/// Options of compaction with every choice made and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompactionConfig {
    pub(crate) policy: CleanupPolicy,
    pub(crate) tombstone_retention: Duration,
    pub(crate) min_lag: Duration,
    pub(crate) min_dirty: Ratio,
    /// Bytes.
    pub(crate) memory: usize,
    /// Bytes a second.
    pub(crate) rate: u64,
}

impl CompactionConfig {
    pub(super) fn resolve(stored: &StoredCompaction) -> Result<Self> {
        let min_dirty = stored.min_dirty_ratio;
        let min_dirty = min_dirty.unwrap_or(Ratio::of(DEFAULT_MIN_DIRTY_RATIO));
        if min_dirty.0 > Ratio::WHOLE {
            let reason = "it must be a number from 0 to 1";
            return Err(Error::option("min_dirty_ratio", reason));
        }
        let memory = stored
            .compaction_memory
            .unwrap_or(DEFAULT_COMPACTION_MEMORY);
        check_range(
            "compaction_memory",
            memory,
            MIN_COMPACTION_MEMORY,
            MAX_COMPACTION_MEMORY,
        )?;
        let rate = stored.compaction_rate.unwrap_or(DEFAULT_COMPACTION_RATE);
        check_range("compaction_rate", rate, MIN_COMPACTION_RATE, u64::MAX)?;
        let retention = stored.tombstone_retention;
        Ok(Self {
            policy: stored.cleanup_policy.unwrap_or_default(),
            tombstone_retention: retention.unwrap_or(DEFAULT_TOMBSTONE_RETENTION),
            min_lag: stored.min_compaction_lag.unwrap_or_default(),
            min_dirty,
            memory: to_usize("compaction_memory", memory)?,
            rate,
        })
    }
}
