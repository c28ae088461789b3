//! Waiting for records: a thread in [`Consumer::poll`], a task in [`Consumer::next`]; and what
//! other threads may tell whoever waits.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{Batch, CommitReceipt, Consumer, Reader, reader::Seen};
use crate::{
    error::Result,
    fs::{Signal, Told, WaitId},
    log::{News, NewsPlace, Source},
    offset::Offset,
};

/// One who waits for news from the log and for a signal. Dropped, it waits no longer.
pub(super) struct Waiting {
    source: Arc<dyn Source>,
    signal: Arc<Signal>,
    for_news: NewsPlace,
    for_signal: Option<WaitId>,
}

impl Waiting {
    pub(super) fn new(reader: &Reader) -> Self {
        Self::of(reader.source(), reader.signal())
    }

    pub(super) fn of(source: &Arc<dyn Source>, signal: &Arc<Signal>) -> Self {
        Self {
            source: Arc::clone(source),
            signal: Arc::clone(signal),
            for_news: NewsPlace::default(),
            for_signal: None,
        }
    }

    /// Has `waker` called when there is news, or something else was said than what was `told`;
    /// `false` if that is so by now.
    ///
    /// # Errors
    ///
    /// Those of [`Source::poll_news`].
    pub(super) fn for_any(&mut self, news: News, told: Told, waker: &Waker) -> Result<bool> {
        let source = Arc::clone(&self.source);
        let is_news = source.poll_news(news, waker, &mut self.for_news)?;
        Ok(!is_news && self.for_signal(told, waker))
    }

    /// The same, of what was said alone.
    pub(super) fn for_signal(&mut self, told: Told, waker: &Waker) -> bool {
        self.signal.watch(told, waker, &mut self.for_signal)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.source.forget(std::mem::take(&mut self.for_news));
        self.signal.forget(&mut self.for_signal);
    }
}

/// Waits until then, unless the consumer is stopped before; whether it is.
pub(super) fn pause_until(reader: &Reader, until: Duration) -> bool {
    let host = reader.source().host();
    let parker = host.parker();
    let waker = parker.waker();
    let mut waiting = Waiting::new(reader);
    while !reader.signal().is_stopped() {
        if host.monotonic() >= until {
            return false;
        }
        if waiting.for_signal(reader.signal().told(), &waker) {
            parker.park(Some(until));
        }
    }
    true
}

/// Waits for the next batch: what [`Consumer::next`] and [`Reader::next`] return.
///
/// It resolves to a batch with records or [gaps](Batch::gaps); to an empty one when the consumer
/// was [woken or stopped](ConsumerHandle); to an error as [`poll`](Consumer::poll) does, also when
/// the log is closed or latched while this waits. While the consumer is
/// [paused](Consumer::pause) it waits.
///
/// # Concurrency
///
/// It needs no runtime, and any will do: whoever appends, or the log's own threads, wake the task.
/// They serve others too, so a waker must not block. Dropping it at any moment is safe: the
/// position moves when it resolves and not before, so nothing is skipped, and nothing of it stays
/// behind.
///
/// Polling it waits for nobody; but the records are read then, which may touch the disk where they
/// are not in the page cache. A log that is open read-only is looked at from a thread of its own
/// (`duralog-watch`) while somebody waits for it, every 1 to 50 ms.
///
/// A timeout is the runtime's: drop this when it is over.
///
/// ```
/// use std::{future::Future, pin::pin, task::{Context, Poll, Waker}};
/// use duralog::{Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// let mut billing = log.consumer("billing").build()?;
/// // In a runtime: `let batch = billing.next().await?;`
/// let mut context = Context::from_waker(Waker::noop());
/// assert!(pin!(billing.next()).poll(&mut context).is_pending());
///
/// log.producer().build()?.send(Record::new("paid"))?.wait()?;
/// match pin!(billing.next()).poll(&mut context) {
///     Poll::Ready(batch) => assert_eq!(batch?.len(), 1),
///     Poll::Pending => unreachable!("there is a record"),
/// }
/// # drop(billing);
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a future does nothing unless it is awaited"]
pub struct NextBatch<'a> {
    /// Until it has resolved.
    target: Option<Target<'a>>,
    waiting: Option<Waiting>,
    /// Where the batch is read from, once that has begun.
    position: Option<Offset>,
    /// The batch is read; this comes first.
    commit: Option<CommitReceipt>,
}

