//! A log that has reached its limit in bytes, and a group that does not move.

use std::time::Duration;

use duralog::{
    Acks, ErrorKind, GapReason, GroupRetention, Log, LogOptions, Record, Retention, SendError,
    WhenFull, testing::sim::Choices,
};

use super::common::{
    LEN, PER_SEGMENT, SEGMENT, assert_has_all_from, fill, group_at, settle, world,
};
use crate::{
    common::{Case, drain, in_both_modes, run, see, send, written},
    sim::world::{World, value},
};

const LIMIT: u64 = 4 * SEGMENT;
/// So many records a log of this limit has at most.
const FULL: u64 = 4 * PER_SEGMENT;
const SECOND: Duration = Duration::from_secs(1);
/// A thread may be held up for so long.
const LATE: Duration = Duration::from_millis(500);

/// Four segments at most, and nothing goes that a group wants.
fn limited(when_full: WhenFull) -> impl Fn(LogOptions) -> LogOptions {
    move |options| {
        options
            .retention(Retention::new().max_bytes(LIMIT))
            .group_retention(GroupRetention::KeepUnconsumed)
            .when_full(when_full)
    }
}

fn full_world(case: Case, when_full: WhenFull) -> World {
    world(case, limited(when_full))
}

/// Fills a log up to its limit.
fn fill_up(log: &Log) -> Vec<(u64, String)> {
    fill(log, "x", FULL)
}

fn more(number: usize) -> Record {
    Record::new(value("more", number, LEN))
}

fn refused(log: &Log, number: usize) -> SendError<Record> {
    written(log).send(more(number)).unwrap_err()
}

/// It names the limit and the group.
fn assert_names_what_holds(error: &duralog::Error, group: &str) {
    assert!(error.is_full());
    assert!(
        matches!(error.kind(), ErrorKind::LogFull { limit: "max_bytes", bytes: LIMIT, held_by }
            if held_by.as_deref() == Some(group)),
        "{error:?}"
    );
}

#[test]
fn a_log_that_rejects_names_the_limit_and_the_group_hands_the_record_back_and_changes_nothing() {
    in_both_modes(0..4, |case| {
        run(&full_world(case, WhenFull::Reject), |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            let fast = log.consumer("fast").build().unwrap();
            let mut sent = fill_up(&log);
            drop(fast);
            log.delete_group("fast").unwrap();
            log.sync().unwrap();
            world.machine.sleep(Duration::from_secs(5));
            let before = world.machine.process_crash().fingerprint();
            let failed = refused(&log, 0);
            assert_names_what_holds(failed.error(), "slow");
            let text = failed.error().to_string();
            assert!(
                text.contains("max_bytes") && text.contains("slow"),
                "{text}"
            );
            assert_eq!(failed.into_record(), more(0));
            let batch = [more(1), more(2)];
            let failed = written(&log).send_batch(&batch[..]).unwrap_err();
            assert_names_what_holds(failed.error(), "slow");
            assert_eq!(log.stats().rejected_sends, 2);
            assert_eq!(log.stats().failed_sends, 2);
            assert_eq!(world.machine.process_crash().fingerprint(), before);
            assert_has_all_from(&log, 0, &sent);
            // A commit below the end of the first segment is not enough; at its end it is.
            slow.commit_offset(5.into()).unwrap();
            assert_names_what_holds(refused(&log, 0).error(), "slow");
            slow.commit_offset(6.into()).unwrap();
            // Of those who need room, one looks within a few milliseconds.
            world.machine.sleep(Duration::from_millis(20));
            sent.push(send(&written(&log), value("more", 0, LEN)));
            assert_has_all_from(&log, 6, &sent);
            assert_eq!(log.stats().lost_to_retention, 0);
        });
    });
}

#[test]
fn the_group_that_is_named_is_the_one_farthest_behind() {
    in_both_modes(0..2, |case| {
        run(&full_world(case, WhenFull::Reject), |world| {
            let log = world.open();
            let mut groups = ["a", "b", "c"].map(|name| group_at(&log, name, 0));
            fill_up(&log);
            for (group, at) in groups.iter_mut().zip([4_u64, 2, 3]) {
                group.commit_offset(at.into()).unwrap();
            }
            assert_names_what_holds(refused(&log, 0).error(), "b");
        });
    });
}

