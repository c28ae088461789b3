//! A disk that has less free than is wanted, or nothing at all.

use std::time::Duration;

use duralog::{
    Acks, ErrorKind, GapReason, GroupRetention, Log, LogOptions, Record, Retention, SendError,
    WhenFull,
};

use super::common::{
    LEN, PER_SEGMENT, SEGMENT, assert_has_all_from, fill, group_at, settle, world,
};
use crate::{
    common::{Case, bases, drain, in_both_modes, run, send, written},
    sim::world::{World, value},
};

const SECOND: Duration = Duration::from_secs(1);
const FLOOR: u64 = 4 << 20;
/// What is free is compared with the floor and so much.
const AHEAD: u64 = 256 << 10;

/// A machine on which a log has room for about so many segments more than it needs.
fn floored(case: Case, groups: GroupRetention, policy: WhenFull) -> World {
    world(case, |options| {
        options
            .min_free_bytes(FLOOR)
            .group_retention(groups)
            .when_full(policy)
    })
}

fn leave_room(world: &World, segments: u64) {
    let free = FLOOR + AHEAD + segments * (SEGMENT + 4096);
    world.machine.set_free(Some(free));
}

/// Sends until the log takes no more.
fn fill_until_refused(log: &Log, sent: &mut Vec<(u64, String)>) -> SendError<Record> {
    let producer = written(log);
    let refused = (0..200).find_map(|number| {
        let value = value("until", number, LEN);
        match producer.send(Record::new(value.as_str())) {
            Ok(receipt) => sent.push((receipt.wait().unwrap().get(), value)),
            Err(failed) => return Some(failed),
        }
        None
    });
    refused.expect("it is full some time")
}

fn is_floor(error: &duralog::Error, group: Option<&str>) -> bool {
    matches!(error.kind(), ErrorKind::LogFull { limit: "min_free_bytes", bytes: FLOOR, held_by }
        if held_by.as_deref() == group)
}

#[test]
fn the_oldest_segments_go_so_that_the_disk_has_as_much_free_as_is_wanted() {
    in_both_modes(0..3, |case| {
        let world = floored(case, GroupRetention::Drop, WhenFull::Reject);
        run(&world, |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            leave_room(world, 6);
            let mut sent = Vec::new();
            for round in 0..20 {
                sent.extend(fill(&log, &format!("r{round}"), PER_SEGMENT));
                world.machine.sleep(SECOND);
            }
            let start = log.log_start_offset().get();
            assert!(start > 0);
            assert!(log.stats().segments >= 3, "{}", log.stats().segments);
            assert_has_all_from(&log, start, &sent);
            let gaps = drain(&mut slow).gaps;
            assert_eq!(gaps, [(0, start, GapReason::Retention)]);
            assert_eq!(log.stats().lost_to_retention, start);
        });
    });
}

#[test]
fn a_log_that_may_let_nothing_go_leaves_the_disk_what_it_is_to_have_free() {
    in_both_modes(0..3, |case| {
        let world = floored(case, GroupRetention::KeepUnconsumed, WhenFull::Reject);
        run(&world, |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            leave_room(world, 8);
            let mut sent = Vec::new();
            let failed = fill_until_refused(&log, &mut sent);
            assert!(is_floor(failed.error(), Some("slow")), "{failed:?}");
            assert!(sent.len() as u64 >= 2 * PER_SEGMENT, "{}", sent.len());
            assert_has_all_from(&log, 0, &sent);
            assert_eq!(log.stats().rejected_sends, 1);
            // What the group has read may go. (Of segments this small, half is for their indexes.)
            slow.commit_offset(60.into()).unwrap();
            settle(world);
            sent.extend(fill(&log, "then", 1));
            let start = log.log_start_offset().get();
            assert!((6..=60).contains(&start), "{start}");
            assert_has_all_from(&log, start, &sent);
            fill_until_refused(&log, &mut sent);
            // Others left more room.
            world.machine.set_free(None);
            sent.extend(fill(&log, "room", 4 * PER_SEGMENT));
            assert_has_all_from(&log, log.log_start_offset().get(), &sent);
            assert_eq!(log.stats().lost_to_retention, 0);
        });
    });
}

