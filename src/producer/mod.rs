//! Sending records. The direct path: a send appends before it returns, without another thread.

use std::sync::{Arc, atomic::Ordering};

mod compression;
mod named;
mod receipt;

use named::Name;
pub use named::SequencedReceipt;
pub use receipt::Receipt;

use crate::{
    error::{Error, ErrorKind, Result, SendError},
    format::{
        body::{self, FrameBody, PlainBody, RecordsBody},
        largest_body,
    },
    handle::LogHandle,
    offset::Offset,
    options::{Acks, Compression},
    record::AsRecord,
};

/// Builds a [`Producer`]; from [`Log::producer`](crate::Log::producer).
#[derive(Clone, Debug)]
#[must_use]
pub struct ProducerBuilder {
    log: Arc<LogHandle>,
    acks: Acks,
    name: Option<String>,
    compression: Compression,
}

impl ProducerBuilder {
    pub(crate) fn new(log: Arc<LogHandle>) -> Self {
        Self {
            log,
            acks: Acks::default(),
            name: None,
            compression: Compression::default(),
        }
    }

    /// When its sends count as done; by default [`Acks::Durable`]. A single send may choose
    /// another level: [`Producer::send_with`].
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// Gives it an identity that outlives it: the log remembers how far the producer of this name
    /// has come, through restarts and power cuts, and after its records were deleted. With that,
    /// [`send_sequenced`](Producer::send_sequenced) appends each record once, however often it is
    /// sent. 1 to 200 of `[A-Za-z0-9._-]` without a leading dot; a log takes 16,384 names.
    ///
    /// Building another producer of the same name fences this one: its sends fail with
    /// [`ErrorKind::Fenced`].
    #[doc(alias = "transactional.id")]
    #[doc(alias = "enable.idempotence")]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How its records are compressed; by default they are not. Each send is compressed for
    /// itself, so batches gain more than single records. What gets no smaller, or is shorter than
    /// 128 bytes, is stored as it is. Limits of size count uncompressed bytes.
    #[doc(alias = "compression.type")]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The producer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] for a compression that this build
    /// [does not have](Compression::is_available);
    /// [`ErrorKind::DurabilityOff`] for [`Acks::Durable`] on a log with
    /// [`Fsync::Off`](crate::Fsync::Off); [`ErrorKind::InvalidName`],
    /// [`ErrorKind::TooManyProducers`]; [`ErrorKind::Closed`].
    pub fn build(self) -> Result<Producer> {
        self.log.check_open()?;
        check_acks(&self.log, self.acks)?;
        check_compression(self.compression)?;
        let name = self.name.map(|name| Name::open(&self.log, name));
        Ok(Producer {
            name: name.transpose()?,
            log: self.log,
            acks: self.acks,
            compression: self.compression,
        })
    }
}

fn check_acks(log: &LogHandle, acks: Acks) -> Result<()> {
    if acks == Acks::Durable && log.sync_kind().is_none() {
        return Err(ErrorKind::DurabilityOff.into());
    }
    Ok(())
}

fn check_compression(compression: Compression) -> Result<()> {
    if compression.is_available() {
        return Ok(());
    }
    let name = compression.name();
    let reason = format!("{name} needs the feature `{name}` of duralog, which this build lacks");
    Err(Error::option("compression", reason))
}

/// Sends records to a log.
///
/// Any number of threads may send at the same time, through clones or one shared producer: their
/// records get offsets in the order of the appends. A clone shares nothing but the log.
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
#[derive(Clone, Debug)]
pub struct Producer {
    log: Arc<LogHandle>,
    acks: Acks,
    name: Option<Name>,
    compression: Compression,
}

impl Producer {
    /// Appends a record; takes a [`Record`](crate::Record), a reference to one, or a
    /// [`RecordRef`](crate::RecordRef). The receipt tells its offset, and can be waited for.
    ///
    /// # Durability
    ///
    /// When this returns, the record is in the page cache: it survives the end of this process,
    /// however that comes. With [`Acks::Durable`] it survives a power cut once
    /// [`Receipt::wait`] has returned.
    ///
    /// # Errors
    ///
    /// The record is handed back, so the error of a *borrowed* record lives no longer than that;
    /// `?` turns it into a [`duralog::Error`](crate::Error), which lives on its own.
    /// [`ErrorKind::TooLarge`], [`ErrorKind::StorageFull`],
    /// [`ErrorKind::Io`], [`ErrorKind::Closed`]: nothing was appended.
    /// [`ErrorKind::SyncFailed`]: the log takes no more records; if this very send was to sync
    /// ([`FlushPolicy::every_messages`](crate::FlushPolicy::every_messages)), its record may be
    /// in the log when it is opened next.
    pub fn send<R: AsRecord>(&self, record: R) -> Result<Receipt, SendError<R>> {
        self.send_with(record, self.acks)
    }

