//! Building a consumer.

use std::time::Duration;

use super::{
    Consumer,
    commits::{Commits, Mode, Terms, check_mode},
    dead_letter::Outlet,
    overdue::HoldOptions,
    parallel::ParallelConsumer,
    process::Handling,
    reader::{Parts, ReaderBuilder},
    start::{OffsetReset, Reset, ResetReason, Start},
};
use crate::{
    error::{Error, ErrorKind, Result},
    group::{Beginning, GroupFile},
    offset::Offset,
    options::Durability,
};

/// Builds a [`Consumer`]; from [`Log::consumer`](crate::Log::consumer) or
/// [`ReadOnlyLog::consumer`](crate::ReadOnlyLog::consumer).
#[derive(Debug)]
#[must_use]
pub struct ConsumerBuilder {
    reader: ReaderBuilder,
    group: String,
    offset_reset: OffsetReset,
    mode: Mode,
    durability: Durability,
    pub(super) hold: HoldOptions,
    pub(super) handling: Handling,
    outlet: Option<Result<Box<dyn Outlet>>>,
}

impl ConsumerBuilder {
    pub(crate) fn new(reader: ReaderBuilder, group: impl Into<String>) -> Self {
        Self {
            reader,
            group: group.into(),
            offset_reset: OffsetReset::default(),
            mode: Mode::default(),
            durability: Durability::default(),
            hold: HoldOptions::default(),
            handling: Handling::default(),
            outlet: None,
        }
    }

    /// Where a *new* group starts; by default at the earliest record. That is its committed offset
    /// once it is built; a group that was built before goes on from its own.
    pub fn start(mut self, start: Start) -> Self {
        self.reader = self.reader.start(start);
        self
    }

