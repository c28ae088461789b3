//! Reading records: a [`Reader`] at any offset, a [`Consumer`] at the committed offset of a group.

use std::time::Duration;

mod acks;
mod batch;
mod builder;
mod commits;
mod dead_letter;
mod ledger;
mod overdue;
mod parallel;
mod process;
mod reader;
mod receipt;
mod replay;
mod retry;
mod sequence;
mod start;
mod waiting;
mod work;

pub use batch::{Batch, FrameInfo, FrameProducer, Iter};
pub use builder::ConsumerBuilder;
pub use commits::{CommitOptions, MAX_COMMIT_METADATA};
pub(crate) use dead_letter::Outlet;
pub use dead_letter::{DeadLetter, dead_letter_headers};
pub use overdue::DEFAULT_MAX_POLL_INTERVAL;
pub use parallel::{InFlight, ParallelConsumer};
pub use process::Processed;
pub(crate) use reader::{GroupPlace, reader_of, reader_of_read_only};
pub use reader::{Reader, ReaderBuilder};
pub use receipt::CommitReceipt;
pub use replay::Replayed;
pub use retry::RetryPolicy;
pub use sequence::{SequenceCheck, SequenceFinding, SequenceKind, SequenceTotals};
pub use start::{OffsetReset, Reset, ResetReason, Start};
pub use waiting::{ConsumerHandle, NextBatch};

use builder::out_of_range;
use commits::Commits;
use process::Handling;

use crate::{
    error::Result,
    format::group::GroupLosses,
    log::{GapReason, Lag},
    offset::Offset,
    record::Timestamp,
};

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
/// # What is promised
///
/// | how it commits | | a crash |
/// |---|---|---|
/// | [`commit`](Consumer::commit) after processing | at least once | repeats what was not committed |
/// | [`auto_commit_after`](ConsumerBuilder::auto_commit_after) | at least once, if a batch is done before the next poll | the same |
/// | [`commit_before_processing`](ConsumerBuilder::commit_before_processing) | at most once | loses what was not processed |
/// | results and offset stored together elsewhere, then [`seek`](Consumer::seek) there | effectively once | neither |
///
/// # Going elsewhere
///
/// | | position | what is committed | a record that [failed](Batch::fail) |
/// |---|---|---|---|
/// | [`seek`](Consumer::seek), and to the beginning, the end, a time | as asked for | stays | still keeps commits from passing it |
/// | [`seek_to_committed`](Consumer::seek_to_committed) | the committed offset | stays | forgotten: it comes again |
/// | [`rewind`](Consumer::rewind) | as asked for | the same | forgotten: it comes again |
///
/// # Concurrency
///
/// A consumer is for one thread at a time; a group has one live consumer.
#[derive(Debug)]
pub struct Consumer {
    reader: Reader,
    commits: Commits,
    offset_reset: OffsetReset,
    handling: Handling,
}

