//! More keys than fit the memory: several passes, each for a part of the keys.

use std::time::Duration;

use duralog::{
    CompactionReport, Log, LogOptions, Record,
    testing::sim::{Call, Disk, Effect, Fault, Machine},
};

use super::{
    common::{Entry, compact, compacted, delete, fill, left, producer, read, settle, world_with},
    crashes::recover,
};
use crate::{
    common::{Case, EIO, in_both_modes, run, segments, taken, told},
    sim::{oracle::Oracle, world::World},
};

/// The least memory that may be asked for.
const MEMORY: u64 = 64 << 10;
/// Of keys of 10 bytes, it holds about so many.
const CAPACITY: u64 = 1700;

/// Sends each of the keys once in each round, and compacts.
fn rounds(case: &Case, keys: u64, rounds: u64) -> CompactionReport {
    let options = compacted(case)
        .segment_bytes(256 << 10)
        .compaction_memory(MEMORY);
    run(&world_with(case, options), |world| {
        let log = world.open();
        let producer = producer(&log);
        let mut sent = Vec::new();
        for round in 0..rounds {
            for number in 0..keys {
                let (key, value) = (format!("key-{number:06}"), format!("{round}"));
                let record = Record::new(value.as_str()).key(key.as_str());
                let offset = producer.send(record).unwrap().offset().unwrap().get();
                sent.push((offset, key, Some(value)));
            }
        }
        // All of them are in segments that are compacted.
        sent.extend(fill(&producer, "end", 600));
        let report = compact(world, &log);
        assert!(report.clean_below.get() >= keys * rounds, "{report:?}");
        assert!(report.peak_memory <= MEMORY, "{report:?}");
        assert_eq!(read(&log), left(&sent, report.clean_below.get()));
        let again = log.compact().unwrap();
        assert_eq!((again.replaced, again.passes), (0, 1));
        report
    })
}

#[test]
fn passes_grow_with_the_keys_and_not_with_the_records() {
    in_both_modes(0..1, |case| {
        let all = [(3000, 2), (3000, 20), (12_000, 2)];
        let [few, many, more] = all.map(|(keys, times)| {
            let passes = rounds(&case, keys, times).passes;
            let keys = keys + 600;
            assert!(passes >= keys / CAPACITY, "{passes} for {keys}");
            assert!(passes <= 2 * keys / CAPACITY + 2, "{passes} for {keys}");
            passes
        });
        assert!(few.abs_diff(many) <= 1, "{few} and {many}");
        assert!(more > few, "{few} and {more}");
    });
}

/// Options with which some twenty of the keys below fit.
fn small(case: &Case) -> LogOptions {
    compacted(case)
        .tombstone_retention(Duration::ZERO)
        .compaction_memory(MEMORY)
}

fn large(number: usize) -> String {
    format!("{number:03}{}", "-".repeat(1500))
}

/// A log of large keys: each is sent twice, but for every second one, which is removed.
fn with_large_keys(case: &Case) -> (Vec<Entry>, Disk) {
    run(&world_with(case, small(case)), |world| {
        let log = world.open();
        let producer = producer(&log);
        let mut sent = Vec::new();
        for round in 0..2 {
            for number in 0..60 {
                let key = large(number);
                if round == 1 && number % 2 == 1 {
                    sent.push(delete(&producer, &key));
                    continue;
                }
                let value = format!("{round}-{number}");
                let record = Record::new(value.as_str()).key(key.as_str());
                let offset = producer.send(record).unwrap().offset().unwrap().get();
                sent.push((offset, key, Some(value)));
            }
        }
        sent.extend(fill(&producer, "end", 40));
        settle(world, &log);
        log.close().unwrap();
        (sent, world.machine.process_crash())
    })
}

fn with_log<R>(case: &Case, disk: &Disk, body: impl FnOnce(&World, &Log) -> R) -> R {
    let machine = Machine::boot(disk.clone(), case.seed);
    let world = World::on(machine, small(case), Oracle::default());
    run(&world, |world| body(world, &world.open()))
}

