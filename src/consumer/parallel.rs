//! Records handed out one by one, to any number of threads, and acknowledged in any order.

use std::{fmt, sync::Arc, task::Waker, time::Duration};

use super::{
    CommitOptions, Consumer, ConsumerHandle, Reset,
    reader::Seen,
    waiting::Waiting,
    work::{Delivery, Idle, Work},
};
use crate::{
    error::Result,
    format::group::GroupLosses,
    fs::{Mutex, Parker, Signal, Told, WaitId, wake_all},
    log::{Gap, Lag, News, Source, lag},
    offset::Offset,
    record::{Headers, RecordRef, Timestamp},
};

/// A consumer for any number of worker threads: each [takes](ParallelConsumer::take) records one
/// by one, and acknowledges each when it is done with it, in any order. From
/// [`ConsumerBuilder::build_parallel`](crate::ConsumerBuilder::build_parallel).
///
/// Handing polled records to threads and committing the poll's end loses those that were not done
/// when the process ended. Here only the *prefix* is committed: everything below the first record
/// that is not acknowledged. So each record is processed at least once, and after a restart all come
/// again that were not acknowledged, and those that were acknowledged behind one that was not.
///
/// ```
/// use std::{thread, time::Duration};
/// use duralog::{Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// let records: Vec<_> = (0..100).map(|n| Record::new(format!("order {n}"))).collect();
/// log.producer().build()?.send_batch(records)?.wait()?;
///
/// let orders = log.consumer("billing").build_parallel(32)?;
/// thread::scope(|scope| {
///     let worker = || {
///         while let Some(order) = orders.take(Duration::ZERO)? {
///             assert!(order.value().is_some_and(|value| value.starts_with(b"order")));
///             order.ack()?;
///         }
///         duralog::Result::Ok(())
///     };
///     let workers = [(); 4].map(|()| scope.spawn(worker));
///     workers.map(|worker| worker.join().unwrap()).into_iter().collect::<duralog::Result<()>>()
/// })?;
/// assert_eq!(orders.committed(), 100);
/// # drop(orders);
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Failures
///
/// A record that is [failed](InFlight::fail), or dropped unacknowledged (also by a panic), is handed
/// out again: before records that are read from then on, so neither holds up the other. It comes
/// again at once where there is nothing else, so a worker that can't do it now does better to say
/// [when](InFlight::retry_after). [`InFlight::attempts`] tells how often it was handed out; a record
/// that will never succeed is put elsewhere, durably, and acknowledged. Until then it holds up the
/// commit, and at `max_in_flight` records behind it the reading.
///
/// # Durability
///
/// An acknowledgement commits as [`Consumer::commit`] does: by default a power cut may take it, and
/// then records come again. [`commit_with`](ParallelConsumer::commit_with) commits durably.
///
/// # Concurrency
///
/// A handle to share, cheap to clone. The group is held until the last handle and the last
/// [`InFlight`] are dropped. Memory is bounded: there are `max_in_flight` records in flight, and
/// what one poll reads ahead of them
/// ([`max_poll_records`](crate::ConsumerBuilder::max_poll_records),
/// [`max_poll_bytes`](crate::ConsumerBuilder::max_poll_bytes)). Records are copied out of the log.
#[derive(Clone, Debug)]
pub struct ParallelConsumer {
    inner: Arc<Inner>,
}

