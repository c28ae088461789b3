//! Full logs that are compacted as well.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use duralog::{
    CleanupPolicy, FlushPolicy, Log, Record, Retention, WhenFull,
    testing::sim::{Call, Effect, Fault},
};

use super::common::{LEN, SEGMENT, world};
use crate::{
    common::{Case, ENOSPC, in_both_modes, run, written},
    sim::world::{World, value},
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const FLOOR: u64 = 4 << 20;
/// What is free is compared with the floor and so much.
const AHEAD: u64 = 256 << 10;
const LARGE: u64 = 64 << 10;

/// One that keeps only so many segments, and is compacted again and again while records of a few
/// keys are sent.
fn race(world: &World, log: &Log, records: usize, pause: Duration) {
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let compacted = log.clone();
    let compactor = world.spawn("compactor", move |world| {
        while !stop.load(Ordering::Relaxed) {
            compacted.compact().unwrap();
            world.machine.sleep(pause);
        }
    });
    let producer = written(log);
    for number in 0..records {
        let key = format!("k{}", number % 40);
        let receipt = producer
            .send(Record::new(value("race", number, LEN)).key(key))
            .unwrap();
        receipt.wait().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    compactor.join();
}

#[test]
fn a_log_is_not_full_because_compaction_made_the_room_that_a_send_was_about_to_make() {
    for policy in [
        WhenFull::Reject,
        WhenFull::Block(Duration::ZERO),
        WhenFull::DropNewest,
        WhenFull::DropOldest,
    ] {
        in_both_modes(0..8, |case| {
            let world = world(case, |options| {
                options
                    .cleanup_policy(CleanupPolicy::CompactAndDelete)
                    .flush(FlushPolicy::every(3 * MILLI))
                    .retention(Retention::new().max_bytes(15 * SEGMENT))
                    .when_full(policy)
            });
            run(&world, |world| {
                let log = world.open();
                race(world, &log, 600, MILLI);
                let stats = log.stats();
                assert_eq!((stats.rejected_sends, stats.dropped_newest), (0, 0));
                assert_eq!((stats.blocked_sends, stats.lost_to_drop_oldest), (0, 0));
                assert!(log.log_start_offset().get() > 0);
            });
        });
    }
}

/// A log that is only compacted, on a disk that is to have so much free, or just that.
fn only_compacted(case: Case, policy: WhenFull, floor: u64) -> World {
    world(case, |options| {
        options
            .cleanup_policy(CleanupPolicy::Compact)
            .segment_bytes(LARGE)
            .flush(FlushPolicy::every(3 * MILLI))
            .min_free_bytes(floor)
            .when_full(policy)
    })
}

/// A record of one of two keys.
fn record(number: usize) -> Record {
    Record::new(value("full", number, LEN)).key(format!("k{}", number % 2))
}

#[test]
fn a_log_that_is_full_and_compacted_is_compacted_at_once() {
    let policies = [
        WhenFull::Block(5 * SECOND),
        WhenFull::Reject,
        WhenFull::DropNewest,
    ];
    for policy in policies {
        in_both_modes(0..4, |case| {
            run(&only_compacted(case, policy, FLOOR), |world| {
                let log = world.open();
                // The background has looked, and found nothing.
                world.machine.sleep(SECOND);
                world.machine.set_free(Some(FLOOR + AHEAD + 8 * LARGE));
                let producer = written(&log);
                let (mut was_full, mut full) = (false, 0);
                for number in 0..1_000 {
                    let sent = producer.send(record(number)).map_err(Into::into);
                    let Err(error) = sent.and_then(duralog::Receipt::wait) else {
                        was_full = false;
                        continue;
                    };
                    assert!(!matches!(policy, WhenFull::Block(_)), "{error}");
                    assert!(!was_full, "{number}: {error}");
                    was_full = true;
                    full += 1;
                    world.machine.sleep(5 * SECOND);
                }
                assert!(full > 0 || log.stats().blocked_sends > 0);
                world.machine.sleep(5 * SECOND);
                assert!(log.last_compaction().unwrap().unwrap().replaced > 0);
                assert_eq!(log.log_start_offset().get(), 0);
            });
        });
    }
}

#[test]
fn a_log_that_is_full_is_compacted_however_little_of_it_is_dirty() {
    in_both_modes(0..2, |case| {
        let mut world = only_compacted(case, WhenFull::Reject, FLOOR);
        world.options = world.options.min_dirty_ratio(0.9);
        run(&world, |world| {
            let log = world.open();
            let producer = written(&log);
            let once = |number| record(number).key(format!("once {number}"));
            (0..600).for_each(|number| drop(producer.send(once(number)).unwrap()));
            log.sync().unwrap();
            let clean = log.compact().unwrap().clean_below;
            world.machine.set_free(Some(FLOOR + AHEAD + 3 * LARGE));
            let mut numbers = 0..1_000;
            let is_full = numbers.any(|number| producer.send(record(number)).is_err());
            assert!(is_full);
            log.sync().unwrap();
            world.machine.sleep(5 * SECOND);
            let report = log.last_compaction().unwrap().unwrap();
            assert!(
                report.clean_below > clean && report.replaced > 0,
                "{report:?}"
            );
        });
    });
}

#[test]
fn a_log_that_is_compacted_is_so_at_once_when_it_gets_no_more_of_the_disk() {
    for policy in [WhenFull::Reject, WhenFull::Block(5 * SECOND)] {
        in_both_modes(0..4, |case| {
            run(&only_compacted(case, policy, 0), |world| {
                let log = world.open();
                let producer = written(&log);
                for number in 0..300 {
                    drop(producer.send(record(number)).unwrap());
                }
                log.sync().unwrap();
                world.machine.sleep(2 * SECOND);
                assert!(log.last_compaction().is_none());
                let fault = Fault::always(Call::Allocate, "", Effect::Fail(ENOSPC));
                world.machine.inject(&fault);
                let failed = (0..500).find_map(|number| producer.send(record(number)).err());
                let failed = failed.expect("it is full some time");
                assert!(failed.error().is_storage_full(), "{failed}");
                world.machine.sleep(5 * SECOND);
                assert!(log.last_compaction().unwrap().unwrap().replaced > 0);
                world.machine.lift_faults();
                drop(producer.send(record(1)).unwrap());
            });
        });
    }
}

/// Counts such calls on files with this in their names.
fn count(world: &World, call: Call, name: &'static str) -> Arc<AtomicUsize> {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    world.machine.observe(move |moment| {
        if moment.call == call && moment.path.display().to_string().contains(name) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    calls
}

/// Fills a log, and sends on for so long.
fn insist(world: &World, log: &Log, room: u64, time: Duration) -> u64 {
    world.machine.sleep(SECOND);
    world.machine.set_free(Some(room));
    let producer = written(log);
    let mut full_at = None;
    let mut refused = 0;
    for number in 0.. {
        if producer.send(record(number)).is_err() {
            refused += 1;
            let since = *full_at.get_or_insert(world.now());
            if world.now().saturating_sub(since) > time {
                break;
            }
            world.machine.sleep(20 * MILLI);
        }
    }
    refused
}

#[test]
fn a_full_log_with_nothing_to_compact_is_not_looked_at_again_and_again() {
    in_both_modes(0..3, |case| {
        let mut world = only_compacted(case, WhenFull::Reject, FLOOR);
        world.options = world.options.min_compaction_lag(3_600 * SECOND);
        run(&world, |world| {
            let log = world.open();
            // To be told the age of a segment, its footer is read.
            let opened = count(world, Call::Open, ".log");
            let room = FLOOR + AHEAD + 5 * LARGE;
            let refused = insist(world, &log, room, 4 * SECOND);
            assert!(refused > 20, "{refused}");
            let (segments, opened) = (log.stats().segments, opened.load(Ordering::Relaxed));
            // Once for each that was sealed, at most.
            assert!(opened as u64 <= segments * segments, "{opened}");
        });
    });
}

#[test]
fn a_compaction_for_which_the_disk_has_no_room_is_not_tried_again_and_again() {
    in_both_modes(0..3, |case| {
        run(&only_compacted(case, WhenFull::Reject, 0), |world| {
            let log = world.open();
            world.machine.sleep(SECOND);
            let producer = written(&log);
            for number in 0..300 {
                drop(producer.send(record(number)).unwrap());
            }
            log.sync().unwrap();
            world.machine.sleep(SECOND);
            let tried = count(world, Call::Create, ".cleaned");
            let refused = insist(world, &log, 0, 4 * SECOND);
            assert!(refused > 20, "{refused}");
            let tried = tried.load(Ordering::Relaxed);
            assert!((1..=3).contains(&tried), "{tried}");
        });
    });
}