/// Who reads.
#[derive(Debug)]
enum Target<'a> {
    Reader(&'a mut Reader),
    Consumer(&'a mut Consumer),
}

impl<'a> Target<'a> {
    fn reader(&mut self) -> &mut Reader {
        match self {
            Self::Reader(reader) => reader,
            Self::Consumer(consumer) => &mut consumer.reader,
        }
    }

    fn batch(self) -> Batch<'a> {
        match self {
            Self::Reader(reader) => {
                reader.end_poll();
                reader.batch()
            }
            Self::Consumer(consumer) => {
                consumer.reader.end_poll();
                consumer.batch()
            }
        }
    }
}

impl fmt::Debug for NextBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextBatch")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl<'a> NextBatch<'a> {
    pub(super) fn of_reader(reader: &'a mut Reader) -> Self {
        Self::of(Target::Reader(reader))
    }

    fn of(target: Target<'a>) -> Self {
        Self {
            target: Some(target),
            waiting: None,
            position: None,
            commit: None,
        }
    }

    /// Whether there is a batch; else `waker` is called when there may be.
    fn advance(&mut self, target: &mut Target<'a>, context: &mut Context<'_>) -> Result<bool> {
        if self.position.is_none() {
            if let Target::Consumer(consumer) = target {
                consumer.before_poll()?;
            }
            self.position = Some(target.reader().position());
        }
        if self.commit.is_none() {
            let reader = target.reader();
            if !reader.poll_once(&mut self.waiting, context.waker())? {
                return Ok(false);
            }
            self.waiting = None;
            if let Target::Consumer(consumer) = target {
                self.commit = consumer.begin_commit_ahead()?;
            }
        }
        match &mut self.commit {
            None => Ok(true),
            Some(commit) => match Pin::new(commit).poll(context) {
                Poll::Pending => Ok(false),
                Poll::Ready(done) => done.map(|()| true),
            },
        }
    }
}

impl<'a> Future for NextBatch<'a> {
    type Output = Result<Batch<'a>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // It has resolved, and must not be polled again.
        let Some(mut target) = self.target.take() else {
            return Poll::Pending;
        };
        match self.advance(&mut target, context) {
            Ok(true) => Poll::Ready(Ok(target.batch())),
            Ok(false) => {
                self.target = Some(target);
                Poll::Pending
            }
            Err(error) => {
                if let Some(position) = self.position {
                    target.reader().return_to(position);
                }
                Poll::Ready(Err(error))
            }
        }
    }
}

impl Drop for NextBatch<'_> {
    /// What was read and not returned is read again.
    fn drop(&mut self) {
        if let (Some(target), Some(position), Some(_)) =
            (&mut self.target, self.position, &self.commit)
        {
            target.reader().return_to(position);
        }
    }
}

impl Reader {
    /// Whether there is a batch; else `waker` is called when there may be.
    fn poll_once(&mut self, waiting: &mut Option<Waiting>, waker: &Waker) -> Result<bool> {
        let told = match self.look()? {
            Seen::Batch(from) => {
                self.from = from;
                return Ok(true);
            }
            Seen::Nothing(told) => told,
        };
        let news = self.news(told);
        let waiting = waiting.get_or_insert_with(|| Waiting::new(self));
        let is_waiting = waiting.for_any(news, told, waker);
        if !is_waiting.or_else(|error| self.unless_stopped(error).map(|()| false))? {
            // It came between the look and this. The next look is the next poll's, so that each
            // is done soon, whatever comes meanwhile.
            waker.wake_by_ref();
        }
        Ok(false)
    }
}

