//! How a producer is configured.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{
    Path, Producer,
    batch::BATCH_OVERHEAD,
    buffered::Buffered,
    check_acks,
    delivery::{Callback, Delivery},
    direct::Retries,
    named::Name,
    route::Route,
};
use crate::{
    backoff::Waits,
    error::{Error, Result},
    format::{body, largest_body, producer},
    handle::LogHandle,
    log::Waiter,
    options::{Acks, Compression},
};

/// Default of [`ProducerBuilder::batch_bytes`]: 64 KiB, or what fits a segment or the buffer if
/// that is less.
pub const DEFAULT_BATCH_BYTES: usize = 64 << 10;
/// Default of [`ProducerBuilder::buffer_bytes`]: 32 MiB, as Kafka's.
pub const DEFAULT_BUFFER_BYTES: usize = 32 << 20;
/// Default of [`ProducerBuilder::max_block`]: a minute, as Kafka's.
pub const DEFAULT_MAX_BLOCK: Duration = Duration::from_secs(60);
/// Default of [`ProducerBuilder::delivery_timeout`] for buffered producers: two minutes, as
/// Kafka's.
pub const DEFAULT_DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Default of [`ProducerBuilder::retry_backoff`]: 100 ms.
pub const DEFAULT_RETRY_BACKOFF: Duration = Duration::from_millis(100);
/// Default of [`ProducerBuilder::retry_backoff_max`]: 1 s.
pub const DEFAULT_RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Smallest [`ProducerBuilder::buffer_bytes`].
const MIN_BUFFER_BYTES: usize = 1 << 10;

/// Builds a [`Producer`]; from [`Log::producer`](crate::Log::producer).
///
/// A producer is *direct* or *buffered*. A direct one appends each record before the send returns,
/// in the thread that sends: that is the default. A buffered one gathers records in memory, and a
/// thread of its own appends them in batches; it is one that [lingers](Self::linger), or has
/// [`Acks::None`]. Gathering makes many small records cheaper; in exchange, what was not yet
/// acknowledged is lost with the process.
///
/// No setter fails: [`build`](Self::build) checks them all, and names the one that is wrong.
///
/// ```
/// use std::time::Duration;
/// use duralog::{Acks, Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// let producer = log
///     .producer()
///     .acks(Acks::Written)
///     .linger(Duration::from_millis(5))
///     .on_completion(|delivery| {
///         if let Err(error) = delivery.result() {
///             eprintln!("{:?} was not written: {error}", delivery.record().value());
///         }
///     })
///     .build()?;
/// for number in 0..1000 {
///     drop(producer.send(Record::new(format!("reading {number}")))?);
/// }
/// producer.flush()?;
/// assert_eq!(log.log_end_offset(), 1000);
/// # drop(producer);
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ProducerBuilder {
    log: Arc<LogHandle>,
    acks: Acks,
    name: Option<String>,
    compression: Compression,
    linger: Duration,
    batch_bytes: Option<usize>,
    buffer_bytes: Option<usize>,
    max_block: Option<Duration>,
    delivery_timeout: Option<Duration>,
    retry_backoff: Option<Duration>,
    retry_backoff_max: Option<Duration>,
    on_completion: Option<Callback>,
}

/// The options of a buffered producer, with every choice made and checked.
#[derive(Debug)]
pub(super) struct Buffering {
    pub(super) linger: Duration,
    pub(super) batch_bytes: usize,
    pub(super) buffer_bytes: usize,
    pub(super) max_block: Duration,
    pub(super) delivery_timeout: Duration,
    pub(super) retry: Waits,
    pub(super) on_completion: Option<Callback>,
}

impl ProducerBuilder {
    pub(crate) fn new(log: Arc<LogHandle>) -> Self {
        Self {
            log,
            acks: Acks::default(),
            name: None,
            compression: Compression::default(),
            linger: Duration::ZERO,
            batch_bytes: None,
            buffer_bytes: None,
            max_block: None,
            delivery_timeout: None,
            retry_backoff: None,
            retry_backoff_max: None,
            on_completion: None,
        }
    }

