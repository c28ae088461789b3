//! What a consumer commits, when, and with what.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{ledger::Ledger, reader::Reader, receipt::CommitReceipt, start::Reset};
use crate::{
    error::{Error, ErrorKind, Result},
    format::group::{GroupLosses, METADATA_MAX},
    fs::SyncKind,
    group::{Commit, GroupFile},
    log::{Gap, Source},
    offset::Offset,
    options::Durability,
};

/// Longest metadata of a commit, in bytes: a commit is one sector of the device.
pub const MAX_COMMIT_METADATA: usize = METADATA_MAX;

/// How to commit, where it is not as the consumer was built.
///
/// ```
/// use std::time::Duration;
/// use duralog::{CommitOptions, Durability, Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// log.producer().build()?.send(Record::new("paid"))?.wait()?;
///
/// let mut billing = log.consumer("billing").build()?;
/// billing.poll(Duration::ZERO)?;
/// billing.commit_with(&CommitOptions::new().durability(Durability::Durable).metadata("batch 17"))?;
/// assert_eq!(billing.committed_metadata(), b"batch 17");
/// # drop(billing);
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct CommitOptions {
    pub(super) durability: Option<Durability>,
    metadata: Vec<u8>,
}

impl CommitOptions {
    /// As the consumer was built, without metadata.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the commit survives; by default what
    /// [`ConsumerBuilder::commit_durability`](crate::ConsumerBuilder::commit_durability) says.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Bytes that are stored with the commit, in place of those of the one before; at most
    /// [`MAX_COMMIT_METADATA`]. [`Consumer::committed_metadata`](crate::Consumer::committed_metadata)
    /// has them.
    #[doc(alias = "OffsetAndMetadata")]
    pub fn metadata(mut self, metadata: impl Into<Vec<u8>>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

/// When a consumer commits by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Manual,
    /// In a poll, what polls before it returned, once this long has passed.
    Auto(Duration),
    /// In each poll, what it is about to return.
    BeforeProcessing,
}

/// The first record that its consumer failed to process. Set through a shared borrow, as the batch
/// that the record is of is one.
#[derive(Debug)]
pub(crate) struct FailMark(AtomicU64);

impl Default for FailMark {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl FailMark {
    pub(crate) fn fail(&self, offset: Offset) {
        self.0.fetch_min(offset.get(), Ordering::Relaxed);
    }