#[test]
fn at_the_floor_a_send_waits_is_dropped_or_drops_the_oldest_as_the_options_say() {
    let policies = [
        WhenFull::Block(5 * SECOND),
        WhenFull::DropNewest,
        WhenFull::DropOldest,
    ];
    for policy in policies {
        in_both_modes(0..2, |case| {
            let world = floored(case, GroupRetention::KeepUnconsumed, policy);
            run(&world, |world| {
                let log = world.open();
                let mut slow = group_at(&log, "slow", 0);
                leave_room(world, 4);
                let producer = written(&log);
                let mut sent = Vec::new();
                let mut refused = 0;
                for number in 0..120 {
                    let value = value("each", number, LEN);
                    let result = producer.send(Record::new(value.as_str()));
                    let result = result.map_err(Into::into).and_then(duralog::Receipt::wait);
                    match result {
                        Ok(at) => sent.push((at.get(), value)),
                        Err(_) if policy != WhenFull::DropNewest && refused == 2 => break,
                        Err(_) => refused += 1,
                    }
                }
                let start = log.log_start_offset().get();
                assert_has_all_from(&log, start, &sent);
                let stats = log.stats();
                match policy {
                    WhenFull::DropOldest => {
                        assert_eq!((refused, sent.len()), (0, 120));
                        assert_eq!(stats.lost_to_drop_oldest, start);
                        assert!(start > 0);
                        let gaps = drain(&mut slow).gaps;
                        assert_eq!(gaps, [(0, start, GapReason::DropOldest)]);
                    }
                    WhenFull::DropNewest => {
                        assert!(refused > 0);
                        assert_eq!((stats.dropped_newest, start), (refused, 0));
                    }
                    _ => assert_eq!((stats.blocked_sends, stats.rejected_sends), (3, 3)),
                }
            });
        });
    }
}

#[test]
fn a_disk_that_others_fill_takes_all_but_the_active_segment_and_then_sends_fail() {
    for policy in [WhenFull::Reject, WhenFull::DropOldest] {
        in_both_modes(0..2, |case| {
            let world = floored(case, GroupRetention::Drop, policy);
            run(&world, |world| {
                let log = world.open();
                let mut sent = fill(&log, "x", 5 * PER_SEGMENT);
                settle(world);
                assert_eq!(log.log_start_offset(), 0);
                world.machine.set_free(Some(SEGMENT));
                world.machine.sleep(20 * SECOND);
                assert_eq!(log.stats().segments, 1, "it is looked at");
                let failed = fill_until_refused(&log, &mut sent);
                assert!(is_floor(failed.error(), None), "{failed:?}");
                assert_has_all_from(&log, log.log_start_offset().get(), &sent);
                world.machine.set_free(None);
                sent.push(send(&written(&log), "again"));
                assert_has_all_from(&log, log.log_start_offset().get(), &sent);
            });
        });
    }
}

/// Sends on a disk with so much left, which nobody else needs.
fn on_a_full_disk(
    case: Case,
    change: impl FnOnce(LogOptions) -> LogOptions,
    body: impl FnOnce(&World, &Log),
) {
    run(&world(case, change), |world| {
        let log = world.open();
        body(world, &log);
        assert!(!log.stats().latched);
        log.verify_open(world);
    });
}

trait VerifyOpen {
    fn verify_open(&self, world: &World);
}

impl VerifyOpen for Log {
    /// Nothing in its directory is damaged, and no file of a segment that went is left.
    fn verify_open(&self, world: &World) {
        settle(world);
        let report = super::common::beside(world).verify().unwrap();
        assert_eq!(report.damage, []);
        let first = self.log_start_offset().get();
        for ending in [".log", ".index"] {
            let left = bases(world, ending);
            assert!(
                left.iter().all(|base| base + PER_SEGMENT > first),
                "{left:?}"
            );
        }
    }
}

