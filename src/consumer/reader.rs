//! Reading without a group.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    batch::Batch,
    start::{Start, check_offset},
    waiting::{NextBatch, Waiting},
};
use crate::{
    error::{Error, Result},
    fs::{Host, Signal, SyncKind, Told},
    group::GroupSite,
    handle::LogHandle,
    log::{
        Cursor, GapReason, Lag, Limits, Membership, News, Pause, ReadOnly, Source, lag, sync_kind,
        wants_mapping,
    },
    offset::Offset,
};

const MAX_POLL_RECORDS: usize = 1_000;
const MAX_POLL_BYTES: usize = 1 << 20;

/// The log that is read.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Live(Arc<LogHandle>),
    ReadOnly(Arc<ReadOnly>),
}

/// A reader of a log that is open for writing in this process.
pub(crate) fn reader_of(log: &Arc<LogHandle>) -> ReaderBuilder {
    ReaderBuilder::new(Origin::Live(Arc::clone(log)))
}

/// A reader of a log that was opened read-only.
pub(crate) fn reader_of_read_only(log: &Arc<ReadOnly>) -> ReaderBuilder {
    ReaderBuilder::new(Origin::ReadOnly(Arc::clone(log)))
}

/// Where group files are.
pub(crate) struct GroupPlace {
    pub(crate) dir: PathBuf,
    pub(crate) log_id: u64,
    pub(crate) sync: Option<SyncKind>,
    /// Files may be written through mapped memory.
    mapped: bool,
    /// The log is open for writing here.
    is_live: bool,
}

impl GroupPlace {
    pub(crate) fn site<'a>(&'a self, host: &'a dyn Host) -> GroupSite<'a> {
        GroupSite {
            host,
            dir: &self.dir,
            log_id: self.log_id,
            sync: self.sync,
            mapped: self.mapped,
            is_settled: self.is_live,
        }
    }
}

/// Builds a [`Reader`]; from [`Log::reader`](crate::Log::reader) or
/// [`ReadOnlyLog::reader`](crate::ReadOnlyLog::reader).
#[derive(Debug)]
#[must_use]
pub struct ReaderBuilder {
    origin: Origin,
    start: Start,
    max_poll_records: usize,
    max_poll_bytes: usize,
    durable_only: bool,
}

/// A builder's log and start.
pub(crate) struct Parts {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) start: Start,
    origin: Origin,
}

impl ReaderBuilder {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            start: Start::default(),
            max_poll_records: MAX_POLL_RECORDS,
            max_poll_bytes: MAX_POLL_BYTES,
            durable_only: false,
        }
    }

    /// Where to start; by default at the earliest record.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Most records that one poll returns; by default 1,000. A batch that was sent as one is
    /// never split, so there may be more.
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.max_poll_records = records;
        self
    }

    /// Most bytes that one poll returns; by default 1 MiB. One record, or batch, is returned
    /// however large it is. Compressed ones count as what they decompress to.
    pub fn max_poll_bytes(mut self, bytes: usize) -> Self {
        self.max_poll_bytes = bytes;
        self
    }

    /// Hides records that a power cut could still take back; by default they are seen once they
    /// are written.
    pub fn durable_only(mut self, durable_only: bool) -> Self {
        self.durable_only = durable_only;
        self
    }

    /// The reader.
    ///
    /// # Errors
    ///
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange),
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) for a limit of 0,
    /// [`Closed`](crate::ErrorKind::Closed), [`Io`](crate::ErrorKind::Io).
    pub fn build(self) -> Result<Reader> {
        let parts = self.parts();
        let at = parts.start.resolve(&parts.source, parts.end()?)?;
        self.build_at(at)
    }

    pub(crate) fn parts(&self) -> Parts {
        let source: Arc<dyn Source> = match &self.origin {
            Origin::Live(log) => log.shared(),
            Origin::ReadOnly(log) => Arc::<ReadOnly>::clone(log),
        };
        Parts {
            source,
            start: self.start,
            origin: self.origin.clone(),
        }
    }

    /// # Errors
    ///
    /// `InvalidOption`.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, limit) in [
            ("max_poll_records", self.max_poll_records),
            ("max_poll_bytes", self.max_poll_bytes),
        ] {
            if limit == 0 {
                return Err(Error::option(name, "must be at least 1"));
            }
        }
        Ok(())
    }

    pub(crate) fn build_at(self, position: Offset) -> Result<Reader> {
        self.check()?;
        let parts = self.parts();
        Ok(Reader {
            cursor: Cursor::new(parts.source, position),
            from: position,
            origin: parts.origin,
            max_poll_records: self.max_poll_records,
            max_poll_bytes: self.max_poll_bytes,
            durable_only: self.durable_only,
            signal: Arc::default(),
            membership: None,
        })
    }
}