    fn first(&self) -> Option<Offset> {
        let first = self.0.load(Ordering::Relaxed);
        (first != u64::MAX).then(|| Offset::new(first))
    }
}

/// The commits of one consumer.
pub(crate) struct Commits {
    source: Arc<dyn Source>,
    group: GroupFile,
    name: String,
    sync: Option<SyncKind>,
    mode: Mode,
    durability: Durability,
    ledger: Ledger,
    pub(super) failed: FailMark,
    pub(super) reset: Option<Reset>,
    /// What polls before the last one returned ends here.
    left: Offset,
    /// The last time at which an automatic commit was due.
    auto_since: Duration,
    closed: bool,
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commits")
            .field("group", &self.name)
            .field("committed", &self.committed())
            .finish_non_exhaustive()
    }
}

/// What commits are made with.
pub(super) struct Terms {
    pub(super) name: String,
    pub(super) sync: Option<SyncKind>,
    pub(super) mode: Mode,
    pub(super) durability: Durability,
    pub(super) reset: Option<Reset>,
}

impl Commits {
    pub(super) fn new(source: Arc<dyn Source>, group: GroupFile, terms: Terms) -> Self {
        let auto_since = source.host().monotonic();
        let left = group.state().committed;
        let Terms {
            name,
            sync,
            mode,
            durability,
            reset,
        } = terms;
        Self {
            source,
            group,
            name,
            sync,
            mode,
            durability,
            ledger: Ledger::default(),
            failed: FailMark::default(),
            reset,
            left,
            auto_since,
            closed: false,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn committed(&self) -> Offset {
        self.group.state().committed
    }

    pub(super) fn metadata(&self) -> &[u8] {
        &self.group.state().metadata
    }

    pub(super) fn losses(&self) -> GroupLosses {
        self.group.state().losses
    }

    pub(super) fn is_before_processing(&self) -> bool {
        self.mode == Mode::BeforeProcessing
    }

    /// Notes the gaps of a batch.
    pub(crate) fn note(&mut self, gaps: &[Gap]) {
        for gap in gaps {
            self.ledger.note(gap);
        }
    }

    /// Going back to the committed offset: what failed comes again.
    pub(super) fn forget_failure(&mut self) {
        self.failed = FailMark::default();
    }

    /// Commits `offset`.
    ///
    /// # Errors
    ///
    /// Those of [`Consumer::commit_offset_with`](crate::Consumer::commit_offset_with).
    pub(crate) fn commit(
        &mut self,
        reader: &Reader,
        offset: Offset,
        options: &CommitOptions,
    ) -> Result<()> {
        self.check_forward(offset)?;
        self.put(reader, offset, options)
    }

    fn check_forward(&self, offset: Offset) -> Result<()> {
        // A committed offset beyond the end of the log is no measure.
        if offset >= self.committed() || self.reset.is_some() {
            return Ok(());
        }
        Err(ErrorKind::CommitBehind {
            group: self.name.clone(),
            requested: offset,
            committed: self.committed(),
        }
        .into())
    }

    /// Commits `offset`, also below the committed one.
    ///
    /// # Errors
    ///
    /// Those of [`Consumer::rewind`](crate::Consumer::rewind).
    pub(super) fn put(
        &mut self,
        reader: &Reader,
        offset: Offset,
        options: &CommitOptions,
    ) -> Result<()> {
        self.check(reader, offset, options)?;
        match self.sync_of(options)? {
            None => self.write(reader, offset, options, None),
            Some(kind) => {
                // A group must not be ahead of its log after a power cut.
                self.source.make_durable(offset)?;
                self.write_durably(reader, offset, options, kind)
            }
        }
    }

    /// Commits `offset`, and returns before that is durable, if it is to be.
    ///
    /// # Errors
    ///
    /// Those of [`Consumer::commit_offset_async`](crate::Consumer::commit_offset_async).
    pub(super) fn commit_async(
        &mut self,
        reader: &Reader,
        offset: Offset,
        options: &CommitOptions,
    ) -> Result<CommitReceipt> {
        let Some((_, log)) = self.sync_of(options)?.zip(reader.live()) else {
            self.commit(reader, offset, options)?;
            return Ok(CommitReceipt::done());
        };
        self.check_forward(offset)?;
        self.check(reader, offset, options)?;
        self.write(reader, offset, options, None)?;
        let pending = self.group.pending();
        log.submit_commit(&pending);
        Ok(CommitReceipt::pending(log, pending))
    }

    /// How a commit is synced; `None` if it is not.
    fn sync_of(&self, options: &CommitOptions) -> Result<Option<SyncKind>> {
        match options.durability.unwrap_or(self.durability) {
            Durability::Written => Ok(None),
            Durability::Durable => Ok(Some(self.sync.ok_or(ErrorKind::DurabilityOff)?)),
        }
    }

    /// Together with other groups, if some commit durably right now.
    fn write_durably(
        &mut self,
        reader: &Reader,
        offset: Offset,
        options: &CommitOptions,
        kind: SyncKind,
    ) -> Result<()> {
        let Some(log) = reader.live() else {
            return self.write(reader, offset, options, Some(kind));
        };
        let busy = log.commits.enter();
        if !busy.shares {
            return self.write(reader, offset, options, Some(kind));
        }
        self.write(reader, offset, options, None)?;
        let pending = self.group.pending();
        log.submit_commit(&pending);
        log.wait_for_commit(&pending)
    }

    fn write(
        &mut self,
        reader: &Reader,
        offset: Offset,
        options: &CommitOptions,
        sync: Option<SyncKind>,
    ) -> Result<()> {
        let (losses, counted) = self.settle(offset);
        let commit = Commit {
            offset,
            time: self.source.host().wall_millis(),
            metadata: &options.metadata,
            losses,
            counted,
        };
        self.group.commit(&commit, sync)?;
        reader.note_commit(offset);
        self.ledger.forget_below(counted);
        self.reset = None;
        Ok(())
    }

    fn check(&self, reader: &Reader, offset: Offset, options: &CommitOptions) -> Result<()> {
        let bytes = options.metadata.len();
        if bytes > METADATA_MAX {
            return Err(ErrorKind::TooLarge {
                what: "the metadata of a commit",
                bytes: bytes as u64,
                limit: METADATA_MAX as u64,
            }
            .into());
        }
        match self.failed.first() {
            Some(failed) if failed < offset => {
                return Err(ErrorKind::RecordFailed { offset: failed }.into());
            }
            _ => {}
        }
        if offset != self.committed() {
            reader.check_within(offset)?;
        }
        self.source.check_below(offset)
    }

    /// The losses that a commit of `offset` makes final, and up to where they are counted.
    fn settle(&self, offset: Offset) -> (GroupLosses, Offset) {
        let state = self.group.state();
        let counted = state.counted.max(offset);
        let more = self.ledger.losses(state.counted, offset);
        (state.losses.plus(more), counted)
    }

    /// Commits what earlier polls returned, if it is time to.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub(super) fn before_poll(&mut self, reader: &Reader) -> Result<()> {
        let Mode::Auto(interval) = self.mode else {
            return Ok(());
        };
        self.left = reader.position();
        let now = self.source.host().monotonic();
        if now.saturating_sub(self.auto_since) < interval {
            return Ok(());
        }
        self.commit_left(reader)?;
        self.auto_since = now;
        Ok(())
    }

    fn commit_left(&mut self, reader: &Reader) -> Result<()> {
        // What failed stays uncommitted, and what is behind it.
        let offset = self.left.min(self.failed.first().unwrap_or(Offset::MAX));
        if offset > self.committed() || self.reset.is_some() {
            self.commit(reader, offset, &CommitOptions::new())
        } else {
            Ok(())
        }
    }

    /// Commits what a poll is about to return, durably.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub(super) fn commit_ahead(&mut self, reader: &Reader) -> Result<()> {
        if self.is_ahead(reader) {
            self.commit(reader, reader.position(), &durable())
        } else {
            Ok(())
        }
    }

