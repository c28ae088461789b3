//! What is tried again, for how long, and in which order.

use std::time::Duration;

use duralog::{
    ErrorKind, Record,
    testing::sim::{Call, Effect, Fault},
};

use super::common::{HOUR, LINGER, in_order, not_acknowledged, noting, send_values};
use crate::{
    common::{EIO, ENOSPC, in_both_modes, run, see, written},
    sim::world::value,
};

const EINTR: i32 = 4;

#[test]
fn a_disk_that_fills_and_is_freed_again_loses_and_repeats_nothing() {
    in_both_modes(0..8, |case| {
        let (sent, disk) = run(&case.world(), |world| {
            let log = world.open();
            let (builder, book) = noting(&log);
            let producer = builder
                .batch_bytes(1000)
                .delivery_timeout(HOUR)
                .build()
                .unwrap();
            let mut sent = Vec::new();
            for round in 0..3 {
                world.machine.set_free(Some(9000));
                sent.extend(send_values(&producer, &format!("round{round}"), 0..150, 250).0);
                world.machine.sleep(Duration::from_secs(20));
                assert!(log.log_end_offset().get() < sent.len() as u64, "it is full");
                world.machine.set_free(None);
                producer.flush().unwrap();
                assert_eq!(log.log_end_offset().get(), sent.len() as u64);
            }
            let stats = producer.stats().unwrap();
            assert!((3..200).contains(&stats.retries), "{stats:?}");
            assert_eq!((stats.records_acknowledged, stats.records_failed), (450, 0));
            assert_eq!(book.written(), in_order(&sent));
            (sent, world.machine.process_crash())
        });
        assert_eq!(case.read(&disk).records, in_order(&sent));
    });
}

#[test]
fn what_is_not_written_in_time_fails_once_and_what_follows_is_tried_on() {
    in_both_modes(0..8, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (builder, book) = noting(&log);
            let builder = builder
                .batch_bytes(700)
                .delivery_timeout(Duration::from_secs(4));
            let producer = builder.build().unwrap();
            let (mut sent, mut receipts) = send_values(&producer, "before", 0..4, 200);
            producer.flush().unwrap();
            world.machine.set_free(Some(0));
            let fault = Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC));
            world.machine.inject(&fault);
            for second in 0..8 {
                let more = send_values(&producer, &format!("second{second}"), 0..30, 600);
                sent.extend(more.0);
                receipts.extend(more.1);
                world.machine.sleep(Duration::from_secs(1));
            }
            world.machine.set_free(None);
            world.machine.lift_faults();
            let failed = producer.flush().unwrap_err();
            let records = see(&log).records;
            let lost = sent.len() - records.len();
            assert!((1..240).contains(&lost) && fault.fired() > 0, "{lost}");
            assert_eq!(not_acknowledged(&failed), lost as u64);
            producer.flush().unwrap();

            assert_eq!(book.values(), sent, "each once, in order");
            assert_eq!(book.written(), records);
            for ((_, told), receipt) in book.told().into_iter().zip(receipts) {
                match (told, receipt.wait()) {
                    (Ok(offset), Ok(of_receipt)) => assert_eq!(of_receipt, offset),
                    (Err(_), Err(error)) => match error.kind() {
                        ErrorKind::DeliveryTimeout { after, source } => {
                            assert!(source.is_storage_full(), "{source}");
                            assert_eq!(*after, Duration::from_secs(4));
                        }
                        other => panic!("{other:?}"),
                    },
                    (told, of_receipt) => panic!("{told:?} and {of_receipt:?}"),
                }
            }
            let stats = producer.stats().unwrap();
            assert_eq!(stats.records_failed, lost as u64);
            assert_eq!(stats.records_acknowledged, records.len() as u64);
            assert_eq!(log.stats().failed_sends, lost as u64);
        });
    });
}

#[test]
fn a_signal_in_between_is_tried_again_and_other_errors_are_not() {
    in_both_modes(0..4, |case| {
        for (number, retried) in [(EINTR, true), (EIO, false)] {
            run(&case.world(), |world| {
                let log = world.open();
                let (builder, book) = noting(&log);
                let producer = builder.batch_bytes(700).build().unwrap();
                let fault = Fault::once(Call::Rename, ".log", Effect::Fail(number));
                world.machine.inject(&fault);
                let (sent, receipts) = send_values(&producer, "rolls", 0..30, 600);
                let flushed = producer.flush();
                assert_eq!(fault.fired(), 1);
                drop(receipts);
                let records = see(&log).records;
                assert_eq!(book.values(), sent);
                assert_eq!(book.written(), records);
                let stats = producer.stats().unwrap();
                if retried {
                    flushed.unwrap();
                    assert_eq!((stats.retries, records.len()), (1, 30));
                } else {
                    let lost = not_acknowledged(&flushed.unwrap_err());
                    assert_eq!((stats.retries, lost), (0, 30 - records.len() as u64));
                    assert!(lost > 0);
                }
            });
        }
    });
}