/// Locks are taken in this order: `consumer`, `work`; then those of the log, or of the signal.
struct Inner {
    /// To read and to commit. Whoever holds it may wait for the disk.
    consumer: Mutex<Consumer>,
    work: Mutex<Work>,
    source: Arc<dyn Source>,
    signal: Arc<Signal>,
    group: String,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("group", &self.group)
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

impl ParallelConsumer {
    pub(super) fn new(consumer: Consumer, max_in_flight: usize) -> Self {
        let work = Work::new(consumer.position(), consumer.committed(), max_in_flight);
        let inner = Inner {
            work: Mutex::new(work),
            source: Arc::clone(consumer.reader.source()),
            signal: Arc::clone(consumer.reader.signal()),
            group: consumer.group().to_owned(),
            consumer: Mutex::new(consumer),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Takes the next record, waiting up to `timeout` for one: while there is none, and while
    /// `max_in_flight` are in flight. `None` when the time is over, or when another thread
    /// [says so](ParallelConsumer::handle).
    ///
    /// # Errors
    ///
    /// As [`Consumer::poll`]; then every record that is not acknowledged still comes.
    pub fn take(&self, timeout: Duration) -> Result<Option<InFlight>> {
        let inner = &self.inner;
        let mut wait = None;
        loop {
            let (idle, news) = match inner.look()? {
                Look::Found(delivery) => return Ok(Some(InFlight::new(delivery, inner))),
                Look::Return => return Ok(None),
                Look::Nothing(idle, news) => (idle, news),
            };
            if timeout.is_zero() {
                return Ok(None);
            }
            let wait = wait.get_or_insert_with(|| Wait::new(inner, timeout));
            if !wait.park(&idle, news)? {
                return Ok(None);
            }
        }
    }

    /// Commits the prefix. Acknowledging does so already: this is for trying once more after an
    /// error, without another acknowledgement.
    ///
    /// # Errors
    ///
    /// As [`Consumer::commit`].
    pub fn commit(&self) -> Result<()> {
        self.inner.commit_news()
    }

    /// Commits the prefix with these options: durably, say.
    ///
    /// # Durability
    ///
    /// That of the options.
    ///
    /// # Concurrency
    ///
    /// While this waits for the device, acknowledging in other threads waits for this where there
    /// is something to commit.
    ///
    /// # Errors
    ///
    /// As [`Consumer::commit_offset_with`].
    pub fn commit_with(&self, options: &CommitOptions) -> Result<()> {
        let mut consumer = self.inner.consumer.lock();
        self.inner.commit_prefix(&mut consumer, Some(options))
    }

    /// Ends the work: all takes, those that wait too, return `None` from now on, and the prefix is
    /// committed. Records in flight may still be acknowledged, and that is committed too.
    ///
    /// # Durability
    ///
    /// The committed offset is durable once the last handle and the last [`InFlight`] are dropped,
    /// unless the log [does not sync](crate::Fsync::Off).
    ///
    /// # Errors
    ///
    /// As [`commit`](ParallelConsumer::commit); the work has ended all the same.
    pub fn close(self) -> Result<()> {
        self.inner.signal.stop();
        self.commit()
    }

    /// Tells those who take records to return, to stop, or to pause. While paused, no record is
    /// handed out, and acknowledging goes on. [`wake`](ConsumerHandle::wake) has one of them return,
    /// [`stop`](ConsumerHandle::stop) all.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle::of(&self.inner.signal)
    }

    /// The committed offset of the group: the next one to read after a restart.
    pub fn committed(&self) -> Offset {
        self.inner.work.lock().committed()
    }

    /// How many records are in flight: handed out and not acknowledged, or acknowledged behind one
    /// that is not. At most what was asked for.
    pub fn in_flight(&self) -> usize {
        self.inner.work.lock().in_flight()
    }

    /// Gaps that were met and that no commit has passed, in order: those that records in flight
    /// [tell](InFlight::gaps), and those behind which no record has come yet.
    pub fn gaps(&self) -> Vec<Gap> {
        self.inner.work.lock().gaps()
    }

    /// How far the prefix that is acknowledged is behind the end of the log. Looks at the record
    /// there, so this takes microseconds.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io), [`Closed`](crate::ErrorKind::Closed).
    pub fn lag(&self) -> Result<Lag> {
        let end = self.inner.consumer.lock().reader.end()?;
        let prefix = self.inner.work.lock().prefix();
        lag(&self.inner.source, prefix, end)
    }

    /// Offsets that the group has passed without their records, ever: see [`Consumer::losses`].
    pub fn losses(&self) -> GroupLosses {
        self.inner.consumer.lock().losses()
    }

    /// That the group went on elsewhere than at its committed offset: see [`Consumer::reset`].
    pub fn reset(&self) -> Option<Reset> {
        self.inner.consumer.lock().reset().cloned()
    }

    /// The name of the group.
    pub fn group(&self) -> &str {
        &self.inner.group
    }
}

/// A record that was handed out, to be [acknowledged](InFlight::ack) once it is done with; from
/// [`ParallelConsumer::take`].
///
/// Dropped, it counts as [failed](InFlight::fail).
#[must_use = "a record that is dropped comes again"]
pub struct InFlight {
    delivery: Delivery,
    /// Neither acknowledged nor given back.
    is_open: bool,
    inner: Arc<Inner>,
}

impl InFlight {
    fn new(delivery: Delivery, inner: &Arc<Inner>) -> Self {
        Self {
            delivery,
            is_open: true,
            inner: Arc::clone(inner),
        }
    }

