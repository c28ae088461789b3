//! Callbacks, flush, close and drop.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use duralog::{
    Acks, ErrorKind, Producer, Record,
    testing::sim::{Call, Effect, Fault},
};

use super::common::{Book, HOUR, in_order, lingering, not_acknowledged, noting, send_values};
use crate::{
    common::{ENOSPC, in_both_modes, run, see, written},
    sim::world::World,
};

/// Nothing more is written.
fn fill(world: &World) {
    world
        .machine
        .inject(&Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC)));
    world.machine.set_free(Some(0));
}

#[test]
fn a_panic_in_the_callback_is_contained_and_counted() {
    in_both_modes(0..3, |case| {
        let world = case.world();
        world.machine.run(|| {
            let log = world.open();
            let book = Book::default();
            let noted = book.clone();
            let builder = lingering(&log).on_completion(move |delivery| {
                noted.note(delivery);
                assert!(delivery.result().unwrap().get() % 3 != 0, "on purpose");
            });
            let producer = builder.build().unwrap();
            let sent = send_values(&producer, "panic", 0..10, 40).0;
            producer.flush().unwrap();
            assert_eq!(book.written(), in_order(&sent));
            let stats = producer.stats().unwrap();
            assert_eq!((stats.callback_panics, stats.records_acknowledged), (4, 10));
            drop(producer);
            log.close().unwrap();
        });
        let problems = world.machine.problems();
        assert_eq!(problems.len(), 4, "{problems:?}");
    });
}

/// Panics when it is dropped.
struct Trap;

impl Drop for Trap {
    fn drop(&mut self) {
        panic!("on purpose, once more");
    }
}

#[test]
fn a_panic_whose_payload_panics_in_turn_does_not_end_the_producer() {
    in_both_modes(0..2, |case| {
        let world = case.world();
        world.machine.run(|| {
            let log = world.open();
            let builder = lingering(&log).on_completion(|_| std::panic::panic_any(Trap));
            let producer = builder.build().unwrap();
            let sent = send_values(&producer, "trap", 0..3, 40).0;
            producer.flush().unwrap();
            assert_eq!(producer.stats().unwrap().callback_panics, 3);
            drop(producer);
            log.close().unwrap();
            assert_eq!(see(&world.open()).records.len(), sent.len());
        });
    });
}

#[test]
fn a_flush_returns_when_everything_sent_is_acknowledged_at_its_level() {
    in_both_modes(0..8, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            for acks in [Acks::None, Acks::Written, Acks::Durable] {
                let before = log.log_end_offset().get();
                let builder = log
                    .producer()
                    .acks(acks)
                    .linger(HOUR)
                    .delivery_timeout(HOUR);
                let producer = builder.build().unwrap();
                let clone = producer.clone();
                let thread = world.spawn("other", move |_| {
                    drop(send_values(&clone, "other", 0..10, 30));
                });
                let receipts = send_values(&producer, "here", 0..10, 30).1;
                thread.join();
                producer.flush().unwrap();
                assert!(receipts.iter().all(|receipt| receipt.offset().is_some()));
                assert_eq!(log.log_end_offset().get(), before + 20);
                let durable = log.durable_offset().get();
                assert_eq!(durable == before + 20, acks == Acks::Durable, "{acks:?}");
                producer.flush().unwrap();
            }
        });
    });
}

#[test]
fn a_flush_of_a_direct_producer_syncs_what_nobody_waited_for() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let producer = written(&log);
            drop(producer.send(Record::new("written")).unwrap());
            producer.flush().unwrap();
            assert_eq!(
                (log.log_end_offset(), log.durable_offset().get()),
                (1.into(), 0)
            );
            let clone = producer.clone();
            std::mem::forget(
                clone
                    .send_with(Record::new("durable"), Acks::Durable)
                    .unwrap(),
            );
            producer.flush().unwrap();
            assert_eq!(log.durable_offset(), 2);
            let durable = log.producer().build().unwrap();
            std::mem::forget(durable.send(Record::new("durable")).unwrap());
            durable.close(HOUR).unwrap();
            assert_eq!(log.durable_offset(), 3);
            assert!(producer.stats().is_none());
        });
    });
}

#[test]
fn a_close_sends_what_lingers_and_refuses_what_comes_later() {
    in_both_modes(0..6, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (builder, book) = noting(&log);
            let producer = builder.linger(HOUR).delivery_timeout(HOUR).build().unwrap();
            let (sent, receipts) = send_values(&producer, "close", 0..10, 30);
            let clone = producer.clone();
            let began = world.now();
            producer.close(HOUR).unwrap();
            assert!(world.now().saturating_sub(began) < Duration::from_secs(2));
            assert_eq!(see(&log).records, in_order(&sent));
            assert_eq!(book.written(), in_order(&sent));
            for receipt in receipts {
                receipt.wait().unwrap();
            }
            let failed = clone.send(Record::new("later")).unwrap_err();
            assert!(matches!(failed.error().kind(), ErrorKind::Closed));
            assert_eq!(failed.record(), &Record::new("later"));
            clone.flush().unwrap();
            clone.close(HOUR).unwrap();
            written(&log)
                .send(Record::new("others"))
                .unwrap()
                .wait()
                .unwrap();
        });
    });
}