impl Parts {
    pub(crate) fn end(&self) -> Result<Offset> {
        self.origin.end()
    }

    pub(crate) fn group_place(&self) -> GroupPlace {
        self.origin.group_place()
    }
}

impl Origin {
    fn group_place(&self) -> GroupPlace {
        match self {
            Origin::Live(log) => GroupPlace {
                dir: log.site.dir.clone(),
                log_id: log.site.log_id,
                sync: log.sync_kind(),
                mapped: log.site.is_mapped(),
                is_live: true,
            },
            Origin::ReadOnly(log) => GroupPlace {
                dir: log.dir.clone(),
                log_id: log.meta.id,
                sync: sync_kind(log.config.fsync),
                mapped: wants_mapping(&**log.host(), &log.dir, log.config.write_mode),
                is_live: false,
            },
        }
    }
}

impl Origin {
    fn end(&self) -> Result<Offset> {
        match self {
            Self::Live(log) => {
                log.check_open()?;
                Ok(log.end())
            }
            Self::ReadOnly(log) => log.find_end(),
        }
    }
}

/// Reads a log in order, from any offset, without a group.
///
/// ```
/// use std::time::Duration;
/// use duralog::{Log, Offset, Record, Start};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// log.producer().build()?.send_batch([Record::new("a"), Record::new("b")])?.wait()?;
///
/// let mut reader = log.reader().start(Start::At(Offset::new(1))).build()?;
/// let batch = reader.poll(Duration::ZERO)?;
/// let values: Vec<_> = batch.iter().filter_map(|record| record.value()).collect();
/// assert_eq!(values, [b"b"]);
/// # drop(reader);
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    cursor: Cursor,
    /// The first offset of the batch that was read last.
    pub(super) from: Offset,
    origin: Origin,
    max_poll_records: usize,
    max_poll_bytes: usize,
    durable_only: bool,
    /// What others tell whoever polls.
    signal: Arc<Signal>,
    /// Of a consumer: who sees what it does with its batches.
    membership: Option<Membership>,
}

/// What a look at the log found.
pub(super) enum Seen {
    /// A batch that begins at this offset, or none because somebody said so.
    Batch(Offset),
    /// Nothing, though this is what was told.
    Nothing(Told),
}

