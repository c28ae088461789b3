//! What a poll returns.

use std::{fmt, sync::Arc};

use super::{commits::FailMark, start::Reset};
use crate::{
    format::body::Records,
    log::{Cursor, Gap, Span},
    offset::Offset,
    options::Compression,
    record::RecordRef,
};

/// A frame: records that were appended as one, as the log holds them. Where compaction removed some
/// of them, it is still one, with the offsets that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameInfo {
    /// The offset of its first record. It may lie below the first of the [batch](Batch).
    pub from: Offset,
    /// The offset behind its last record. Fewer records than that are in it if compaction removed
    /// some, the first and the last maybe among them.
    pub to: Offset,
    /// Bytes that it takes in the segment's file.
    pub stored_bytes: u64,
    /// How its records are compressed there.
    pub compression: Compression,
    /// The named producer that sent it, if one did.
    pub producer: Option<FrameProducer>,
}

/// Who sent a [frame](FrameInfo): a producer [with a name](crate::ProducerBuilder::name).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameProducer {
    /// Its name. A frame holds a number in its place; `None` if nothing that is left of the log says
    /// whose that is, because of damage.
    pub name: Option<Arc<str>>,
    /// The number, which is this name's for ever, in this log.
    pub id: u32,
    /// How often the name had been opened: a higher one has fenced those before.
    #[doc(alias = "producerEpoch")]
    pub epoch: u32,
    /// The sequence at the frame's first offset. That of a record is farther by as much as its
    /// offset is.
    #[doc(alias = "baseSequence")]
    pub first_sequence: u64,
}

/// Records of one poll, borrowed from the reader, in order; and the gaps before or between them.
pub struct Batch<'a> {
    cursor: &'a Cursor,
    /// The first offset to deliver: the first frame may begin below it.
    from: Offset,
    failed: Option<&'a FailMark>,
    reset: Option<&'a Reset>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(cursor: &'a Cursor, from: Offset) -> Self {
        Self {
            cursor,
            from,
            failed: None,
            reset: None,
        }
    }

    /// The same batch, for a consumer of a group.
    pub(crate) fn of_group(mut self, failed: &'a FailMark, reset: Option<&'a Reset>) -> Self {
        self.failed = Some(failed);
        self.reset = reset;
        self
    }

    /// Notes that `record` could not be processed: from now on the consumer commits nothing beyond
    /// it ([`ErrorKind::RecordFailed`](crate::ErrorKind::RecordFailed)), until
    /// [`Consumer::seek_to_committed`](crate::Consumer::seek_to_committed), after which it comes
    /// again. (A [`Reader`](crate::Reader) has no commits to refuse, and with
    /// [`commit_before_processing`](crate::ConsumerBuilder::commit_before_processing) the record was
    /// committed before it came.)
    pub fn fail(&self, record: &RecordRef<'_>) {
        if let (Some(failed), Some(offset)) = (self.failed, record.offset) {
            failed.fail(offset);
        }
    }

    /// That the group went on elsewhere than at its committed offset, as that was of no use. Told
    /// with each batch until a commit.
    pub fn reset(&self) -> Option<&'a Reset> {
        self.reset
    }

    /// The records.
    pub fn iter(&self) -> Iter<'a> {
        Iter {
            cursor: self.cursor,
            from: self.from,
            spans: self.cursor.spans().iter(),
            records: None,
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        let of_span = |span: &Span| self.cursor.count_from(span, self.from);
        let records: u64 = self.cursor.spans().iter().map(of_span).sum();
        usize::try_from(records).unwrap_or(usize::MAX)
    }

    /// Whether there are no records. There may still be [gaps](Batch::gaps).
    pub fn is_empty(&self) -> bool {
        self.cursor.spans().is_empty()
    }

    /// Whether there is nothing in it, neither records nor gaps.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_empty() && self.gaps().is_empty()
    }

    /// Where it begins: what it tells first.
    pub(crate) fn start(&self) -> Offset {
        let gap = self.gaps().first().map(|gap| gap.from);
        gap.unwrap_or(self.from).min(self.from)
    }

    /// The first offset that is delivered, or is behind it.
    pub(super) fn from(&self) -> Offset {
        self.from
    }

    /// The frames that the records are from, in order.
    pub fn frames(&self) -> impl Iterator<Item = FrameInfo> + 'a {
        let cursor = self.cursor;
        cursor.spans().iter().map(|span| FrameInfo {
            from: span.first,
            to: span.end(),
            stored_bytes: span.len as u64,
            compression: cursor.compression(span),
            producer: cursor.sent_by(span).map(|sent| FrameProducer {
                name: sent.name,
                id: sent.id,
                epoch: sent.epoch,
                first_sequence: sent.first_sequence,
            }),
        })
    }

    /// Offsets up to the reader's position that have no record any more, in order. They are told
    /// again, after a restart, until a commit has passed them.
    pub fn gaps(&self) -> &'a [Gap] {
        self.cursor.gaps()
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("gaps", &self.gaps())
            .field("records", &self.iter().collect::<Vec<_>>())
            .finish()
    }
}

impl<'a> IntoIterator for &Batch<'a> {
    type Item = RecordRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for Batch<'a> {
    type Item = RecordRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The records of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    cursor: &'a Cursor,
    from: Offset,
    spans: std::slice::Iter<'a, Span>,
    records: Option<Records<'a>>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        loop {
            if let Some(records) = &mut self.records {
                for record in records.by_ref() {
                    if record.offset.is_some_and(|offset| offset >= self.from) {
                        return Some(record);
                    }
                }
            }
            let span = self.spans.next()?;
            if let Some(record) = self.cursor.plain_record(span) {
                return Some(record);
            }
            self.records = Some(self.cursor.records(span)?);
        }
    }
}
