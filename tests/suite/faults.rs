//! Disks that fill, calls that fail, syncs that lie afterwards.

use std::{fs, time::Duration};

use duralog::{Acks, ErrorKind, FlushPolicy, GapReason, Offset, Record, WriteMode};

use crate::common::{
    Fault, MODES, Op, Scenario, assert_records, eventually, numbered, read_all, read_from, write,
};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EFBIG: i32 = 27;
const EDQUOT: i32 = 122;

#[test]
fn a_full_disk_hands_the_record_back_and_appends_work_again_once_there_is_space() {
    for mode in MODES {
        for errno in [ENOSPC, EDQUOT, EFBIG] {
            let mut scenario = Scenario::new(mode);
            scenario.options = scenario.options.segment_bytes(1 << 20);
            let log = scenario.open();
            let fault = Fault::always(Op::Allocate, "", errno);
            scenario.host.inject(&fault);
            let producer = log.producer().acks(Acks::Written).build().unwrap();
            let mut sent = 0;
            let failed = loop {
                match producer.send(Record::new(vec![b'x'; 1000])) {
                    Ok(receipt) => assert_eq!(receipt.wait().unwrap(), sent),
                    Err(failed) => break failed,
                }
                sent += 1;
            };
            assert!(failed.error().is_storage_full(), "{failed}");
            assert!(fault.fired() > 0);
            assert_eq!(failed.record().as_ref().value().unwrap().len(), 1000);
            assert_eq!(log.log_end_offset(), sent);
            assert_eq!(
                read_all(&log).0.len() as u64,
                sent,
                "what is there stays readable"
            );
            let mut group = log.reader().build().unwrap();
            assert!(!group.poll(Duration::ZERO).unwrap().is_empty());
            log.sync().expect("a full disk takes no sync");

            scenario.host.lift_faults();
            let receipt = producer.send(failed.into_record()).unwrap();
            assert_eq!(receipt.wait().unwrap(), sent);
            let image = scenario.crash_image();
            assert_eq!(read_all(&image.open()).0.len() as u64, sent + 1);
        }
    }
}

#[test]
fn a_group_commits_on_a_full_disk() {
    let scenario = Scenario::new(WriteMode::Auto);
    let log = scenario.open();
    write(&log, ["a"]);
    let mut consumer = log.consumer("billing").build().unwrap();
    for op in [Op::Allocate, Op::SetLen] {
        scenario.host.inject(&Fault::always(op, "", ENOSPC));
    }
    assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
    consumer.commit().unwrap();
    assert_eq!(consumer.committed(), 1);
}

#[test]
fn a_commit_that_fails_leaves_the_committed_offset_as_it_was() {
    let scenario = Scenario::new(WriteMode::Buffered);
    let log = scenario.open();
    write(&log, ["a", "b"]);
    let mut consumer = log.consumer("billing").max_poll_records(1).build().unwrap();
    consumer.poll(Duration::ZERO).unwrap();
    consumer.commit().unwrap();
    consumer.poll(Duration::ZERO).unwrap();
    let fault = Fault::once(Op::ShortWrite, "billing", EIO);
    scenario.host.inject(&fault);
    assert!(consumer.commit().is_err());
    assert_eq!((fault.fired(), consumer.committed()), (1, Offset::new(1)));
    let image = scenario.crash_image();
    let after = image.open();
    assert_eq!(after.consumer("billing").build().unwrap().committed(), 1);
    consumer.commit().unwrap();
    assert_eq!(consumer.committed(), 2);
}

#[test]
fn a_write_that_fails_halfway_leaves_the_log_as_it_was() {
    let scenario = Scenario::new(WriteMode::Buffered);
    let log = scenario.open();
    write(&log, ["a"]);
    for op in [Op::ShortWrite, Op::Write] {
        let fault = Fault::once(op, ".log", EIO);
        scenario.host.inject(&fault);
        let producer = log.producer().build().unwrap();
        let failed = producer
            .send(Record::new("a record that is cut in half"))
            .unwrap_err();
        assert!(
            matches!(failed.error().kind(), ErrorKind::Io { .. }),
            "{failed}"
        );
        assert_eq!(fault.fired(), 1);
        assert_eq!(log.log_end_offset(), 1);
    }
    let image = scenario.crash_image();
    let after = image.open();
    assert_eq!(after.recovery().cut_bytes, 0, "nothing of it is left");
    assert_records(&after, 0, ["a"]);
    write(&log, ["b"]);
    assert_records(&log, 0, ["a", "b"]);
}

