//! How deletions are kept, and go.

use std::time::Duration;

use super::common::{
    DAY, Entry, compact, compacted, delete, fill, in_background, producer, put, read, settle,
    world, world_with,
};
use crate::common::{in_both_modes, run};

fn of_key<'a>(entries: &'a [Entry], key: &str) -> Vec<&'a Entry> {
    entries.iter().filter(|entry| entry.1 == key).collect()
}

#[test]
fn a_tombstone_removes_what_is_before_it_at_once_and_goes_after_its_time() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a", "b"], 0..40);
            let tombstone = delete(&producer, "a");
            fill(&producer, "end", 40);
            compact(world, &log);
            assert_eq!(of_key(&read(&log), "a"), [&tombstone]);
            world.machine.sleep(Duration::from_secs(23 * 60 * 60));
            log.compact().unwrap();
            assert_eq!(of_key(&read(&log), "a"), [&tombstone]);
            world.machine.sleep(Duration::from_secs(2 * 60 * 60));
            log.compact().unwrap();
            assert_eq!(of_key(&read(&log), "a"), [&tombstone; 0]);
            assert_eq!(of_key(&read(&log), "b").len(), 1);
        });
    });
}

#[test]
fn the_time_of_a_tombstone_counts_from_when_it_was_clean_first() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a"], 0..40);
            let tombstone = delete(&producer, "a");
            // It is in the active segment, so nothing has begun.
            world.machine.sleep(2 * DAY);
            fill(&producer, "end", 40);
            compact(world, &log);
            assert_eq!(of_key(&read(&log), "a"), [&tombstone]);
            log.compact().unwrap();
            assert_eq!(of_key(&read(&log), "a"), [&tombstone]);
        });
    });
}

#[test]
fn the_time_goes_on_over_a_restart() {
    in_both_modes(0..2, |case| {
        let disk = run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a"], 0..40);
            delete(&producer, "a");
            fill(&producer, "end", 40);
            compact(world, &log);
            world.machine.sleep(DAY / 2);
            drop(producer);
            log.close().unwrap();
            world.machine.process_crash()
        });
        run(&case.boot(&disk), |world| {
            // The clock of this machine begins where that of the other one did.
            world.machine.jump_wall_clock(12 * 60 * 60 * 1000);
            let log = world.open();
            log.compact().unwrap();
            assert_eq!(of_key(&read(&log), "a").len(), 1);
            world.machine.sleep(DAY / 2 + Duration::from_secs(60));
            log.compact().unwrap();
            assert_eq!(of_key(&read(&log), "a").len(), 0);
        });
    });
}

#[test]
fn the_background_removes_tombstones_whose_time_is_over_though_nothing_was_sent() {
    in_both_modes(0..2, |case| {
        run(&world_with(&case, in_background(&case)), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a"], 0..40);
            delete(&producer, "a");
            fill(&producer, "end", 40);
            settle(world, &log);
            world.machine.sleep(DAY / 2);
            assert_eq!(of_key(&read(&log), "a").len(), 1);
            world.machine.sleep(DAY);
            assert_eq!(of_key(&read(&log), "a").len(), 0);
            let report = log.last_compaction().unwrap().unwrap();
            assert_eq!(report.tombstones_removed, 1);
        });
    });
}

#[test]
fn a_wall_clock_that_jumps_ahead_ends_no_tombstone() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a"], 0..40);
            delete(&producer, "a");
            fill(&producer, "end", 40);
            compact(world, &log);
            world.machine.jump_wall_clock(400 * 24 * 60 * 60 * 1000);
            world.machine.sleep(DAY / 2);
            log.compact().unwrap();
            assert_eq!(of_key(&read(&log), "a").len(), 1);
        });
    });
}

#[test]
fn a_key_that_is_sent_again_after_its_tombstone_is_there() {
    in_both_modes(0..2, |case| {
        let options = compacted(&case).tombstone_retention(Duration::ZERO);
        run(&world_with(&case, options), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a"], 0..20);
            delete(&producer, "a");
            let again = put(&producer, &["a"], 20..21);
            fill(&producer, "end", 40);
            for _ in 0..3 {
                compact(world, &log);
                assert_eq!(of_key(&read(&log), "a"), [&again[0]]);
            }
        });
    });
}
