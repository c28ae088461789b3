//! The two things that are opened: a [`Log`] to write and read, a [`ReadOnlyLog`] to look at.

use std::{path::Path, sync::Arc};

mod retention;

use crate::{
    consumer::{ConsumerBuilder, ReaderBuilder, reader_of},
    error::Result,
    fs::{Host, RealHost},
    group,
    handle::LogHandle,
    log::{self, Losses, ReadOnly, RecoveryReport, SegmentInfo, Source, Stats, VerifyReport},
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

    /// What opening found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.handle.recovery
    }

    /// Numbers of the log, as of now.
    pub fn stats(&self) -> Stats {
        self.handle.stats()
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

/// A group, as [`ReadOnlyLog::groups`] lists it.
#[derive(Debug)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// The next offset it will read after a restart; or why that can't be told.
    pub committed: Result<Offset>,
    /// When it was committed.
    pub commit_time: Option<Timestamp>,
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

    /// The groups, by name.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn groups(&self) -> Result<Vec<GroupInfo>> {
        let found = group::list(&**self.inner.host(), &self.inner.dir)?;
        let info = |group: group::FoundGroup| {
            let millis = |state: &crate::format::group::GroupState| {
                Timestamp::from_millis(i64::try_from(state.commit_time).unwrap_or(i64::MAX))
            };
            GroupInfo {
                name: group.name,
                commit_time: group.state.as_ref().ok().map(millis),
                committed: group.state.map(|state| state.committed),
            }
        };
        Ok(found.into_iter().map(info).collect())
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
