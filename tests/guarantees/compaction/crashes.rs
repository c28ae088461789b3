//! Any moment of a compaction can be the last one.

use std::{cell::Cell, time::Duration};

use duralog::{
    CleanupPolicy,
    testing::sim::{Disk, Random},
};

use super::common::{
    Entry, compacted, delete, fill, left, producer, put, read, read_from, settle, table, world_with,
};
use crate::{
    common::{Case, bases, in_both_modes, run, segments, taken, told},
    sim::world::Point,
};

/// Keys that are sent again and again and one that is removed, all of it sealed; the moments of
/// two compactions, of which the second one drops the tombstone.
fn compactions(case: &Case) -> (Vec<Entry>, Vec<Point>) {
    let options = compacted(case).tombstone_retention(Duration::ZERO);
    let world = world_with(case, options);
    let mut sent = Vec::new();
    let points = run(&world, |world| {
        let log = world.open();
        let producer = producer(&log);
        sent = put(&producer, &["a", "b", "c"], 0..40);
        sent.push(delete(&producer, "a"));
        sent.extend(put(&producer, &["b"], 40..60));
        sent.extend(fill(&producer, "end", 14));
        settle(world, &log);
        let points = world.watch();
        assert!(log.compact().unwrap().replaced > 2);
        assert_eq!(log.compact().unwrap().tombstones_removed, 1);
        taken(&points)
    });
    (sent, points)
}

/// Of each key the last record is there; what is there was sent; and nothing is there again that a
/// tombstone removed, once that is gone.
fn judge(sent: &[Entry], found: &[Entry]) {
    let (last, there) = (table(sent), table(found));
    for (key, entry) in &last {
        if entry.2.is_some() {
            assert_eq!(there.get(key), Some(entry), "{key}");
        } else {
            let is_whole = there.get(key).is_none_or(|found| found == entry);
            assert!(is_whole, "{key} came back: {:?}", there.get(key));
        }
    }
    assert!(found.iter().all(|entry| sent.contains(entry)));
    assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn after_a_crash_at_any_call_the_last_record_of_each_key_is_there_and_nothing_deleted_comes_back() {
    in_both_modes(0..2, |case| {
        let (sent, points) = compactions(&case);
        let writing = |point: &&Point| point.path.ends_with(".cleaned");
        assert!(points.len() > 40, "{} moments", points.len());
        assert!(points.iter().filter(writing).count() > 10);
        for point in points {
            let mut images = case.power_cuts(&point.disk, 2);
            images.push(("the process ends".to_owned(), point.disk));
            for (what, image) in images {
                let at = format!("{:?} {}, {what}", point.call, point.path);
                told(at, || recover(&case, &sent, &image));
            }
        }
    });
}

/// Opens what a crash left, compacts it, and has the power cut.
pub fn recover(case: &Case, sent: &[Entry], image: &Disk) {
    let later = case.reopen(image, |world, log| {
        assert_eq!(log.recovery().damage, []);
        let found = read(log);
        judge(sent, &found);
        let files = world.machine.process_crash().files();
        let is_left = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "cleaned");
        assert!(!files.iter().any(is_left), "{files:?}");
        let report = log.compact().unwrap();
        assert_eq!(report.skipped, []);
        log.compact().unwrap();
        let until = report.clean_below.get();
        let mut expected = left(sent, until);
        expected.retain(|entry| entry.2.is_some());
        assert_eq!(read(log), expected);
        (world.machine.process_crash(), expected)
    });
    let cut = later
        .0
        .power_cut(&mut duralog::testing::sim::Choices::nothing());
    case.reopen(&cut, |_, log| assert_eq!(read(log), later.1));
}

#[test]
fn each_segment_is_as_it_was_or_as_it_is_to_be() {
    in_both_modes(0..2, |case| {
        let (_, points) = compactions(&case);
        let paths = segments(&points[0].disk);
        let last = &points.last().unwrap().disk;
        for path in paths {
            let mut versions: Vec<Vec<u8>> = Vec::new();
            for point in &points {
                let content = point.disk.read(&path).unwrap();
                if versions.last() != Some(&content) {
                    versions.push(content);
                }
            }
            // Replaced once by each compaction, at most.
            assert!(versions.len() <= 3, "{}", path.display());
            assert_eq!(versions.last(), last.read(&path).as_ref());
        }
    });
}

#[test]
fn what_is_deleted_while_it_is_compacted_is_gone_and_leaves_no_file_behind() {
    let met = Cell::new(0);
    in_both_modes(0..30, |case| {
        let options = compacted(&case).cleanup_policy(CleanupPolicy::CompactAndDelete);
        let world = world_with(&case, options);
        run(&world, |world| {
            let log = world.open();
            let sent = put(&producer(&log), &["a", "b", "c"], 0..150);
            settle(world, &log);
            let (mut random, beside) = (Random::new(case.seed), log.clone());
            let deleter = world.spawn("deleter", move |world| {
                for step in 1..9 {
                    let pause = random.below(300) as u64;
                    world.machine.sleep(Duration::from_micros(pause));
                    beside.delete_records_before((step * 10).into()).unwrap();
                }
            });
            let report = log.compact().unwrap();
            deleter.join();
            assert_eq!(report.skipped, []);
            let files = bases(world, ".log");
            assert!(files[1] > 80, "{files:?}");
            assert_eq!(files.len() as u64, log.stats().segments);
            let until = report.clean_below.get();
            assert_eq!(read_from(&log, 80), left(&sent[80..], until));
            met.set(met.get() + usize::from(report.replaced > 0));
        });
    });
    assert!(met.get() > 10, "{met:?} compactions beside deletions");
}