    /// When its sends count as done; by default [`Acks::Durable`]. A single send may choose
    /// another level: [`Producer::send_with`]. With [`Acks::None`] the producer is buffered.
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// Gives it an identity that outlives it: the log remembers how far the producer of this name
    /// has come, through restarts and power cuts, and after its records were deleted. With that,
    /// [`send_sequenced`](Producer::send_sequenced) appends each record once, however often it is
    /// sent. 1 to 200 of `[A-Za-z0-9._-]` without a leading dot; a log takes 16,384 names.
    ///
    /// A plain [`send`](Producer::send) takes the sequence that is next. So either send all with
    /// sequences of your own or none: a number that a plain send has taken makes the record that you
    /// would give it a duplicate, which is not appended.
    ///
    /// Building another producer of the same name fences this one: its sends fail with
    /// [`ErrorKind::Fenced`](crate::ErrorKind::Fenced); of a buffered one the receipts and the
    /// callback say so. A name that has sent nothing is forgotten when the log is closed.
    #[doc(alias = "transactional.id")]
    #[doc(alias = "enable.idempotence")]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How its records are compressed; by default they are not. Each frame is compressed for
    /// itself, so batches gain more than single records. What gets no smaller, or is shorter than
    /// 128 bytes, is stored as it is. Limits of size count uncompressed bytes.
    #[doc(alias = "compression.type")]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// How long a record may wait for others that share its batch; by default zero. Any other
    /// time makes the producer buffered.
    ///
    /// A batch is sent when its first record has waited so long, when it is
    /// [full](Self::batch_bytes), when somebody waits for the memory it takes, and by
    /// [`Producer::flush`] and [`Producer::close`]. Without a linger, a producer with
    /// [`Acks::None`] sends what is there as soon as what was there before is written.
    #[doc(alias = "linger.ms")]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Bytes of records after which a batch is sent without lingering; at least 1, at most what
    /// fits a segment and [`buffer_bytes`](Self::buffer_bytes); by default
    /// [64 KiB](DEFAULT_BATCH_BYTES). A batch is one frame: after a crash it is in the log as a
    /// whole or not at all. A record that is larger is a batch of its own, and so is what
    /// [`Producer::send_batch`] is given. Only for buffered producers.
    #[doc(alias = "batch.size")]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = Some(bytes);
        self
    }

    /// Memory for all records that are not done, those that are being written included, in bytes;
    /// at least 1 KiB, by default [32 MiB](DEFAULT_BUFFER_BYTES). A send that finds no room
    /// [waits](Self::max_block). A record or a batch that takes more than this less 256 bytes is
    /// refused as too large. (A few empty buffers, of a batch each, are kept beside that.)
    /// Only for buffered producers.
    #[doc(alias = "buffer.memory")]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = Some(bytes);
        self
    }

    /// How long a send waits for room in the buffer, at most, before it fails with
    /// [`ErrorKind::BufferFull`](crate::ErrorKind::BufferFull); by default
    /// [a minute](DEFAULT_MAX_BLOCK). Only for buffered producers.
    #[doc(alias = "max.block.ms")]
    pub fn max_block(mut self, time: Duration) -> Self {
        self.max_block = Some(time);
        self
    }

    /// How long an append is tried again when it fails because the disk is full (or a quota is),
    /// or because a signal came in between; counted from the send of the record, of a batch from
    /// that of its oldest. At least a millisecond, and no less than the [linger](Self::linger).
    /// Nothing overtakes what is being tried again, and nothing is written twice by it. Once a batch
    /// has failed for good, those behind it are tried on: who needs all or nothing of a stream sends
    /// with [sequences](Producer::send_sequenced).
    ///
    /// By default [two minutes](DEFAULT_DELIVERY_TIMEOUT) for a buffered producer. For a direct
    /// one nothing is tried again unless this is set: the error hands the record back at once.
    /// Where it is set, the send waits meanwhile, and so do those of the producer's clones.
    #[doc(alias = "delivery.timeout.ms")]
    pub fn delivery_timeout(mut self, time: Duration) -> Self {
        self.delivery_timeout = Some(time);
        self
    }

    /// Time until the first new try of an append; it doubles with each, up to
    /// [`retry_backoff_max`](Self::retry_backoff_max), and varies by a fifth. At least a
    /// millisecond, by default [100 ms](DEFAULT_RETRY_BACKOFF). For a direct producer only with a
    /// [`delivery_timeout`](Self::delivery_timeout).
    #[doc(alias = "retry.backoff.ms")]
    pub fn retry_backoff(mut self, time: Duration) -> Self {
        self.retry_backoff = Some(time);
        self
    }

    /// Longest time between two tries of an append; by default
    /// [a second](DEFAULT_RETRY_BACKOFF_MAX), or [`retry_backoff`](Self::retry_backoff) if that is
    /// longer. For a direct producer only with a [`delivery_timeout`](Self::delivery_timeout).
    #[doc(alias = "retry.backoff.max.ms")]
    pub fn retry_backoff_max(mut self, time: Duration) -> Self {
        self.retry_backoff_max = Some(time);
        self
    }

    /// Is called once for each record that a send took, when it is acknowledged at its level or
    /// has failed: in the order of the sends, by the producer's thread, which appends nothing
    /// meanwhile. It may send, also through this producer (where the buffer is full that fails at
    /// once); it must not wait for its own producer's receipts, nor close the log. A panic in it is
    /// caught, and [counted](crate::ProducerStats::callback_panics). Only for buffered producers.
    ///
    /// A clone of the producer that is kept in the callback keeps the producer alive.
    #[doc(alias = "Callback")]
    pub fn on_completion(
        mut self,
        callback: impl Fn(&Delivery<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.on_completion = Some(Callback(Arc::new(callback)));
        self
    }

    /// The producer. A buffered one starts a thread, which its clones share.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for an option that is out of
    /// its range, contradicts another, or is a compression that this build
    /// [does not have](Compression::is_available); [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName),
    /// [`ErrorKind::TooManyProducers`](crate::ErrorKind::TooManyProducers); [`ErrorKind::DurabilityOff`](crate::ErrorKind::DurabilityOff) for
    /// [`Acks::Durable`] on a log with [`Fsync::Off`](crate::Fsync::Off);
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed); [`ErrorKind::Io`](crate::ErrorKind::Io) if
    /// there are no more threads.
    pub fn build(self) -> Result<Producer> {
        self.log.check_open()?;
        check_acks(&self.log, self.acks)?;
        check_compression(self.compression)?;
        let retry = self.retry()?;
        let buffering = if self.is_buffered() {
            Some(self.buffering(retry)?)
        } else {
            self.check_direct()?;
            None
        };
        // Opened last: it fences whoever has the name.
        let name = self.name.map(|name| Name::open(&self.log, name));
        let route = Route {
            name: name.transpose()?,
            compression: self.compression,
            // What a buffered producer sends directly is not tried again.
            waiter: match self.delivery_timeout {
                Some(_) if buffering.is_none() => Waiter::Caller,
                _ => Waiter::Append,
            },
        };
        let path = if let Some(buffering) = buffering {
            let mut route = route.clone();
            route.waiter = Waiter::Caller;
            Path::Buffered(Buffered::start(&self.log, buffering, route)?)
        } else {
            match self.delivery_timeout {
                None => Path::Direct,
                Some(timeout) => Path::Retrying(Arc::new(Retries::new(timeout, retry))),
            }
        };
        Ok(Producer {
            log: self.log,
            acks: self.acks,
            route,
            path,
            asked_durable: Arc::new(AtomicBool::new(false)),
        })
    }

    fn is_buffered(&self) -> bool {
        self.linger > Duration::ZERO || self.acks == Acks::None
    }

    fn check_direct(&self) -> Result<()> {
        let of_buffered = [
            ("batch_bytes", self.batch_bytes.is_some()),
            ("buffer_bytes", self.buffer_bytes.is_some()),
            ("max_block", self.max_block.is_some()),
            ("on_completion", self.on_completion.is_some()),
        ];
        for (name, given) in of_buffered {
            if given {
                let reason = "is for buffered producers: set a linger, or Acks::None";
                return Err(Error::option(name, reason));
            }
        }
        let of_retries = [
            ("retry_backoff", self.retry_backoff.is_some()),
            ("retry_backoff_max", self.retry_backoff_max.is_some()),
        ];
        for (name, given) in of_retries {
            if given && self.delivery_timeout.is_none() {
                let reason = "a direct producer tries nothing again without a delivery_timeout";
                return Err(Error::option(name, reason));
            }
        }
        Ok(())
    }

    fn retry(&self) -> Result<Waits> {
        const SHORTEST: Duration = Duration::from_millis(1);
        let times = [
            ("delivery_timeout", self.delivery_timeout),
            ("retry_backoff", self.retry_backoff),
            ("retry_backoff_max", self.retry_backoff_max),
        ];
        for (name, time) in times {
            if time.is_some_and(|time| time < SHORTEST) {
                return Err(Error::option(name, "must be at least a millisecond"));
            }
        }
        let first = match (self.retry_backoff, self.retry_backoff_max) {
            (Some(first), _) => first,
            (None, max) => DEFAULT_RETRY_BACKOFF.min(max.unwrap_or(DEFAULT_RETRY_BACKOFF)),
        };
        let max = self
            .retry_backoff_max
            .unwrap_or(DEFAULT_RETRY_BACKOFF_MAX.max(first));
        if max < first {
            let reason = format!("{max:?} is less than retry_backoff of {first:?}");
            return Err(Error::option("retry_backoff_max", reason));
        }
        Ok(Waits { first, max })
    }

    fn buffering(&self, retry: Waits) -> Result<Buffering> {
        let buffer_bytes = self.buffer_bytes.unwrap_or(DEFAULT_BUFFER_BYTES);
        if buffer_bytes < MIN_BUFFER_BYTES {
            let reason = format!("{buffer_bytes} is less than {MIN_BUFFER_BYTES}");
            return Err(Error::option("buffer_bytes", reason));
        }
        let delivery_timeout = self.delivery_timeout.unwrap_or(DEFAULT_DELIVERY_TIMEOUT);
        if self.linger > delivery_timeout {
            let reason = format!(
                "{:?} is longer than delivery_timeout of {delivery_timeout:?}",
                self.linger
            );
            return Err(Error::option("linger", reason));
        }
        Ok(Buffering {
            linger: self.linger,
            batch_bytes: self.checked_batch_bytes(buffer_bytes)?,
            buffer_bytes,
            max_block: self.max_block.unwrap_or(DEFAULT_MAX_BLOCK),
            delivery_timeout,
            retry,
            on_completion: self.on_completion.clone(),
        })
    }

    fn checked_batch_bytes(&self, buffer_bytes: usize) -> Result<usize> {
        let segment_bytes = self.log.site.config.segment_bytes;
        let largest = usize::try_from(largest_body(segment_bytes as u64)).unwrap_or(usize::MAX);
        let named = self.name.as_deref().map_or(0, producer::longest);
        let fits_segment = largest.saturating_sub(body::COUNT_MAX + named);
        let fits_buffer = buffer_bytes - BATCH_OVERHEAD;
        let most = fits_segment.min(fits_buffer);
        match self.batch_bytes {
            None => Ok(DEFAULT_BATCH_BYTES.min(most)),
            Some(0) => Err(Error::option("batch_bytes", "must be at least 1")),
            Some(bytes) if bytes > fits_segment => {
                let reason = format!(
                    "{bytes} does not fit segment_bytes of {segment_bytes}, which takes {fits_segment}"
                );
                Err(Error::option("batch_bytes", reason))
            }
            Some(bytes) if bytes > fits_buffer => {
                let reason = format!(
                    "{bytes} does not fit buffer_bytes of {buffer_bytes}, which takes {fits_buffer}"
                );
                Err(Error::option("batch_bytes", reason))
            }
            Some(bytes) => Ok(bytes),
        }
    }
}

fn check_compression(compression: Compression) -> Result<()> {
    if compression.is_available() {
        return Ok(());
    }
    let name = compression.name();
    let reason = format!("{name} needs the feature `{name}` of duralog, which this build lacks");
    Err(Error::option("compression", reason))
}
