//! Named producers: each record once, however often it is sent.

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{Path, Producer, Receipt, compression::with_compressed};
use crate::{
    error::{ErrorKind, Result, SendError},
    format::{
        body::{AnyBody, FrameBody},
        producer,
    },
    handle::LogHandle,
    log::{Identity, Sent, Shared, Waiter},
    offset::Offset,
    options::Compression,
    record::AsRecord,
};

/// A producer's name, and its place among those of the log.
#[derive(Clone, Debug)]
pub(super) struct Name {
    name: Arc<str>,
    identity: Identity,
}

impl Name {
    /// # Errors
    ///
    /// `InvalidName`, `TooManyProducers`.
    pub(super) fn open(log: &LogHandle, name: String) -> Result<Self> {
        let identity = log.open_producer(&name)?;
        let name = name.into();
        Ok(Self { name, identity })
    }

    /// Bytes that a frame takes at most beside its own.
    pub(super) fn overhead(&self) -> usize {
        producer::longest(&self.name)
    }

    /// Appends with the sequences that are next.
    pub(super) fn append(
        &self,
        log: &Shared,
        body: &impl FrameBody,
        waiter: Waiter,
    ) -> Result<Offset> {
        match log.append_sent(self.identity, None, body, waiter)? {
            Sent::New(first) => Ok(first),
            // Without a sequence of its own nothing is known already.
            Sent::Duplicate(_) | Sent::Overlap { .. } => Err(ErrorKind::EmptyBatch.into()),
        }
    }
}

impl Producer {
    /// Its [name](super::ProducerBuilder::name), if it has one.
    pub fn name(&self) -> Option<&str> {
        self.route.name.as_ref().map(|name| &*name.name)
    }

    /// The sequence of the last record that the producer of this name has appended, now or in
    /// earlier lives; `None` if there was none. After a restart, go on with the one behind it.
    ///
    /// What a crash took is not in it: the sequence after a power cut may be lower than the last
    /// one that was sent before, though never lower than one that was acknowledged as
    /// [`Durable`](crate::Acks::Durable).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`]; [`ErrorKind::NoName`].
    pub fn last_sequence(&self) -> Result<Option<u64>> {
        let next = self.log.next_sequence(self.own_name()?.identity)?;
        Ok(next.checked_sub(1))
    }

    /// Appends a record that has this sequence, unless it is in the log already: then nothing is
    /// appended, and the receipt [says so](SequencedReceipt::is_duplicate). Sequences start at 0
    /// and leave none out (plain sends of the same name take some, too): so a program that is interrupted, and does not know what arrived, sends
    /// again from wherever it is sure.
    ///
    /// ```
    /// use duralog::{Log, Record};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path())?;
    /// let importer = log.producer().name("importer").build()?;
    /// let lines = ["first", "second", "third"];
    /// for (sequence, line) in (0..).zip(lines) {
    ///     importer.send_sequenced(sequence, Record::new(line))?.wait()?;
    /// }
    /// // Whoever is not sure sends again.
    /// let again = importer.send_sequenced(1, Record::new("second"))?;
    /// assert!(again.is_duplicate());
    /// assert_eq!(log.log_end_offset(), 3);
    /// assert_eq!(importer.last_sequence()?, Some(2));
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// It does not linger: a buffered producer [flushes](Producer::flush) first, and then appends
    /// this one before it returns.
    ///
    /// # Durability
    ///
    /// As that of a direct [`send`](Producer::send). A duplicate is as safe as the record it repeats: waiting for
    /// its receipt makes that one durable.
    ///
    /// # Errors
    ///
    /// Those of `send` (and of `flush`, if it is buffered), and [`ErrorKind::Fenced`]; [`ErrorKind::OutOfSequence`] for a sequence that
    /// leaves some out; [`ErrorKind::NoName`] if the producer has no name. Nothing was appended, and
    /// the record is handed back.
    pub fn send_sequenced<R: AsRecord>(
        &self,
        sequence: u64,
        record: R,
    ) -> Result<SequencedReceipt, SendError<R>> {
        match self.append_sequenced(sequence, std::slice::from_ref(&record)) {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(self.failed(record, error)),
        }
    }

    /// Appends records as one, the first of which has this sequence; those that are in the log
    /// already are left out. The [offset](SequencedReceipt::offset) is that of the first record.
    ///
    /// # Errors
    ///
    /// Those of [`send_sequenced`](Producer::send_sequenced) and of
    /// [`send_batch`](Producer::send_batch).
    pub fn send_batch_sequenced<B, R>(
        &self,
        first: u64,
        records: B,
    ) -> Result<SequencedReceipt, SendError<B>>
    where
        B: AsRef<[R]>,
        R: AsRecord,
    {
        match self.append_sequenced(first, records.as_ref()) {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(self.failed(records, error)),
        }
    }