impl Consumer {
    /// Waits up to `timeout` for records, and returns those there are, borrowed. Returns at once
    /// if there are any, or a [gap](Batch::gaps); an empty batch when the time is over, or when
    /// another thread [says so](Consumer::handle). A batch ends with its segment at the latest, so it
    /// may have fewer records than there are and were allowed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`], [`ErrorKind::UnsupportedVersion`], [`ErrorKind::CompressionUnsupported`];
    /// [`ErrorKind::SyncFailed`] above the durable offset of a log that is latched;
    /// [`ErrorKind::Closed`]; [`ErrorKind::OffsetOutOfRange`] with [`OffsetReset::Error`], if
    /// retention has passed the position. The position is as before. With
    /// [`auto_commit_after`](ConsumerBuilder::auto_commit_after) and
    /// [`commit_before_processing`](ConsumerBuilder::commit_before_processing) also those of
    /// [`commit`](Consumer::commit): nothing was returned then, and the position is as before.
    ///
    /// [`ErrorKind::Io`]: crate::ErrorKind::Io
    /// [`ErrorKind::UnsupportedVersion`]: crate::ErrorKind::UnsupportedVersion
    /// [`ErrorKind::CompressionUnsupported`]: crate::ErrorKind::CompressionUnsupported
    /// [`ErrorKind::SyncFailed`]: crate::ErrorKind::SyncFailed
    /// [`ErrorKind::Closed`]: crate::ErrorKind::Closed
    /// [`ErrorKind::OffsetOutOfRange`]: crate::ErrorKind::OffsetOutOfRange
    pub fn poll(&mut self, timeout: Duration) -> Result<Batch<'_>> {
        self.reader.begin_poll();
        self.before_poll()?;
        let position = self.reader.position();
        self.reader.fetch(timeout)?;
        self.after_poll(position)?;
        self.reader.end_poll();
        Ok(self.batch())
    }

    fn batch(&self) -> Batch<'_> {
        let Commits { failed, reset, .. } = &self.commits;
        self.reader.batch().of_group(failed, reset.as_ref())
    }

    /// What is due before a batch is read.
    fn before_poll(&mut self) -> Result<()> {
        self.commits.before_poll(&self.reader)?;
        if self.offset_reset == OffsetReset::Earliest {
            // Reading goes on at the log's start by itself, and tells the gap.
            return Ok(());
        }
        let (position, start) = (self.reader.position(), self.reader.log_start());
        if position >= start {
            return Ok(());
        }
        let end = self.reader.end()?;
        let to = self
            .offset_reset
            .apply(start, end, || out_of_range(position, start, end))?;
        self.reader.skip_to(start, GapReason::Retention);
        self.reader.skip_to(to, GapReason::OffsetReset);
        Ok(())
    }

    fn note_gaps(&mut self) {
        self.commits.note(self.reader.batch().gaps());
    }

    /// What is due before a batch is returned; `position` is where it was read from.
    fn after_poll(&mut self, position: Offset) -> Result<()> {
        self.note_gaps();
        if !self.commits.is_before_processing() {
            return Ok(());
        }
        self.commits
            .commit_ahead(&self.reader)
            .inspect_err(|_| self.reader.return_to(position))
    }

    /// The same, for one who must not wait: what is to be awaited before the batch is returned.
    fn begin_commit_ahead(&mut self) -> Result<Option<CommitReceipt>> {
        self.note_gaps();
        if self.commits.is_before_processing() {
            self.commits.begin_commit_ahead(&self.reader)
        } else {
            Ok(None)
        }
    }

    /// Commits everything that was polled: a consumer of the group that is made later goes on
    /// behind it.
    ///
    /// # Durability
    ///
    /// By default the commit survives the end of this process. A power cut may take it (after some
    /// seconds the kernel has written it): then records are seen again, none is skipped. With
    /// [`Durability::Durable`](crate::Durability::Durable) it survives that too, and so do all
    /// records below it.
    ///
    /// # Errors
    ///
    /// [`CommitBehind`](crate::ErrorKind::CommitBehind) below the committed offset (after a seek);
    /// [`RecordFailed`](crate::ErrorKind::RecordFailed) after [`Batch::fail`];
    /// [`Io`](crate::ErrorKind::Io); [`Closed`](crate::ErrorKind::Closed);
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed) above the durable offset of a log that is
    /// latched. The committed offset is as before. With
    /// [`Durability::Durable`](crate::Durability::Durable) also
    /// [`DurabilityOff`](crate::ErrorKind::DurabilityOff); and if the sync of the group's file
    /// fails, `SyncFailed`: whether the commit survives is not known, and the group takes no more
    /// until it is built again.
    #[doc(alias = "commitSync")]
    pub fn commit(&mut self) -> Result<()> {
        self.commit_with(&CommitOptions::new())
    }

    /// [`commit`](Consumer::commit), with a durability of its own, and metadata.
    ///
    /// # Errors
    ///
    /// As [`commit`](Consumer::commit); [`TooLarge`](crate::ErrorKind::TooLarge) for metadata of
    /// more than [`MAX_COMMIT_METADATA`] bytes.
    pub fn commit_with(&mut self, options: &CommitOptions) -> Result<()> {
        self.commit_offset_with(self.position(), options)
    }

    /// Commits `offset`: the next one to read after a restart.
    ///
    /// # Errors
    ///
    /// As [`commit`](Consumer::commit);
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange) behind the end of the log. (In front
    /// of its start is none: what was deleted from there on is told as a gap.)
    pub fn commit_offset(&mut self, offset: Offset) -> Result<()> {
        self.commit_offset_with(offset, &CommitOptions::new())
    }

    /// [`commit_offset`](Consumer::commit_offset), with a durability of its own, and metadata.
    ///
    /// # Errors
    ///
    /// As [`commit_with`](Consumer::commit_with) and [`commit_offset`](Consumer::commit_offset).
    pub fn commit_offset_with(&mut self, offset: Offset, options: &CommitOptions) -> Result<()> {
        self.commits.commit(&self.reader, offset, options)
    }

    /// [`commit_with`](Consumer::commit_with) that does not wait for the device: a durable commit
    /// is durable once its [receipt](CommitReceipt) was waited for, or awaited. Until then it is as
    /// a `Written` one, which takes effect before this returns: so commits take effect in the order
    /// in which they are made, and an older one never overwrites a newer one. Receipts of many
    /// groups that are waited for at the same time share a sync.
    ///
    /// On a log that was [opened read-only](crate::Log::open_read_only) a durable commit is durable
    /// when this returns.
    ///
    /// # Errors
    ///
    /// As [`commit_with`](Consumer::commit_with).
    #[doc(alias = "commitAsync")]
    pub fn commit_async(&mut self, options: &CommitOptions) -> Result<CommitReceipt> {
        self.commit_offset_async(self.position(), options)
    }

    /// [`commit_async`](Consumer::commit_async) of `offset`.
    ///
    /// # Errors
    ///
    /// As [`commit_offset_with`](Consumer::commit_offset_with).
    pub fn commit_offset_async(
        &mut self,
        offset: Offset,
        options: &CommitOptions,
    ) -> Result<CommitReceipt> {
        self.commits.commit_async(&self.reader, offset, options)
    }

    /// Commits `offset`, which may lie below the committed one, and goes on there: what was
    /// processed since is processed again. A failed record is forgotten: it comes again.
    ///
    /// # Errors
    ///
    /// As [`commit_offset`](Consumer::commit_offset), but for
    /// [`CommitBehind`](crate::ErrorKind::CommitBehind). Nothing has changed then.
    pub fn rewind(&mut self, offset: Offset) -> Result<()> {
        self.commits
            .put(&self.reader, offset, &CommitOptions::new())?;
        self.seek_to_committed();
        Ok(())
    }

    /// The committed offset of the group: the next one to read after a restart.
    pub fn committed(&self) -> Offset {
        self.commits.committed()
    }

    /// What was [given](CommitOptions::metadata) with the last commit.
    pub fn committed_metadata(&self) -> &[u8] {
        self.commits.metadata()
    }

    /// Offsets that the group has passed without their records, ever.
    pub fn losses(&self) -> GroupLosses {
        self.commits.losses()
    }

    /// That the group went on elsewhere than at its committed offset, as that lay beyond the end of
    /// the log or its file was damaged; `None` once there was a commit. (What retention has taken is
    /// told as a [gap](Batch::gaps).)
    pub fn reset(&self) -> Option<&Reset> {
        self.commits.reset.as_ref()
    }

    /// Goes on at `offset`. What is committed stays. What is skipped thereby is not told as a gap.
    ///
    /// # Errors
    ///
    /// [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange), [`Io`](crate::ErrorKind::Io),
    /// [`Closed`](crate::ErrorKind::Closed); the position is as before.
    pub fn seek(&mut self, offset: Offset) -> Result<()> {
        self.reader.seek(offset)
    }

    /// Goes on at the first record there is. What is committed stays.
    ///
    /// # Errors
    ///
    /// As [`seek`](Consumer::seek).
    #[doc(alias = "seekToBeginning")]
    pub fn seek_to_beginning(&mut self) -> Result<()> {
        self.reader.seek_to(Start::Earliest)
    }

    /// Goes on behind the last record there is. What is committed stays.
    ///
    /// # Errors
    ///
    /// As [`seek`](Consumer::seek).
    #[doc(alias = "seekToEnd")]
    pub fn seek_to_end(&mut self) -> Result<()> {
        self.reader.seek_to(Start::Latest)
    }

    /// Goes on at the first record that was appended at `time` or later: see
    /// [`Log::offset_for_timestamp`](crate::Log::offset_for_timestamp). What is committed stays.
    ///
    /// # Errors
    ///
    /// As [`seek`](Consumer::seek).
    #[doc(alias = "offsetsForTimes")]
    pub fn seek_to_timestamp(&mut self, time: impl Into<Timestamp>) -> Result<()> {
        self.reader.seek_to(Start::Time(time.into()))
    }

    /// Goes on at the committed offset, as a consumer that is made anew: what was polled and not
    /// committed comes again, and so do gaps. A record that [failed](Batch::fail) no longer keeps
    /// commits from being made.
    pub fn seek_to_committed(&mut self) {
        self.reader.return_to(self.commits.committed());
        self.commits.forget_failure();
    }

    /// The offset that the next poll starts at.
    pub fn position(&self) -> Offset {
        self.reader.position()
    }

    /// How far the position is behind the end of the log. Looks at the record there, so this takes
    /// microseconds.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io), [`Closed`](crate::ErrorKind::Closed).
    pub fn lag(&self) -> Result<Lag> {
        self.reader.lag()
    }

    /// The name of the group.
    pub fn group(&self) -> &str {
        self.commits.name()
    }

    /// Lets go of the group. With [`auto_commit_after`](ConsumerBuilder::auto_commit_after), what
    /// polls before the last one returned is committed; in the other modes nothing is. Dropping a
    /// consumer does the same, but can't tell an error.
    ///
    /// # Durability
    ///
    /// The committed offset is durable when this returns, unless the log
    /// [does not sync](crate::Fsync::Off).
    ///
    /// # Errors
    ///
    /// As [`commit`](Consumer::commit), with [`Durability::Durable`](crate::Durability::Durable).
    /// The group is let go of all the same.
    pub fn close(mut self) -> Result<()> {
        self.commits.close(&self.reader)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // If it fails, the last commit stands in one slot, as it did before.
        drop(self.commits.close(&self.reader));
    }
}
