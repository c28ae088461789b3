//! What goes in comes out: records, batches, segments, groups, in both write modes.

use std::{thread, time::Duration};

use crate::common::{
    MODES, Scenario, assert_records, eventually, numbered, read_all, read_from, write,
};
use duralog::{
    Acks, ErrorKind, FlushPolicy, Log, MIN_SEGMENT_BYTES, Offset, ReadMode, Record, RecordRef,
    Start, Timestamp, WriteMode,
};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_record_comes_back_with_key_value_headers_and_time() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().build().unwrap();
        let record = Record::new("paid")
            .key("order-17")
            .header("trace", "af31")
            .header("trace", "b")
            .timestamp(Timestamp::from_millis(-5));
        let offset = producer.send(&record).unwrap().wait().unwrap();
        assert_eq!(offset, Offset::ZERO);

        let mut reader = log.reader().build().unwrap();
        let batch = reader.poll(LONG).unwrap();
        let read = batch.iter().next().unwrap();
        assert_eq!(read.to_record(), record);
        assert_eq!(read.timestamp(), Timestamp::from_millis(-5));
        assert!(read.append_time() > Timestamp::from_millis(1_600_000_000_000));
        assert_eq!(read.headers().find("trace"), Some(&b"af31"[..]));
        assert_eq!(read.headers().len(), 2);
    }
}

#[test]
fn a_value_of_zero_bytes_is_a_value_and_no_value_is_a_tombstone() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        let _sent = producer.send(Record::new("")).unwrap();
        let _sent = producer.send(Record::new("").key("")).unwrap();
        let _sent = producer.send(Record::tombstone("gone")).unwrap();
        let mut reader = log.reader().build().unwrap();
        let batch = reader.poll(LONG).unwrap();
        let text =
            |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let seen: Vec<_> = batch
            .iter()
            .map(|record| (text(record.key()), text(record.value())))
            .collect();
        let some = |value: &str| Some(value.to_owned());
        assert_eq!(
            seen,
            [(None, some("")), (some(""), some("")), (some("gone"), None)]
        );
    }
}

#[test]
fn records_of_every_size_up_to_the_limit_come_back_over_many_rolls_and_a_reopen() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let values: Vec<String> = (0..500)
            .map(|n: usize| "v".repeat((n * 37) % 3000))
            .collect();
        write(&log, values.iter().map(String::as_str));
        assert!(log.stats().segments > 50);
        assert_records(&log, 0, &values);
        log.close().unwrap();
        let log = scenario.open();
        assert!(log.recovery().clean);
        assert_records(&log, 0, &values);
        write(&log, ["more"]);
        assert_eq!(log.log_end_offset(), values.len() as u64 + 1);
    }
}

#[test]
fn a_record_over_the_limit_is_handed_back_and_changes_nothing() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().build().unwrap();
        let limit = usize::try_from(MIN_SEGMENT_BYTES).unwrap() - 1024 - 24 - 40;
        let fits = producer.send(Record::new(vec![7; limit])).unwrap();
        assert_eq!(fits.wait().unwrap(), 0);
        let failed = producer.send(Record::new(vec![8; limit + 1])).unwrap_err();
        assert!(
            matches!(failed.error().kind(), ErrorKind::TooLarge { .. }),
            "{failed}"
        );
        assert_eq!(failed.record().as_ref().value().unwrap().len(), limit + 1);
        assert_eq!(log.log_end_offset(), 1);
        assert_eq!(log.stats().failed_sends, 1);
    }
}

#[test]
fn a_batch_is_atomic_and_its_receipt_has_all_offsets() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().build().unwrap();
        write(&log, ["before"]);
        let receipt = producer
            .send_batch(vec![Record::new("a"), Record::new("b")])
            .unwrap();
        assert_eq!(receipt.offsets(), Some(Offset::new(1)..Offset::new(3)));
        assert_eq!(receipt.wait().unwrap(), 1);
        let borrowed: Vec<_> = ["c", "d"]
            .iter()
            .map(|value| RecordRef::new(*value))
            .collect();
        drop(producer.send_batch(&borrowed).unwrap());
        assert_records(&log, 0, ["before", "a", "b", "c", "d"]);
    }
}

