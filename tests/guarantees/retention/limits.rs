//! By bytes, by segments, by age.

use std::time::Duration;

use duralog::{Acks, Record, Retention, RetentionReason};

use super::common::{LEN, PER_SEGMENT, SEGMENT, assert_has_all_from, fill, settle, world};
use crate::common::{bases, in_both_modes, run, see, send_many, written};

/// Less than what is waited for, and more than a thread may be held up by the machine.
const MARGIN: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);
const DAYS: i64 = 24 * 3_600_000;

fn bytes_of_segments(world: &crate::sim::world::World) -> u64 {
    let disk = world.machine.process_crash();
    let used = |bytes: Vec<u8>| {
        bytes
            .iter()
            .rposition(|&b| b != 0)
            .map_or(0, |at| at as u64 + 1)
    };
    let paths = crate::common::segments(&disk);
    paths
        .iter()
        .map(|path| used(disk.read(path).unwrap()))
        .sum()
}

#[test]
fn a_log_never_has_more_bytes_than_it_is_to_keep_and_the_newest_stay() {
    in_both_modes(0..3, |case| {
        let limit = 5 * SEGMENT;
        let world = world(case, |options| {
            options.retention(Retention::new().max_bytes(limit))
        });
        run(&world, |world| {
            let log = world.open();
            let mut sent = Vec::new();
            for round in 0..12 {
                sent.extend(fill(&log, &format!("r{round}"), PER_SEGMENT));
                settle(world);
                assert!(bytes_of_segments(world) <= limit);
            }
            let start = log.log_start_offset().get();
            assert!(start > 0);
            assert_has_all_from(&log, start, &sent);
            // It keeps as much as it may: but for the segment that is filled, and the next one.
            assert!(bytes_of_segments(world) > limit - 3 * SEGMENT);
        });
    });
}

#[test]
fn a_log_has_no_more_segments_than_it_is_to_keep() {
    in_both_modes(0..3, |case| {
        let world = world(case, |options| {
            options.retention(Retention::new().max_segments(3))
        });
        run(&world, |world| {
            let log = world.open();
            let sent = fill(&log, "many", 10 * PER_SEGMENT);
            settle(world);
            assert_eq!(log.stats().segments, 3);
            let bases = bases(world, ".log");
            assert_eq!(bases.len(), 3);
            assert_has_all_from(&log, bases[0], &sent);
        });
    });
}

#[test]
fn a_segment_goes_once_its_newest_record_is_as_old_as_the_limit_and_not_before() {
    in_both_modes(0..3, |case| {
        let world = world(case, |options| {
            options.retention(Retention::new().max_age(HOUR))
        });
        run(&world, |world| {
            let log = world.open();
            let old = fill(&log, "old", 3 * PER_SEGMENT);
            world.machine.sleep(HOUR / 2);
            let young = send_many(&written(&log), "young", 0..18, LEN);
            settle(world);
            world.machine.sleep((HOUR / 2).saturating_sub(MARGIN));
            let all: Vec<_> = old.iter().chain(&young).cloned().collect();
            assert_has_all_from(&log, 0, &all);
            world.machine.sleep(MARGIN);
            let start = log.log_start_offset().get();
            // The segment with the last of the old ones has some of the young.
            assert!((PER_SEGMENT..=3 * PER_SEGMENT).contains(&start), "{start}");
            assert_has_all_from(&log, start, &all);
            world.machine.sleep(HOUR / 2);
            assert_has_all_from(&log, 36, &[]);
            assert_eq!(log.log_end_offset(), 36);
        });
    });
}

#[test]
fn limits_are_combined_and_each_says_what_it_is_for() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            fill(&log, "old", 3 * PER_SEGMENT);
            world.machine.sleep(HOUR);
            fill(&log, "young", 6 * PER_SEGMENT);
            let limits = Retention::new().max_age(HOUR).max_segments(5);
            let plan = log.plan_retention_of(limits).unwrap();
            let reasons: Vec<_> = plan.deleted.iter().map(|d| d.reason).collect();
            assert_eq!(reasons[..2], [RetentionReason::Age; 2]);
            assert_eq!(reasons.last(), Some(&RetentionReason::Segments));
            assert_eq!(log.stats().segments - reasons.len() as u64, 5);
            let plan = log
                .plan_retention_of(limits.max_bytes(3 * SEGMENT))
                .unwrap();
            assert_eq!(plan.deleted.last().unwrap().reason, RetentionReason::Bytes);
        });
    });
}

#[test]
fn an_idle_log_expires_too_and_one_that_trickles_keeps_nothing_twice_as_long() {
    in_both_modes(0..3, |case| {
        let world = world(case, |options| {
            options.retention(Retention::new().max_age(HOUR))
        });
        run(&world, |world| {
            let log = world.open();
            let producer = log.producer().acks(Acks::Written).build().unwrap();
            drop(producer.send(Record::new("alone")).unwrap());
            settle(world);
            world.machine.sleep(HOUR.saturating_sub(MARGIN));
            assert_eq!(see(&log).records.len(), 1);
            world.machine.sleep(HOUR / 10);
            assert_eq!(see(&log).records.len(), 0);
            assert_eq!(log.log_start_offset(), 1);
            for minute in 0..180_u64 {
                drop(producer.send(Record::new(minute.to_string())).unwrap());
                world.machine.sleep(HOUR / 60);
            }
            let oldest = log.log_end_offset().get() - log.log_start_offset().get();
            assert!((60..=122).contains(&oldest), "{oldest} minutes are kept");
        });
    });
}