    /// What a group does whose committed offset is of no use; by default it goes on at the earliest
    /// record.
    #[doc(alias = "auto.offset.reset")]
    pub fn offset_reset(mut self, offset_reset: OffsetReset) -> Self {
        self.offset_reset = offset_reset;
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
    #[doc(alias = "max.partition.fetch.bytes")]
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

    /// What commits survive that do not say it themselves; by default
    /// [`Durability::Written`]: losing one only repeats work.
    pub fn commit_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Commits by itself, in place of [manual](Consumer::commit) commits: a poll first commits what
    /// the polls *before* it returned, if `interval` (at least a millisecond) has passed since it
    /// did so last; closing or dropping the consumer does it too.
    ///
    /// What the last poll returned is never committed this way, as nobody knows whether it was
    /// processed; so this is at least once, as long as a batch is processed before the next poll.
    /// To hand records to other threads take [`build_parallel`](Self::build_parallel). A record
    /// that [failed](crate::Batch::fail), and what is behind it, is not committed. Of this and
    /// [`commit_before_processing`](Self::commit_before_processing) the one called last counts.
    #[doc(alias = "enable.auto.commit")]
    #[doc(alias = "auto.commit.interval.ms")]
    pub fn auto_commit_after(mut self, interval: Duration) -> Self {
        self.mode = Mode::Auto(interval);
        self
    }

    /// Commits each batch before it is returned, always durably: *at most once*. No record is
    /// returned a second time, whatever happens; what was not processed by then is lost. A poll
    /// waits for the device each time. A gap is told once.
    pub fn commit_before_processing(mut self) -> Self {
        self.mode = Mode::BeforeProcessing;
        self
    }

    /// Where dead letters go, or why they can't: [`build`](Self::build) tells.
    pub(crate) fn outlet(mut self, outlet: Result<Box<dyn Outlet>>) -> Self {
        self.outlet = Some(outlet);
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
    /// another process, holds the group), [`ErrorKind::InvalidOption`],
    /// [`ErrorKind::OffsetOutOfRange`] ([`Start::At`]; and with [`OffsetReset::Error`] a committed
    /// offset outside the log), [`ErrorKind::DurabilityOff`] (at most once, or dead letters, on a
    /// log that does not sync), [`ErrorKind::Corrupt`] (with [`OffsetReset::Error`] all slots of the group's file;
    /// a file of another log), [`ErrorKind::UnsupportedVersion`], [`ErrorKind::SymbolicLink`],
    /// [`ErrorKind::Io`], [`ErrorKind::StorageFull`], [`ErrorKind::SyncFailed`],
    /// [`ErrorKind::Closed`].
    pub fn build(mut self) -> Result<Consumer> {
        self.reader.check()?;
        check_mode(self.mode)?;
        self.hold.check()?;
        self.handling.retry.check()?;
        let parts = self.reader.parts();
        let place = parts.group_place();
        let durable = self.durability == Durability::Durable || self.mode == Mode::BeforeProcessing;
        if durable && place.sync.is_none() {
            return Err(ErrorKind::DurabilityOff.into());
        }
        if let Some(outlet) = self.outlet.take() {
            let outlet = outlet?;
            if outlet.log_id() == place.log_id {
                let reason = "dead letters must go to another log";
                return Err(Error::option("dead_letters", reason));
            }
            self.handling.dead_letters = Some(outlet);
        }
        let end = parts.end()?;
        let mut reset = None;
        let begin = |why| self.begin(why, &parts, end, &mut reset);
        let site = place.site(parts.source.host());
        let group = GroupFile::hold(&site, &self.group, begin)?;
        let mut position = group.state().committed;
        let start = parts.source.start();
        let out_of_range = || out_of_range(position, start, end);
        if position > end {
            let to = self.offset_reset.apply(start, end, out_of_range)?;
            let reason = ResetReason::AheadOfEnd {
                committed: position,
            };
            reset = Some(Reset { reason, to });
            position = to;
        } else if position < start && self.offset_reset == OffsetReset::Error {
            return Err(out_of_range());
        }
        let mut reader = self.reader.build_at(position)?;
        self.hold
            .watch(&mut reader, &self.group, group.state().committed);
        let terms = Terms {
            name: self.group,
            sync: place.sync,
            mode: self.mode,
            durability: self.durability,
            reset,
        };
        if let Some(log) = reader.live() {
            log.commits.join(group.shared());
        }
        Ok(Consumer {
            reader,
            commits: Commits::new(parts.source, group, terms),
            offset_reset: self.offset_reset,
            handling: self.handling,
        })
    }

    /// The same, for any number of worker threads that acknowledge records one by one, in any
    /// order: see [`ParallelConsumer`].
    ///
    /// At most `max_in_flight` records at a time are handed out and not acknowledged, or
    /// acknowledged behind one that is not. Several for each worker let the others go on while one
    /// record takes long.
    ///
    /// # Durability
    ///
    /// A new group is durable when this returns.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build); [`ErrorKind::InvalidOption`] if `max_in_flight` is 0, and with
    /// [`auto_commit_after`](Self::auto_commit_after) or
    /// [`commit_before_processing`](Self::commit_before_processing): it is acknowledgements that
    /// commit.
    pub fn build_parallel(self, max_in_flight: usize) -> Result<ParallelConsumer> {
        if max_in_flight == 0 {
            return Err(Error::option("max_in_flight", "must be at least 1"));
        }
        let refused = match self.mode {
            Mode::Manual => return Ok(ParallelConsumer::new(self.build()?, max_in_flight)),
            Mode::Auto(_) => "auto_commit_after",
            Mode::BeforeProcessing => "commit_before_processing",
        };
        Err(Error::option(
            refused,
            "acknowledging commits, in parallel work",
        ))
    }

    /// Where a group begins that has no offset to go on from.
    fn begin(
        &self,
        why: Beginning,
        parts: &Parts,
        end: Offset,
        reset: &mut Option<Reset>,
    ) -> Result<Offset> {
        match why {
            Beginning::New => parts.start.resolve(&parts.source, end),
            Beginning::Damaged(error) => {
                let start = parts.source.start();
                let to = self.offset_reset.apply(start, end, || error.clone())?;
                let reason = ResetReason::Damaged { error };
                *reset = Some(Reset { reason, to });
                Ok(to)
            }
        }
    }
}

pub(super) fn out_of_range(requested: Offset, start: Offset, end: Offset) -> Error {
    ErrorKind::OffsetOutOfRange {
        requested,
        start,
        end,
    }
    .into()
}
