//! When a batch is sent, and what stays together.

use std::time::Duration;

use duralog::{
    Acks, ErrorKind, Record,
    testing::sim::{Call, Choices},
};

use super::common::{Book, HOUR, LINGER, in_order, lingering, noting, send_values};
use crate::{
    common::{count_calls, in_both_modes, run, see, told},
    sim::{
        oracle::Crash,
        world::{World, value},
    },
};

/// Counts frames as they are appended.
fn frames(world: &World) -> std::sync::Arc<std::sync::Mutex<usize>> {
    count_calls(world, |call, _| call == Call::Published)
}

#[test]
fn records_linger_for_so_long_and_become_one_frame() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let producer = lingering(&log)
                .linger(HOUR / 60)
                .delivery_timeout(HOUR)
                .build()
                .unwrap();
            let frames = frames(world);
            let began = world.now();
            let (sent, receipts) = send_values(&producer, "linger", 0..20, 50);
            assert!(receipts.iter().all(|receipt| receipt.offset().is_none()));
            let passed = world.now().saturating_sub(began);
            world.machine.sleep((HOUR / 61).saturating_sub(passed));
            assert_eq!(log.log_end_offset(), 0, "not yet");
            assert!(receipts.iter().all(|receipt| receipt.offset().is_none()));
            world.machine.sleep(HOUR / 60);
            assert_eq!(log.log_end_offset(), 20);
            for (number, receipt) in (0_u64..).zip(receipts) {
                assert_eq!(receipt.offset().unwrap(), number);
                assert_eq!(
                    receipt.offsets().unwrap(),
                    number.into()..(number + 1).into()
                );
                assert_eq!(receipt.wait().unwrap(), number);
            }
            assert_eq!(see(&log).records, in_order(&sent));
            if case.mode == duralog::WriteMode::Mapped {
                assert_eq!(*frames.lock().unwrap(), 1);
            }
            assert_eq!(log.durable_offset(), 0, "nobody asked for a sync");
        });
    });
}

#[test]
fn a_full_batch_does_not_linger() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = lingering(&log).linger(HOUR).delivery_timeout(HOUR);
            let producer = builder.batch_bytes(1000).build().unwrap();
            let (sent, receipts) = send_values(&producer, "full", 0..25, 100);
            world.machine.sleep(Duration::from_secs(60));
            let end = log.log_end_offset().get();
            assert!(
                (18..25).contains(&end),
                "{end}: what fills a batch is written"
            );
            producer.flush().unwrap();
            assert_eq!(see(&log).records, in_order(&sent));
            drop(receipts);
        });
    });
}

#[test]
fn with_none_and_no_linger_a_record_is_written_soon() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let producer = log.producer().acks(Acks::None).build().unwrap();
            let receipt = producer.send(Record::new("soon")).unwrap();
            world.machine.sleep(Duration::from_secs(1));
            assert_eq!(receipt.offset().unwrap(), 0);
            assert_eq!(log.log_end_offset(), 1);
        });
    });
}

#[test]
fn records_of_one_thread_keep_their_order_whatever_their_form_and_level() {
    in_both_modes(0..6, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (builder, book) = noting(&log);
            let producer = builder.batch_bytes(600).build().unwrap();
            let mut sent = Vec::new();
            for number in 0..30 {
                let one = |tail: &str, len| value(&format!("order{tail}"), number, len);
                match number % 5 {
                    0 => {
                        let batch = [one("a", 200), one("b", 300), one("c", 400)];
                        let records = batch.each_ref().map(|v| Record::new(v.as_str()));
                        drop(producer.send_batch(&records).unwrap());
                        sent.extend(batch);
                        continue;
                    }
                    1 => sent.push(one("large", 1500)),
                    _ => sent.push(one("", 90)),
                }
                let record = Record::new(sent.last().unwrap().as_str());
                let acks = [Acks::Written, Acks::Durable, Acks::None][number % 3];
                drop(producer.send_with(record.key("k"), acks).unwrap());
            }
            producer.flush().unwrap();
            assert_eq!(see(&log).records, in_order(&sent));
            assert_eq!(book.written(), in_order(&sent));
        });
    });
}

