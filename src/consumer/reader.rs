//! Reading without a group.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    batch::Batch,
    start::{Start, check_offset},
};
use crate::{
    error::{Error, Result},
    fs::{Host, SyncKind},
    group::GroupSite,
    handle::LogHandle,
    log::{Cursor, GapReason, Lag, Limits, ReadOnly, Source, lag, sync_kind},
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
    log_id: u64,
    pub(crate) sync: Option<SyncKind>,
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
        })
    }
}

impl Parts {
    pub(crate) fn end(&self) -> Result<Offset> {
        self.origin.end()
    }

    pub(crate) fn group_place(&self) -> GroupPlace {
        match &self.origin {
            Origin::Live(log) => GroupPlace {
                dir: log.site.dir.clone(),
                log_id: log.site.log_id,
                sync: log.sync_kind(),
                is_live: true,
            },
            Origin::ReadOnly(log) => GroupPlace {
                dir: log.dir.clone(),
                log_id: log.meta.id,
                sync: sync_kind(log.config.fsync),
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
    from: Offset,
    origin: Origin,
    max_poll_records: usize,
    max_poll_bytes: usize,
    durable_only: bool,
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
        self.fetch(timeout)?;
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
        let source = Arc::clone(self.cursor.source());
        let mut until = None;
        loop {
            self.from = self.cursor.advance(self.limits()?)?;
            if !self.cursor.spans().is_empty() || !self.cursor.gaps().is_empty() {
                return Ok(());
            }
            let now = source.host().monotonic();
            let until = *until.get_or_insert_with(|| now.saturating_add(timeout));
            if timeout.is_zero() || now >= until {
                // On a latched log, what is above the durable offset is an error, not an end.
                return source.check_below(self.cursor.position().next());
            }
            if self.durable_only {
                source.wait_durable(self.cursor.position(), until)?;
            } else {
                source.wait(self.cursor.position(), until)?;
            }
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

    /// Whether `offset` is one of the log.
    ///
    /// # Errors
    ///
    /// `OffsetOutOfRange`, `Io`.
    pub(crate) fn check_within(&self, offset: Offset) -> Result<()> {
        let start = self.log_start();
        if offset > self.position() || offset < start {
            check_offset(offset, start, self.end()?)?;
        }
        Ok(())
    }
}