fn tombstones(entries: &[Entry]) -> usize {
    let mut tombstones = 0;
    for entry in entries {
        tombstones += usize::from(entry.2.is_none());
    }
    tombstones
}

#[test]
fn tombstones_are_kept_and_go_the_same_with_several_passes() {
    in_both_modes(0..2, |case| {
        let (sent, disk) = with_large_keys(&case);
        with_log(&case, &disk, |_, log| {
            let report = log.compact().unwrap();
            assert!(report.passes > 2, "{report:?}");
            assert!(report.peak_memory <= MEMORY, "{report:?}");
            let kept = left(&sent, report.clean_below.get());
            assert_eq!(read(log), kept);
            // All of them are clean by now, and so their time is over at once.
            let report = log.compact().unwrap();
            assert_eq!(report.tombstones_removed, 30);
            let kept: Vec<_> = kept.into_iter().filter(|entry| entry.2.is_some()).collect();
            assert_eq!(read(log), kept);
        });
    });
}

#[test]
fn after_a_crash_in_any_pass_nothing_is_missing_and_nothing_deleted_comes_back() {
    in_both_modes(0..1, |case| {
        let (sent, disk) = with_large_keys(&case);
        let points = with_log(&case, &disk, |world, log| {
            let points = world.watch();
            assert!(log.compact().unwrap().passes > 2);
            assert_eq!(log.compact().unwrap().tombstones_removed, 30);
            taken(&points)
        });
        assert!(points.len() > 100, "{} moments", points.len());
        for point in points.into_iter().step_by(13) {
            let mut images = case.power_cuts(&point.disk, 1);
            images.push(("the process ends".to_owned(), point.disk));
            for (what, image) in images {
                let at = format!("{:?} {}, {what}", point.call, point.path);
                told(at, || recover(&case, &sent, &image));
            }
        }
    });
}

#[test]
fn a_segment_that_some_pass_cannot_read_keeps_all_tombstones_behind_it() {
    in_both_modes(0..1, |case| {
        let (sent, disk) = with_large_keys(&case);
        let mut skipped = 0;
        // From so many reads on: in the first pass, in some later one, or never.
        for spared in (0..60).step_by(3) {
            told(format_args!("after {spared}"), || {
                skipped += with_log(&case, &disk, |world, log| unread(world, log, &sent, spared));
            });
        }
        assert!((5..20).contains(&skipped), "{skipped}");
    });
}

/// Compacts while a segment of the first round can be read so often only, and then while it can be
/// read; how many segments were skipped.
fn unread(world: &World, log: &Log, sent: &[Entry], spared: usize) -> usize {
    let path = &segments(&world.machine.process_crash())[2];
    let name = path.file_name().unwrap().to_str().unwrap();
    let fault = Fault::always(Call::Read, name, Effect::Fail(EIO)).after(spared);
    world.machine.inject(&fault);
    let report = log.compact().unwrap();
    let is_skipped = !report.skipped.is_empty();
    assert_eq!(is_skipped, fault.fired() > 0);
    if is_skipped {
        // Nothing of it was stamped, so that nothing is over yet.
        world.machine.sleep(Duration::from_secs(60));
        let again = log.compact().unwrap();
        assert_eq!(report.tombstones_removed + again.tombstones_removed, 0);
    }
    world.machine.lift_faults();
    assert_eq!(tombstones(&read(log)), 30);
    let report = log.compact().unwrap();
    let expected = left(sent, report.clean_below.get());
    let expected = expected.into_iter().filter(|entry| entry.2.is_some());
    let found = read(log);
    let values = found.iter().filter(|entry| entry.2.is_some());
    assert!(values.eq(&expected.collect::<Vec<_>>()));
    log.compact().unwrap();
    assert_eq!(tombstones(&read(log)), 0);
    usize::from(is_skipped)
}