#[test]
fn what_a_close_cannot_send_in_time_fails_and_is_counted() {
    in_both_modes(0..6, |case| {
        for timeout in [Duration::ZERO, Duration::from_secs(3)] {
            run(&case.world(), |world| {
                let log = world.open();
                let (builder, book) = noting(&log);
                let builder = builder.batch_bytes(1500).delivery_timeout(HOUR);
                let producer = builder.build().unwrap();
                fill(world);
                let (sent, receipts) = send_values(&producer, "close", 0..30, 700);
                let began = world.now();
                let error = producer.close(timeout).unwrap_err();
                assert!(world.now().saturating_sub(began) < timeout + Duration::from_secs(1));
                let records = see(&log).records;
                assert_eq!(
                    not_acknowledged(&error),
                    (sent.len() - records.len()) as u64
                );
                assert_eq!((book.values(), book.written()), (sent, records));
                let acked = receipts
                    .into_iter()
                    .filter_map(|receipt| receipt.wait().ok());
                assert_eq!(acked.count(), book.written().len());
            });
        }
    });
}

/// How a program lets go of a producer.
type End = fn(Producer, duralog::Log) -> duralog::Result<()>;

const ENDS: [(&str, End); 3] = [
    ("the last clone is dropped", |producer, log| {
        drop(producer);
        drop(log);
        Ok(())
    }),
    ("the log is closed", |producer, log| {
        let closed = log.close();
        drop(producer);
        closed
    }),
    ("the log is dropped first", |producer, log| {
        drop(log);
        drop(producer);
        Ok(())
    }),
];

#[test]
fn what_lingers_is_written_however_the_producer_ends() {
    in_both_modes(0..4, |case| {
        for (name, end) in ENDS {
            crate::common::told(name, || {
                let (sent, book, disk) = run(&case.world(), |world| {
                    let log = world.open();
                    let (builder, book) = noting(&log);
                    let producer = builder.linger(HOUR).delivery_timeout(HOUR).build().unwrap();
                    let (sent, receipts) = send_values(&producer, "ends", 0..10, 40);
                    end(producer, log).unwrap();
                    for receipt in receipts {
                        receipt.wait().unwrap();
                    }
                    (sent, book, world.machine.process_crash())
                });
                assert_eq!(book.written(), in_order(&sent));
                case.reopen(&disk, |_, log| {
                    assert!(log.recovery().clean);
                    assert_eq!(see(log).records, in_order(&sent));
                });
            });
        }
    });
}

#[test]
fn what_cannot_be_written_when_the_producer_ends_is_tried_once_and_told() {
    in_both_modes(0..4, |case| {
        for (name, end) in ENDS {
            crate::common::told(name, || {
                let (sent, book, disk) = run(&case.world(), |world| {
                    let log = world.open();
                    let (builder, book) = noting(&log);
                    let builder = builder.linger(HOUR).batch_bytes(1500);
                    let producer = builder.delivery_timeout(HOUR).build().unwrap();
                    fill(world);
                    let (sent, receipts) = send_values(&producer, "ends", 0..30, 700);
                    let began = world.now();
                    let ended = end(producer, log);
                    assert!(
                        world.now().saturating_sub(began) < Duration::from_secs(2),
                        "no retries"
                    );
                    let failed = receipts
                        .into_iter()
                        .filter_map(|receipt| receipt.wait().err());
                    let failed = failed.count() as u64;
                    assert!(failed > 0);
                    if let Err(error) = ended {
                        assert_eq!(not_acknowledged(&error), failed);
                    } else {
                        assert_ne!(name, "the log is closed");
                    }
                    (sent, book, world.machine.process_crash())
                });
                assert_eq!(book.values(), sent);
                assert_eq!(case.read(&disk).records, book.written());
            });
        }
    });
}

#[test]
fn a_close_of_the_log_beside_threads_that_send_loses_nothing_unsaid() {
    in_both_modes(0..12, |case| {
        let (book, taken, disk) = run(&case.world(), |world| {
            let log = world.open();
            let (builder, book) = noting(&log);
            let producer = builder.batch_bytes(300).build().unwrap();
            let taken = Arc::new(Mutex::new(0_usize));
            let threads: Vec<_> = (0..2)
                .map(|thread| {
                    let (producer, taken) = (producer.clone(), Arc::clone(&taken));
                    world.spawn("sender", move |_| {
                        for number in 0..100 {
                            let value = crate::sim::world::value(&format!("t{thread}"), number, 60);
                            if producer.send(Record::new(value)).is_err() {
                                return;
                            }
                            *taken.lock().unwrap() += 1;
                        }
                    })
                })
                .collect();
            world
                .machine
                .sleep(Duration::from_micros(100 + case.seed * 40));
            log.close().unwrap();
            for thread in threads {
                thread.join();
            }
            drop(producer);
            let taken = *taken.lock().unwrap();
            (book, taken, world.machine.process_crash())
        });
        assert_eq!(book.told().len(), taken);
        assert_eq!(book.written().len(), taken);
        assert_eq!(case.read(&disk).records, book.written());
    });
}