#[test]
fn an_empty_batch_and_one_that_fits_no_segment_are_refused_and_handed_back() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let producer = log.producer().build().unwrap();
    let none: [Record; 0] = [];
    let failed = producer.send_batch(none).unwrap_err();
    assert!(matches!(failed.error().kind(), ErrorKind::EmptyBatch));
    let many = vec![Record::new(vec![0; 1000]); 8];
    let failed = producer.send_batch(many).unwrap_err();
    assert!(matches!(
        failed.error().kind(),
        ErrorKind::TooLarge {
            what: "a batch",
            ..
        }
    ));
    assert_eq!(failed.into_record().len(), 8);
    assert_eq!(log.log_end_offset(), 0);
}

#[test]
fn seeking_into_a_batch_delivers_from_that_record_on() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        drop(
            producer
                .send_batch([Record::new("a"), Record::new("b"), Record::new("c")])
                .unwrap(),
        );
        let mut reader = log
            .reader()
            .start(Start::At(Offset::new(1)))
            .build()
            .unwrap();
        let batch = reader.poll(Duration::ZERO).unwrap();
        assert_eq!(batch.len(), 2);
        let values: Vec<_> = batch.iter().filter_map(|record| record.value()).collect();
        assert_eq!(values, [b"b", b"c"]);
        reader.seek(Offset::new(2)).unwrap();
        assert_eq!(read_from(&mut reader).0, [(2, "c".to_owned())]);
        assert_eq!(reader.position(), 3);
    }
}

#[test]
fn seeking_outside_the_log_is_refused_and_the_position_stays() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, ["a"]);
    let mut reader = log.reader().build().unwrap();
    let error = reader.seek(Offset::new(2)).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. }),
        "{error}"
    );
    assert_eq!(reader.position(), 0);
    assert!(
        log.reader()
            .start(Start::At(Offset::new(9)))
            .build()
            .is_err()
    );
}

#[test]
fn a_group_goes_on_at_its_commit_and_sees_again_what_it_did_not_commit() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..10));
        let mut consumer = log.consumer("billing").max_poll_records(4).build().unwrap();
        assert_eq!(consumer.poll(LONG).unwrap().len(), 4);
        consumer.commit().unwrap();
        assert_eq!(consumer.poll(LONG).unwrap().len(), 4);
        assert_eq!(
            (consumer.committed(), consumer.position()),
            (Offset::new(4), Offset::new(8))
        );
        assert_eq!(consumer.lag().unwrap().records, 2);
        drop(consumer);
        log.close().unwrap();

        let log = scenario.open();
        let mut consumer = log.consumer("billing").build().unwrap();
        let batch = consumer.poll(LONG).unwrap();
        assert_eq!(batch.iter().next().unwrap().offset(), Some(Offset::new(4)));
        assert_eq!(batch.len(), 6);
        consumer.commit_offset(Offset::new(7)).unwrap();
        assert_eq!(consumer.committed(), 7);
        consumer.seek(Offset::new(2)).unwrap();
        assert_eq!(consumer.committed(), 7, "a seek commits nothing");
        assert!(consumer.commit_offset(Offset::new(11)).is_err());
    }
}

#[test]
fn a_group_that_starts_at_the_end_misses_nothing_from_then_on() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, ["old"]);
    drop(log.consumer("late").start(Start::Latest).build().unwrap());
    write(&log, ["new"]);
    let mut late = log.consumer("late").start(Start::Earliest).build().unwrap();
    let batch = late.poll(LONG).unwrap();
    let values: Vec<_> = batch.iter().filter_map(|record| record.value()).collect();
    assert_eq!(values, [b"new"]);
}

#[test]
fn a_group_has_one_live_consumer() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let held = log.consumer("billing").build().unwrap();
    let error = log.consumer("billing").build().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::GroupInUse { group } if group == "billing"));
    let other = Log::open_read_only(scenario.path()).unwrap();
    assert!(
        other.consumer("billing").build().is_err(),
        "nor one through another opening"
    );
    drop(held);
    assert!(log.consumer("billing").build().is_ok());
}

#[test]
fn a_poll_that_waits_is_woken_by_the_append() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let mut reader = log.reader().build().unwrap();
        let waiting = thread::spawn(move || reader.poll(LONG * 60).unwrap().len());
        write(&log, ["news"]);
        assert_eq!(waiting.join().unwrap(), 1);
    }
}

