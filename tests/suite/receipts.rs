//! Waiting for durability: by thread, as a future, or not at all.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
};

use duralog::{Acks, Record, WriteMode};

use crate::common::{Fault, MODES, Op, Scenario, eventually};

/// Wakes a thread, and counts.
struct Unpark {
    thread: thread::Thread,
    wakes: AtomicUsize,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        wakes: AtomicUsize::new(0),
    });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

#[test]
fn a_durable_receipt_is_durable_once_it_was_waited_for() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().build().unwrap();
        let receipt = producer.send(Record::new("a")).unwrap();
        assert_eq!(receipt.offset().unwrap(), 0, "written already");
        assert_eq!(receipt.wait().unwrap(), 0);
        assert_eq!(log.durable_offset(), 1);
    }
}

#[test]
fn a_durable_receipt_can_be_awaited_without_a_runtime() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().build().unwrap();
        for number in 0..20_u64 {
            let offset = block_on(producer.send(Record::new("a")).unwrap()).unwrap();
            assert_eq!(offset, number);
            assert_eq!(log.durable_offset(), number + 1);
        }
    }
}

#[test]
fn many_receipts_that_are_awaited_together_share_syncs() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let producer = log.producer().build().unwrap();
    let receipts: Vec<_> = (0..100)
        .map(|_| producer.send(Record::new("a")).unwrap())
        .collect();
    for receipt in receipts {
        block_on(receipt).unwrap();
    }
    assert!(log.stats().syncs < 10, "{} syncs", log.stats().syncs);
}

#[test]
fn a_receipt_dropped_in_the_middle_of_a_poll_leaves_nothing_behind() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let producer = log.producer().build().unwrap();
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        wakes: AtomicUsize::new(0),
    });
    let waker = Waker::from(Arc::clone(&unpark));
    for _ in 0..100 {
        let mut receipt = Box::pin(producer.send(Record::new("a")).unwrap());
        let polled = receipt.as_mut().poll(&mut Context::from_waker(&waker));
        drop((polled, receipt));
    }
    log.sync().unwrap();
    drop(waker);
    eventually("no waiter holds the waker", || {
        Arc::strong_count(&unpark) == 1
    });
}

#[test]
fn a_durable_send_that_nobody_waits_for_is_synced_in_the_background() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().acks(Acks::Durable).build().unwrap();
        drop(producer.send(Record::new("a")).unwrap());
        eventually("the background sync", || log.durable_offset() == 1);
    }
}

#[test]
fn a_written_receipt_is_ready_at_once_and_asks_for_no_sync() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let receipt = producer.send(Record::new("a")).unwrap();
    assert_eq!(block_on(receipt).unwrap(), 0);
    let receipt = producer.send_with(Record::new("b"), Acks::None).unwrap();
    assert_eq!(receipt.wait().unwrap(), 1);
    assert_eq!(log.stats().syncs, 0);
}

#[test]
fn threads_that_wait_at_the_same_time_share_syncs() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        thread::scope(|scope| {
            for _ in 0..8 {
                let producer = log.producer().build().unwrap();
                scope.spawn(move || {
                    for _ in 0..100 {
                        producer.send(Record::new("a")).unwrap().wait().unwrap();
                    }
                });
            }
        });
        assert_eq!(log.durable_offset(), 800);
        assert!(log.stats().syncs < 800, "{} syncs", log.stats().syncs);
    }
}

#[test]
fn every_waiter_is_told_when_the_sync_fails() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let fault = Fault::once(Op::Sync, ".log", 5);
        scenario.host.inject(&fault);
        let errors = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..8 {
                let (producer, errors) = (log.producer().build().unwrap(), &errors);
                scope.spawn(move || {
                    let outcome = match producer.send(Record::new("a")) {
                        Err(failed) => Err(failed.into_parts().1),
                        Ok(receipt) if number % 2 == 0 => receipt.wait(),
                        Ok(receipt) => block_on(receipt),
                    };
                    assert!(outcome.unwrap_err().is_latched());
                    errors.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!((fault.fired(), errors.into_inner()), (1, 8));
    }
}
