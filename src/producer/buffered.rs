//! The buffered path: a send fills a batch, which a thread of the producer's appends.

use std::{sync::Arc, time::Duration};

use super::{
    accumulator::{Accumulator, Patience},
    batch::{BATCH_OVERHEAD, Batch, level_of},
    builder::Buffering,
    delivery::ProducerStats,
    receipt::Receipt,
    route::Route,
    sender::Sender,
    state::Closing,
    too_large,
};
use crate::{
    error::{Error, Result},
    format::{body, largest_body},
    fs::{Joiner, Mutex},
    handle::{Holder, LogHandle},
    options::{Acks, Compression},
    record::{AsRecord, RecordRef},
};

/// What the clones of a buffered producer share. When the last of them is dropped, what they sent
/// is handed over, and the thread ends.
#[derive(Debug)]
pub(super) struct Buffered {
    accumulator: Arc<Accumulator>,
    thread: Mutex<Option<Box<dyn Joiner>>>,
    /// The largest body of a frame.
    largest: u64,
    /// Then a plain record has no shorter form: compressed, all have the same.
    compresses: bool,
    /// Kept open until everything is handed over.
    _log: Arc<LogHandle>,
}

impl Buffered {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// `Io` if there are no more threads.
    pub(super) fn start(
        log: &Arc<LogHandle>,
        options: Buffering,
        route: Route,
    ) -> Result<Arc<Self>> {
        let host = &log.site.host;
        let parker = host.parker();
        let accumulator = Accumulator::new(log.shared(), options, parker.waker());
        let segment_bytes = log.site.config.segment_bytes as u64;
        let largest = largest_body(segment_bytes).saturating_sub(route.overhead());
        let compresses = route.compression != Compression::None;
        let sender = Sender::new(Arc::clone(&accumulator), route, parker);
        let thread = host
            .spawn("duralog-producer", Box::new(move || sender.run()))
            .map_err(|error| Error::io("start a thread for", &log.site.dir, error))?;
        let holder = Arc::downgrade(&accumulator);
        log.register(holder as std::sync::Weak<dyn Holder>);
        Ok(Arc::new(Self {
            accumulator,
            thread: Mutex::new(Some(thread)),
            largest,
            compresses,
            _log: Arc::clone(log),
        }))
    }

    /// Takes a record, which the log would take by its size.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `BufferFull`, `Closed`.
    #[inline]
    pub(super) fn send(
        &self,
        record: &RecordRef<'_>,
        acks: Acks,
        patience: Patience,
    ) -> Result<Receipt> {
        let len = body::record_len(record);
        if len <= self.accumulator.options.batch_bytes {
            return self.accumulator.add(record, len, level_of(acks), patience);
        }
        self.send_alone(record, len, acks, patience)
    }

    /// A record that is larger than a batch is one of its own.
    #[cold]
    fn send_alone(
        &self,
        record: &RecordRef<'_>,
        len: usize,
        acks: Acks,
        patience: Patience,
    ) -> Result<Receipt> {
        let level = level_of(acks);
        let plain = record.is_plain() && !self.compresses;
        if let Some(value) = record.value.filter(|_| plain) {
            self.check("a record", value.len(), value.len())?;
            return self
                .accumulator
                .add_batch(value.len(), patience, |opened, completion| {
                    Batch::plain(value, level, opened, completion)
                });
        }
        let of_count = body::count_len(1);
        self.check("a record", len, of_count + len)?;
        self.accumulator
            .add_batch(len, patience, |opened, completion| {
                let mut batch = Batch::new(vec![0; len], level, opened, completion);
                drop(batch.push(record, len, level));
                batch
            })
    }

    /// Takes records that stay together, each of which the log would take by its size.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `BufferFull`, `Closed`.
    pub(super) fn send_batch<R: AsRecord>(
        &self,
        records: &[R],
        acks: Acks,
        patience: Patience,
    ) -> Result<Receipt> {
        let level = level_of(acks);
        let record_len = |record: &R| body::record_len(&record.as_record());
        let len = records.iter().map(record_len).sum();
        let of_count = body::count_len(records.len() as u64);
        self.check("a batch", len, of_count + len)?;
        self.accumulator
            .add_batch(len, patience, |opened, completion| {
                let mut batch = Batch::new(vec![0; len], level, opened, completion);
                for record in records {
                    drop(batch.push(&record.as_record(), record_len(record), level));
                }
                batch
            })
    }

    /// Whether something that takes `len` bytes here can be sent as a frame's body.
    fn check(&self, what: &'static str, len: usize, body: usize) -> Result<()> {
        if body as u64 > self.largest {
            return Err(too_large(what, body, self.largest));
        }
        let limit = self.accumulator.options.buffer_bytes - BATCH_OVERHEAD;
        if len > limit {
            return Err(too_large(what, len, limit as u64));
        }
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<()> {
        self.accumulator.flush()
    }

    pub(super) fn close(&self, timeout: Duration) -> Result<()> {
        self.accumulator.close_within(timeout)
    }

    pub(super) fn stats(&self) -> ProducerStats {
        self.accumulator.stats()
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        // Whoever drops instead of closing is told by receipts and the callback alone.
        drop(self.accumulator.close(Closing::Once));
        if let Some(thread) = self.thread.lock().take() {
            thread.join();
        }
    }
}
