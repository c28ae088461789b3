//! The short way to consume: a function for each record, tried again when it fails, dead letters,
//! and commits once the work is done.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use super::{
    CommitOptions, Consumer, ConsumerBuilder, Reset,
    commits::Commits,
    dead_letter::{Failure, Origin, Outlet, dead_letter},
    reader::Reader,
    retry::RetryPolicy,
    waiting::pause_until,
};
use crate::{
    backoff::Backoff,
    error::{Error, ErrorKind, Result},
    fs::{Told, contain},
    log::Gap,
    offset::Offset,
    record::RecordRef,
};

/// Time between two commits within a batch.
const COMMIT_EVERY: Duration = Duration::from_millis(100);
/// How long one look for records takes at most.
const LOOK: Duration = Duration::from_secs(3600);

type OnGap = Box<dyn FnMut(&Gap) + Send>;

/// What becomes of records that can't be processed, and of gaps.
#[derive(Default)]
pub(super) struct Handling {
    pub(super) retry: RetryPolicy,
    pub(super) dead_letters: Option<Box<dyn Outlet>>,
    pub(super) on_gap: Option<OnGap>,
}

impl fmt::Debug for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handling")
            .field("retry", &self.retry)
            .field("dead_letters", &self.dead_letters)
            .finish_non_exhaustive()
    }
}

/// What [`Consumer::process`] has done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Processed {
    /// Records of which an attempt succeeded.
    pub records: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Records that were given up: their dead letters are durable.
    pub dead_letters: u64,
    /// Offsets without a record that were passed: [gaps](crate::Batch::gaps), which `on_gap` was
    /// told.
    pub lost: u64,
    /// That the group went on elsewhere than at its committed offset, as that was of no use.
    pub reset: Option<Reset>,
}

/// What became of a record.
enum Outcome {
    Done,
    /// The consumer was stopped before it was.
    Stopped,
}

impl ConsumerBuilder {
    /// How often [`process`](Consumer::process) tries a record; by default five times.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.handling.retry = retry;
        self
    }

    /// Has [`process`](Consumer::process) tell this of each gap, before it goes on with the record
    /// behind it. By default gaps are counted alone. A panic of `on_gap` is contained.
    pub fn on_gap(mut self, on_gap: impl FnMut(&Gap) + Send + 'static) -> Self {
        self.handling.on_gap = Some(Box::new(on_gap));
        self
    }
}

