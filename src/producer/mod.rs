//! Sending records.
//!
//! A producer is direct: a send appends before it returns, without another thread. Or it is
//! buffered, where sends fill batches ([`accumulator`]) that a thread appends ([`sender`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

mod accumulator;
mod batch;
mod buffered;
mod builder;
mod completion;
mod compression;
mod delivery;
mod direct;
mod line;
mod named;
mod receipt;
mod route;
mod sender;
mod state;

pub use builder::{
    DEFAULT_BATCH_BYTES, DEFAULT_BUFFER_BYTES, DEFAULT_DELIVERY_TIMEOUT, DEFAULT_MAX_BLOCK,
    DEFAULT_RETRY_BACKOFF, DEFAULT_RETRY_BACKOFF_MAX, ProducerBuilder,
};
pub use delivery::{Delivery, ProducerStats};
pub use named::SequencedReceipt;
pub use receipt::{Receipt, WaitError};

use crate::{
    error::{Error, ErrorKind, Result, SendError},
    format::{
        body::{self, FrameBody, PlainBody, RecordsBody},
        largest_body,
    },
    handle::LogHandle,
    offset::Offset,
    options::{Acks, Compression},
    record::{AsRecord, RecordRef},
};
use accumulator::Patience;
use buffered::Buffered;
use compression::with_compressed;
use direct::Retries;
use route::Route;

fn check_acks(log: &LogHandle, acks: Acks) -> Result<()> {
    if acks == Acks::Durable && log.sync_kind().is_none() {
        return Err(ErrorKind::DurabilityOff.into());
    }
    Ok(())
}

/// Sends records to a log.
///
/// Any number of threads may send at the same time, through clones or one shared producer: their
/// records get offsets in the order of the appends, those of one thread in the order in which it
/// sent them. Clones share the buffer, the thread and the numbers of a
/// [buffered](ProducerBuilder) producer; those of a direct one share next to nothing.
///
/// ```
/// use duralog::{Acks, Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// let producer = log.producer().acks(Acks::Written).build()?;
/// let receipt = producer.send(Record::new("paid").key("order-17"))?;
/// assert_eq!(receipt.offset().unwrap(), 0);
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Dropping it
///
/// When the last clone of a buffered producer is dropped, what it took is sent first: each batch
/// is tried once, and what fails is told to its receipts and the callback. [`Log::close`] does
/// the same before it closes the log. [`close`](Producer::close) waits longer, and says what
/// failed.
///
/// [`Log::close`]: crate::Log::close
#[derive(Clone, Debug)]
pub struct Producer {
    log: Arc<LogHandle>,
    acks: Acks,
    /// Under which name, and how compressed.
    route: Route,
    path: Path,
    /// A send asked for durability though the producer does not. (Of direct ones.)
    asked_durable: Arc<AtomicBool>,
}

/// How a record gets into the log.
#[derive(Clone, Debug)]
enum Path {
    Direct,
    /// Directly, and again if that may help.
    Retrying(Arc<Retries>),
    Buffered(Arc<Buffered>),
}

impl Producer {
    /// Sends a record; takes a [`Record`](crate::Record), a reference to one, or a
    /// [`RecordRef`](crate::RecordRef). The receipt tells its offset, and can be waited for.
    ///
    /// # Durability
    ///
    /// When this returns, the record is in the page cache: it survives the end of this process,
    /// however that comes. With [`Acks::Durable`] it survives a power cut once
    /// [`Receipt::wait`] has returned.
    ///
    /// Of a buffered producer it is in memory only, and survives nothing until its receipt, the
    /// callback or [`flush`](Producer::flush) says that it is done.
    ///
    /// # Errors
    ///
    /// The record is handed back, so the error of a *borrowed* record lives no longer than that;
    /// `?` turns it into a [`duralog::Error`](crate::Error), which lives on its own.
    /// [`ErrorKind::TooLarge`], [`ErrorKind::StorageFull`], [`ErrorKind::LogFull`],
    /// [`ErrorKind::Io`], [`ErrorKind::DeliveryTimeout`] (where one is set),
    /// [`ErrorKind::NoKey`] (on a compacted log),
    /// [`ErrorKind::Fenced`], [`ErrorKind::Closed`]: nothing was appended.
    /// [`ErrorKind::SyncFailed`]: the log takes no more records; if this very send was to sync
    /// ([`FlushPolicy::every_messages`](crate::FlushPolicy::every_messages)), its record may be
    /// in the log when it is opened next.
    ///
    /// Of a buffered producer only [`ErrorKind::TooLarge`], [`ErrorKind::NoKey`],
    /// [`ErrorKind::Closed`], and
    /// [`ErrorKind::BufferFull`] if there was no room within
    /// [`max_block`](ProducerBuilder::max_block); what fails later is told by the receipt.
    pub fn send<R: AsRecord>(&self, record: R) -> Result<Receipt, SendError<R>> {
        self.send_with(record, self.acks)
    }

