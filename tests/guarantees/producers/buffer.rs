//! The memory that a producer takes, and waiting for some.

use std::time::Duration;

use duralog::{
    ErrorKind, Record,
    testing::sim::{Call, Effect, Fault},
};

use super::common::{HOUR, in_order, lingering, noting, send_values};
use crate::{
    common::{ENOSPC, in_both_modes, run, see},
    sim::world::value,
};

const BUFFER: usize = 4096;
const BLOCK: Duration = Duration::from_secs(3);

#[test]
fn a_full_buffer_hands_the_record_back_and_takes_it_once_there_is_room() {
    in_both_modes(0..6, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = lingering(&log).buffer_bytes(BUFFER).max_block(BLOCK);
            let producer = builder.delivery_timeout(HOUR).build().unwrap();
            let fault = Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC));
            world.machine.inject(&fault);
            world.machine.set_free(Some(0));
            let mut sent = Vec::new();
            let failed = (0..).find_map(|number| {
                let value = value("full", number, 200);
                let began = world.now();
                let failed = producer.send(Record::new(value.as_str())).err();
                sent.push(value);
                Some((failed?, world.now().saturating_sub(began)))
            });
            let (failed, waited) = failed.unwrap();
            let refused = sent.pop().unwrap();
            assert!(fault.fired() > 0);
            assert!(failed.error().is_buffer_full(), "{failed}");
            assert!(waited >= BLOCK && waited < BLOCK * 2, "{waited:?}");
            assert_eq!(failed.record(), &Record::new(refused.as_str()));
            let began = world.now();
            let again = producer.try_send(failed.into_record()).unwrap_err();
            assert!(again.error().is_buffer_full());
            let batch = [Record::new("a"), Record::new("b")];
            assert!(
                producer
                    .try_send_batch(&batch)
                    .unwrap_err()
                    .error()
                    .is_buffer_full()
            );
            assert!(
                world.now().saturating_sub(began) < BLOCK / 10,
                "it does not wait"
            );
            let stats = producer.stats().unwrap();
            assert_eq!(stats.records_sent, sent.len() as u64);
            assert!(stats.buffered_bytes_peak <= BUFFER as u64, "{stats:?}");

            world.machine.lift_faults();
            world.machine.set_free(None);
            producer.send(again.into_record()).unwrap().wait().unwrap();
            sent.push(refused);
            producer.flush().unwrap();
            assert_eq!(see(&log).records, in_order(&sent));
            let stats = producer.stats().unwrap();
            assert_eq!((stats.buffered_bytes, stats.records_failed), (0, 0));
        });
    });
}

#[test]
fn threads_that_wait_for_room_are_all_served_and_the_memory_stays_within_its_bound() {
    in_both_modes(0..40, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (builder, book) = noting(&log);
            let builder = builder.buffer_bytes(2000).batch_bytes(500).linger(HOUR / 4);
            let producer = builder
                .delivery_timeout(HOUR)
                .max_block(HOUR)
                .build()
                .unwrap();
            let began = world.now();
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let producer = producer.clone();
                    world.spawn("sender", move |_| {
                        for number in 0..12 {
                            let len = [40, 90, 700, 1100][(number + thread) % 4];
                            let value = value(&format!("thread{thread}"), number, len);
                            drop(producer.send(Record::new(value)).unwrap());
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join();
            }
            producer.flush().unwrap();
            assert!(
                world.now().saturating_sub(began) < HOUR / 8,
                "who waits for room does not linger"
            );
            let stats = producer.stats().unwrap();
            assert!(stats.buffered_bytes_peak <= 2000, "{stats:?}");
            assert_eq!((stats.buffered_bytes, stats.records_acknowledged), (0, 48));
            let records = see(&log).records;
            assert_eq!(records, book.written());
            for thread in 0..4 {
                let name = format!("thread{thread}-");
                let of_thread = records.iter().filter(|(_, value)| value.starts_with(&name));
                let numbers: Vec<_> = of_thread.map(|(_, value)| &value[8..12]).collect();
                assert_eq!(numbers.len(), 12);
                assert!(numbers.is_sorted(), "{numbers:?}");
            }
        });
    });
}

#[test]
fn who_waits_for_room_does_not_wait_for_the_linger_of_what_takes_it() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = lingering(&log).linger(HOUR / 2).delivery_timeout(HOUR);
            let producer = builder.buffer_bytes(2000).batch_bytes(500).build().unwrap();
            let mut sent = send_values(&producer, "lingers", 0..1, 300).0;
            let began = world.now();
            sent.extend(send_values(&producer, "large", 0..1, 1700).0);
            assert!(world.now().saturating_sub(began) < BLOCK);
            producer.flush().unwrap();
            assert_eq!(see(&log).records, in_order(&sent));
        });
    });
}

#[test]
fn a_close_wakes_whoever_waits_for_room() {
    in_both_modes(0..10, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = lingering(&log).buffer_bytes(2000).max_block(HOUR);
            let producer = builder.delivery_timeout(HOUR).build().unwrap();
            world
                .machine
                .inject(&Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC)));
            world.machine.set_free(Some(0));
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let producer = producer.clone();
                    world.spawn("sender", move |_| {
                        let sends = || producer.send(Record::new(vec![b'x'; 300]));
                        let failed = std::iter::repeat_with(sends).find_map(Result::err);
                        let failed = failed.unwrap();
                        assert!(matches!(failed.error().kind(), ErrorKind::Closed));
                    })
                })
                .collect();
            world.machine.sleep(Duration::from_secs(60));
            let began = world.now();
            let end = log.log_end_offset().get();
            let sent = producer.stats().unwrap().records_sent;
            let closed = producer.close(Duration::from_secs(2)).unwrap_err();
            assert_eq!(super::common::not_acknowledged(&closed), sent - end);
            for thread in threads {
                thread.join();
            }
            assert!(world.now().saturating_sub(began) < Duration::from_secs(10));
        });
    });
}

#[test]
fn small_batches_and_small_records_do_not_take_more_than_they_are_charged_for() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = lingering(&log).buffer_bytes(16 << 10).batch_bytes(4 << 10);
            let producer = builder.max_block(HOUR).build().unwrap();
            for number in 0..40 {
                drop(send_values(&producer, "small", number..number + 1, 20));
                drop(producer.send_batch([Record::new("alone")]).unwrap());
                let acks = [duralog::Acks::Durable, duralog::Acks::None][number % 2];
                drop(producer.send_with(Record::new("other"), acks).unwrap());
            }
            producer.flush().unwrap();
            let stats = producer.stats().unwrap();
            assert!(stats.buffered_bytes_peak <= 16 << 10, "{stats:?}");
            assert_eq!((stats.buffered_bytes, stats.records_acknowledged), (0, 120));
        });
    });
}
