//! No wake-up is lost between those who wait for records and those who append, wake, stop, pause
//! and cancel: loom runs the very file that the library waits with through the interleavings of
//! its threads. A wake-up that is lost is a thread that waits for ever, which loom reports.
//!
//! The log is a model here: an end that is read without a lock, and the append lock with the list
//! of readers. A reader does what [`duralog::NextBatch`] does, in the same order.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use loom::{
    future::block_on,
    sync::{Arc, MutexGuard, atomic::AtomicU64},
    thread,
};

#[path = "../src/fs/waiting.rs"]
#[expect(dead_code, reason = "the list has more to offer than readers need")]
mod waiting;

use loom::sync::atomic::AtomicU8;
use waiting::{Signal, Told, WaitId, WaitList};

/// Stands in for the lock of the library.
#[derive(Debug)]
struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

struct Appender {
    next: u64,
    readers: WaitList<()>,
}

/// A log, and one who reads it.
struct Log {
    end: AtomicU64,
    append: Mutex<Appender>,
    signal: Signal,
}

impl Log {
    fn new() -> Arc<Self> {
        let readers = WaitList::new();
        Arc::new(Self {
            end: AtomicU64::new(0),
            append: Mutex::new(Appender { next: 0, readers }),
            signal: Signal::default(),
        })
    }

    fn append(&self) {
        let mut appender = self.append.lock();
        appender.next += 1;
        self.end.store(appender.next, Ordering::Release);
        let readers = appender.readers.take_all();
        drop(appender);
        wake_all(readers);
    }

    fn poll_records(&self, offset: u64, waker: &Waker, place: &mut Option<WaitId>) -> bool {
        let waker = waker.clone();
        let mut appender = self.append.lock();
        if appender.next > offset {
            return true;
        }
        let unused = appender.readers.add(place, waker, ());
        drop(appender);
        drop(unused);
        false
    }

    fn next(&self, position: u64) -> Next<'_> {
        Next {
            log: self,
            position,
            for_records: None,
            for_signal: None,
        }
    }

    /// The end up to which a poll reads; `None` if it was woken or stopped.
    fn poll(&self, position: u64) -> Option<u64> {
        block_on(self.next(position))
    }

    fn waits(&self) -> bool {
        !self.append.lock().readers.is_empty()
    }
}

/// Runs `body` in another thread.
fn spawn(log: &Arc<Log>, body: impl FnOnce(&Log) + 'static) -> thread::JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || body(&log))
}

struct Next<'a> {
    log: &'a Log,
    position: u64,
    for_records: Option<WaitId>,
    for_signal: Option<WaitId>,
}

impl Future for Next<'_> {
    type Output = Option<u64>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<u64>> {
        let (log, position, waker) = (self.log, self.position, context.waker());
        let told = log.signal.look();
        match told {
            Told::Return => return Poll::Ready(None),
            Told::Paused => {}
            Told::Nothing => {
                let end = log.end.load(Ordering::Acquire);
                if end > position {
                    return Poll::Ready(Some(end));
                }
                if log.poll_records(position, waker, &mut self.for_records) {
                    waker.wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        if !log.signal.watch(told, waker, &mut self.for_signal) {
            waker.wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        if let Some(place) = &self.for_records {
            let unused = self.log.append.lock().readers.remove(place);
            drop(unused);
        }
        self.log.signal.forget(&mut self.for_signal);
    }
}

/// Runs `body` in every interleaving in which a thread that could go on is interrupted up to twice,
/// which is enough to lose a wake-up that can be lost. (All of them would take hours where there
/// are three threads; `LOOM_MAX_PREEMPTIONS` sets how many to try.)
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(body);
}

/// Polls once, and drops the future.
fn give_up(log: &Log, position: u64) -> Poll<Option<u64>> {
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(&mut log.next(position)).poll(&mut context)
}

#[test]
fn a_reader_that_waits_is_woken_by_an_append() {
    model(|| {
        let log = Log::new();
        let appender = spawn(&log, Log::append);
        assert_eq!(log.poll(0), Some(1));
        appender.join().unwrap();
        assert!(!log.waits());
    });
}

#[test]
fn each_of_several_appends_is_seen() {
    model(|| {
        let log = Log::new();
        let appender = spawn(&log, |log| {
            log.append();
            log.append();
        });
        let mut position = 0;
        while position < 2 {
            position = log.poll(position).unwrap();
        }
        appender.join().unwrap();
        assert!(!log.waits());
    });
}

#[test]
fn a_reader_that_is_woken_returns_once_with_nothing_and_then_sees_the_records() {
    model(|| {
        let log = Log::new();
        let waker = spawn(&log, |log| log.signal.wake());
        let appender = spawn(&log, Log::append);
        let first = log.poll(0);
        let (position, woken) = (first.unwrap_or(0), first.is_none());
        if woken {
            assert_eq!(log.poll(position), Some(1));
        } else {
            assert_eq!(log.poll(position), None);
        }
        waker.join().unwrap();
        appender.join().unwrap();
        assert!(!log.waits());
    });
}

#[test]
fn a_stop_ends_the_wait_and_every_later_one() {
    model(|| {
        let log = Log::new();
        let stopper = spawn(&log, |log| log.signal.stop());
        let appender = spawn(&log, Log::append);
        let mut position = 0;
        while let Some(end) = log.poll(position) {
            position = end;
        }
        stopper.join().unwrap();
        appender.join().unwrap();
        assert_eq!(log.poll(0), None);
        assert!(!log.waits());
    });
}

#[test]
fn a_pause_that_ends_lets_the_reader_go_on() {
    model(|| {
        let log = Log::new();
        log.signal.pause();
        let resumer = spawn(&log, |log| log.signal.resume());
        let appender = spawn(&log, Log::append);
        assert_eq!(log.poll(0), Some(1));
        resumer.join().unwrap();
        appender.join().unwrap();
        assert!(!log.waits());
    });
}

#[test]
fn a_pause_while_somebody_waits_does_not_lose_the_end_of_it() {
    model(|| {
        let log = Log::new();
        let other = spawn(&log, |log| {
            log.signal.pause();
            log.append();
            log.signal.resume();
        });
        assert_eq!(log.poll(0), Some(1));
        other.join().unwrap();
        assert!(!log.waits());
    });
}

#[test]
fn a_wait_that_is_given_up_takes_nothing_with_it_and_leaves_nothing_behind() {
    model(|| {
        let log = Log::new();
        let appender = spawn(&log, Log::append);
        let waker = spawn(&log, |log| log.signal.wake());
        let given_up = give_up(&log, 0);
        assert!(given_up.is_ready() || !log.waits());
        if let Poll::Ready(None) = given_up {
            // The wake-up was meant for this poll; the record is for the next one.
            assert_eq!(log.poll(0), Some(1));
        } else {
            let first = log.poll(0);
            assert_eq!(log.poll(0).or(first), Some(1), "both come, in some order");
        }
        appender.join().unwrap();
        waker.join().unwrap();
        assert!(!log.waits());
    });
}

#[test]
fn one_append_wakes_all_who_wait() {
    model(|| {
        let log = Log::new();
        let other = spawn(&log, |log| assert_eq!(log.poll(0), Some(1)));
        let appender = spawn(&log, Log::append);
        assert_eq!(log.poll(0), Some(1));
        other.join().unwrap();
        appender.join().unwrap();
        assert!(!log.waits());
    });
}