#[test]
fn what_was_written_before_a_failure_is_told_before_it_and_does_not_wait_for_its_end() {
    in_both_modes(0..6, |case| {
        for (number, retried) in [(ENOSPC, true), (EIO, false)] {
            run(&case.world(), |world| {
                let log = world.open();
                let (builder, book) = noting(&log);
                let builder = builder.acks(duralog::Acks::Durable).batch_bytes(700);
                let producer = builder.delivery_timeout(HOUR).build().unwrap();
                let fault = Fault::always(Call::Rename, ".log", Effect::Fail(number));
                world.machine.inject(&fault);
                let (sent, receipts) = send_values(&producer, "rolls", 0..30, 600);
                world.machine.sleep(Duration::from_secs(5));
                assert!(fault.fired() > 0);
                let end = usize::try_from(log.log_end_offset().get()).unwrap();
                assert!((1..30).contains(&end), "{end}");
                for receipt in receipts.into_iter().take(end) {
                    receipt.wait_timeout(Duration::ZERO).unwrap();
                }
                world.machine.lift_faults();
                assert_eq!(producer.flush().is_ok(), retried);
                assert_eq!(book.values(), sent);
            });
        }
    });
}

#[test]
fn tries_are_further_and_further_apart() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (builder, _) = noting(&log);
            let builder = builder.retry_backoff(Duration::from_millis(50));
            let builder = builder.retry_backoff_max(Duration::from_secs(2));
            let producer = builder.delivery_timeout(HOUR).build().unwrap();
            world.machine.set_free(Some(0));
            world
                .machine
                .inject(&Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC)));
            drop(send_values(&producer, "waits", 0..60, 600));
            world.machine.sleep(Duration::from_secs(1));
            let early = producer.stats().unwrap().retries;
            assert!((2..=7).contains(&early), "{early}");
            world.machine.sleep(Duration::from_secs(100));
            let late = producer.stats().unwrap().retries - early;
            assert!((45..=70).contains(&late), "{late}");
        });
    });
}

#[test]
fn a_failed_sync_fails_who_waited_for_it_and_nobody_else() {
    in_both_modes(0..6, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (builder, book) = noting(&log);
            let producer = builder.build().unwrap();
            let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync);
            world.machine.inject(&fault);
            let (_, written) = send_values(&producer, "written", 0..2, 50);
            let durable = producer
                .send_with(Record::new("durable"), duralog::Acks::Durable)
                .unwrap();
            let (_, behind) = send_values(&producer, "behind", 0..2, 50);
            let error = producer.flush().unwrap_err();
            assert_eq!((not_acknowledged(&error), fault.fired()), (1, 1));
            for (offset, receipt) in [0_u64, 1, 3, 4]
                .into_iter()
                .zip(written.into_iter().chain(behind))
            {
                assert_eq!(receipt.wait().unwrap(), offset);
            }
            assert_eq!(durable.offset().unwrap(), 2, "it is written");
            assert!(durable.wait().unwrap_err().is_latched());
            // From now on nothing is taken in, and nothing is tried again.
            let later = send_values(&producer, "later", 0..3, 50);
            assert_eq!(not_acknowledged(&producer.flush().unwrap_err()), 3);
            assert!(
                later
                    .1
                    .into_iter()
                    .all(|receipt| receipt.wait().unwrap_err().is_latched())
            );
            let told = book.told();
            let failed: Vec<_> = told.iter().map(|(_, result)| result.is_err()).collect();
            assert_eq!(failed, [false, false, true, false, false, true, true, true]);
            assert_eq!(producer.stats().unwrap().retries, 0);
        });
    });
}