impl Consumer {
    /// Calls `work` for each record, in order, and commits what is done: *at least once*. Returns
    /// when the consumer is [stopped](crate::ConsumerHandle::stop), or on an error.
    ///
    /// A record that `work` fails on, by an error or a panic, is tried again as the
    /// [`RetryPolicy`] says. Then it is sent to the log for
    /// [dead letters](ConsumerBuilder::dead_letters), with its key, value, time and headers, and
    /// [more](crate::dead_letter_headers) that tell where it is from and what happened; and this
    /// goes on with the next. Without such a log this returns.
    ///
    /// A record is committed when `work` succeeded or its dead letter is durable, and never before.
    /// This commits at the end of each batch, before it waits for anything, within a batch about
    /// every 100 ms, and in whichever way it returns. What was done since the last commit is done
    /// again after a crash; and a record may have two dead letters if a crash came between the
    /// first and the commit.
    ///
    /// ```
    /// use duralog::{Log, Record, RetryPolicy};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path().join("orders"))?;
    /// let dead = Log::open(dir.path().join("dead-letters"))?;
    /// let producer = log.producer().build()?;
    /// for order in ["none", "17", "18"] {
    ///     producer.send(Record::new(order))?.wait()?;
    /// }
    ///
    /// let twice = RetryPolicy::new().attempts(2);
    /// let mut billing = log.consumer("billing").retry(twice).dead_letters(&dead).build()?;
    /// let handle = billing.handle(); // for another thread, to end it
    /// # let mut seen = 0;
    /// let processed = billing.process(|record| {
    /// #   seen += 1;
    /// #   if seen == 4 { handle.stop() }
    ///     let text = String::from_utf8_lossy(record.value().unwrap_or_default());
    ///     text.parse::<u32>().map(|order| println!("{order} is billed"))
    /// })?;
    /// assert_eq!((processed.records, processed.dead_letters), (2, 1));
    /// assert_eq!(dead.log_end_offset(), 1);
    /// # drop(billing);
    /// # log.close()?;
    /// # dead.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ProcessingFailed`](ErrorKind::ProcessingFailed) and
    /// [`DeadLetterFailed`](ErrorKind::DeadLetterFailed): the record was not committed, what is
    /// before it was, and the next call begins with it. Those of [`poll`](Consumer::poll) and
    /// [`commit`](Consumer::commit). [`InvalidOption`](ErrorKind::InvalidOption) for a consumer that
    /// [commits before processing](ConsumerBuilder::commit_before_processing).
    pub fn process<E: Display>(
        &mut self,
        work: impl FnMut(&RecordRef<'_>) -> Result<(), E>,
    ) -> Result<Processed> {
        self.process_until(None, work)
    }

    /// [`process`](Consumer::process) up to where the log ends as this is called, and the batch in
    /// which that is. While the consumer is paused, this waits.
    ///
    /// # Errors
    ///
    /// As `process`.
    pub fn process_pending<E: Display>(
        &mut self,
        work: impl FnMut(&RecordRef<'_>) -> Result<(), E>,
    ) -> Result<Processed> {
        let end = self.reader.end()?;
        self.process_until(Some(end), work)
    }

    fn process_until<E: Display>(
        &mut self,
        end: Option<Offset>,
        mut work: impl FnMut(&RecordRef<'_>) -> Result<(), E>,
    ) -> Result<Processed> {
        if self.commits.is_before_processing() {
            let reason = "process commits after processing";
            return Err(Error::option("commit_before_processing", reason));
        }
        let mut work = |record: &RecordRef<'_>| {
            let done = contain(|| work(record).map_err(|error| error.to_string()));
            done.unwrap_or_else(|panic| Err(format!("panicked: {panic}")))
        };
        let mut processed = Processed {
            reset: self.commits.reset.clone(),
            ..Processed::default()
        };
        loop {
            let goes_on = match end {
                Some(end) => self.poll_pending(end)?,
                None => !self.poll(LOOK)?.is_idle() || !self.reader.signal().is_stopped(),
            };
            if !goes_on {
                break;
            }
            if let Outcome::Stopped = self.process_batch(&mut work, &mut processed)? {
                break;
            }
        }
        Ok(processed)
    }

    /// Polls once more, unless `end` is reached or the consumer is stopped; whether there is
    /// something to process. A pause is waited for, and being woken ends nothing.
    pub(super) fn poll_pending(&mut self, end: Offset) -> Result<bool> {
        // A wake-up that comes just before a poll takes one.
        let mut quiet = 0;
        while quiet < 2 && self.reader.position() < end {
            let signal = self.reader.signal();
            if signal.is_stopped() {
                return Ok(false);
            }
            let is_told = signal.told() != Told::Nothing;
            let wait = if signal.is_paused() {
                LOOK
            } else {
                Duration::ZERO
            };
            if !self.poll(wait)?.is_idle() {
                return Ok(true);
            }
            quiet += u32::from(!is_told);
        }
        Ok(false)
    }

    /// Processes what was polled last.
    fn process_batch(
        &mut self,
        work: &mut dyn FnMut(&RecordRef<'_>) -> Result<(), String>,
        processed: &mut Processed,
    ) -> Result<Outcome> {
        let Self {
            reader,
            commits,
            handling,
            ..
        } = self;
        let mut worker = Worker {
            reader,
            committed_at: reader.source().host().monotonic(),
            commits,
            handling,
            processed,
        };
        let (upto, outcome) = worker.run(work);
        if upto < reader.position() {
            // The rest comes again.
            reader.return_to(upto);
        }
        outcome
    }
}

/// Goes through one batch.
struct Worker<'a> {
    reader: &'a Reader,
    commits: &'a mut Commits,
    handling: &'a mut Handling,
    processed: &'a mut Processed,
    committed_at: Duration,
}

impl Worker<'_> {
    /// Returns up to where everything is done, which is committed.
    fn run(
        &mut self,
        work: &mut dyn FnMut(&RecordRef<'_>) -> Result<(), String>,
    ) -> (Offset, Result<Outcome>) {
        let reader = self.reader;
        let batch = reader.batch();
        let mut gaps = batch.gaps().iter().peekable();
        let mut upto = batch.start();
        let mut result = Ok(Outcome::Done);
        for record in &batch {
            let offset = record.offset().unwrap_or_default();
            while let Some(gap) = gaps.next_if(|gap| gap.from < offset) {
                self.tell(gap);
            }
            result = self.handle(&record, upto, work);
            match result {
                Ok(Outcome::Done) => upto = offset.next(),
                Ok(Outcome::Stopped) | Err(_) => break,
            }
            if let Err(error) = self.commit_now_and_then(upto) {
                return (upto, Err(error));
            }
        }
        if let Ok(Outcome::Done) = result {
            gaps.for_each(|gap| self.tell(gap));
            upto = reader.position();
        }
        // What failed is told first; what is done is committed all the same.
        let committed = self.commit(upto);
        (upto, result.and_then(|outcome| committed.map(|()| outcome)))
    }

    fn tell(&mut self, gap: &Gap) {
        self.processed.lost += gap.to.since(gap.from);
        if let Some(on_gap) = &mut self.handling.on_gap {
            // A panic was printed where it began; it must not take the batch with it.
            drop(contain(|| on_gap(gap)));
        }
    }

    /// Tries a record until it is done or given up. All below `upto` is done.
    fn handle(
        &mut self,
        record: &RecordRef<'_>,
        upto: Offset,
        work: &mut dyn FnMut(&RecordRef<'_>) -> Result<(), String>,
    ) -> Result<Outcome> {
        let mut backoff = Backoff::new(self.handling.retry.waits());
        let mut failure = None;
        loop {
            if self.reader.signal().is_stopped() {
                return Ok(Outcome::Stopped);
            }
            let Err(reason) = work(record) else {
                self.processed.records += 1;
                return Ok(Outcome::Done);
            };
            self.processed.failures += 1;
            let failure = failure.get_or_insert_with(|| Failure {
                attempts: 0,
                reason: String::new(),
                began: self.reader.source().host().wall_millis(),
            });
            failure.attempts += 1;
            failure.reason = reason;
            if self.reader.signal().is_stopped() {
                // It may have failed for that alone: it comes again.
                return Ok(Outcome::Stopped);
            }
            if failure.attempts >= self.handling.retry.attempts {
                return self.give_up(record, upto, failure);
            }
            if self.wait(upto, &mut backoff)? {
                return Ok(Outcome::Stopped);
            }
        }
    }

    /// Waits before the next try; whether the consumer was stopped meanwhile.
    fn wait(&mut self, upto: Offset, backoff: &mut Backoff) -> Result<bool> {
        self.commit(upto)?;
        let host = self.reader.source().host();
        let until = host.monotonic().saturating_add(backoff.next(host.random()));
        Ok(pause_until(self.reader, until))
    }

    /// Sends the dead letter of a record; tries again what may work later.
    fn give_up(
        &mut self,
        record: &RecordRef<'_>,
        upto: Offset,
        failure: &Failure,
    ) -> Result<Outcome> {
        let offset = record.offset().unwrap_or_default();
        if self.handling.dead_letters.is_none() {
            return Err(ErrorKind::ProcessingFailed {
                offset,
                attempts: failure.attempts,
                reason: failure.reason.clone(),
            }
            .into());
        }
        let place = self.reader.group_place();
        let origin = Origin {
            log_id: place.log_id,
            path: &place.dir,
            offset,
            group: self.commits.name(),
        };
        let letter = dead_letter(record, &origin, failure);
        let mut backoff = Backoff::new(self.handling.retry.waits());
        for attempt in 1.. {
            let Some(outlet) = &self.handling.dead_letters else {
                break;
            };
            let Err(source) = outlet.send(&letter) else {
                break;
            };
            if !source.is_transient() || attempt >= self.handling.retry.attempts {
                let reason = failure.reason.clone();
                return Err(ErrorKind::DeadLetterFailed {
                    offset,
                    reason,
                    source,
                }
                .into());
            }
            if self.wait(upto, &mut backoff)? {
                return Ok(Outcome::Stopped);
            }
        }
        self.processed.dead_letters += 1;
        Ok(Outcome::Done)
    }

    fn commit_now_and_then(&mut self, upto: Offset) -> Result<()> {
        let now = self.reader.source().host().monotonic();
        if now.saturating_sub(self.committed_at) < COMMIT_EVERY {
            return Ok(());
        }
        self.commit(upto)
    }

    fn commit(&mut self, upto: Offset) -> Result<()> {
        self.committed_at = self.reader.source().host().monotonic();
        if upto > self.commits.committed() || self.commits.reset.is_some() {
            self.commits
                .commit(self.reader, upto, &CommitOptions::new())?;
        }
        Ok(())
    }
}
