//! The two things that are opened: a [`Log`] to write and read, a [`ReadOnlyLog`] to look at.

use std::{path::Path, sync::Arc};

mod dead_letters;
mod groups;
mod retention;

pub use groups::GroupInfo;

use crate::{
    consumer::{ConsumerBuilder, ReaderBuilder, reader_of},
    error::Result,
    fs::{Host, RealHost},
    handle::LogHandle,
    log::{
        self, CompactionReport, ConsumerInfo, Losses, ReadOnly, RecoveryReport, SegmentInfo,
        Source, Stats, VerifyReport,
    },
    offset::Offset,
    options::LogOptions,
    producer::ProducerBuilder,
    record::Timestamp,
};

/// An append-only log in a directory.
///
/// A handle: cheap to clone, and any thread may use it. The log is closed when [`close`](Log::close)
/// is called on any handle, or the last handle, producer, consumer and receipt is dropped.
///
/// ```
/// use std::time::Duration;
/// use duralog::{Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path().join("orders"))?;
/// let producer = log.producer().build()?;
/// let offset = producer.send(Record::new("paid").key("order-17"))?.wait()?;
///
/// let mut billing = log.consumer("billing").build()?;
/// for record in &billing.poll(Duration::from_secs(1))? {
///     assert_eq!(record.offset(), Some(offset));
/// }
/// billing.commit()?;
/// # drop(billing);
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Log {
    handle: Arc<LogHandle>,
}

