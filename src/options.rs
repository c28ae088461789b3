//! What a log is opened with, and the levels a producer chooses from.

use std::{sync::Arc, time::Duration};

mod compaction;
mod retention;

pub use compaction::{
    CleanupPolicy, DEFAULT_COMPACTION_MEMORY, DEFAULT_COMPACTION_RATE, DEFAULT_MIN_DIRTY_RATIO,
    DEFAULT_TOMBSTONE_RETENTION, MAX_COMPACTION_MEMORY, MIN_COMPACTION_MEMORY,
};
pub(crate) use compaction::{CompactionConfig, Ratio, StoredCompaction};
pub use retention::{GroupRetention, Retention, RetentionWarning, WhenFull};
pub(crate) use retention::{Keeping, WarningCall};

use crate::{
    error::{Error, Result},
    format::{self, meta::StoredOptions},
};

/// When a send counts as done: what its record survives from then on.
///
/// | level | Kafka | done when | survives |
/// |---|---|---|---|
/// | `None` | `acks=0` | the producer has it | nothing: a crash may lose it |
/// | `Written` | `acks=1` | it is in the operating system's page cache | panic, abort, `kill -9`, the OOM killer |
/// | `Durable` | (no such mode on one node) | the device has it | also a power cut and a kernel panic |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Acks {
    /// The caller does not wait for anything, and nothing is promised. A producer with this level
    /// is [buffered](crate::ProducerBuilder): what fails is counted, and told to its callback.
    #[doc(alias = "acks=0")]
    None,
    /// In the page cache: the end of this process does not take it.
    #[doc(alias = "acks=1")]
    Written,
    /// On the device. The default.
    #[default]
    #[doc(alias = "acks=all")]
    Durable,
}

/// What a [commit](crate::Consumer::commit) survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// It is in the page cache: panic, abort, `kill -9` and the OOM killer do not take it. A power
    /// cut may, and then records are seen again; none is skipped. The default of commits.
    #[default]
    Written,
    /// The device has it, and all records below it: a power cut takes neither.
    Durable,
}

/// How a producer's records are compressed before they are stored. Readers need not be told:
/// each stored batch says it, and a log may hold any mixture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all. The default.
    #[default]
    None,
    /// LZ4, in its block format. To write or to read it needs the cargo feature `lz4`.
    Lz4,
}

impl Compression {
    /// Its name, which is also that of the cargo feature it needs: `"none"` or `"lz4"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
        }
    }

    /// Whether this build of the crate has it.
    pub const fn is_available(self) -> bool {
        match self {
            Self::None => true,
            Self::Lz4 => cfg!(feature = "lz4"),
        }
    }
}

/// When the log syncs by itself, so that `Written` records become durable too.
///
/// The default is [every second](FlushPolicy::every).
///
/// ```
/// use std::time::Duration;
/// use duralog::FlushPolicy;
///
/// let policy = FlushPolicy::every_messages(1_000).or_every(Duration::from_millis(100));
/// assert_eq!(policy.messages(), Some(1_000));
/// assert_eq!(policy.interval(), Some(Duration::from_millis(100)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    pub(crate) messages: Option<u64>,
    pub(crate) interval: Option<Duration>,
}

impl FlushPolicy {
    /// Sync when this many records are not durable: the send that completes the number waits for
    /// the sync, so at most this many (and what other threads append meanwhile) are at risk.
    #[doc(alias = "flush.messages")]
    pub const fn every_messages(messages: u64) -> Self {
        Self {
            messages: Some(messages),
            interval: None,
        }
    }

    /// Sync when the oldest record that is not durable is this old, in the background. What was
    /// appended is noticed within half the interval, and within 50 ms at most; the sync then takes
    /// what the device takes. Logs on one file system are synced one after the other.
    #[doc(alias = "flush.ms")]
    pub const fn every(interval: Duration) -> Self {
        Self {
            messages: None,
            interval: Some(interval),
        }
    }

    /// Sync after every append: each send waits for the device, whatever its acks.
    pub const fn every_append() -> Self {
        Self::every_messages(1)
    }

    /// Never by itself: only [`Acks::Durable`], [`Log::sync`](crate::Log::sync) and
    /// [`Log::close`](crate::Log::close) sync.
    pub const fn never() -> Self {
        Self {
            messages: None,
            interval: None,
        }
    }

