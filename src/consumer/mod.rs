//! Reading records: a [`Reader`] at any offset, a [`Consumer`] at the committed offset of a group.

use std::{sync::Arc, time::Duration};

mod batch;
mod reader;

pub use batch::{Batch, FrameInfo, Iter};
pub use reader::{Reader, ReaderBuilder};
pub(crate) use reader::{reader_of, reader_of_read_only};

use crate::{
    error::{ErrorKind, Result},
    fs::SyncKind,
    group::GroupFile,
    log::Source,
    offset::Offset,
    record::Timestamp,
};

/// Where reading starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Start {
    /// At the first record there is. The default: nothing is skipped unsaid.
    #[default]
    #[doc(alias = "auto.offset.reset")]
    Earliest,
    /// Behind the last record there is: only what is appended from then on.
    Latest,
    /// At this offset.
    At(Offset),
    /// At the first record that was appended at this time or later: see
    /// [`Log::offset_for_timestamp`](crate::Log::offset_for_timestamp).
    Time(Timestamp),
}

impl Start {
    /// The offset this is in a log.
    pub(crate) fn resolve(self, source: &Arc<dyn Source>, end: Offset) -> Result<Offset> {
        match self {
            Self::Earliest => Ok(source.start()),
            Self::Latest => Ok(end),
            Self::At(offset) => check_offset(offset, source.start(), end),
            Self::Time(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(0);
                crate::log::offset_for_time(source, millis)
            }
        }
    }
}

fn check_offset(requested: Offset, start: Offset, end: Offset) -> Result<Offset> {
    if (start..=end).contains(&requested) {
        return Ok(requested);
    }
    Err(ErrorKind::OffsetOutOfRange {
        requested,
        start,
        end,
    }
    .into())
}

/// Builds a [`Consumer`]; from [`Log::consumer`](crate::Log::consumer) or
/// [`ReadOnlyLog::consumer`](crate::ReadOnlyLog::consumer).
#[derive(Debug)]
#[must_use]
pub struct ConsumerBuilder {
    reader: ReaderBuilder,
    group: String,
}

impl ConsumerBuilder {
    pub(crate) fn new(reader: ReaderBuilder, group: impl Into<String>) -> Self {
        Self {
            reader,
            group: group.into(),
        }
    }

    /// Where a *new* group starts; by default at the earliest record. A group that has committed
    /// goes on from there.
    pub fn start(mut self, start: Start) -> Self {
        self.reader = self.reader.start(start);
        self
    }

    /// Most records that one poll returns; by default 1,000. A batch that was sent as one is
    /// never split, so there may be more.
    #[doc(alias = "max.poll.records")]
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.reader = self.reader.max_poll_records(records);
        self
    }

    /// Most bytes that one poll returns; by default 1 MiB. One record, or batch, is returned
    /// however large it is. Compressed ones count as what they decompress to.
    pub fn max_poll_bytes(mut self, bytes: usize) -> Self {
        self.reader = self.reader.max_poll_bytes(bytes);
        self
    }

    /// Hides records that a power cut could still take back; by default they are seen once they
    /// are written. With [`Fsync::Off`](crate::Fsync::Off) that is all of them.
    pub fn durable_only(mut self, durable_only: bool) -> Self {
        self.reader = self.reader.durable_only(durable_only);
        self
    }

    /// The consumer, which holds the group until it is dropped or its process ends.
    ///
    /// # Durability
    ///
    /// A new group is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`], [`ErrorKind::GroupInUse`] (another consumer, of this or
    /// another process, holds the group), [`ErrorKind::OffsetOutOfRange`],
    /// [`ErrorKind::InvalidOption`], [`ErrorKind::Corrupt`], [`ErrorKind::Io`],
    /// [`ErrorKind::StorageFull`], [`ErrorKind::SyncFailed`], [`ErrorKind::Closed`].
    pub fn build(self) -> Result<Consumer> {
        let Self {
            reader: builder,
            group: name,
        } = self;
        let parts = builder.parts();
        let (source, site, start) = (parts.source.clone(), parts.group_site(), parts.start);
        let end = parts.end()?;
        let group = GroupFile::hold(
            source.host(),
            &site.dir,
            site.log_id,
            &name,
            site.sync,
            || start.resolve(&source, end),
        )?;
        let committed = group.committed();
        if committed > end {
            let (requested, start) = (committed, source.start());
            return Err(ErrorKind::OffsetOutOfRange {
                requested,
                start,
                end,
            }
            .into());
        }
        let reader = builder.build_at(committed)?;
        Ok(Consumer {
            reader,
            group,
            name,
            sync: site.sync,
        })
    }
}