#[test]
fn a_direct_producer_hands_back_at_once_unless_it_is_told_to_try_again() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let patient = log.producer().acks(duralog::Acks::Written);
            let patient = patient
                .delivery_timeout(Duration::from_secs(5))
                .build()
                .unwrap();
            let hasty = written(&log);
            let fault = Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC));
            world.machine.inject(&fault);
            world.machine.set_free(Some(0));
            let mut sent = Vec::new();
            let failed = (0..).find_map(|number| {
                let value = value("hasty", number, 600);
                let began = world.now();
                let failed = hasty.send(Record::new(value.as_str())).err();
                assert!(world.now().saturating_sub(began) < Duration::from_secs(1));
                sent.push(value);
                failed
            });
            sent.pop();
            assert!(failed.unwrap().error().is_storage_full());
            let began = world.now();
            let failed = patient.send(Record::new(vec![b'x'; 600])).unwrap_err();
            let is_timeout = matches!(failed.error().kind(), ErrorKind::DeliveryTimeout { .. });
            assert!(is_timeout, "{failed}");
            let waited = world.now().saturating_sub(began);
            assert!((5..8).contains(&waited.as_secs()), "{waited:?}");
            assert_eq!(log.log_end_offset().get(), sent.len() as u64);

            // Several wait; once there is space all of them are written, those of each in order.
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    let patient = patient.clone();
                    world.spawn("patient", move |_| {
                        for number in 0..4 {
                            let value = value(&format!("patient{thread}"), number, 600);
                            drop(patient.send(Record::new(value)).unwrap());
                        }
                    })
                })
                .collect();
            world.machine.sleep(Duration::from_secs(2));
            world.machine.set_free(None);
            world.machine.lift_faults();
            for thread in threads {
                thread.join();
            }
            let records = see(&log).records;
            assert_eq!(records.len(), sent.len() + 12);
            for thread in 0..3 {
                let name = format!("patient{thread}-");
                let of_thread = records.iter().filter(|(_, value)| value.starts_with(&name));
                let numbers: Vec<_> = of_thread.map(|(_, value)| &value[9..13]).collect();
                assert!(numbers.len() == 4 && numbers.is_sorted(), "{numbers:?}");
            }
        });
    });
}

#[test]
fn nothing_overtakes_the_send_of_a_direct_producer_that_is_tried_again() {
    in_both_modes(0..8, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let patient = log.producer().acks(duralog::Acks::Written);
            let patient = patient.delivery_timeout(HOUR).build().unwrap();
            world.machine.set_free(Some(0));
            let fault = Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC));
            world.machine.inject(&fault);
            let first = patient.clone();
            let first = world.spawn("first", move |_| {
                for number in 0..60 {
                    drop(
                        first
                            .send(Record::new(value("large", number, 900)))
                            .unwrap(),
                    );
                }
            });
            world.machine.sleep(Duration::from_secs(60));
            assert!(fault.fired() > 0);
            let tried = log.log_end_offset().get();
            // There would be room for these.
            let small = patient.clone();
            let small = world.spawn("small", move |_| {
                drop(small.send(Record::new("small")).unwrap());
            });
            world.machine.sleep(Duration::from_secs(60));
            assert_eq!(log.log_end_offset().get(), tried, "it waits");
            world.machine.set_free(None);
            world.machine.lift_faults();
            first.join();
            small.join();
            let records = see(&log).records;
            let at = |wanted: &str| {
                records
                    .iter()
                    .find(|(_, value)| value.starts_with(wanted))
                    .unwrap()
                    .0
            };
            assert!(at("small") > at(&format!("large-{tried:04}")), "{tried}");
        });
    });
}

#[test]
fn a_batch_that_lingers_waits_its_turn_behind_one_that_is_tried_again() {
    in_both_modes(0..8, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (builder, book) = noting(&log);
            let producer = builder
                .batch_bytes(2000)
                .delivery_timeout(HOUR)
                .build()
                .unwrap();
            world.machine.set_free(Some(0));
            world
                .machine
                .inject(&Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC)));
            let mut sent = send_values(&producer, "large", 0..30, 1000).0;
            world.machine.sleep(Duration::from_secs(5));
            let end = log.log_end_offset();
            for number in 0..5 {
                sent.extend(send_values(&producer, "small", number..number + 1, 16).0);
                world.machine.sleep(LINGER * 4);
            }
            assert_eq!(log.log_end_offset(), end, "a small one would have had room");
            world.machine.set_free(None);
            world.machine.lift_faults();
            producer.flush().unwrap();
            assert_eq!(see(&log).records, in_order(&sent));
            assert_eq!(book.written(), in_order(&sent));
        });
    });
}