    /// Also by interval; whichever comes first.
    #[must_use]
    pub const fn or_every(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Also by number of records; whichever comes first.
    #[must_use]
    pub const fn or_every_messages(mut self, messages: u64) -> Self {
        self.messages = Some(messages);
        self
    }

    /// The number of records, if the policy has one.
    pub const fn messages(self) -> Option<u64> {
        self.messages
    }

    /// The interval, if the policy has one.
    pub const fn interval(self) -> Option<Duration> {
        self.interval
    }
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self::every(DEFAULT_FLUSH_INTERVAL)
    }
}

/// How the log syncs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fsync {
    /// `fdatasync(2)`: the bytes, and of the file's attributes what is needed to read them.
    #[default]
    Data,
    /// `fsync(2)`; on macOS `F_FULLFSYNC`.
    Full,
    /// No call at all, for tests and throw-away data. Nothing is ever durable, and whoever asks
    /// for [`Acks::Durable`] is refused.
    Off,
}

/// How the active segment is written, and the commits of groups. The guarantees are the same; the
/// speed is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WriteMode {
    /// `Mapped` where that is known to be safe (ext4, XFS and tmpfs on Linux), else `Buffered`.
    #[default]
    Auto,
    /// Store into a shared mapping of preallocated blocks: no system call for an append, or for a
    /// commit behind one that is not durable. Where blocks cannot be preallocated, opening fails,
    /// and commits are written as with `Buffered`. On a file system that may have to allocate a
    /// block again to overwrite it (btrfs), a full disk kills the process with `SIGBUS`; and so
    /// does, anywhere, whoever cuts a file of the log while it is open, and a medium that can't
    /// be read where a commit is to be stored.
    Mapped,
    /// One `pwrite(2)` for each frame, and for each commit.
    Buffered,
}

/// How records are read in the process that has the log open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadMode {
    /// Borrow from a mapping of the file. A medium that fails while it is read, or a file that
    /// somebody else cuts, kills the process with `SIGBUS`.
    #[default]
    Mapped,
    /// Copy with `pread(2)` into memory of the consumer: a medium that fails is an error.
    Copied,
}

/// What `open` does about damage: records that were durable once and no longer verify.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnDamage {
    /// Open, serve all other records, report the damage. The default.
    #[default]
    Serve,
    /// Fail with [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) and change nothing.
    ///
    /// `open` looks at the end of every sealed segment and at what was not known to be durable. It
    /// does not read the rest; [`ReadOnlyLog::verify`](crate::ReadOnlyLog::verify) does.
    Refuse,
}

/// Default of [`LogOptions::segment_bytes`]: 64 MiB.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 << 20;
/// Smallest [`LogOptions::segment_bytes`]: 8 KiB.
pub const MIN_SEGMENT_BYTES: u64 = 8 << 10;
/// Largest [`LogOptions::segment_bytes`]: 2 GiB.
pub const MAX_SEGMENT_BYTES: u64 = 2 << 30;
/// Default of [`LogOptions::segment_age`]: 7 days, as Kafka's.
pub const DEFAULT_SEGMENT_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Default of [`LogOptions::max_record_bytes`]: 16 MiB, or what fits a segment if that is less.
pub const DEFAULT_MAX_RECORD_BYTES: u64 = 16 << 20;
/// Interval of the default [`FlushPolicy`]: a second.
pub const DEFAULT_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Options of a log; [`open`](LogOptions::open) makes the log if there is none.
///
/// Options marked *stored* are kept in the log: they need not be repeated, and given again they
/// replace the stored value from then on. The others hold for this opening only. No setter fails:
/// `open` checks them all, and names the one that is wrong.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct LogOptions {
    pub(crate) stored: StoredOptions,
    pub(crate) read_mode: ReadMode,
    /// Nothing is deleted or compacted in the background.
    pub(crate) on_demand_only: bool,
    pub(crate) on_damage: OnDamage,
    pub(crate) on_warning: Option<WarningCall>,
}

