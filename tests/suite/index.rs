//! Finding records by offset and by time, with an index, without one, and with a wrong one.

use std::{fs, path::PathBuf, time::Duration};

use duralog::{Log, Offset, ReadMode, Start, Timestamp};

use crate::common::{MODES, Scenario, edit, numbered, write};

const RECORDS: u32 = 900;

/// A log of some segments; time passes between records.
fn scenario(mode: duralog::WriteMode, read: ReadMode) -> (Scenario, Log) {
    let mut scenario = Scenario::new(mode);
    scenario.options = scenario.options.segment_bytes(16 << 10).read_mode(read);
    let log = scenario.open();
    for value in numbered(0..RECORDS) {
        write(&log, [value]);
        scenario.host.advance(Duration::from_millis(10));
    }
    (scenario, log)
}

fn indexes(scenario: &Scenario) -> Vec<PathBuf> {
    let segments = scenario.segments();
    let indexes = segments.iter().map(|path| path.with_extension("index"));
    indexes.filter(|path| path.exists()).collect()
}

/// The record at `offset`, and its append time, found by seeking.
fn seek(log: &Log, offset: u64) -> (u64, Timestamp) {
    let mut reader = log
        .reader()
        .start(Start::At(Offset::new(offset)))
        .build()
        .unwrap();
    let batch = reader.poll(Duration::ZERO).unwrap();
    assert_eq!(batch.gaps(), []);
    let record = batch.iter().next().unwrap();
    let expected = format!("record number {offset:06}");
    assert_eq!(record.value(), Some(expected.as_bytes()));
    (record.offset().unwrap().get(), record.append_time())
}

/// Every record is found by its offset, and by its time the first one that has it.
#[track_caller]
fn assert_found(log: &Log) {
    let mut times = Vec::new();
    for offset in 0..u64::from(RECORDS) {
        let (found, time) = seek(log, offset);
        assert_eq!(found, offset);
        times.push(time.as_millis());
    }
    for (offset, &time) in times.iter().enumerate().step_by(7) {
        for asked in [time - 1, time, time + 1] {
            let first = times.partition_point(|&t| t < asked);
            let found = log
                .offset_for_timestamp(Timestamp::from_millis(asked))
                .unwrap();
            assert_eq!(found, first as u64, "around the time of {offset}");
        }
    }
}

#[test]
fn every_record_is_found_by_offset_and_time_while_it_is_written_and_later() {
    for mode in MODES {
        for read in [ReadMode::Mapped, ReadMode::Copied] {
            let (scenario, log) = scenario(mode, read);
            assert_found(&log);
            log.sync().unwrap();
            log.close().unwrap();
            let segments = scenario.segments().len();
            assert_eq!(
                indexes(&scenario).len(),
                segments - 1,
                "{segments} segments"
            );
            let log = scenario.open();
            assert_found(&log);
            let image = scenario.crash_image();
            assert_found(&image.open());
        }
    }
}

#[test]
fn an_index_that_is_gone_or_wrong_is_done_without() {
    for mode in MODES {
        for read in [ReadMode::Mapped, ReadMode::Copied] {
            let (scenario, log) = scenario(mode, read);
            log.close().unwrap();
            let paths = indexes(&scenario);
            assert!(paths.len() >= 2);
            let good = fs::read(&paths[1]).unwrap();
            let changes: [&dyn Fn(); 5] = [
                &|| fs::remove_file(&paths[1]).unwrap(),
                &|| fs::write(&paths[1], b"").unwrap(),
                &|| fs::copy(&paths[0], &paths[1]).map(drop).unwrap(),
                &|| edit(&paths[1], |bytes| bytes.truncate(good.len() - 8)),
                // Entries that point where no frame stands, or another one.
                &|| {
                    edit(&paths[1], |bytes| {
                        for byte in &mut bytes[40..] {
                            *byte ^= 0x15;
                        }
                    });
                },
            ];
            for change in changes {
                fs::write(&paths[1], &good).unwrap();
                change();
                let log = scenario.open();
                assert_found(&log);
            }
        }
    }
}

#[test]
fn a_reader_in_another_process_finds_what_it_seeks() {
    let (scenario, log) = scenario(MODES[0], ReadMode::Mapped);
    log.sync().unwrap();
    let look = duralog::testing::open_read_only(scenario.host.clone(), scenario.path()).unwrap();
    for offset in (0..u64::from(RECORDS)).step_by(13) {
        let start = Start::At(Offset::new(offset));
        let mut reader = look.reader().start(start).build().unwrap();
        let batch = reader.poll(Duration::ZERO).unwrap();
        assert_eq!(batch.iter().next().unwrap().offset().unwrap(), offset);
    }
}

#[test]
fn damage_before_the_place_that_is_sought_is_not_met_and_damage_at_it_is() {
    for mode in MODES {
        let (scenario, log) = scenario(mode, ReadMode::Mapped);
        log.close().unwrap();
        let path = &scenario.segments()[1];
        let first: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let frame = 24 + "record number 000000".len();
        for (number, place) in [(1, "before"), (200, "at")] {
            edit(path, |bytes| bytes[1024 + number * frame + 30] ^= 1);
            let log = scenario.open();
            let start = Start::At(Offset::new(first + 200));
            let mut reader = log.reader().start(start).build().unwrap();
            let batch = reader.poll(Duration::ZERO).unwrap();
            assert_eq!(batch.gaps().len(), usize::from(place == "at"), "{place}");
            log.close().unwrap();
        }
    }
}