    /// The record.
    pub fn record(&self) -> RecordRef<'_> {
        self.delivery.record()
    }

    /// Its offset.
    pub fn offset(&self) -> Offset {
        self.delivery.offset
    }

    /// The key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        self.record().key()
    }

    /// The value; `None` is a tombstone, a value of zero bytes is `Some`.
    pub fn value(&self) -> Option<&[u8]> {
        self.record().value()
    }

    /// The headers, in the order in which they were added.
    pub fn headers(&self) -> Headers<'_> {
        self.record().headers()
    }

    /// The record's own time if it was sent with one, else the time of the append.
    pub fn timestamp(&self) -> Timestamp {
        self.record().timestamp()
    }

    /// How often this consumer has handed it out, this time included: 1 the first time. A restart
    /// begins to count again.
    pub fn attempts(&self) -> u32 {
        self.delivery.attempts
    }

    /// Offsets in front of this record that have no record any more. They are told again, with the
    /// record behind them, until a commit has passed it.
    pub fn gaps(&self) -> &[Gap] {
        &self.delivery.gaps
    }

    /// Acknowledges the record: it does not come again. If all before it are acknowledged too, that
    /// is committed.
    ///
    /// # Durability
    ///
    /// By default the commit survives the end of this process. A power cut may take it: then
    /// records come again, none is skipped.
    ///
    /// # Concurrency
    ///
    /// A later commit is never overwritten by an earlier one: of several threads that acknowledge
    /// at a time, one commits for all.
    ///
    /// # Errors
    ///
    /// As [`Consumer::commit`]: the record is acknowledged all the same, and the next
    /// acknowledgement, or [`ParallelConsumer::commit`], tries the commit again.
    pub fn ack(mut self) -> Result<()> {
        self.is_open = false;
        self.inner.acknowledge(&self.delivery)
    }

    /// Gives the record back undone: it is handed out again, to whoever takes next but for what
    /// was read already. Nothing at or above its offset is committed before it is acknowledged.
    pub fn fail(self) {
        self.retry_after(Duration::ZERO);
    }

    /// Gives the record back undone, to be handed out again when `delay` is over.
    pub fn retry_after(mut self, delay: Duration) {
        self.give_back(delay);
    }

    fn give_back(&mut self, delay: Duration) {
        if std::mem::take(&mut self.is_open) {
            self.inner
                .give_back(std::mem::take(&mut self.delivery), delay);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.give_back(Duration::ZERO);
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight")
            .field("record", &self.record())
            .field("attempts", &self.attempts())
            .finish_non_exhaustive()
    }
}

/// What one who takes found.
enum Look {
    Found(Delivery),
    /// It was told to return with nothing.
    Return,
    /// Nothing now; and what to wait for.
    Nothing(Idle, Wanted),
}

/// What one who found nothing waits for, beside others who acknowledge, fail or read.
#[derive(Clone, Copy)]
struct Wanted {
    told: Told,
    news: News,
}

/// What came of reading on.
enum Read {
    /// There are records to be handed out, or others were in flight meanwhile.
    Look,
    /// It was told to return with nothing.
    Return,
    /// The log has no more now.
    Nothing(Wanted),
}

impl Inner {
    /// The next record, read from the log if need be.
    fn look(&self) -> Result<Look> {
        let told = self.signal.look();
        if told == Told::Return {
            return Ok(Look::Return);
        }
        loop {
            let idle = match self.next(told)? {
                Ok(delivery) => return Ok(Look::Found(delivery)),
                Err(idle) => idle,
            };
            if told == Told::Paused || !idle.wants_more {
                let news = News::End(idle.position);
                return Ok(Look::Nothing(idle, Wanted { told, news }));
            }
            match self.read_on()? {
                Read::Look => {}
                Read::Return => return Ok(Look::Return),
                // What failed before is handed out, now that there is nothing else.
                Read::Nothing(wanted) => {
                    return Ok(match self.next(wanted.told)? {
                        Ok(delivery) => Look::Found(delivery),
                        Err(idle) => Look::Nothing(idle, wanted),
                    });
                }
            }
        }
    }