impl Log {
    /// Opens the log in the directory `path` with the options it was made with; makes the
    /// directory and a log with default options if there is none.
    ///
    /// # Errors
    ///
    /// As [`LogOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        LogOptions::new().open(path)
    }

    /// Options to open a log with.
    pub fn options() -> LogOptions {
        LogOptions::new()
    }

    /// Opens the log in the directory `path` to look at it, whether or not a writer has it open,
    /// in this process or another. Nothing is changed; there must be a log.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound), [`NotALog`](crate::ErrorKind::NotALog),
    /// [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion),
    /// [`SymbolicLink`](crate::ErrorKind::SymbolicLink), [`Corrupt`](crate::ErrorKind::Corrupt)
    /// (both slots of `meta`), [`Io`](crate::ErrorKind::Io).
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<ReadOnlyLog> {
        ReadOnlyLog::open(Arc::new(RealHost::new()), path.as_ref())
    }

    /// A producer, to be configured.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(Arc::clone(&self.handle))
    }

    /// A consumer of the group `group`, to be configured. Names are 1 to 200 of `[A-Za-z0-9._-]`
    /// without a leading dot.
    pub fn consumer(&self, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.reader(), group)
    }

    /// A reader without a group, to be configured.
    pub fn reader(&self) -> ReaderBuilder {
        reader_of(&self.handle)
    }

    /// The first offset there is.
    pub fn log_start_offset(&self) -> Offset {
        self.handle.log_start()
    }

    /// The next offset to be written.
    pub fn log_end_offset(&self) -> Offset {
        self.handle.end()
    }

    /// Everything below survives a power cut. (Kafka calls it the recovery point.)
    #[doc(alias = "recovery-point-offset")]
    pub fn durable_offset(&self) -> Offset {
        self.handle.durable()
    }

    /// The first offset that was appended at `time` or later; the log end offset if there is none.
    /// An index finds the segment and the place in it, so this takes microseconds, however large
    /// the log is. What counts is when records were [appended](crate::RecordRef::append_time), not
    /// a time that they were sent with; and that is read from a clock which may be 10 ms behind: to
    /// miss nothing since a moment of `SystemTime::now()`, ask for 10 ms before it.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io), [`Closed`](crate::ErrorKind::Closed).
    pub fn offset_for_timestamp(&self, time: impl Into<Timestamp>) -> Result<Offset> {
        let source = self.handle.shared() as Arc<dyn Source>;
        let millis = u64::try_from(time.into().as_millis()).unwrap_or(0);
        log::offset_for_time(&source, millis)
    }

    /// Makes everything written so far durable; returns the offset below which all is.
    ///
    /// # Errors
    ///
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed),
    /// [`DurabilityOff`](crate::ErrorKind::DurabilityOff), [`Closed`](crate::ErrorKind::Closed).
    pub fn sync(&self) -> Result<Offset> {
        self.handle.check_open()?;
        self.handle.sync_until(self.handle.end())?;
        Ok(self.handle.durable())
    }

    /// Compacts the log now, as far as [`LogOptions::min_compaction_lag`] allows: of each key, the
    /// last record is left, at the offset that it has. The active segment is left alone (all of a log that
    /// is smaller than [`LogOptions::segment_bytes`]), and so is all that is not durable yet.
    /// Tombstones go once they were kept for [`LogOptions::tombstone_retention`]. Records without a
    /// key, sent while the log was not compacted, are kept. (In the background it is compacted
    /// anyway, by [`LogOptions::min_dirty_ratio`]; what that has begun is dropped, and begun anew here.)
    ///
    /// Readers and consumers go on undisturbed, wherever they are. What was removed is no
    /// [gap](crate::Gap): readers pass over it, and seeking to it leads to the next record. A batch
    /// of which records were removed is still one; named producers know what they have sent.
    ///
    /// A segment that can't be read is [skipped](CompactionReport::skipped), and the others are
    /// compacted.
    ///
    /// ```
    /// use duralog::{CleanupPolicy, Log, MIN_SEGMENT_BYTES, Record};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::options()
    ///     .cleanup_policy(CleanupPolicy::Compact)
    ///     .segment_bytes(MIN_SEGMENT_BYTES)
    ///     .open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// for number in 0..1_000 {
    ///     let record = Record::new(vec![0; 100]).key(format!("order-{}", number % 10));
    ///     producer.send(record)?.wait()?;
    /// }
    /// log.sync()?;
    /// let report = log.compact()?;
    /// assert!(report.records_after <= 10);
    /// assert_eq!(log.log_end_offset(), 1_000);
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Durability
    ///
    /// Each segment is replaced in one step by one that is durable. If a crash comes at any moment, the next opening
    /// finds each of them as it was or as it is now; what was kept survives a power cut if it did before.
    ///
    /// # Concurrency
    ///
    /// Appending and reading go on meanwhile. Of several calls, one after the other compacts.
    ///
    /// # Errors
    ///
    /// [`NotCompacted`](crate::ErrorKind::NotCompacted);
    /// [`StorageFull`](crate::ErrorKind::StorageFull) (room for one segment is needed),
    /// [`Io`](crate::ErrorKind::Io), [`SyncFailed`](crate::ErrorKind::SyncFailed),
    /// [`Closed`](crate::ErrorKind::Closed). What was compacted by then stays so.
    pub fn compact(&self) -> Result<CompactionReport> {
        self.handle.compact()
    }

    /// What came of the last compaction, in the background or [now](Log::compact), since the log was
    /// opened; `None` if there was none.
    ///
    /// # Errors
    ///
    /// (Inside:) those of `compact`. In the background it is tried again.
    pub fn last_compaction(&self) -> Option<Result<CompactionReport>> {
        self.handle.last_compaction()
    }

    /// What opening found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.handle.recovery
    }

    /// Numbers of the log, as of now.
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// The live consumers of this process, in the order in which they were made: where they are,
    /// and which of them hold a batch for too long.
    ///
    /// ```
    /// use std::time::Duration;
    /// use duralog::{Log, Record};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path())?;
    /// log.producer().build()?.send(Record::new("paid"))?.wait()?;
    /// let mut billing = log.consumer("billing").build()?;
    /// billing.poll(Duration::from_secs(1))?;
    /// for consumer in log.consumers() {
    ///     assert_eq!((&*consumer.group, consumer.position.get()), ("billing", 1));
    ///     assert!(consumer.held_for.is_some() && !consumer.overdue);
    /// }
    /// # drop(billing);
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn consumers(&self) -> Vec<ConsumerInfo> {
        self.handle.consumers()
    }

    /// Closes the log for all its handles: makes everything durable and marks it as closed in
    /// order, so that the next opening has nothing to scan. Later calls on any handle fail with
    /// [`Closed`](crate::ErrorKind::Closed). Dropping the last handle does the same, but can't
    /// tell an error.
    ///
    /// What buffered producers have taken is written before: each of their batches is tried once.
    ///
    /// # Errors
    ///
    /// [`NotAcknowledged`](crate::ErrorKind::NotAcknowledged) if some of that could not be
    /// written: how much, and why. The log is closed in order all the same.
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed), [`Io`](crate::ErrorKind::Io),
    /// [`StorageFull`](crate::ErrorKind::StorageFull). The log is closed all the same; what was
    /// not durable is recovered, and reported, by the next opening.
    pub fn close(self) -> Result<()> {
        self.handle.close()
    }
}

