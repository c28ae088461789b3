//! Waiting for records with real threads, on real files.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use duralog::{Acks, Batch, Consumer, ConsumerBuilder, ConsumerHandle, NextBatch, Record};

use crate::common::{MODES, Scenario, eventually};

const PRODUCERS: usize = 3;
const EACH: usize = 2_000;
const MINUTE: Duration = Duration::from_secs(60);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The whole of a runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn is_send<T: Send>() {}
fn is_shared<T: Send + Sync + Clone>() {}

#[test]
fn a_task_that_waits_may_move_between_threads_and_a_handle_may_be_shared() {
    is_send::<NextBatch<'_>>();
    is_send::<Batch<'_>>();
    is_send::<Consumer>();
    is_shared::<ConsumerHandle>();
}

/// Sees all records, as a task and as a thread by turns; how often it was woken with nothing.
fn see_all(builder: ConsumerBuilder) -> usize {
    let mut consumer = builder.max_poll_records(7).build().unwrap();
    let (mut seen, mut empty, mut polls) = (0, 0, 0);
    while seen < PRODUCERS * EACH {
        polls += 1;
        let batch = if polls % 2 == 0 {
            consumer.poll(MINUTE)
        } else {
            block_on(consumer.next())
        };
        let batch = batch.unwrap();
        for record in &batch {
            assert_eq!(record.offset().unwrap(), seen as u64);
            seen += 1;
        }
        empty += usize::from(batch.is_empty());
    }
    empty
}

#[test]
fn tasks_and_threads_see_every_record_in_order_while_others_send() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let look = duralog::testing::open_read_only(scenario.host.clone(), scenario.path());
        let look = look.unwrap();
        thread::scope(|scope| {
            for builder in [
                log.consumer("written"),
                log.consumer("durable").durable_only(true),
                look.consumer("read-only"),
            ] {
                scope.spawn(|| assert_eq!(see_all(builder), 0, "nobody said so"));
            }
            for _ in 0..PRODUCERS {
                let producer = log.producer().acks(Acks::Written).build().unwrap();
                scope.spawn(move || {
                    for number in 0..EACH {
                        let acks = if number % 100 == 99 {
                            Acks::Durable
                        } else {
                            Acks::Written
                        };
                        let receipt = producer.send_with(Record::new("value"), acks).unwrap();
                        receipt.wait().unwrap();
                    }
                });
            }
        });
        log.close().unwrap();
    }
}

#[test]
fn wake_ups_from_many_threads_end_a_poll_each_at_most_and_skip_nothing() {
    const WAKE_UPS: usize = 500;
    let scenario = Scenario::new(MODES[0]);
    let log = scenario.open();
    let mut consumer = log.consumer("billing").build().unwrap();
    let handle = consumer.handle();
    thread::scope(|scope| {
        for _ in 0..2 {
            let handle = handle.clone();
            scope.spawn(move || {
                for _ in 0..WAKE_UPS {
                    handle.wake();
                    thread::yield_now();
                }
            });
        }
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        scope.spawn(move || {
            for _ in 0..EACH {
                drop(producer.send(Record::new("value")).unwrap());
            }
            handle.stop();
        });
        let handle = consumer.handle();
        let (mut seen, mut empty) = (0, 0);
        while !handle.is_stopped() {
            let batch = block_on(consumer.next()).unwrap();
            assert!(batch.iter().all(|record| {
                seen += 1;
                record.offset().unwrap() == seen - 1
            }));
            empty += usize::from(batch.is_empty());
        }
        assert!(empty <= 2 * WAKE_UPS + 1, "{empty}");
        assert_eq!(consumer.position(), seen);
    });
}

#[test]
fn the_thread_that_looks_for_tasks_ends_when_nobody_waits_and_with_the_log() {
    let scenario = Scenario::new(MODES[0]);
    scenario.open().close().unwrap();
    let open = || {
        let look = duralog::testing::open_read_only(scenario.host.clone(), scenario.path());
        look.unwrap()
    };
    let look = open();
    let mut reader = look.reader().build().unwrap();
    assert_eq!(scenario.host.threads(), 0);
    for _ in 0..2 {
        let mut next = pin!(reader.next());
        let waker = Waker::noop();
        assert!(
            next.as_mut()
                .poll(&mut Context::from_waker(waker))
                .is_pending()
        );
        assert_eq!(scenario.host.threads(), 1);
    }
    eventually("the thread ends", || scenario.host.threads() == 0);
    drop((reader, look));

    let mut reader = open().reader().build().unwrap();
    let mut next = Box::pin(reader.next());
    let waker = Waker::noop();
    assert!(
        next.as_mut()
            .poll(&mut Context::from_waker(waker))
            .is_pending()
    );
    drop(next);
    drop(reader);
    eventually("the thread ends with its log", || {
        scenario.host.threads() == 0
    });
}