impl Reader {
    /// Waits up to `timeout` for records, and returns those there are, borrowed. Returns at once
    /// if there are any, or a [gap](Batch::gaps); an empty batch when the time is over.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io), [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion),
    /// [`CompressionUnsupported`](crate::ErrorKind::CompressionUnsupported);
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed) above the durable offset of a log that is
    /// latched; [`Closed`](crate::ErrorKind::Closed). The position is as before.
    pub fn poll(&mut self, timeout: Duration) -> Result<Batch<'_>> {
        self.begin_poll();
        self.fetch(timeout)?;
        self.end_poll();
        Ok(self.batch())
    }

    /// The batch that was read last.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch::new(&self.cursor, self.from)
    }

    /// Reads the next batch.
    ///
    /// # Errors
    ///
    /// Those of [`poll`](Self::poll).
    pub(crate) fn fetch(&mut self, timeout: Duration) -> Result<()> {
        self.from = match self.look()? {
            Seen::Batch(from) => from,
            Seen::Nothing(told) => self.wait(told, timeout)?,
        };
        Ok(())
    }

    /// [`poll`](Reader::poll) without waiting: the records that there are now, if any.
    ///
    /// # Errors
    ///
    /// As `poll`.
    pub fn try_poll(&mut self) -> Result<Batch<'_>> {
        self.poll(Duration::ZERO)
    }

    /// Waits for records as a future, and returns those there are. See [`NextBatch`].
    ///
    /// # Errors
    ///
    /// As [`poll`](Reader::poll), once it is awaited.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator can't lend what it returns; the name is that of asynchronous streams"
    )]
    pub fn next(&mut self) -> NextBatch<'_> {
        self.begin_poll();
        NextBatch::of_reader(self)
    }

    #[inline]
    pub(super) fn begin_poll(&mut self) {
        if let Some(membership) = &self.membership {
            membership.begin_poll(self.cursor.source().host());
        }
    }

    /// What was read is about to be returned.
    #[inline]
    pub(super) fn end_poll(&self) {
        if let Some(membership) = &self.membership {
            let has_records = !self.cursor.spans().is_empty();
            let host = self.cursor.source().host();
            membership.end_poll(self.cursor.position(), has_records, host);
        }
    }

    /// Reads what there is, unless told not to.
    #[inline]
    pub(super) fn look(&mut self) -> Result<Seen> {
        let told = self.signal.look();
        if told != Told::Nothing {
            self.cursor.clear();
            return Ok(match told {
                Told::Return => Seen::Batch(self.cursor.position()),
                told => Seen::Nothing(told),
            });
        }
        let read = self.limits().and_then(|limits| self.cursor.advance(limits));
        let from = match read {
            Ok(from) => from,
            Err(error) => {
                self.unless_stopped(error)?;
                self.cursor.clear();
                self.cursor.position()
            }
        };
        if self.cursor.spans().is_empty() && self.cursor.gaps().is_empty() {
            return Ok(Seen::Nothing(told));
        }
        Ok(Seen::Batch(from))
    }

    /// An error, unless the consumer was stopped: whoever does that may close its log next, and it
    /// is told of the stop alone.
    pub(super) fn unless_stopped(&self, error: Error) -> Result<()> {
        if self.signal.is_stopped() {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Waits until there is something to return, or the time is over.
    fn wait(&mut self, told: Told, timeout: Duration) -> Result<Offset> {
        let waited = self.wait_on(told, timeout);
        waited.or_else(|error| self.unless_stopped(error).map(|()| self.position()))
    }

    fn wait_on(&mut self, told: Told, timeout: Duration) -> Result<Offset> {
        let source = Arc::clone(self.cursor.source());
        let host = source.host();
        let over = |reader: &Self| {
            // On a latched log, what is above the durable offset is an error, not an end.
            source.check_below(reader.position().next())?;
            Ok(reader.position())
        };
        if timeout.is_zero() {
            return over(self);
        }
        let until = host.monotonic().saturating_add(timeout);
        let parker = host.parker();
        let waker = parker.waker();
        let mut waiting = Waiting::new(self);
        let (mut told, mut pause) = (told, Pause::SHORTEST);
        loop {
            let now = host.monotonic();
            if now >= until {
                return over(self);
            }
            let mut next_look = until;
            let is_waiting = if source.is_foreign() {
                // Nothing wakes this process when another one writes.
                if told == Told::Nothing {
                    next_look = until.min(now + pause.get());
                    pause = pause.longer();
                }
                waiting.for_signal(told, &waker)
            } else {
                waiting.for_any(self.news(told), told, &waker)?
            };
            if is_waiting {
                parker.park(Some(next_look));
            }
            match self.look()? {
                Seen::Batch(from) => return Ok(from),
                Seen::Nothing(now_told) => told = now_told,
            }
        }
    }

    /// What this waits for, as it was told.
    pub(super) fn news(&self, told: Told) -> News {
        let position = self.cursor.position();
        match told {
            Told::Nothing if self.durable_only => News::Durable(position),
            Told::Nothing => News::Written(position),
            Told::Paused | Told::Return => News::End(position),
        }
    }

    fn limits(&self) -> Result<Limits> {
        let source = self.cursor.source();
        let mut end = source.visible_end()?;
        if self.durable_only {
            end = end.min(source.durable()?);
        }
        Ok(Limits {
            records: self.max_poll_records,
            bytes: self.max_poll_bytes,
            end,
            unpack: true,
        })
    }

    /// Goes on at `offset`.
    ///
    /// # Errors
    ///
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange), [`Io`](crate::ErrorKind::Io);
    /// the position is as before.
    pub fn seek(&mut self, offset: Offset) -> Result<()> {
        check_offset(offset, self.log_start(), self.end()?)?;
        self.cursor.seek(offset);
        if let Some(membership) = &self.membership {
            membership.set_position(offset);
        }
        Ok(())
    }

    /// Goes on where this is now.
    ///
    /// # Errors
    ///
    /// Those of [`seek`](Self::seek).
    pub(crate) fn seek_to(&mut self, start: Start) -> Result<()> {
        let at = start.resolve(self.source(), self.end()?)?;
        self.cursor.seek(at);
        Ok(())
    }

    /// Goes on at an offset that need not be there any more: reading from it tells.
    pub(crate) fn return_to(&mut self, offset: Offset) {
        self.cursor.seek(offset);
    }

    /// Goes on at `to`, and has the next batch tell what lies before it as a gap, for `reason`.
    pub(crate) fn skip_to(&mut self, to: Offset, reason: GapReason) {
        self.cursor.skip_to(to, reason);
    }

    /// The offset that the next poll starts at.
    pub fn position(&self) -> Offset {
        self.cursor.position()
    }

    /// How far the position is behind the end of the log. Looks at the record there, so this takes
    /// microseconds.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io), [`Closed`](crate::ErrorKind::Closed).
    pub fn lag(&self) -> Result<Lag> {
        lag(self.source(), self.position(), self.end()?)
    }

    pub(crate) fn end(&self) -> Result<Offset> {
        self.origin.end()
    }

    pub(crate) fn log_start(&self) -> Offset {
        self.cursor.source().start()
    }

    /// The log, if it is open for writing here.
    pub(super) fn live(&self) -> Option<&Arc<LogHandle>> {
        match &self.origin {
            Origin::Live(log) => Some(log),
            Origin::ReadOnly(_) => None,
        }
    }

    pub(crate) fn source(&self) -> &Arc<dyn Source> {
        self.cursor.source()
    }

    /// Whether `offset` may be committed. One that was read may, also if the log begins behind it
    /// by now: what is between is told as a gap when reading goes on there.
    ///
    /// # Errors
    ///
    /// `OffsetOutOfRange`, `Io`.
    pub(crate) fn check_within(&self, offset: Offset) -> Result<()> {
        if offset <= self.position() {
            return Ok(());
        }
        let (start, end) = (self.log_start(), self.end()?);
        check_offset(offset, start.min(offset), end).map(drop)
    }

    pub(super) fn group_place(&self) -> GroupPlace {
        self.origin.group_place()
    }

    pub(super) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// From now on it is seen what becomes of its batches.
    pub(super) fn join(&mut self, membership: Membership) {
        self.membership = Some(membership);
    }

    /// The group has committed.
    pub(super) fn note_commit(&self, committed: Offset) {
        if let Some(membership) = &self.membership {
            membership.set_committed(committed);
        }
    }
}