    /// [`send`](Producer::send) with a level of its own.
    ///
    /// # Errors
    ///
    /// Those of `send`, and [`ErrorKind::DurabilityOff`].
    pub fn send_with<R: AsRecord>(&self, record: R, acks: Acks) -> Result<Receipt, SendError<R>> {
        match self.append_one(&record, acks) {
            Ok(first) => Ok(self.receipt(first, 1, acks)),
            Err(error) => Err(self.failed(record, error)),
        }
    }

    /// Appends records as one: after any crash all of them are in the log or none, next to each
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
    /// As [`send`](Producer::send), and [`ErrorKind::EmptyBatch`]; a batch must fit a segment
    /// ([`ErrorKind::TooLarge`]). The records are handed back.
    pub fn send_batch<B, R>(&self, records: B) -> Result<Receipt, SendError<B>>
    where
        B: AsRef<[R]>,
        R: AsRecord,
    {
        match self.append_batch(records.as_ref()) {
            Ok(first) => Ok(self.receipt(first, records.as_ref().len() as u64, self.acks)),
            Err(error) => Err(self.failed(records, error)),
        }
    }

    #[inline]
    fn append_one<R: AsRecord>(&self, record: &R, acks: Acks) -> Result<Offset> {
        if acks != self.acks {
            check_acks(&self.log, acks)?;
        }
        let borrowed = record.as_record();
        match borrowed.value {
            Some(value) if borrowed.is_plain() => {
                self.check_record(value.len())?;
                self.append(std::slice::from_ref(record), &PlainBody(value))
            }
            _ => {
                self.check_record(body::record_len(&borrowed))?;
                let records = std::slice::from_ref(record);
                self.append(records, &RecordsBody::new(records))
            }
        }
    }

    fn append_batch<R: AsRecord>(&self, records: &[R]) -> Result<Offset> {
        self.check_records(records)?;
        self.append(records, &RecordsBody::new(records))
    }

    fn check_records<R: AsRecord>(&self, records: &[R]) -> Result<()> {
        if records.is_empty() {
            return Err(ErrorKind::EmptyBatch.into());
        }
        for record in records {
            let record = record.as_record();
            self.check_record(match record.value {
                Some(value) if record.is_plain() => value.len(),
                _ => body::record_len(&record),
            })?;
        }
        Ok(())
    }

    /// Appends records, of which `body` is the shortest form uncompressed.
    #[inline]
    fn append<R: AsRecord>(&self, records: &[R], body: &impl FrameBody) -> Result<Offset> {
        self.check_body(body)?;
        match self.compression {
            Compression::None => self.hand_over(body),
            codec => compression::with_compressed(records, body, codec, |smaller| match smaller {
                Some(smaller) => self.hand_over(&smaller),
                None => self.hand_over(body),
            }),
        }
    }

    #[inline]
    fn hand_over(&self, body: &impl FrameBody) -> Result<Offset> {
        match &self.name {
            None => self.log.append(body),
            Some(name) => name.append(&self.log, body),
        }
    }

    #[inline]
    fn check_body(&self, body: &impl FrameBody) -> Result<()> {
        let overhead = self.name.as_ref().map_or(0, Name::overhead);
        let limit = largest_body(self.log.site.config.segment_bytes as u64);
        let len = body.len() + overhead;
        if len as u64 > limit {
            return Err(too_large("a batch", len, limit));
        }
        Ok(())
    }

    #[inline]
    fn check_record(&self, len: usize) -> Result<()> {
        let limit = self.log.site.config.max_record_bytes;
        if len > limit {
            return Err(too_large("a record", len, limit as u64));
        }
        Ok(())
    }

    #[inline]
    fn receipt(&self, first: Offset, count: u64, acks: Acks) -> Receipt {
        let log = (acks == Acks::Durable).then(|| Arc::clone(&self.log));
        Receipt::new(log, first, count)
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
fn too_large(what: &'static str, bytes: usize, limit: u64) -> Error {
    ErrorKind::TooLarge {
        what,
        bytes: bytes as u64,
        limit,
    }
    .into()
}
