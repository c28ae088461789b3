//! Many named producers in one log.

use std::fs;

use duralog::{Acks, ErrorKind, Log, Record, WriteMode};

use crate::common::{Scenario, edit, write};

const NAMES: u32 = 10_000;
const MAX_NAMES: u32 = 16_384;

fn import(log: &Log, name: u32, sequence: u64) -> duralog::SequencedReceipt {
    let producer = log.producer().name(format!("importer-{name}"));
    let producer = producer.acks(Acks::Written).build().unwrap();
    let value = format!("{name} {sequence}");
    producer
        .send_sequenced(sequence, Record::new(value))
        .unwrap()
}

#[test]
fn ten_thousand_names_are_known_after_a_crash_without_reading_the_log_again() {
    let mut scenario = Scenario::new(WriteMode::Auto);
    scenario.options = scenario.options.segment_bytes(1 << 20);
    let log = scenario.open();
    for name in 0..NAMES {
        for sequence in 0..3 {
            assert!(!import(&log, name, sequence).is_duplicate());
        }
    }
    log.close().unwrap();
    // Behind the names come many times as many bytes of others.
    let log = scenario.open();
    write(&log, (0..20_000).map(|number| format!("{number:0>1000}")));
    log.sync().unwrap();
    let known: u64 = ["producers-0", "producers-1"]
        .iter()
        .map(|name| fs::metadata(scenario.path().join(name)).map_or(0, |found| found.len()))
        .sum();
    assert!(known < 2_000_000, "{known} bytes for what is known of them");

    let image = scenario.crash_image();
    // What is known of them is not read from where they stand.
    let [old @ .., _, _] = &image.segments()[..] else {
        panic!("there are some segments");
    };
    for segment in old {
        edit(segment, |bytes| bytes[2048..].fill(0xff));
    }
    let log = image.open();
    assert!(!log.recovery().clean);
    for name in (0..NAMES).step_by(97) {
        let known = import(&log, name, 2);
        assert!(known.is_duplicate(), "{name}");
        assert!(known.offset().is_some());
        assert!(!import(&log, name, 3).is_duplicate(), "{name}");
    }
}

#[cfg(feature = "lz4")]
#[test]
fn what_a_named_producer_compresses_is_known_by_its_sequences_too() {
    for mode in crate::common::MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().name("importer").acks(Acks::Written);
        let producer = producer.compression(duralog::Compression::Lz4);
        let producer = producer.build().unwrap();
        let lines = |from: u32| -> Vec<Record> {
            let line = |number| Record::new(format!("line {number} of many that are alike"));
            (from..from + 20).map(line).collect()
        };
        drop(producer.send_batch_sequenced(0, lines(0)).unwrap());
        drop(producer.send_batch(lines(20)).unwrap());
        let image = scenario.crash_image();
        let log = image.open();
        let again = log.producer().name("importer").build().unwrap();
        assert_eq!(again.last_sequence().unwrap(), Some(39));
        let receipt = again.send_batch_sequenced(30, lines(30)).unwrap();
        assert_eq!(receipt.duplicates(), 10);
        let (records, gaps) = crate::common::read_all(&log);
        assert_eq!((records.len(), gaps.len()), (50, 0));
        assert!(records[49].1.starts_with("line 49 "));
    }
}

#[test]
fn a_log_takes_so_many_names_and_refuses_more_by_number() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let build = |name: u32| log.producer().name(format!("importer-{name}")).build();
    for name in 0..MAX_NAMES {
        drop(build(name).unwrap());
    }
    let refused = build(MAX_NAMES).unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::TooManyProducers { limit } if *limit == 16_384),
        "{refused}"
    );
    drop(build(7).expect("one that is there already"));
}

#[test]
fn a_first_name_that_cannot_be_noted_is_refused_and_noted_later() {
    use crate::common::{Fault, Op};

    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    let fault = Fault::once(Op::Write, "checkpoint", 28);
    scenario.host.inject(&fault);
    let refused = log.producer().name("importer").build().unwrap_err();
    assert!(refused.is_storage_full(), "{refused}");
    assert_eq!(fault.fired(), 1);
    assert!(!import(&log, 0, 0).is_duplicate());
    let image = scenario.crash_image();
    assert!(import(&image.open(), 0, 0).is_duplicate());
}