#[test]
fn a_roll_that_fails_changes_nothing_and_is_done_by_a_later_send() {
    for mode in MODES {
        for op in [Op::Rename, Op::Open] {
            let scenario = Scenario::new(mode);
            let log = scenario.open();
            let producer = log.producer().acks(Acks::Written).build().unwrap();
            let fault = Fault::always(op, if op == Op::Open { "next-" } else { ".log" }, EIO);
            scenario.host.inject(&fault);
            let mut sent = 0;
            while producer.send(Record::new(format!("{sent:0500}"))).is_ok() {
                sent += 1;
                assert!(sent < 10_000, "{op:?} never failed a send");
            }
            assert!(fault.fired() > 0);
            let refused = producer.send(Record::new(format!("{sent:0500}")));
            assert!(matches!(
                refused.unwrap_err().error().kind(),
                ErrorKind::Io { .. }
            ));
            scenario.host.lift_faults();
            drop(producer.send(Record::new(format!("{sent:0500}"))).unwrap());
            assert_records(&log, 0, (0..=sent).map(|number| format!("{number:0500}")));
        }
    }
}

#[test]
fn a_failed_sync_is_final_and_what_was_durable_stays_readable() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let producer = log.producer().build().unwrap();
        producer
            .send(Record::new("durable"))
            .unwrap()
            .wait()
            .unwrap();
        let mut consumer = log.consumer("billing").build().unwrap();
        let mut reader = log.reader().build().unwrap();
        let fault = Fault::once(Op::Sync, ".log", EIO);
        scenario.host.inject(&fault);
        let error = producer
            .send(Record::new("doubtful"))
            .unwrap()
            .wait()
            .unwrap_err();
        assert!(error.is_latched(), "{error}");
        assert_eq!(fault.fired(), 1);

        let failed = producer.send(Record::new("more")).unwrap_err();
        assert!(failed.error().is_latched());
        assert!(
            log.sync().unwrap_err().is_latched(),
            "no second sync returns success"
        );
        assert_eq!(log.durable_offset(), 1);
        assert!(log.stats().latched);

        assert_eq!(read_below_the_latch(&mut reader), ["durable"]);
        assert!(reader.poll(Duration::ZERO).unwrap_err().is_latched());
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
        consumer.commit().unwrap();
        assert!(consumer.commit_offset(Offset::new(2)).is_err());
        assert!(log.clone().close().unwrap_err().is_latched());
    }
}

fn read_below_the_latch(reader: &mut duralog::Reader) -> Vec<String> {
    let batch = reader.poll(Duration::ZERO).unwrap();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    batch
        .iter()
        .filter_map(|record| record.value().map(text))
        .collect()
}

#[test]
fn after_a_failed_sync_the_same_boot_is_not_trusted_to_hold_the_tail() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        write(&log, ["a"]);
        log.sync().unwrap();
        write(&log, ["b", "c"]);
        let fault = Fault::once(Op::Sync, ".log", EIO);
        scenario.host.inject(&fault);
        assert!(log.sync().is_err());
        assert_eq!(fault.fired(), 1);
        drop(log);
        // The page cache still has them. Whatever is served now was written again and synced; but
        // offsets go on at the reservation, because the cache might have dropped them.
        let log = scenario.open();
        assert!(log.recovery().same_boot);
        assert_eq!(
            log.recovery().lost_tail,
            Some(Offset::new(3)..Offset::new(1 << 20))
        );
        assert_eq!(log.durable_offset(), 1 << 20);
        let (records, _) = read_all(&log);
        assert_eq!(records.len(), 3);
        let mut reader = log.reader().build().unwrap();
        write(&log, ["d"]);
        assert_eq!(read_from(&mut reader).1[0].reason, GapReason::LostTail);
    }
}

