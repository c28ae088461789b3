//! A batch: records encoded one behind the other, which become one frame.

use std::{sync::Arc, time::Duration};

use super::{
    completion::{Completion, Level, Stage},
    delivery::Delivery,
    receipt::Receipt,
};
use crate::{
    error::Error,
    format::body::{EncodedBody, Records, encode_record},
    offset::Offset,
    options::Acks,
    record::RecordRef,
};

/// What a batch takes in memory beside its records.
pub(super) const BATCH_OVERHEAD: usize = 256;
/// What a record takes beside its bytes if its level is not the batch's.
pub(super) const LEVEL_OVERHEAD: usize = 2 * size_of::<(u32, Level)>();

/// Records that are not done.
#[derive(Debug)]
pub(super) struct Batch {
    /// Zeros behind what is filled: it is as long as what it may hold.
    buffer: Vec<u8>,
    filled: usize,
    count: u32,
    /// It is one record, of which only the value stands in the buffer.
    plain: bool,
    level: Level,
    /// Records with another level, by index.
    others: Vec<(u32, Level)>,
    /// When the first record was taken.
    pub(super) opened: Duration,
    pub(super) completion: Arc<Completion>,
}

pub(super) fn level_of(acks: Acks) -> Level {
    match acks {
        Acks::Durable => Level::Durable,
        Acks::None | Acks::Written => Level::Written,
    }
}

impl Batch {
    /// One without records. `buffer` is as long as what it can hold.
    pub(super) fn new(
        buffer: Vec<u8>,
        level: Level,
        opened: Duration,
        completion: Arc<Completion>,
    ) -> Self {
        Self {
            buffer,
            filled: 0,
            count: 0,
            plain: false,
            level,
            others: Vec::new(),
            opened,
            completion,
        }
    }

    /// One of a single record with nothing but a value, which has a shorter form.
    pub(super) fn plain(
        value: &[u8],
        level: Level,
        opened: Duration,
        completion: Arc<Completion>,
    ) -> Self {
        let mut batch = Self::new(value.to_vec(), level, opened, completion);
        batch.filled = value.len();
        batch.count = 1;
        batch.plain = true;
        batch
    }

    /// Adds a record, which is `len` bytes long, in the room that there [is](Self::room) for it.
    /// This is the one place where a record enters a batch.
    #[inline]
    pub(super) fn push(&mut self, record: &RecordRef<'_>, len: usize, level: Level) -> Receipt {
        let end = self.filled + len;
        let into = self.buffer.get_mut(self.filled..end);
        let fitted = into.is_some_and(|into| encode_record(into, record));
        debug_assert!(fitted, "measured and admitted before");
        self.filled = end;
        let index = self.count;
        self.count += 1;
        if level != self.level {
            self.others.push((index, level));
        }
        Receipt::pending(&self.completion, index, 1, level)
    }

    /// The receipt for all records together.
    pub(super) fn receipt(&self) -> Receipt {
        Receipt::pending(&self.completion, 0, self.count(), self.level)
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    pub(super) fn count(&self) -> u64 {
        self.count.into()
    }

    /// Bytes of its records.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes that it can hold.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes that it can still take.
    pub(super) fn room(&self) -> usize {
        self.buffer.len() - self.filled
    }

    /// Makes it able to hold this much more.
    pub(super) fn grow(&mut self, by: usize) {
        self.buffer.reserve_exact(by);
        self.buffer.resize(self.buffer.len() + by, 0);
    }

    /// The memory that it takes.
    pub(super) fn memory(&self) -> usize {
        BATCH_OVERHEAD + self.buffer.len() + self.others.len() * LEVEL_OVERHEAD
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    pub(super) fn body(&self) -> EncodedBody<'_> {
        EncodedBody {
            count: self.count,
            records: self.buffer.get(..self.filled).unwrap_or_default(),
            plain: self.plain,
        }
    }

    /// Whether any of its records waits for the device.
    pub(super) fn needs_sync(&self) -> bool {
        self.level == Level::Durable || !self.others.is_empty()
    }

    /// How many of its records failed.
    pub(super) fn failures(&self, stage: &Stage) -> u64 {
        let Stage::Failed { written, .. } = stage else {
            return 0;
        };
        let others = self.others.len() as u64;
        match (written, self.level) {
            (None, _) => self.count(),
            (Some(_), Level::Durable) => self.count() - others,
            (Some(_), Level::Written) => others,
        }
    }

    /// What came of each of its records.
    pub(super) fn deliveries<'a>(
        &'a self,
        stage: &'a Stage,
    ) -> impl Iterator<Item = Delivery<'a>> + 'a {
        let mut others = self.others.iter().copied().peekable();
        let records = Records::encoded(self.body(), Offset::ZERO);
        (0..self.count)
            .zip(records)
            .map(move |(index, mut record)| {
                let other = others.next_if(|(at, _)| *at == index);
                let level = other.map_or(self.level, |(_, level)| level);
                let outcome: Result<Offset, &Error> = match stage.outcome(level) {
                    Some(Ok(first)) => Ok(first.advance(index.into())),
                    Some(Err(error)) => Err(error),
                    // Only what is over is delivered.
                    None => Ok(Offset::ZERO),
                };
                record.offset = outcome.ok();
                Delivery::new(record, outcome)
            })
    }
}
