//! Waiting for a record of a buffered producer: by thread, for some time, as a future.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use duralog::{
    Acks, Receipt, Record, WaitError,
    testing::{
        Parker, Threads,
        sim::{Call, Effect, Fault},
    },
};

use super::common::{HOUR, LINGER, lingering, send_values};
use crate::{
    common::{ENOSPC, in_both_modes, run},
    sim::world::World,
};

fn block_on(world: &World, receipt: Receipt) -> duralog::Result<duralog::Offset> {
    let parker: Box<dyn Parker> = world.machine.parker();
    let waker = parker.waker();
    let mut receipt = pin!(receipt);
    loop {
        match receipt.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => parker.park(None),
        }
    }
}

#[test]
fn receipts_are_awaited_without_a_runtime() {
    in_both_modes(0..10, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            for acks in [Acks::Written, Acks::Durable] {
                let builder = log.producer().acks(acks).linger(LINGER);
                let producer = builder.batch_bytes(200).build().unwrap();
                let threads: Vec<_> = (0..3)
                    .map(|_| {
                        let (producer, log) = (producer.clone(), log.clone());
                        world.spawn("task", move |world| {
                            for _ in 0..4 {
                                let receipt = producer.send(Record::new("awaited")).unwrap();
                                let offset = block_on(world, receipt).unwrap();
                                let end = match acks {
                                    Acks::Durable => log.durable_offset(),
                                    _ => log.log_end_offset(),
                                };
                                assert!(offset < end);
                            }
                        })
                    })
                    .collect();
                for thread in threads {
                    thread.join();
                }
            }
            assert_eq!(log.log_end_offset(), 24);
        });
    });
}

#[test]
fn an_error_reaches_each_receipt_of_the_batch_however_it_waits() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = lingering(&log).delivery_timeout(LINGER * 2).linger(LINGER);
            let producer = builder.build().unwrap();
            world
                .machine
                .inject(&Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC)));
            world.machine.set_free(Some(0));
            // Fills what there is room for.
            while producer
                .send(Record::new(vec![b'x'; 500]))
                .unwrap()
                .wait()
                .is_ok()
            {}
            let mut receipts = send_values(&producer, "fails", 0..3, 3000).1.into_iter();
            let mut next = || receipts.next().unwrap();
            let errors = [
                next().wait().unwrap_err(),
                block_on(world, next()).unwrap_err(),
                match next().wait_timeout(HOUR) {
                    Err(WaitError::Failed(error)) => error,
                    other => panic!("{other:?}"),
                },
            ];
            for error in errors {
                let source = std::error::Error::source(&error).unwrap();
                assert!(source.to_string().contains("no space left"), "{source}");
            }
        });
    });
}

#[test]
fn a_wait_for_some_time_hands_the_receipt_back_when_it_is_over() {
    in_both_modes(0..6, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = log.producer().linger(HOUR / 2).delivery_timeout(HOUR);
            let producer = builder.build().unwrap();
            let mut receipt = producer.send(Record::new("lingers")).unwrap();
            for _ in 0..3 {
                let began = world.now();
                let error = receipt.wait_timeout(Duration::from_secs(5)).unwrap_err();
                assert!((5..7).contains(&world.now().saturating_sub(began).as_secs()));
                receipt = error.into_receipt().unwrap();
                assert_eq!(receipt.offset(), None);
            }
            assert_eq!(receipt.wait_timeout(HOUR).unwrap(), 0);
            assert_eq!(log.durable_offset(), 1);
        });
    });
}

#[test]
fn a_direct_receipt_is_waited_for_without_leading_a_sync() {
    in_both_modes(0..6, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let producer = log.producer().build().unwrap();
            for number in 0..5_u64 {
                let receipt = producer.send(Record::new("direct")).unwrap();
                assert_eq!(receipt.wait_timeout(HOUR).unwrap(), number);
                assert_eq!(log.durable_offset(), number + 1);
            }
            let receipt = producer.send(Record::new("no time")).unwrap();
            let receipt = match receipt.wait_timeout(Duration::ZERO) {
                Ok(_) => return,
                Err(error) => error.into_receipt().unwrap(),
            };
            assert_eq!(receipt.offset().unwrap(), 5);
            assert_eq!(receipt.wait().unwrap(), 5);
            let written = producer
                .send_with(Record::new("written"), Acks::Written)
                .unwrap();
            assert_eq!(written.wait_timeout(Duration::ZERO).unwrap(), 6);
        });
    });
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_receipt_dropped_between_two_polls_leaves_nothing_behind() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            // Until it is flushed, however long this thread waits for its turn.
            let builder = lingering(&log).linger(Duration::from_secs(100));
            let producer = builder.build().unwrap();
            let count = Arc::new(Count::default());
            let waker = Waker::from(Arc::clone(&count));
            let mut context = Context::from_waker(&waker);
            for polls in 0..5 {
                let mut receipt = Box::pin(producer.send(Record::new("dropped")).unwrap());
                for _ in 0..polls {
                    assert!(receipt.as_mut().poll(&mut context).is_pending());
                }
            }
            let mut kept = Box::pin(producer.send(Record::new("kept")).unwrap());
            for _ in 0..3 {
                assert!(kept.as_mut().poll(&mut context).is_pending());
            }
            producer.flush().unwrap();
            assert_eq!(
                count.0.load(Ordering::SeqCst),
                1,
                "only the one that is kept"
            );
            assert!(matches!(
                kept.as_mut().poll(&mut context),
                Poll::Ready(Ok(_))
            ));
            drop(waker);
            assert_eq!(Arc::strong_count(&count), 1);
        });
    });
}