#[test]
fn a_poll_returns_an_empty_batch_when_its_time_is_over() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let mut reader = log.reader().build().unwrap();
    assert!(reader.poll(Duration::ZERO).unwrap().is_empty());
    assert!(reader.poll(Duration::from_millis(3)).unwrap().is_empty());
    let host = scenario.host.clone();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_done = done.clone();
    let waiting = thread::spawn(move || {
        assert!(reader.poll(LONG * 60).unwrap().is_empty());
        is_done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    eventually("the wait is over once the clock says so", || {
        host.advance(LONG);
        done.load(std::sync::atomic::Ordering::SeqCst)
    });
    waiting.join().unwrap();
}

#[test]
fn a_waiting_poll_ends_with_an_error_when_the_log_is_closed() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let mut reader = log.reader().build().unwrap();
    let waiting = thread::spawn(move || reader.poll(LONG * 60).map(|batch| batch.len()));
    log.close().unwrap();
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Closed));
}

#[test]
fn after_a_close_every_handle_says_so_and_another_writer_may_open() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let producer = log.producer().build().unwrap();
    let other = log.clone();
    log.close().unwrap();
    let failed = producer.send(Record::new("late")).unwrap_err();
    assert!(matches!(failed.error().kind(), ErrorKind::Closed));
    assert!(other.sync().is_err());
    assert!(scenario.open().recovery().clean);
    other.close().unwrap();
}

#[test]
fn dropping_the_last_handle_closes_in_order() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    drop(log);
    drop(
        producer
            .send(Record::new("the producer keeps it open"))
            .unwrap(),
    );
    drop(producer);
    let log = scenario.open();
    assert!(log.recovery().clean);
    assert_eq!(log.log_end_offset(), 1);
}

#[test]
fn durable_only_hides_what_a_power_cut_could_take_back() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, ["a"]);
        let mut reader = log.reader().durable_only(true).build().unwrap();
        assert!(reader.poll(Duration::ZERO).unwrap().is_empty());
        assert_eq!(log.sync().unwrap(), 1);
        assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 1);
        write(&log, ["b"]);
        let waiting = thread::spawn(move || reader.poll(LONG * 60).unwrap().len());
        log.sync().unwrap();
        assert_eq!(waiting.join().unwrap(), 1);
    }
}

#[test]
fn copied_reading_serves_the_same_as_borrowing() {
    for mode in MODES {
        let mut scenario = Scenario::new(mode);
        scenario.options = scenario.options.read_mode(ReadMode::Copied);
        let log = scenario.open();
        write(&log, numbered(0..1000));
        assert_records(&log, 0, numbered(0..1000));
    }
}

#[test]
fn a_read_only_log_serves_what_is_written_beside_a_live_writer() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let look = Log::open_read_only(scenario.path()).unwrap();
        let mut reader = look.reader().build().unwrap();
        write(&log, numbered(0..700));
        assert_eq!(look.log_end_offset().unwrap(), 700);
        assert_eq!(read_from(&mut reader).0.len(), 700);
        let waiting = thread::spawn(move || reader.poll(LONG * 60).unwrap().len());
        write(&log, ["news"]);
        assert_eq!(waiting.join().unwrap(), 1);
        assert_eq!(look.verify().unwrap().damage, []);
    }
}

#[test]
fn the_oldest_of_many_segments_is_rolled_by_age() {
    for mode in MODES {
        let mut scenario = Scenario::new(mode);
        scenario.options = scenario.options.segment_age(LONG);
        let log = scenario.open();
        write(&log, ["a"]);
        eventually("the segment is rolled", || {
            scenario.host.advance(LONG);
            log.stats().segments == 2
        });
        write(&log, ["b"]);
        assert_records(&log, 0, ["a", "b"]);
    }
}

#[test]
fn the_flush_policy_moves_the_durable_offset() {
    for mode in MODES {
        let mut scenario = Scenario::new(mode);
        scenario.options = scenario
            .options
            .flush(FlushPolicy::every_messages(3).or_every(LONG));
        let log = scenario.open();
        write(&log, ["a", "b"]);
        assert_eq!(log.durable_offset(), 0);
        write(&log, ["c"]);
        assert_eq!(log.durable_offset(), 3, "the third send waits for the sync");
        write(&log, ["d"]);
        eventually("the interval is over", || {
            scenario.host.advance(LONG);
            log.durable_offset() == 4
        });

        scenario.options = scenario.options.flush(FlushPolicy::every_append());
        log.close().unwrap();
        let log = scenario.open();
        write(&log, ["e"]);
        assert_eq!(log.durable_offset(), 5);
    }
}