#[test]
fn a_send_that_blocks_goes_on_once_the_group_has_committed() {
    in_both_modes(0..6, |case| {
        let policy = WhenFull::Block(60 * SECOND);
        run(&full_world(case, policy), |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            let mut sent = fill_up(&log);
            let before = world.now();
            let committer = world.spawn("committer", move |world| {
                world.machine.sleep(3 * SECOND);
                slow.commit_offset(6.into()).unwrap();
            });
            sent.push(send(&written(&log), value("more", 0, LEN)));
            let waited = world.now().saturating_sub(before);
            assert!((3 * SECOND..4 * SECOND).contains(&waited), "{waited:?}");
            committer.join();
            assert_has_all_from(&log, 6, &sent);
            let stats = log.stats();
            assert_eq!((stats.blocked_sends, stats.rejected_sends), (1, 0));
        });
    });
}

#[test]
fn a_send_that_blocks_fails_at_its_timeout_and_others_that_have_room_are_not_held_up() {
    in_both_modes(0..4, |case| {
        let policy = WhenFull::Block(10 * SECOND);
        run(&full_world(case, policy), |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            let sent = fill_up(&log);
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let producer = written(&log);
                    world.spawn("sender", move |world| {
                        let before = world.now();
                        let failed = producer.send(more(number)).unwrap_err();
                        let waited = world.now().saturating_sub(before);
                        assert!((10 * SECOND..11 * SECOND).contains(&waited), "{waited:?}");
                        assert_names_what_holds(failed.error(), "slow");
                        assert_eq!(failed.into_record(), more(number));
                    })
                })
                .collect();
            world.machine.sleep(5 * SECOND);
            // Meanwhile readers read, and groups commit.
            assert_eq!(see(&log).records, sent);
            slow.commit_offset(3.into()).unwrap();
            for thread in threads {
                thread.join();
            }
            let stats = log.stats();
            assert_eq!((stats.blocked_sends, stats.rejected_sends), (3, 3));
            assert_has_all_from(&log, 0, &sent);
        });
    });
}

#[test]
fn a_log_is_closed_although_a_send_is_blocked() {
    in_both_modes(0..4, |case| {
        let policy = WhenFull::Block(3600 * SECOND);
        run(&full_world(case, policy), |world| {
            let log = world.open();
            drop(group_at(&log, "slow", 0));
            fill_up(&log);
            let producer = written(&log);
            let sender = world.spawn("sender", move |_| {
                let failed = producer.send(more(0)).unwrap_err();
                assert!(matches!(failed.error().kind(), ErrorKind::Closed));
            });
            world.machine.sleep(3 * SECOND);
            log.close().unwrap();
            sender.join();
            assert!(world.now() < 60 * SECOND);
        });
    });
}

#[test]
fn what_is_dropped_for_being_the_newest_is_told_by_the_receipt_and_counted() {
    in_both_modes(0..4, |case| {
        run(&full_world(case, WhenFull::DropNewest), |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            let mut sent = fill_up(&log);
            for acks in [Acks::Written, Acks::Durable, Acks::None] {
                let receipt = written(&log).send_with(more(0), acks).unwrap();
                assert_eq!(receipt.offset(), None);
                let error = receipt.wait().unwrap_err();
                let ErrorKind::Dropped { source } = error.kind() else {
                    panic!("{error:?}");
                };
                assert_names_what_holds(source, "slow");
            }
            let batch = [more(1), more(2), more(3)];
            let receipt = written(&log).send_batch(&batch[..]).unwrap();
            assert!(matches!(
                world.block_on(receipt).unwrap_err().kind(),
                ErrorKind::Dropped { .. }
            ));
            let stats = log.stats();
            assert_eq!((stats.dropped_newest, stats.rejected_sends), (6, 0));
            assert_has_all_from(&log, 0, &sent);
            slow.commit_offset(12.into()).unwrap();
            world.machine.sleep(LATE);
            sent.push(send(&written(&log), value("more", 9, LEN)));
            settle(world);
            assert_has_all_from(&log, log.log_start_offset().get(), &sent);
        });
    });
}