#[test]
fn a_batch_of_a_buffered_producer_is_there_after_any_crash_as_a_whole_or_not_at_all() {
    in_both_modes(0..4, |case| {
        let points = case.watch(|world| {
            let log = world.open();
            let producer = lingering(&log).batch_bytes(300).build().unwrap();
            for number in 0..6 {
                drop(send_values(&producer, "single", number..number + 1, 60));
                let values: Vec<_> = (0..4)
                    .map(|part| value(&format!("batch{number}"), part, 150))
                    .collect();
                let send = world.oracle(|oracle| oracle.begin(values.clone()));
                let records: Vec<_> = values.iter().map(|v| Record::new(v.as_str())).collect();
                let receipt = producer.send_batch(&records).unwrap();
                let first = receipt.wait().unwrap().get();
                world.oracle(|oracle| oracle.written(send, first));
            }
            producer.flush().unwrap();
        });
        for point in case.some(points, 20) {
            told(format!("at {:?} {}", point.call, point.path), || {
                case.each_power_cut(&point.disk, 2, |cut| whole_batches(&case.read(cut).records));
                whole_batches(&case.read(&point.disk).records);
            });
        }
    });
}

fn whole_batches(records: &[(u64, String)]) {
    for number in 0..6 {
        let name = format!("batch{number}-");
        let found: Vec<_> = records
            .iter()
            .filter(|(_, value)| value.starts_with(&name))
            .collect();
        assert!([0, 4].contains(&found.len()), "{found:?}");
        assert!(
            found.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0),
            "{found:?}"
        );
    }
}

#[test]
fn a_power_cut_at_any_moment_takes_nothing_that_was_acknowledged_as_durable() {
    in_both_modes(0..6, |case| {
        let world = case.world();
        let points = world.watch();
        let book = Book::default();
        let acked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        run(&world, |world| {
            let log = world.open();
            let (noted, machine, acked) = (book.clone(), world.machine.clone(), acked.clone());
            let builder = log.producer().linger(LINGER).batch_bytes(800);
            let builder = builder.on_completion(move |delivery| {
                noted.note(delivery);
                acked.lock().unwrap().push(machine.moments());
            });
            let producer = builder.build().unwrap();
            for number in 0..12 {
                let value = value("durable", number, 60 + 50 * number);
                world.oracle(|oracle| oracle.begin(vec![value.clone()]));
                drop(producer.send(Record::new(value)).unwrap());
                if number % 4 == 3 {
                    world.machine.sleep(LINGER * 2);
                }
            }
            producer.flush().unwrap();
            assert_eq!(log.durable_offset(), 12);
        });
        let moments = acked.lock().unwrap().clone();
        let acked: Vec<_> = moments.into_iter().zip(book.written()).collect();
        assert_eq!(acked.len(), 12);
        for point in case.some(crate::common::taken(&points), 20) {
            let by_then = acked.iter().filter(|(moment, _)| *moment <= point.number);
            let by_then: Vec<_> = by_then.map(|(_, record)| record.clone()).collect();
            case.each_power_cut(&point.disk, 4, |cut| {
                case.judge(cut, Crash::Power, &point.oracle)
                    .assert_has(&by_then);
            });
        }
    });
}

#[test]
fn one_sync_serves_all_records_of_the_batches_that_wait_for_it() {
    in_both_modes(0..4, |case| {
        let (sent, cut) = run(&case.world(), |world| {
            let log = world.open();
            let producer = log.producer().linger(LINGER).build().unwrap();
            let (sent, receipts) = send_values(&producer, "sync", 0..50, 50);
            for receipt in receipts {
                receipt.wait().unwrap();
            }
            assert_eq!(log.durable_offset(), 50);
            assert!(log.stats().syncs <= 5, "{} syncs", log.stats().syncs);
            (sent, world.machine.power_cut(&mut Choices::nothing()))
        });
        assert_eq!(case.read(&cut).records, in_order(&sent));
    });
}

#[test]
fn a_record_that_no_log_or_buffer_takes_is_refused_by_the_send() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let producer = lingering(&log).buffer_bytes(4096).build().unwrap();
            let is_too_large =
                |error: &duralog::Error| matches!(error.kind(), ErrorKind::TooLarge { .. });
            for len in [4000, 9000, 1 << 20] {
                let failed = producer.send(Record::new(vec![b'x'; len])).unwrap_err();
                assert!(is_too_large(failed.error()), "{failed}");
                assert_eq!(failed.record().as_ref().value().unwrap().len(), len);
                let batch = [
                    Record::new(vec![b'x'; len / 2]),
                    Record::new(vec![b'y'; len / 2]),
                ];
                assert!(is_too_large(
                    producer.send_batch(&batch).unwrap_err().error()
                ));
            }
            let failed = producer.send_batch::<_, Record>([]).unwrap_err();
            assert!(matches!(failed.error().kind(), ErrorKind::EmptyBatch));
            // The largest that there is room for.
            let receipt = producer.send(Record::new(vec![b'x'; 4096 - 256])).unwrap();
            assert_eq!(receipt.wait().unwrap(), 0);
            assert_eq!(producer.stats().unwrap().records_sent, 1);
        });
    });
}