/// Reads a log on behalf of a group, from the group's committed offset on.
///
/// Commit *after* processing, as in the example, and every record is processed at least once: what
/// was not committed comes again after a restart. Committing first would lose what was not done.
///
/// ```
/// use std::time::Duration;
/// use duralog::{Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// log.producer().build()?.send(Record::new("paid"))?.wait()?;
///
/// let mut billing = log.consumer("billing").build()?;
/// let batch = billing.poll(Duration::from_secs(1))?;
/// for record in &batch {
///     assert_eq!(record.value(), Some(&b"paid"[..]));
/// }
/// billing.commit()?;
/// assert_eq!(billing.committed(), 1);
/// # drop(billing);
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Concurrency
///
/// A consumer is for one thread at a time; a group has one live consumer.
#[derive(Debug)]
pub struct Consumer {
    reader: Reader,
    group: GroupFile,
    name: String,
    sync: Option<SyncKind>,
}

impl Consumer {
    /// Waits up to `timeout` for records, and returns those there are, borrowed. Returns at once
    /// if there are any, or a [gap](Batch::gaps); an empty batch when the time is over.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`], [`ErrorKind::UnsupportedVersion`], [`ErrorKind::CompressionUnsupported`];
    /// [`ErrorKind::SyncFailed`] above the durable offset of a log that is latched;
    /// [`ErrorKind::Closed`]. The position is as before.
    pub fn poll(&mut self, timeout: Duration) -> Result<Batch<'_>> {
        self.reader.poll(timeout)
    }

    /// Commits everything that was polled: a consumer of the group that is made later goes on
    /// behind it.
    ///
    /// # Durability
    ///
    /// The commit survives the end of this process. A power cut may take it (after some seconds
    /// the kernel has written it): then records are seen again, none is skipped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`]: the committed offset is as before. [`ErrorKind::Closed`];
    /// [`ErrorKind::SyncFailed`] above the durable offset of a log that is latched.
    pub fn commit(&mut self) -> Result<()> {
        self.commit_offset(self.position())
    }

    /// Commits `offset`: the next one to read after a restart.
    ///
    /// # Errors
    ///
    /// As [`commit`](Consumer::commit); [`ErrorKind::OffsetOutOfRange`].
    pub fn commit_offset(&mut self, offset: Offset) -> Result<()> {
        if offset > self.reader.position() || offset < self.reader.log_start() {
            check_offset(offset, self.reader.log_start(), self.reader.end()?)?;
        }
        self.reader.check_commit(offset)?;
        self.group
            .commit(offset, self.reader.source().host().wall_millis(), None)
    }

    /// The committed offset of the group: the next one to read after a restart.
    pub fn committed(&self) -> Offset {
        self.group.committed()
    }

    /// Goes on at `offset`. What is committed stays.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OffsetOutOfRange`], [`ErrorKind::Io`]; the position is as before.
    pub fn seek(&mut self, offset: Offset) -> Result<()> {
        self.reader.seek(offset)
    }

    /// The offset that the next poll starts at.
    pub fn position(&self) -> Offset {
        self.reader.position()
    }

    /// How many offsets lie between the position and the end of the log.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`], [`ErrorKind::Closed`].
    pub fn lag(&self) -> Result<u64> {
        self.reader.lag()
    }

    /// The name of the group.
    pub fn group(&self) -> &str {
        &self.name
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Both slots alike, so that a bit that flips later takes no commit back. If it fails, the
        // last commit stands in one slot, as it did before.
        drop(self.group.close(self.sync));
    }
}