#[test]
fn a_dry_run_says_what_would_go_and_why_and_deletes_nothing() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let sent = fill(&log, "kept", 4 * PER_SEGMENT);
            log.sync().unwrap();
            world.machine.sleep(Duration::from_secs(4));
            let before = world.machine.process_crash().fingerprint();
            let limits = Retention::new().max_segments(2);
            let plan = log.plan_retention_of(limits).unwrap();
            assert_eq!(world.machine.process_crash().fingerprint(), before);
            let start = plan.log_start_offset.get();
            assert_eq!(plan.records(), start);
            assert!(plan.bytes() > start * LEN as u64);
            assert_has_all_from(&log, 0, &sent);
            assert_eq!(log.enforce_retention_of(limits).unwrap(), plan);
            assert_has_all_from(&log, start, &sent);
        });
    });
}

#[test]
fn what_is_to_be_kept_is_stored_and_a_limit_for_once_is_not() {
    in_both_modes(0..1, |case| {
        let limits = Retention::new().max_segments(3);
        let world = world(case, |options| options.retention(limits));
        let disk = run(&world, |world| {
            let log = world.open();
            fill(&log, "x", 5 * PER_SEGMENT);
            log.enforce_retention_of(Retention::new().max_segments(2))
                .unwrap();
            assert_eq!(log.stats().segments, 2);
            log.close().unwrap();
            world.machine.process_crash()
        });
        case.reopen(&disk, |world, log| {
            assert_eq!(log.retention(), limits);
            fill(log, "y", 5 * PER_SEGMENT);
            settle(world);
            assert_eq!(log.stats().segments, 3);
        });
    });
}

/// The wall clock is set while records wait to expire.
fn expires_with_clock_set(millis: i64, when: &str) {
    in_both_modes(0..2, |case| {
        let world = world(case, |options| {
            options.retention(Retention::new().max_age(HOUR))
        });
        run(&world, |world| {
            let log = world.open();
            if when == "before" {
                world.machine.jump_wall_clock(millis);
            }
            let sent = fill(&log, "aging", 3 * PER_SEGMENT);
            settle(world);
            if when == "while" {
                world.machine.sleep(HOUR / 2);
                world.machine.jump_wall_clock(millis);
            }
            let all = [sent, fill(&log, "more", 2 * PER_SEGMENT)].concat();
            settle(world);
            log.enforce_retention().unwrap();
            assert_has_all_from(&log, 0, &all);
            let report = log.plan_retention().unwrap();
            let hours = u64::try_from(millis.abs()).unwrap() / 3_600_000;
            let strayed = [report.clock_ahead, report.clock_behind];
            let strayed = strayed.map(|time| (time.as_secs() + 60) / 3600);
            let expected = if millis > 0 { [hours, 0] } else { [0, hours] };
            assert_eq!(strayed, expected, "it is reported");
            world.machine.sleep(HOUR + Duration::from_secs(5));
            assert_eq!(see(&log).records, []);
        });
    });
}

#[test]
fn a_wall_clock_that_is_set_ahead_deletes_nothing_by_itself() {
    expires_with_clock_set(400 * DAYS, "while");
    expires_with_clock_set(400 * DAYS, "before");
}

#[test]
fn a_wall_clock_that_is_set_back_keeps_nothing_longer_and_deletes_nothing() {
    expires_with_clock_set(-400 * DAYS, "while");
    expires_with_clock_set(-400 * DAYS, "before");
}

#[test]
fn what_was_appended_while_the_clock_was_ahead_does_not_stay_for_ever() {
    in_both_modes(0..2, |case| {
        let world = world(case, |options| {
            options.retention(Retention::new().max_age(HOUR))
        });
        let disk = run(&world, |world| {
            let log = world.open();
            world.machine.jump_wall_clock(400 * DAYS);
            fill(&log, "ahead", 2 * PER_SEGMENT);
            world.machine.jump_wall_clock(-400 * DAYS);
            fill(&log, "right", 4 * PER_SEGMENT);
            log.close().unwrap();
            world.machine.process_crash()
        });
        case.reopen(&disk, |world, log| {
            // The machine's clock begins anew, a moment behind: nothing counts as old.
            assert_eq!(log.log_start_offset(), 0);
            world.machine.sleep(HOUR + Duration::from_secs(5));
            assert_eq!(see(log).records, []);
        });
        // Of most segments the next one tells when they were rolled: they are as old as they are.
        let world = case.boot(&disk);
        world.machine.jump_wall_clock(2 * 3_600_000);
        run(&world, |world| {
            let log = world.open();
            settle(world);
            assert!(log.log_start_offset().get() >= 4 * PER_SEGMENT);
        });
    });
}