impl LogOptions {
    /// Opens the log in the directory `path`, for one writer; makes the directory (mode 0700) and
    /// the log if there is none. Recovers what a crash left: [`Log::recovery`] tells what that was.
    ///
    /// # Durability
    ///
    /// Everything that is served when this returns survives a power cut from then on.
    ///
    /// # Errors
    ///
    /// Nothing is changed by the first six: [`InvalidOption`](crate::ErrorKind::InvalidOption),
    /// [`NotALog`](crate::ErrorKind::NotALog), [`Locked`](crate::ErrorKind::Locked),
    /// [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion),
    /// [`SymbolicLink`](crate::ErrorKind::SymbolicLink),
    /// [`Damaged`](crate::ErrorKind::Damaged) (only with
    /// [`OnDamage::Refuse`](crate::OnDamage::Refuse)). [`Corrupt`](crate::ErrorKind::Corrupt) if
    /// both slots of `meta` are. [`Io`](crate::ErrorKind::Io),
    /// [`StorageFull`](crate::ErrorKind::StorageFull),
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed): opening may be tried again.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Log> {
        self.open_on(Arc::new(RealHost::new()), path)
    }

    /// [`open`](LogOptions::open) on another machine than the one the process runs on: a simulated
    /// one, or one that fails when told to.
    ///
    /// # Errors
    ///
    /// Those of `open`.
    pub(crate) fn open_on(&self, host: Arc<dyn Host>, path: impl AsRef<Path>) -> Result<Log> {
        let shared = log::open(host, path.as_ref(), self)?;
        Ok(Log {
            handle: LogHandle::new(shared),
        })
    }
}

/// A log opened to look at it: nothing is changed, and a writer, here or in another process, may
/// go on. (A consumer of a group does write the group's own file.)
///
/// Records are copied, not borrowed from a mapping: the writer may be writing them. What is behind
/// the last intact record and was never durable is taken for "not there yet".
///
/// ```
/// use duralog::{Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// log.producer().build()?.send(Record::new("paid"))?.wait()?;
///
/// let look = Log::open_read_only(dir.path())?;
/// assert_eq!(look.log_end_offset()?, 1);
/// assert!(look.verify()?.damage.is_empty());
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReadOnlyLog {
    inner: Arc<ReadOnly>,
}