    /// [`send`](Producer::send) with a level of its own.
    ///
    /// # Errors
    ///
    /// Those of `send`, and [`ErrorKind::DurabilityOff`].
    pub fn send_with<R: AsRecord>(&self, record: R, acks: Acks) -> Result<Receipt, SendError<R>> {
        match self.send_one(&record, acks, Patience::MaxBlock) {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(self.failed(record, error)),
        }
    }

    /// [`send`](Producer::send) that does not wait for room in the buffer. (A direct producer has
    /// no buffer: there it is the same, and waits for a `delivery_timeout` if one is set.)
    ///
    /// # Errors
    ///
    /// Those of `send`; [`ErrorKind::BufferFull`] at once.
    pub fn try_send<R: AsRecord>(&self, record: R) -> Result<Receipt, SendError<R>> {
        match self.send_one(&record, self.acks, Patience::None) {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(self.failed(record, error)),
        }
    }

    /// Sends records as one: after any crash all of them are in the log or none, next to each
    /// other. Takes a `Vec`, an array or a slice of records. The receipt's
    /// [`offset`](Receipt::offset) is that of the first.
    ///
    /// ```
    /// use duralog::{Log, Record};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path())?;
    /// let producer = log.producer().build()?;
    /// let receipt = producer.send_batch([Record::new("debit"), Record::new("credit")])?;
    /// receipt.wait()?;
    /// assert_eq!(log.log_end_offset(), 2);
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`send`](Producer::send), and [`ErrorKind::EmptyBatch`]; a batch must fit a segment,
    /// and the buffer if there is one ([`ErrorKind::TooLarge`]). The records are handed back.
    pub fn send_batch<B, R>(&self, records: B) -> Result<Receipt, SendError<B>>
    where
        B: AsRef<[R]>,
        R: AsRecord,
    {
        match self.send_all(records.as_ref(), Patience::MaxBlock) {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(self.failed(records, error)),
        }
    }

    /// [`send_batch`](Producer::send_batch) that does not wait for room in the buffer.
    ///
    /// # Errors
    ///
    /// Those of `send_batch`; [`ErrorKind::BufferFull`] at once.
    pub fn try_send_batch<B, R>(&self, records: B) -> Result<Receipt, SendError<B>>
    where
        B: AsRef<[R]>,
        R: AsRecord,
    {
        match self.send_all(records.as_ref(), Patience::None) {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(self.failed(records, error)),
        }
    }

    /// Waits until everything that this producer and its clones have sent by now is acknowledged
    /// at its level: nothing lingers any more. (What has [`Acks::None`] is written then.) Of a
    /// direct producer everything is written anyway; this syncs if there may be sends at
    /// [`Acks::Durable`] whose receipts were not waited for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAcknowledged`]: how many records were not, since the last flush, and why
    /// the first was not. Each is told once, to one of those who flush.
    /// [`ErrorKind::SyncFailed`] of a direct producer. [`ErrorKind::CalledBack`] from the callback
    /// of this producer: what is there is sent, and not waited for.
    pub fn flush(&self) -> Result<()> {
        match &self.path {
            Path::Buffered(buffered) => buffered.flush(),
            Path::Direct | Path::Retrying(_) => {
                let end = self.log.end();
                let durable_sends =
                    self.acks == Acks::Durable || self.asked_durable.load(Ordering::Relaxed);
                if durable_sends && self.log.durable() < end {
                    self.log.sync_until(end)?;
                }
                Ok(())
            }
        }
    }

    /// Takes no more records, through any clone; sends what is there for at most `timeout`, and
    /// ends the producer's thread. A write, a sync or a call of the callback that is under way when
    /// the time is over is waited for. With a timeout of zero all that lingers fails; dropping the
    /// producer tries each batch once. From its own callback it is closed, and nothing is waited for:
    /// that is [`ErrorKind::CalledBack`]. What is left then fails: its receipts and the callback are told. (A direct
    /// producer holds nothing: this is a [`flush`](Producer::flush), and its clones go on.)
    ///
    /// # Errors
    ///
    /// Those of `flush`.
    pub fn close(self, timeout: Duration) -> Result<()> {
        match &self.path {
            Path::Buffered(buffered) => buffered.close(timeout),
            Path::Direct | Path::Retrying(_) => self.flush(),
        }
    }

    /// Numbers of a buffered producer and its clones. `None` for a direct one, whose sends are
    /// counted by the log alone: [`Log::stats`](crate::Log::stats).
    pub fn stats(&self) -> Option<ProducerStats> {
        match &self.path {
            Path::Buffered(buffered) => Some(buffered.stats()),
            Path::Direct | Path::Retrying(_) => None,
        }
    }

    #[inline]
    fn send_one<R: AsRecord>(&self, record: &R, acks: Acks, patience: Patience) -> Result<Receipt> {
        if acks != self.acks {
            check_acks(&self.log, acks)?;
            if acks == Acks::Durable {
                self.asked_durable.store(true, Ordering::Relaxed);
            }
        }
        let borrowed = record.as_record();
        let plain = borrowed.value.filter(|_| borrowed.is_plain());
        let len = plain.map_or_else(|| body::record_len(&borrowed), <[u8]>::len);
        self.check_record(&borrowed, 0, len)?;
        if let Path::Buffered(buffered) = &self.path {
            return buffered.send(&borrowed, acks, patience);
        }
        let records = std::slice::from_ref(record);
        let first = match plain {
            Some(value) => self.append(records, &PlainBody(value)),
            None => self.append(records, &RecordsBody::new(records)),
        };
        match first {
            Ok(first) => Ok(self.receipt(first, 1, acks)),
            Err(error) => Self::dropped(error, 1),
        }
    }

    fn send_all<R: AsRecord>(&self, records: &[R], patience: Patience) -> Result<Receipt> {
        self.check_records(records)?;
        if let Path::Buffered(buffered) = &self.path {
            return buffered.send_batch(records, self.acks, patience);
        }
        let count = records.len() as u64;
        match self.append(records, &RecordsBody::new(records)) {
            Ok(first) => Ok(self.receipt(first, count, self.acks)),
            Err(error) => Self::dropped(error, count),
        }
    }

    fn check_records<R: AsRecord>(&self, records: &[R]) -> Result<()> {
        if records.is_empty() {
            return Err(ErrorKind::EmptyBatch.into());
        }
        for (index, record) in records.iter().enumerate() {
            let record = record.as_record();
            self.check_record(&record, index, body::record_len(&record))?;
        }
        Ok(())
    }

    /// The direct path, for records of which `body` is the shortest form uncompressed.
    #[inline]
    fn append<R: AsRecord>(&self, records: &[R], body: &impl FrameBody) -> Result<Offset> {
        self.check_body(body)?;
        match self.route.compression {
            Compression::None => self.try_append(|| self.route.append(&self.log, body)),
            codec => with_compressed(records, body, codec, |smaller| match smaller {
                Some(smaller) => self.try_append(|| self.route.append(&self.log, &smaller)),
                None => self.try_append(|| self.route.append(&self.log, body)),
            }),
        }
    }

    /// Calls `append`, and again if it fails and the producer is to try again.
    #[inline]
    fn try_append<T>(&self, append: impl Fn() -> Result<T>) -> Result<T> {
        match &self.path {
            Path::Retrying(retries) => retries.append(&self.log, append),
            Path::Direct | Path::Buffered(_) => append(),
        }
    }

    #[inline]
    fn check_body(&self, body: &impl FrameBody) -> Result<()> {
        let segment_bytes = self.log.site.config.segment_bytes as u64;
        let limit = largest_body(segment_bytes).saturating_sub(self.route.overhead());
        if body.len() as u64 > limit {
            return Err(too_large("a batch", body.len(), limit));
        }
        Ok(())
    }

    #[inline]
    fn check_record(&self, record: &RecordRef<'_>, index: usize, len: usize) -> Result<()> {
        let config = &self.log.site.config;
        if record.key.is_none() && config.compaction.policy.compacts() {
            return Err(no_key(&self.log, index));
        }
        let limit = config.max_record_bytes;
        if len > limit {
            return Err(too_large("a record", len, limit as u64));
        }
        Ok(())
    }

    #[inline]
    fn receipt(&self, first: Offset, count: u64, acks: Acks) -> Receipt {
        let log = (acks == Acks::Durable).then(|| Arc::clone(&self.log));
        Receipt::written(log, first, count)
    }

    /// What the log dropped is not told by the send.
    #[cold]
    fn dropped(error: Error, count: u64) -> Result<Receipt> {
        match error.kind() {
            ErrorKind::Dropped { .. } => Ok(Receipt::dropped(error, count)),
            _ => Err(error),
        }
    }

    #[cold]
    fn failed<R>(&self, record: R, error: Error) -> SendError<R> {
        self.log
            .counters
            .failed_sends
            .fetch_add(1, Ordering::Relaxed);
        SendError::new(record, error)
    }
}

#[cold]
fn no_key(log: &LogHandle, index: usize) -> Error {
    let path = log.site.dir.clone();
    ErrorKind::NoKey { path, index }.into()
}

#[cold]
fn too_large(what: &'static str, bytes: usize, limit: u64) -> Error {
    ErrorKind::TooLarge {
        what,
        bytes: bytes as u64,
        limit,
    }
    .into()
}