    /// The same, without waiting for the device.
    ///
    /// # Errors
    ///
    /// As [`commit_async`](Self::commit_async).
    pub(super) fn begin_commit_ahead(&mut self, reader: &Reader) -> Result<Option<CommitReceipt>> {
        self.is_ahead(reader)
            .then(|| self.commit_async(reader, reader.position(), &durable()))
            .transpose()
    }

    /// Something was polled that is not committed.
    fn is_ahead(&self, reader: &Reader) -> bool {
        reader.position() > self.committed() || self.reset.is_some()
    }

    /// Commits what is to be committed automatically, and writes both pages alike, so that a bit
    /// that flips later takes no commit back. Only the first call does anything.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit). If only the second page fails, the commit stands in one, as it
    /// did before.
    pub(super) fn close(&mut self, reader: &Reader) -> Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let left = match self.mode {
            Mode::Auto(_) => self.commit_left(reader),
            Mode::Manual | Mode::BeforeProcessing => Ok(()),
        };
        // A group must not be ahead of its log after a power cut.
        let durable = match self.sync {
            Some(_) => self.source.make_durable(self.committed()),
            None => Ok(()),
        };
        let sync = self.sync.filter(|_| durable.is_ok());
        let closed = self.group.close(sync);
        if let Some(log) = reader.live() {
            let is_durable = sync.is_some() && closed.is_ok();
            log.commits.leave(self.group.shared(), is_durable);
        }
        left.and(durable).and(closed)
    }
}

fn durable() -> CommitOptions {
    CommitOptions::new().durability(Durability::Durable)
}

/// An automatic commit needs a time to wait.
pub(super) fn check_mode(mode: Mode) -> Result<()> {
    match mode {
        Mode::Auto(interval) if interval < Duration::from_millis(1) => Err(Error::option(
            "auto_commit_after",
            "a time must be at least a millisecond",
        )),
        _ => Ok(()),
    }
}