#[test]
fn on_a_disk_that_is_full_the_oldest_go_for_the_newest_if_that_is_what_is_wanted() {
    for synced in [false, true] {
        in_both_modes(0..4, |case| {
            let change = |options: LogOptions| options.when_full(WhenFull::DropOldest);
            on_a_full_disk(case, change, |world, log| {
                let mut slow = group_at(log, "slow", 0);
                let mut sent = fill(log, "x", 4 * PER_SEGMENT);
                if synced {
                    log.sync().unwrap();
                }
                settle(world);
                world.machine.set_free(Some(2 * SEGMENT));
                sent.extend(fill(log, "more", 8 * PER_SEGMENT));
                let start = log.log_start_offset().get();
                assert!(start > 0);
                assert_has_all_from(log, start, &sent);
                assert_eq!(log.stats().lost_to_drop_oldest, start);
                let gaps = drain(&mut slow).gaps;
                assert_eq!(gaps, [(0, start, GapReason::DropOldest)]);
                slow.commit().unwrap();
            });
        });
    }
}

#[test]
fn on_a_disk_that_is_full_named_producers_go_on_as_the_oldest_go() {
    in_both_modes(0..4, |case| {
        let change = |options: LogOptions| options.when_full(WhenFull::DropOldest);
        on_a_full_disk(case, change, |world, log| {
            let named = log.producer().acks(Acks::Written).name("importer");
            let named = named.build().unwrap();
            for sequence in 0..24 {
                let record = Record::new(value("named", sequence, LEN));
                drop(named.send_sequenced(sequence as u64, &record).unwrap());
                // What is known of producers is stored as the log grows.
                log.sync().unwrap();
                world.machine.sleep(SECOND);
            }
            world.machine.set_free(Some(SEGMENT));
            for sequence in 24..64 {
                let record = Record::new(value("named", sequence, LEN));
                let sequence = sequence as u64;
                drop(named.send_sequenced(sequence, &record).unwrap());
                let again = named.send_sequenced(sequence, &record).unwrap();
                assert!(again.is_duplicate());
            }
            assert!(log.log_start_offset().get() > PER_SEGMENT);
            let first = Record::new(value("named", 0, LEN));
            assert!(named.send_sequenced(0, &first).unwrap().is_duplicate());
        });
    });
}

#[test]
fn what_the_limits_let_go_goes_first_on_a_disk_that_is_full_and_then_the_options_decide() {
    in_both_modes(0..4, |case| {
        let change = |options: LogOptions| {
            options
                .retention(Retention::new().max_bytes(100 * SEGMENT))
                .group_retention(GroupRetention::KeepUnconsumed)
        };
        on_a_full_disk(case, change, |world, log| {
            let mut slow = group_at(log, "slow", 0);
            let mut sent = fill(log, "x", 4 * PER_SEGMENT);
            settle(world);
            world.machine.set_free(Some(SEGMENT));
            slow.commit_offset(13.into()).unwrap();
            let failed = fill_until_refused(log, &mut sent);
            let is_full = matches!(failed.error().kind(), ErrorKind::StorageFull { .. });
            assert!(is_full, "{failed:?}");
            let start = log.log_start_offset().get();
            assert_eq!(start, 12, "as much as it had read");
            assert_has_all_from(log, start, &sent);
            assert_eq!(log.stats().rejected_sends, 1);
            slow.commit_offset(24.into()).unwrap();
            world.machine.sleep(Duration::from_millis(20));
            sent.extend(fill(log, "then", 1));
            world.machine.set_free(None);
            sent.extend(fill(log, "room", 4 * PER_SEGMENT));
            assert_has_all_from(log, log.log_start_offset().get(), &sent);
        });
    });
}

#[test]
fn a_send_waits_for_room_on_a_disk_that_is_full_and_goes_on_when_there_is_some() {
    in_both_modes(0..4, |case| {
        let change = |options: LogOptions| options.when_full(WhenFull::Block(60 * SECOND));
        on_a_full_disk(case, change, |world, log| {
            let mut sent = fill(log, "x", 2 * PER_SEGMENT);
            world.machine.set_free(Some(0));
            let freer = world.spawn("freer", |world| {
                world.machine.sleep(10 * SECOND);
                world.machine.set_free(None);
            });
            sent.extend(fill(log, "more", 3 * PER_SEGMENT));
            freer.join();
            assert!(world.now() > 10 * SECOND);
            assert_has_all_from(log, 0, &sent);
            assert!(log.stats().blocked_sends > 0);
            assert_eq!(log.stats().rejected_sends, 0);
        });
    });
}