#[test]
fn named_producers_leave_nothing_out_of_a_log_that_drops_what_is_newest() {
    in_both_modes(0..3, |case| {
        run(&full_world(case, WhenFull::DropNewest), |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            fill_up(&log);
            let named = log.producer().acks(Acks::Written).name("importer");
            let named = named.build().unwrap();
            let failed = named.send(more(0)).unwrap_err();
            assert_names_what_holds(failed.error(), "slow");
            assert_eq!(failed.into_record(), more(0));
            let failed = named.send_sequenced(0, more(0)).unwrap_err();
            assert_names_what_holds(failed.error(), "slow");
            let stats = log.stats();
            assert_eq!((stats.dropped_newest, stats.rejected_sends), (0, 2));
            slow.commit_offset(12.into()).unwrap();
            world.machine.sleep(LATE);
            let sent = named.send_sequenced(0, more(0)).unwrap();
            assert!(!sent.is_duplicate());
            assert_eq!(named.last_sequence().unwrap(), Some(0));
        });
    });
}

#[test]
fn the_oldest_make_room_for_the_newest_and_groups_are_told_why() {
    in_both_modes(0..4, |case| {
        let disk = run(&full_world(case, WhenFull::DropOldest), |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            let mut sent = fill_up(&log);
            log.delete_records_before(3.into()).unwrap();
            assert_eq!(log.stats().lost_to_retention, 3);
            sent.extend(fill(&log, "more", 1));
            assert_has_all_from(&log, PER_SEGMENT, &sent);
            assert_eq!(log.stats().lost_to_drop_oldest, 3, "three had gone before");
            let told = [(0, 3, GapReason::Retention), (3, 6, GapReason::DropOldest)];
            assert_eq!(see_group(&mut slow), told);
            assert_eq!(see(&log).gaps, [], "a log begins where it begins");
            sent.extend(fill(&log, "again", 2 * PER_SEGMENT));
            let start = log.log_start_offset().get();
            assert_eq!(start, 3 * PER_SEGMENT);
            assert_has_all_from(&log, start, &sent);
            slow.seek_to_committed();
            let told = [
                (0, 3, GapReason::Retention),
                (3, start, GapReason::DropOldest),
            ];
            assert_eq!(see_group(&mut slow), told);
            slow.commit().unwrap();
            let losses = slow.losses();
            assert_eq!((losses.retention, losses.drop_oldest), (3, start - 3));
            let stats = log.stats();
            assert_eq!(stats.lost_to_drop_oldest, start - 3);
            assert_eq!((stats.rejected_sends, stats.failed_sends), (0, 0));
            world.machine.power_cut(&mut Choices::everything())
        });
        case.reopen(&disk, |_, log| {
            let stats = log.stats();
            assert_eq!(
                (stats.lost_to_retention, stats.lost_to_drop_oldest),
                (3, 15)
            );
            let losses = log.describe_group("slow").unwrap().losses;
            assert_eq!((losses.retention, losses.drop_oldest), (3, 15));
            assert_eq!(log.consumer("late").build().unwrap().position(), 18);
        });
    });
}

fn see_group(consumer: &mut duralog::Consumer) -> Vec<(u64, u64, GapReason)> {
    drain(consumer).gaps
}

#[test]
fn what_may_go_by_the_limit_goes_before_anything_is_dropped_or_refused() {
    let policies = [
        WhenFull::Reject,
        WhenFull::Block(SECOND),
        WhenFull::DropNewest,
        WhenFull::DropOldest,
    ];
    for policy in policies {
        in_both_modes(0..2, |case| {
            run(&full_world(case, policy), |world| {
                let log = world.open();
                let mut group = group_at(&log, "group", 0);
                let mut sent = Vec::new();
                for round in 0..12 {
                    sent.extend(fill(&log, &format!("r{round}"), PER_SEGMENT));
                    group.commit_offset(log.log_end_offset()).unwrap();
                    world.machine.sleep(Duration::from_millis(20));
                }
                settle(world);
                let stats = log.stats();
                let lost = stats.lost_to_drop_oldest + stats.lost_to_retention;
                assert_eq!(
                    (stats.dropped_newest, stats.rejected_sends, lost),
                    (0, 0, 0)
                );
                let start = log.log_start_offset().get();
                assert!(start > 0);
                assert_has_all_from(&log, start, &sent);
                assert_eq!(drain(&mut group).gaps.len(), 1);
            });
        });
    }
}