impl LogOptions {
    /// No option given: a log opens with what it has stored, a new one with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// *Stored.* Size at which the active segment is rolled, in bytes; 8 KiB to 2 GiB, by default
    /// [64 MiB](DEFAULT_SEGMENT_BYTES). A frame (a record, or a batch) never spans segments, and a
    /// segment takes one of up to its size less 1,088 bytes.
    #[doc(alias = "segment.bytes")]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.stored.segment_bytes = Some(bytes);
        self
    }

    /// *Stored.* Age of its first record at which the active segment is rolled; at least a
    /// millisecond, by default [7 days](DEFAULT_SEGMENT_AGE).
    #[doc(alias = "segment.ms")]
    pub fn segment_age(mut self, age: Duration) -> Self {
        self.stored.segment_age = Some(age);
        self
    }

    /// *Stored.* Largest record (key, value and headers, as stored), in bytes; at least 1, at most
    /// what fits a segment; by default [16 MiB](DEFAULT_MAX_RECORD_BYTES) or what fits a segment.
    #[doc(alias = "max.message.bytes")]
    pub fn max_record_bytes(mut self, bytes: u64) -> Self {
        self.stored.max_record_bytes = Some(bytes);
        self
    }

    /// *Stored.* When the log syncs by itself; by default every second.
    #[doc(alias = "flush.messages")]
    #[doc(alias = "flush.ms")]
    pub fn flush(mut self, policy: FlushPolicy) -> Self {
        self.stored.flush = Some(policy);
        self
    }

    /// *Stored.* How the log syncs; by default [`Fsync::Data`].
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.stored.fsync = Some(fsync);
        self
    }

    /// *Stored.* How the active segment and commits are written; by default [`WriteMode::Auto`].
    pub fn write_mode(mut self, mode: WriteMode) -> Self {
        self.stored.write_mode = Some(mode);
        self
    }

    /// *Stored.* How much the log keeps; by default everything. The limits given replace the stored
    /// ones together.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.stored.retention = Some(retention);
        self
    }

    /// *Stored.* Whether groups hold back what they have not read; by default they do not.
    pub fn group_retention(mut self, groups: GroupRetention) -> Self {
        self.stored.groups = Some(groups);
        self
    }

    /// *Stored.* A group that never holds anything back, and is not warned; may be called for up to
    /// 16 groups, which replace the stored ones together.
    pub fn exclude_group(mut self, name: impl Into<String>) -> Self {
        let excluded = self.stored.excluded.get_or_insert_default();
        excluded.push(name.into());
        self
    }

    /// *Stored.* No group is excluded any more.
    pub fn exclude_no_group(mut self) -> Self {
        self.stored.excluded = Some(Vec::new());
        self
    }

    /// *Stored.* A group that has committed nothing for so long holds nothing back, and is not
    /// warned, until it commits again: one that is forgotten does not fill the disk. At least a
    /// millisecond; by default groups count for ever. As with
    /// [`max_age`](Retention::max_age), the time advances by the monotonic clock while the log is
    /// open, and what it held back goes within a second or so.
    #[doc(alias = "offsets.retention.minutes")]
    pub fn groups_stale_after(mut self, time: Duration) -> Self {
        self.stored.stale_after = Some(time);
        self
    }

    /// *Stored.* What becomes of sends while the log is full; by default they fail.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.stored.when_full = Some(when_full);
        self
    }

    /// *Stored.* So many bytes the disk is to have free beside the log; by default 0. It is looked
    /// at when room is prepared or a segment is rolled, so at least every 256 KiB. Where there is
    /// less, the oldest segments go as if a byte limit were reached, and what may not go makes the
    /// log full: [`WhenFull`] decides. With [`CleanupPolicy::Compact`] no segment goes, so sends
    /// fail with [`ErrorKind::LogFull`](crate::ErrorKind::LogFull), or do what [`WhenFull`] says,
    /// until compaction has made room.
    pub fn min_free_bytes(mut self, bytes: u64) -> Self {
        self.stored.min_free = Some(bytes);
        self
    }

    /// Is called, with [`GroupRetention::Drop`], when a group is about to lose records that it has
    /// not committed: once for each group, and again only after it has caught up. The call comes
    /// from the thread that deletes, which serves other logs too, so it must not take long; it may
    /// use the log. A panic in it is contained.
    ///
    /// The same is told by [`Log::plan_retention`](crate::Log::plan_retention).
    pub fn on_retention_warning(
        mut self,
        call: impl Fn(&RetentionWarning) + Send + Sync + 'static,
    ) -> Self {
        self.on_warning = Some(WarningCall(Arc::new(call)));
        self
    }

    /// Whether this process deletes and compacts by itself, in the background; by default it does.
    /// Else that is done when it is asked for
    /// ([`enforce_retention`](crate::Log::enforce_retention), [`compact`](crate::Log::compact)), and
    /// old segments go when a send finds the log full. (Nobody is warned then.)
    pub fn clean_in_background(mut self, cleans: bool) -> Self {
        self.on_demand_only = !cleans;
        self
    }

    /// How records are read; by default [`ReadMode::Mapped`].
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.read_mode = mode;
        self
    }

    /// What opening does about damage; by default [`OnDamage::Serve`].
    pub fn on_damage(mut self, on_damage: OnDamage) -> Self {
        self.on_damage = on_damage;
        self
    }
}