    fn append_sequenced<R: AsRecord>(&self, first: u64, all: &[R]) -> Result<SequencedReceipt> {
        let identity = self.own_name()?.identity;
        self.check_records(all)?;
        if let Path::Buffered(buffered) = &self.path {
            // What was sent before has the sequences before.
            buffered.flush()?;
        }
        let append = |sequence, records: &[R]| {
            let body = AnyBody::of(records);
            self.check_body(&body)?;
            let (log, first, waiter) = (&self.log, Some(sequence), self.route.waiter);
            match self.route.compression {
                Compression::None => {
                    self.try_append(|| log.append_sent(identity, first, &body, waiter))
                }
                codec => with_compressed(records, &body, codec, |smaller| match smaller {
                    Some(body) => {
                        self.try_append(|| log.append_sent(identity, first, &body, waiter))
                    }
                    None => self.try_append(|| log.append_sent(identity, first, &body, waiter)),
                }),
            }
        };
        let sent = match append(first, all)? {
            // Nobody takes sequences back, so the rest is new or known as a whole.
            Sent::Overlap { known, offset } => {
                let skip = usize::try_from(known).unwrap_or(usize::MAX);
                let rest = all.get(skip..).unwrap_or_default();
                let sent = append(first.saturating_add(known), rest)?;
                return Ok(self.sequenced(sent, offset, known, all.len()));
            }
            sent => sent,
        };
        Ok(self.sequenced(sent, None, 0, all.len()))
    }

    /// The receipt for so many records, of which the first `known` were in the log before, from
    /// `offset` on.
    fn sequenced(
        &self,
        sent: Sent,
        offset: Option<Offset>,
        known: u64,
        all: usize,
    ) -> SequencedReceipt {
        let records = all as u64;
        let (offset, appended, below) = match sent {
            Sent::New(first) => {
                let end = first.advance(records - known);
                let offset = if known == 0 { Some(first) } else { offset };
                (offset, first..end, end)
            }
            Sent::Duplicate(found) => (
                offset.or(found.offset),
                Offset::ZERO..Offset::ZERO,
                found.below,
            ),
            Sent::Overlap { .. } => (offset, Offset::ZERO..Offset::ZERO, Offset::ZERO),
        };
        // Waited for is the last of them.
        let last = Offset::new(below.get().saturating_sub(1));
        SequencedReceipt {
            receipt: self.receipt(last, below.since(last), self.acks),
            offset,
            appended,
            records,
        }
    }

    fn own_name(&self) -> Result<&Name> {
        self.route
            .name
            .as_ref()
            .ok_or_else(|| ErrorKind::NoName.into())
    }
}

/// What became of a send with sequences: wait for it, `await` it, or drop it, as a [`Receipt`].
#[derive(Debug)]
#[must_use = "a durable send is durable once its receipt was waited for"]
pub struct SequencedReceipt {
    receipt: Receipt,
    offset: Option<Offset>,
    appended: Range<Offset>,
    records: u64,
}

impl SequencedReceipt {
    /// Whether all of its records were in the log before, so that nothing was appended.
    pub fn is_duplicate(&self) -> bool {
        self.appended.is_empty()
    }

    /// How many of its records were in the log before.
    pub fn duplicates(&self) -> u64 {
        self.records - self.appended.end.since(self.appended.start)
    }

    /// The offsets of those that were appended; empty for a duplicate.
    pub fn appended(&self) -> Range<Offset> {
        self.appended.clone()
    }

    /// The offset of the first record, also if only that one was there before: for a duplicate the one it got when it was appended,
    /// `None` if that was more than 64 records of this producer ago.
    pub fn offset(&self) -> Option<Offset> {
        self.offset
    }

    /// Waits until the producer's ack level is reached, for duplicates too; returns the
    /// [offset](Self::offset).
    ///
    /// # Errors
    ///
    /// As [`Receipt::wait`].
    pub fn wait(self) -> Result<Option<Offset>> {
        self.receipt.wait()?;
        Ok(self.offset)
    }
}

impl Future for SequencedReceipt {
    type Output = Result<Option<Offset>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let offset = self.offset;
        let acknowledged = Pin::new(&mut self.receipt).poll(context);
        acknowledged.map(|acknowledged| acknowledged.map(|_| offset))
    }
}