#[test]
fn offsets_are_found_by_append_time() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, numbered(0..400));
        scenario.host.advance(LONG);
        let between = duralog::testing::Clock::wall_millis(&*scenario.host);
        let between = Timestamp::from_millis(i64::try_from(between).unwrap() - 1_000);
        write(&log, numbered(400..800));
        assert_eq!(log.offset_for_timestamp(between).unwrap(), 400);
        assert_eq!(
            log.offset_for_timestamp(Timestamp::from_millis(0)).unwrap(),
            0
        );
        assert_eq!(
            log.offset_for_timestamp(Timestamp::from_millis(i64::MAX))
                .unwrap(),
            800
        );
        let reader = log.reader().start(Start::Time(between)).build().unwrap();
        assert_eq!(reader.position(), 400);
    }
}

#[test]
fn reading_while_segments_roll_misses_nothing() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let mut reader = log.reader().build().unwrap();
        let reading = thread::spawn(move || {
            let mut next = 0;
            while next < 20_000 {
                for record in &reader.poll(LONG).unwrap() {
                    assert_eq!(record.offset(), Some(Offset::new(next)));
                    next += 1;
                }
            }
        });
        write(&log, numbered(0..20_000));
        reading.join().unwrap();
        let (records, gaps) = read_all(&log);
        assert_eq!((records.len(), gaps.len()), (20_000, 0));
    }
}

#[test]
fn what_a_waiting_sender_made_durable_is_recorded_soon_though_nothing_else_happens() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().build().unwrap();
        for sent in 1..5_u64 {
            producer.send(Record::new("a")).unwrap().wait().unwrap();
            let look = Log::open_read_only(scenario.path()).unwrap();
            eventually("the checkpoint says so", || {
                scenario.host.advance(Duration::from_secs(1));
                look.durable_offset().unwrap() == sent
            });
        }
    }
}

#[test]
fn what_a_live_writer_makes_durable_during_a_poll_is_no_damage_to_a_reader_elsewhere() {
    for spared in 0..4 {
        let scenario = Scenario::new(MODES[0]);
        let log = scenario.open();
        let producer = log.producer().build().unwrap();
        producer.send(Record::new("first")).unwrap().wait().unwrap();
        let host = scenario.host.clone();
        let look = duralog::testing::open_read_only(host.clone(), scenario.path()).unwrap();
        let mut reader = look.reader().build().unwrap();
        assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 1);
        let (path, clock) = (scenario.path(), host.clone());
        let append = move || {
            producer
                .send(Record::new("second"))
                .unwrap()
                .wait()
                .unwrap();
            eventually("the checkpoint says so", || {
                clock.advance(Duration::from_secs(1));
                Log::open_read_only(&path)
                    .unwrap()
                    .durable_offset()
                    .unwrap()
                    == 2
            });
        };
        host.before_open("checkpoint", spared, Box::new(append));
        eventually("the append came in the middle of a poll", || {
            let batch = reader.poll(Duration::ZERO).unwrap();
            assert_eq!(batch.gaps(), []);
            host.hook_ran()
        });
        read_from(&mut reader);
        assert_eq!(reader.position(), 2);
    }
}

#[test]
fn a_reader_elsewhere_is_told_of_durable_records_that_are_gone_from_the_end() {
    for cut_to in [None, Some(0), Some(1024)] {
        let scenario = Scenario::new(MODES[0]);
        let log = scenario.open();
        write(&log, numbered(0..1000));
        log.close().unwrap();
        let last = scenario.last_segment();
        let base: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        match cut_to {
            None => std::fs::remove_file(&last).unwrap(),
            Some(len) => crate::common::edit(&last, |bytes| bytes.truncate(len)),
        }
        let look = Log::open_read_only(scenario.path()).unwrap();
        let (records, gaps) = read_from(&mut look.reader().build().unwrap());
        assert_eq!(records.len() as u64, base);
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!((gaps[0].from.get(), gaps[0].to.get()), (base, 1000));
    }
}