/// Options with every choice made and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) segment_bytes: usize,
    pub(crate) segment_age: Duration,
    pub(crate) max_record_bytes: usize,
    pub(crate) flush: FlushPolicy,
    pub(crate) fsync: Fsync,
    pub(crate) write_mode: WriteMode,
    pub(crate) compaction: CompactionConfig,
    pub(crate) keeping: Keeping,
}

impl Config {
    /// Fills in defaults and checks ranges and contradictions.
    pub(crate) fn resolve(stored: &StoredOptions) -> Result<Self> {
        let segment_bytes = stored.segment_bytes.unwrap_or(DEFAULT_SEGMENT_BYTES);
        check_range(
            "segment_bytes",
            segment_bytes,
            MIN_SEGMENT_BYTES,
            MAX_SEGMENT_BYTES,
        )?;
        let fits = format::largest_body(segment_bytes);
        let max_record_bytes = match stored.max_record_bytes {
            None => DEFAULT_MAX_RECORD_BYTES.min(fits),
            Some(0) => return Err(Error::option("max_record_bytes", "must be at least 1")),
            Some(bytes) if bytes > fits => {
                let reason = format!(
                    "{bytes} does not fit segment_bytes of {segment_bytes}, which takes {fits}"
                );
                return Err(Error::option("max_record_bytes", reason));
            }
            Some(bytes) => bytes,
        };
        let segment_age = stored.segment_age.unwrap_or(DEFAULT_SEGMENT_AGE);
        check_age("segment_age", segment_age)?;
        let flush = stored.flush.unwrap_or_default();
        if flush.messages == Some(0) {
            return Err(Error::option("flush", "every_messages must be at least 1"));
        }
        if let Some(interval) = flush.interval {
            check_age("flush", interval)?;
        }
        let fsync = stored.fsync.unwrap_or_default();
        if fsync == Fsync::Off
            && stored
                .flush
                .is_some_and(|given| given != FlushPolicy::never())
        {
            let reason = "Off contradicts a flush policy that syncs; use FlushPolicy::never()";
            return Err(Error::option("fsync", reason));
        }
        let keeping = Keeping::resolve(stored, segment_bytes)?;
        let compaction = CompactionConfig::resolve(&stored.compaction)?;
        keeping.check_policy(compaction.policy)?;
        Ok(Self {
            segment_bytes: to_usize("segment_bytes", segment_bytes)?,
            segment_age,
            max_record_bytes: to_usize("max_record_bytes", max_record_bytes)?,
            flush: if fsync == Fsync::Off {
                FlushPolicy::never()
            } else {
                flush
            },
            fsync,
            write_mode: stored.write_mode.unwrap_or_default(),
            compaction,
            keeping,
        })
    }
}

fn check_range(name: &'static str, value: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::option(
        name,
        format!("{value} is outside {min} to {max}"),
    ))
}

fn check_age(name: &'static str, age: Duration) -> Result<()> {
    if age >= Duration::from_millis(1) {
        return Ok(());
    }
    Err(Error::option(name, "a time must be at least a millisecond"))
}

fn to_usize(name: &'static str, value: u64) -> Result<usize> {
    usize::try_from(value)
        .map_err(|_| Error::option(name, format!("{value} is beyond this machine's memory")))
}
