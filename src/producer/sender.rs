//! The thread of a buffered producer: appends batch after batch in the order in which they were
//! filled, syncs once for all that wait for the device, and tells what came of each record.
//!
//! It holds no lock while it appends, syncs or calls back.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    accumulator::{Accumulator, Work},
    batch::Batch,
    completion::Stage,
    route::Route,
    state::Closing,
};
use crate::{
    backoff::Backoff,
    error::{Error, ErrorKind, Result},
    format::{
        body::FrameBody,
        compressed::{CompressedBody, Memory, compress},
    },
    fs::{Parker, contain},
    offset::Offset,
};

/// So many bytes are appended at most before those who wait for the device are served.
const UNSYNCED_MOST: usize = 4 << 20;

/// Appends what is in an accumulator.
#[derive(Debug)]
pub(super) struct Sender {
    accumulator: Arc<Accumulator>,
    route: Route,
    parker: Box<dyn Parker>,
    /// For a batch that is compressed.
    block: Memory,
    /// The batch that is being appended.
    current: Option<Batch>,
    /// Appended, and told once a sync that began later is over: in order, so also those behind
    /// the first that do not wait for it themselves.
    unsynced: Vec<(Batch, Offset)>,
    unsynced_bytes: usize,
}

impl Sender {
    pub(super) fn new(
        accumulator: Arc<Accumulator>,
        route: Route,
        parker: Box<dyn Parker>,
    ) -> Self {
        Self {
            accumulator,
            route,
            parker,
            block: Memory::default(),
            current: None,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
        }
    }

    /// Until the producer is closed.
    pub(super) fn run(mut self) {
        self.accumulator.begin_sending();
        loop {
            let waits = self.unsynced.is_empty();
            match self.accumulator.next_work(&*self.parker, waits) {
                Work::Append(batch) => {
                    self.current = Some(batch);
                    self.deliver();
                }
                Work::Nothing => self.settle(),
                Work::End => {
                    self.settle();
                    return;
                }
            }
            if self.unsynced_bytes >= UNSYNCED_MOST {
                self.settle();
            }
        }
    }

    /// Appends the current batch, or fails it.
    fn deliver(&mut self) {
        let appended = self.append();
        let Some(batch) = self.current.take() else {
            return;
        };
        match appended {
            Ok(first) => {
                batch.completion.advance(Stage::Written(first));
                if batch.needs_sync() || !self.unsynced.is_empty() {
                    self.unsynced_bytes += batch.memory();
                    self.unsynced.push((batch, first));
                } else {
                    self.finish(batch, &Stage::Written(first));
                }
            }
            Err(error) => {
                // Those before it come first.
                self.settle();
                let written = None;
                self.finish(batch, &Stage::Failed { written, error });
            }
        }
    }

    /// Appends the current batch, compressed if that makes it smaller.
    fn append(&mut self) -> Result<Offset> {
        let mut block = mem::take(&mut self.block);
        let codec = self.route.compression;
        let smaller = self.current.as_ref().and_then(|batch| {
            let body = batch.body();
            compress(body.records, batch.count(), codec, body.len(), &mut block)
        });
        let appended = self.append_again(smaller);
        block.trim();
        self.block = block;
        appended
    }

    /// Appends the current batch; again and again, as long as that may help. This is the one place
    /// where a batch enters the log.
    fn append_again(&mut self, smaller: Option<CompressedBody<'_>>) -> Result<Offset> {
        let accumulator = Arc::clone(&self.accumulator);
        let host = &accumulator.log.site.host;
        let options = &accumulator.options;
        let mut backoff = Backoff::new(options.retry);
        loop {
            let closing = accumulator.closing();
            if is_over(closing, host.monotonic()) {
                return Err(ErrorKind::Closed.into());
            }
            let Some(batch) = &self.current else {
                return Err(ErrorKind::Closed.into());
            };
            // A failed append changed nothing, so another one adds nothing twice.
            let appended = match smaller {
                Some(smaller) => self.route.append(&accumulator.log, &smaller),
                None => self.route.append(&accumulator.log, &batch.body()),
            };
            let error = match appended {
                Err(error) if error.is_transient() && closing != Some(Closing::Once) => error,
                other => return other,
            };
            let now = host.monotonic();
            let deadline = batch.opened.checked_add(options.delivery_timeout);
            let deadline = deadline.unwrap_or(Duration::MAX);
            if now >= deadline {
                return Err(ErrorKind::DeliveryTimeout {
                    after: options.delivery_timeout,
                    source: error,
                }
                .into());
            }
            // Nobody waits for a disk that is full to learn of what was written before.
            self.settle();
            let wait = backoff.next(host.random());
            let until = now.saturating_add(wait).min(deadline);
            accumulator.wait_to_retry(&*self.parker, until);
            if is_over(accumulator.closing(), host.monotonic()) {
                return Err(error);
            }
        }
    }

    /// Makes durable what was appended, and tells of it.
    fn settle(&mut self) {
        let Some((last, first)) = self.unsynced.last() else {
            return;
        };
        let end = first.advance(last.count());
        let synced = self.accumulator.log.sync_until(end);
        self.unsynced_bytes = 0;
        for (batch, first) in std::mem::take(&mut self.unsynced) {
            let stage = match &synced {
                Ok(()) => Stage::Durable(first),
                Err(error) => Stage::Failed {
                    written: Some(first),
                    error: error.clone(),
                },
            };
            self.finish(batch, &stage);
        }
    }

    /// Tells everyone what came of a batch.
    fn finish(&self, batch: Batch, stage: &Stage) {
        if !matches!(stage, Stage::Written(_)) {
            batch.completion.advance(stage.clone());
        }
        let mut panics = 0;
        if let Some(callback) = &self.accumulator.options.on_completion {
            for delivery in batch.deliveries(stage) {
                if contain(|| (callback.0)(&delivery)).is_err() {
                    panics += 1;
                }
            }
        }
        let failed_sends = &self.accumulator.log.counters.failed_sends;
        failed_sends.fetch_add(batch.failures(stage), Ordering::Relaxed);
        self.accumulator.done(batch, stage, panics);
    }
}

/// Whether what is left is not to be tried any more.
fn is_over(closing: Option<Closing>, now: Duration) -> bool {
    matches!(closing, Some(Closing::Until(end)) if now >= end)
}

/// Whatever ends the thread, nobody waits for it in vain: what is left fails.
impl Drop for Sender {
    fn drop(&mut self) {
        let mut left: Vec<_> = self.current.take().into_iter().collect();
        let error = Error::from(ErrorKind::Closed);
        for (batch, first) in std::mem::take(&mut self.unsynced) {
            let (written, error) = (Some(first), error.clone());
            self.finish(batch, &Stage::Failed { written, error });
        }
        left.extend(self.accumulator.abandon());
        for batch in left {
            let (written, error) = (None, error.clone());
            self.finish(batch, &Stage::Failed { written, error });
        }
    }
}