/// Tells a [`Consumer`] from any thread what to do: from [`Consumer::handle`].
///
/// ```
/// use std::{thread, time::Duration};
/// use duralog::{Log, Record};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// let mut billing = log.consumer("billing").build()?;
/// let handle = billing.handle();
/// let worker = thread::spawn(move || {
///     let handle = billing.handle();
///     while !handle.is_stopped() {
///         let batch = billing.poll(Duration::from_secs(60))?;
///         // ... process its records ...
///         if !batch.is_empty() {
///             billing.commit()?;
///         }
///     }
///     Ok::<_, duralog::Error>(())
/// });
/// handle.stop(); // it need not wait for the minute to be over
/// worker.join().unwrap()?;
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Concurrency
///
/// A handle to share: cheap to clone, and any thread may use it. It keeps neither the consumer nor
/// the log alive; what it says to a consumer that is gone has no effect.
#[derive(Clone, Debug)]
pub struct ConsumerHandle {
    signal: Arc<Signal>,
}

impl ConsumerHandle {
    pub(super) fn of(signal: &Arc<Signal>) -> Self {
        Self {
            signal: Arc::clone(signal),
        }
    }

    /// Has the poll that is in progress, or the next one, return at once, with an empty batch, also
    /// where there are records: they come with the poll after it. Several calls before that are
    /// one. (Kafka's `wakeup`, without an exception.)
    #[doc(alias = "wakeup")]
    pub fn wake(&self) {
        self.signal.wake();
    }

    /// From now on all polls return at once, with an empty batch: a loop such as
    /// `while !handle.is_stopped()` comes to its end. What was polled before can still be
    /// committed. There is no way back but a new consumer.
    pub fn stop(&self) {
        self.signal.stop();
    }

    /// Whether [`stop`](ConsumerHandle::stop) was called.
    pub fn is_stopped(&self) -> bool {
        self.signal.is_stopped()
    }

    /// From the next look on, polls return neither records nor gaps: they wait until their time is
    /// over, or until [`resume`](ConsumerHandle::resume) or [`wake`](ConsumerHandle::wake). The
    /// position stays, and the group is held. A poll that has begun to read returns what it reads.
    pub fn pause(&self) {
        self.signal.pause();
    }

    /// Ends a [`pause`](ConsumerHandle::pause): a poll that waits goes on.
    pub fn resume(&self) {
        self.signal.resume();
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.signal.is_paused()
    }
}

impl Consumer {
    /// [`poll`](Consumer::poll) without waiting: the records and gaps that there are now, if any.
    ///
    /// # Errors
    ///
    /// As `poll`.
    pub fn try_poll(&mut self) -> Result<Batch<'_>> {
        self.poll(Duration::ZERO)
    }

    /// Waits for records as a future of any runtime, and returns those there are. Commit after
    /// processing, as with [`poll`](Consumer::poll): committing may wait for the disk a little, and
    /// for the device where it is to be durable.
    ///
    /// # Errors
    ///
    /// As `poll`, once it is awaited.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator can't lend what it returns; the name is that of asynchronous streams"
    )]
    pub fn next(&mut self) -> NextBatch<'_> {
        self.reader.begin_poll();
        NextBatch::of(Target::Consumer(self))
    }

    /// Tells this consumer from other threads to return, to stop, or to pause.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle::of(self.reader.signal())
    }

    /// From now on polls return neither records nor gaps, though the group is held: as
    /// [`ConsumerHandle::pause`].
    pub fn pause(&self) {
        self.reader.signal().pause();
    }

    /// Ends a [`pause`](Consumer::pause).
    pub fn resume(&self) {
        self.reader.signal().resume();
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.reader.signal().is_paused()
    }
}