#[test]
fn a_checkpoint_that_cannot_be_synced_latches_the_log() {
    let mut scenario = Scenario::new(WriteMode::Auto);
    scenario.options = scenario
        .options
        .flush(FlushPolicy::every(Duration::from_secs(1)));
    let log = scenario.open();
    let fault = Fault::once(Op::Sync, "checkpoint", EIO);
    scenario.host.inject(&fault);
    write(&log, ["a"]);
    eventually("the maintenance thread writes a checkpoint", || {
        scenario.host.advance(Duration::from_secs(1));
        log.stats().latched
    });
    assert_eq!(fault.fired(), 1);
    let producer = log.producer().build().unwrap();
    assert!(
        producer
            .send(Record::new("b"))
            .unwrap_err()
            .error()
            .is_latched()
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_written_later() {
    let mut scenario = Scenario::new(WriteMode::Auto);
    scenario.options = scenario
        .options
        .flush(FlushPolicy::every(Duration::from_secs(1)));
    let log = scenario.open();
    let fault = Fault::once(Op::Write, "checkpoint", EIO);
    scenario.host.inject(&fault);
    write(&log, ["a"]);
    let recorded = || {
        let look = duralog::Log::open_read_only(scenario.path()).unwrap();
        look.durable_offset().unwrap()
    };
    eventually("the checkpoint is written", || {
        scenario.host.advance(Duration::from_secs(1));
        recorded() == 1
    });
    assert_eq!(fault.fired(), 1);
    assert!(!log.stats().latched);
}

#[test]
fn offsets_are_reserved_before_they_are_used() {
    for mode in MODES {
        let mut scenario = Scenario::new(mode);
        scenario.options = scenario.options.segment_bytes(16 << 20);
        let log = scenario.open();
        let fault = Fault::always(Op::Write, "checkpoint", EIO);
        scenario.host.inject(&fault);
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        let batch = vec![Record::new(""); 4096];
        let mut last = 0;
        let failed = loop {
            match producer.send_batch(&batch) {
                Ok(receipt) => last = receipt.offsets().unwrap().end.get(),
                Err(failed) => break failed,
            }
        };
        assert!(
            matches!(failed.error().kind(), ErrorKind::Io { .. }),
            "{failed}"
        );
        assert!(fault.fired() > 0);
        assert!(last <= 1 << 20, "offset {last} was not reserved");
        assert!(last > (1 << 20) - 4097);
        scenario.host.lift_faults();
        drop(producer.send_batch(&batch).unwrap());
        let image = scenario.rebooted_image();
        let skipped = image.open().recovery().lost_tail.clone().unwrap();
        assert!(
            skipped.end.get() > last + 4096,
            "{skipped:?} is beyond what was used"
        );
    }
}

#[test]
fn a_medium_that_fails_while_it_is_read_is_an_error_and_no_end() {
    let mut scenario = Scenario::new(WriteMode::Buffered);
    scenario.options = scenario.options.read_mode(duralog::ReadMode::Copied);
    let log = scenario.open();
    write(&log, numbered(0..1000));
    let mut reader = log.reader().build().unwrap();
    let fault = Fault::once(Op::Read, ".log", EIO);
    scenario.host.inject(&fault);
    let error = reader.poll(Duration::ZERO).unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Io {
                operation: "read",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!((fault.fired(), reader.position()), (1, Offset::ZERO));
    assert_eq!(read_from(&mut reader).0.len(), 1000);
}

#[test]
fn a_footer_that_cannot_be_written_is_written_later() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        // Its own footer write is the only write to the first segment in mapped mode; in buffered
        // mode frames come first.
        write(&log, numbered(0..300));
        let fault = Fault::once(Op::Write, "00000000000000000000.log", ENOSPC);
        scenario.host.inject(&fault);
        log.sync().unwrap();
        eventually("the footer was tried", || {
            scenario.host.advance(Duration::from_secs(1));
            fault.fired() == 1
        });
        log.close().unwrap();
        let look = duralog::Log::open_read_only(scenario.path()).unwrap();
        let segments = look.segments().unwrap();
        assert!(segments[0].sealed, "{:?}", segments[0]);
        assert_eq!(
            fs::metadata(&segments[0].path).unwrap().len(),
            segments[0].bytes
        );
    }
}

#[test]
fn running_out_of_file_descriptors_is_no_failed_sync() {
    const EMFILE: i32 = 24;
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let fault = Fault::always(Op::OpenDir, "", EMFILE);
        scenario.host.inject(&fault);
        let error = log.consumer("billing").build().unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Io {
                    operation: "open",
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(fault.fired(), 1);
        let producer = log.producer().build().unwrap();
        for value in numbered(0..200) {
            producer.send(Record::new(value)).unwrap().wait().unwrap();
        }
        assert!(log.stats().segments > 1, "new names were made durable");
        assert!(!log.stats().latched);
    }
}