impl ReadOnlyLog {
    pub(crate) fn open(host: Arc<dyn Host>, path: &Path) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(ReadOnly::open(host, path)?),
        })
    }

    /// A consumer of the group `group`, to be configured.
    pub fn consumer(&self, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.reader(), group)
    }

    /// A reader without a group, to be configured.
    pub fn reader(&self) -> ReaderBuilder {
        crate::consumer::reader_of_read_only(&self.inner)
    }

    /// The log's identity: random, and never changed.
    pub fn id(&self) -> u64 {
        self.inner.meta.id
    }

    /// When the log was made.
    pub fn created(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.inner.meta.created).unwrap_or(i64::MAX))
    }

    /// The options in force, with defaults filled in.
    pub fn options(&self) -> OptionsInfo {
        let config = &self.inner.config;
        OptionsInfo {
            segment_bytes: config.segment_bytes as u64,
            segment_age: config.segment_age,
            max_record_bytes: config.max_record_bytes as u64,
            flush: config.flush,
            fsync: config.fsync,
            write_mode: config.write_mode,
            cleanup_policy: config.compaction.policy,
            tombstone_retention: config.compaction.tombstone_retention,
            min_compaction_lag: config.compaction.min_lag,
            min_dirty_ratio: config.compaction.min_dirty.get(),
            compaction_memory: config.compaction.memory as u64,
            compaction_rate: config.compaction.rate,
            retention: config.keeping.limits,
            group_retention: config.keeping.groups,
            excluded_groups: config.keeping.excluded.clone(),
            groups_stale_after: config.keeping.stale_after,
            when_full: config.keeping.when_full,
            min_free_bytes: config.keeping.min_free.unwrap_or(0),
        }
    }

    /// The first offset there is, as recorded by now.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn log_start_offset(&self) -> Result<Offset> {
        Ok(self.inner.checkpoint()?.log_start)
    }

    /// The offset behind the last record that is there by now.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io),
    /// [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion).
    pub fn log_end_offset(&self) -> Result<Offset> {
        self.inner.find_end()
    }

    /// Everything below survives a power cut, as recorded by now: the writer records it some time
    /// after each sync.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn durable_offset(&self) -> Result<Offset> {
        Ok(self.inner.checkpoint()?.durable.offset)
    }

    /// Records lost, ever, as far as it was met and recorded.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn losses(&self) -> Result<Losses> {
        let losses = self.inner.checkpoint()?.losses;
        Ok(Losses {
            to_retention: losses.retention,
            to_drop_oldest: losses.drop_oldest,
            to_damage: losses.damage,
            to_tails: losses.lost_tail,
        })
    }

    /// Whether the log was closed in order and not opened for writing since.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn is_closed(&self) -> Result<bool> {
        Ok(self.inner.checkpoint()?.clean)
    }

    /// The segments.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io),
    /// [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion).
    pub fn segments(&self) -> Result<Vec<SegmentInfo>> {
        self.inner.segments()
    }

    /// Reads everything and checks every checksum. Takes as long as reading the log does.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io),
    /// [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion). Damage is not an error: it is
    /// in the report.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.inner.verify()
    }
}

/// The options of a log, as [`ReadOnlyLog::options`] tells them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OptionsInfo {
    /// [`LogOptions::segment_bytes`].
    pub segment_bytes: u64,
    /// [`LogOptions::segment_age`].
    pub segment_age: std::time::Duration,
    /// [`LogOptions::max_record_bytes`].
    pub max_record_bytes: u64,
    /// [`LogOptions::flush`].
    pub flush: crate::options::FlushPolicy,
    /// [`LogOptions::fsync`].
    pub fsync: crate::options::Fsync,
    /// [`LogOptions::write_mode`].
    pub write_mode: crate::options::WriteMode,
    /// [`LogOptions::cleanup_policy`].
    pub cleanup_policy: crate::options::CleanupPolicy,
    /// [`LogOptions::tombstone_retention`].
    pub tombstone_retention: std::time::Duration,
    /// [`LogOptions::min_compaction_lag`].
    pub min_compaction_lag: std::time::Duration,
    /// [`LogOptions::min_dirty_ratio`].
    pub min_dirty_ratio: f64,
    /// [`LogOptions::compaction_memory`].
    pub compaction_memory: u64,
    /// [`LogOptions::compaction_rate`].
    pub compaction_rate: u64,
    /// [`LogOptions::retention`].
    pub retention: crate::options::Retention,
    /// [`LogOptions::group_retention`].
    pub group_retention: crate::options::GroupRetention,
    /// [`LogOptions::exclude_group`].
    pub excluded_groups: Vec<String>,
    /// [`LogOptions::groups_stale_after`].
    pub groups_stale_after: Option<std::time::Duration>,
    /// [`LogOptions::when_full`].
    pub when_full: crate::options::WhenFull,
    /// [`LogOptions::min_free_bytes`].
    pub min_free_bytes: u64,
}