    /// The next of those that were read.
    fn next(&self, told: Told) -> Result<std::result::Result<Delivery, Idle>> {
        let now = self.source.host().monotonic();
        let mut work = self.work.lock();
        if told == Told::Paused {
            return Ok(Err(work.idle()));
        }
        if let Some(offset) = work.peek(now) {
            // What was read before the log was latched may vanish: nobody acts on it.
            self.source.check_below(offset.next())?;
        }
        Ok(work.next(now))
    }

    /// Reads records, if none are left that were read.
    fn read_on(&self) -> Result<Read> {
        let mut consumer = self.consumer.lock();
        if !self.work.lock().wants_more() {
            return Ok(Read::Look);
        }
        consumer.reader.begin_poll();
        consumer.before_poll()?;
        match consumer.reader.look()? {
            Seen::Batch(from) => consumer.reader.from = from,
            Seen::Nothing(told) => {
                let position = consumer.position();
                // On a latched log, what is above the durable offset is an error, not an end.
                self.source.check_below(position.next())?;
                let woken = self.work.lock().has_read(Vec::new(), &[], position);
                wake_all(woken);
                let news = consumer.reader.news(told);
                return Ok(Read::Nothing(Wanted { told, news }));
            }
        }
        consumer.note_gaps();
        consumer.reader.end_poll();
        let batch = consumer.batch();
        if batch.is_empty() && batch.gaps().is_empty() {
            return Ok(Read::Return);
        }
        let records = batch.iter().filter_map(Delivery::of).collect();
        let gaps = batch.gaps();
        let position = consumer.position();
        let woken = self.work.lock().has_read(records, gaps, position);
        drop(consumer);
        wake_all(woken);
        Ok(Read::Look)
    }

    fn acknowledge(&self, delivery: &Delivery) -> Result<()> {
        let (woken, is_behind) = {
            let mut work = self.work.lock();
            let woken = work.acknowledge(delivery);
            (woken, work.is_behind())
        };
        wake_all(woken);
        if is_behind {
            self.commit_news()
        } else {
            Ok(())
        }
    }

    fn give_back(&self, delivery: Delivery, delay: Duration) {
        let due = self.source.host().monotonic().saturating_add(delay);
        let woken = self.work.lock().give_back(delivery, due);
        wake_all(woken);
    }

    /// Commits the prefix, unless somebody has by now.
    fn commit_news(&self) -> Result<()> {
        let mut consumer = self.consumer.lock();
        self.commit_prefix(&mut consumer, None)
    }

    /// Commits the prefix as it is by now: who has the consumer is the only one to commit, so none
    /// is older than the one before.
    fn commit_prefix(
        &self,
        consumer: &mut Consumer,
        options: Option<&CommitOptions>,
    ) -> Result<()> {
        let (prefix, is_behind) = {
            let work = self.work.lock();
            (work.prefix(), work.is_behind())
        };
        match options {
            Some(options) => consumer.commit_offset_with(prefix, options)?,
            None if is_behind => consumer.commit_offset(prefix)?,
            None => return Ok(()),
        }
        self.work.lock().has_committed(prefix);
        Ok(())
    }
}

/// One who waits for something to take. Dropped, it waits no longer.
struct Wait<'a> {
    inner: &'a Inner,
    until: Duration,
    parker: Box<dyn Parker>,
    waker: Waker,
    /// For the log and the signal.
    waiting: Waiting,
    /// For the others.
    place: Option<WaitId>,
}

impl<'a> Wait<'a> {
    fn new(inner: &'a Inner, timeout: Duration) -> Self {
        let host = inner.source.host();
        let parker = host.parker();
        Self {
            inner,
            until: host.monotonic().saturating_add(timeout),
            waker: parker.waker(),
            parker,
            waiting: Waiting::of(&inner.source, &inner.signal),
            place: None,
        }
    }

    /// Waits until it is worth looking again; `false` if the time is over.
    fn park(&mut self, idle: &Idle, Wanted { told, news }: Wanted) -> Result<bool> {
        if self.inner.source.host().monotonic() >= self.until {
            return Ok(false);
        }
        // Each of them looks again under its own lock at what it is asked to wait for.
        let is_idle = self
            .inner
            .work
            .lock()
            .watch(idle, &self.waker, &mut self.place);
        if is_idle && self.waiting.for_any(news, told, &self.waker)? {
            let until = idle.due.map_or(self.until, |due| due.min(self.until));
            self.parker.park(Some(until));
        }
        Ok(true)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let unused = self.inner.work.lock().forget(&place);
            drop(unused);
        }
    }
}