#[test]
fn a_callback_may_send_and_is_refused_what_would_wait_for_itself() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let own: Arc<OnceLock<Producer>> = Arc::default();
            let (of_callback, errors) = (Arc::clone(&own), Arc::new(Mutex::new(Vec::new())));
            let noted = Arc::clone(&errors);
            let builder = lingering(&log)
                .buffer_bytes(2000)
                .on_completion(move |delivery| {
                    let Some(producer) = of_callback.get() else {
                        return;
                    };
                    if delivery.record().key().is_none() {
                        drop(producer.send(Record::new("answer").key("answer")).unwrap());
                        let large = producer.send(Record::new(vec![b'x'; 1700])).unwrap_err();
                        let mut errors = noted.lock().unwrap();
                        errors.push(large.into_parts().1);
                        errors.push(producer.flush().unwrap_err());
                    }
                });
            own.set(builder.build().unwrap()).unwrap();
            let producer = own.get().unwrap();
            drop(producer.send(Record::new("question")).unwrap());
            world.machine.sleep(Duration::from_secs(5));
            let values: Vec<_> = see(&log)
                .records
                .into_iter()
                .map(|(_, value)| value)
                .collect();
            assert_eq!(values, ["question", "answer"]);
            let errors = errors.lock().unwrap();
            assert!(errors[0].is_buffer_full(), "{errors:?}");
            assert!(matches!(errors[1].kind(), ErrorKind::CalledBack));
            producer.flush().unwrap();
        });
    });
}

#[test]
fn a_callback_that_drops_the_last_handles_ends_all_in_order() {
    in_both_modes(0..8, |case| {
        let (sent, book, disk) = run(&case.world(), |world| {
            let log = world.open();
            let book = Book::default();
            let noted = book.clone();
            let held: Arc<Mutex<Option<Producer>>> = Arc::default();
            let of_callback = Arc::clone(&held);
            let builder = lingering(&log)
                .batch_bytes(200)
                .on_completion(move |delivery| {
                    noted.note(delivery);
                    drop(of_callback.lock().unwrap().take());
                });
            let producer = builder.build().unwrap();
            let (sent, receipts) = send_values(&producer, "held", 0..10, 90);
            *held.lock().unwrap() = Some(producer);
            drop(log);
            for receipt in receipts {
                drop(receipt.wait());
            }
            world.machine.sleep(Duration::from_secs(5));
            (sent, book, world.machine.process_crash())
        });
        assert_eq!(book.values(), sent);
        assert_eq!(case.read(&disk).records, book.written());
    });
}

#[test]
fn options_that_contradict_each_other_are_refused_by_name() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let ms = Duration::from_millis;
            let direct = || log.producer();
            let refused = [
                ("batch_bytes", direct().batch_bytes(100)),
                ("buffer_bytes", direct().buffer_bytes(10_000)),
                ("max_block", direct().max_block(HOUR)),
                ("on_completion", direct().on_completion(|_| ())),
                ("retry_backoff", direct().retry_backoff(ms(5))),
                ("retry_backoff_max", direct().retry_backoff_max(ms(5))),
                (
                    "delivery_timeout",
                    direct().delivery_timeout(Duration::ZERO),
                ),
                ("batch_bytes", lingering(&log).batch_bytes(0)),
                ("batch_bytes", lingering(&log).batch_bytes(1 << 20)),
                (
                    "batch_bytes",
                    lingering(&log).batch_bytes(2000).buffer_bytes(2000),
                ),
                ("buffer_bytes", lingering(&log).buffer_bytes(100)),
                ("linger", lingering(&log).delivery_timeout(ms(5))),
                (
                    "retry_backoff",
                    lingering(&log).retry_backoff(Duration::ZERO),
                ),
                (
                    "retry_backoff_max",
                    lingering(&log)
                        .retry_backoff(ms(9))
                        .retry_backoff_max(ms(8)),
                ),
            ];
            for (expected, builder) in refused {
                let error = builder.build().unwrap_err();
                match error.kind() {
                    ErrorKind::InvalidOption { name, .. } => assert_eq!(*name, expected),
                    other => panic!("{expected}: {other:?}"),
                }
            }
            let fault = Fault::once(Call::Spawn, "duralog-producer", Effect::Fail(11));
            world.machine.inject(&fault);
            let error = lingering(&log).build().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Io { .. }) && fault.fired() == 1);
            let caught = catch_unwind(AssertUnwindSafe(|| lingering(&log).build().unwrap()));
            assert!(caught.is_ok());
        });
    });
}
