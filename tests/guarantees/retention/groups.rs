//! Groups that have not read what is to go: told of it, or holding it back.

use std::time::Duration;

use duralog::{
    CommitOptions, GapReason, GroupRetention, Log, LogOptions, Retention, RetentionReport,
    testing::sim::{Call, Disk, Effect, Fault},
};

use super::common::{
    LEN, PER_SEGMENT, SEGMENT, assert_has_all_from, beside, fill, group_at, settle, world,
};
use crate::{
    common::{Case, EIO, drain, in_both_modes, in_log, run, see},
    sim::world::World,
};

const HOUR: Duration = Duration::from_secs(3600);
const TWO: Retention = Retention::new().max_segments(2);

/// Ten segments of which two are to be kept, unless groups want more.
fn keeping(options: LogOptions) -> LogOptions {
    options
        .retention(TWO)
        .group_retention(GroupRetention::KeepUnconsumed)
}

const SEGMENTS: u64 = 10;
const END: u64 = SEGMENTS * PER_SEGMENT;
/// Where the two segments that are kept begin.
const KEPT: u64 = END - 2 * PER_SEGMENT;

/// The groups that hold back, and how far they have come.
fn holders(report: &RetentionReport) -> Vec<(&str, u64)> {
    let held = report.held_back.iter();
    held.map(|held| (&*held.group, held.committed.get()))
        .collect()
}

fn damage_both_slots(disk: &mut Disk, group: &str) {
    let path = in_log(&format!("groups/{group}.offset"));
    let bytes = disk.read(&path).unwrap();
    for slot in [0, 4096] {
        assert!(disk.write(&path, slot + 40, &[!bytes[slot + 40]]));
    }
}

#[test]
fn a_group_that_had_not_read_what_went_is_told_the_gap_and_the_loss_is_counted() {
    in_both_modes(0..3, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let mut slow = log.consumer("slow").build().unwrap();
            let mut fast = log.consumer("fast").build().unwrap();
            let sent = fill(&log, "x", END);
            drain(&mut fast);
            fast.commit().unwrap();
            slow.commit_offset(4.into()).unwrap();
            let report = log.enforce_retention_of(TWO).unwrap();
            assert_eq!(report.log_start_offset, KEPT);
            assert_eq!(report.held_back, []);
            let losses: Vec<_> = report.losses.iter().collect();
            assert_eq!(losses.len(), 1, "{losses:?}");
            assert_eq!((&*losses[0].group, losses[0].records), ("slow", KEPT - 4));
            assert_eq!(log.stats().lost_to_retention, KEPT - 4);
            // It polls from where it was, then from where it had committed.
            let seen = drain(&mut slow);
            assert_eq!(seen.gaps, [(0, KEPT, GapReason::Retention)]);
            assert_eq!(seen.records, sent[48..]);
            slow.seek_to_committed();
            let seen = drain(&mut slow);
            assert_eq!(seen.gaps, [(4, KEPT, GapReason::Retention)]);
            assert_eq!(drain(&mut fast).gaps, []);
            let again = log.enforce_retention_of(TWO).unwrap();
            assert_eq!((again.records(), &*again.losses), (0, &[][..]));
            assert_eq!(log.stats().lost_to_retention, KEPT - 4);
        });
    });
}

#[test]
fn records_that_several_groups_lose_are_counted_once_in_the_log_and_for_each_in_the_report() {
    in_both_modes(0..2, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            fill(&log, "x", END);
            let groups = [("a", 20), ("b", 7), ("c", KEPT)].map(|(n, at)| group_at(&log, n, at));
            let report = log.enforce_retention_of(TWO).unwrap();
            let losses: Vec<_> = report
                .losses
                .iter()
                .map(|loss| (&*loss.group, loss.records))
                .collect();
            assert_eq!(losses, [("a", KEPT - 20), ("b", KEPT - 7)]);
            assert_eq!(log.stats().lost_to_retention, KEPT - 7);
            drop(groups);
            world
                .machine
                .power_cut(&mut duralog::testing::sim::Choices::nothing())
        });
        case.reopen(&disk, |_, log| {
            assert_eq!(log.stats().lost_to_retention, KEPT - 7, "it is kept");
        });
    });
}

#[test]
fn nothing_goes_that_a_group_has_not_committed_and_it_goes_soon_after_it_has() {
    in_both_modes(0..3, |case| {
        run(&world(case, keeping), |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            let sent = fill(&log, "x", END);
            settle(world);
            assert_has_all_from(&log, 0, &sent);
            for committed in [1, 5, 6, 7, 29, 30, KEPT - 1, KEPT, END] {
                slow.commit_offset(committed.into()).unwrap();
                settle(world);
                let whole = committed / PER_SEGMENT * PER_SEGMENT;
                assert_has_all_from(&log, whole.min(KEPT), &sent);
            }
            assert_eq!(log.stats().lost_to_retention, 0);
        });
    });
}

/// After a power cut, groups go on without a gap.
fn assert_reads_on(case: Case, disk: &Disk, groups: &[&str]) {
    case.reopen(disk, |_, log| {
        for name in groups {
            let mut consumer = log.consumer(*name).build().unwrap();
            let (committed, start) = (consumer.committed(), log.log_start_offset());
            assert!(committed >= start, "{name}: {committed} of {start}");
            let mut gaps = drain(&mut consumer).gaps;
            // What ends in a power cut may have lost what was written last, for all it knows.
            gaps.retain(|(_, _, reason)| *reason != GapReason::LostTail);
            assert_eq!(gaps, [], "{name} from {committed}");
        }
        assert_eq!(log.stats().lost_to_retention, 0);
    });
}

#[test]
fn what_a_commit_without_a_sync_lets_go_does_not_come_back_as_a_gap_after_a_power_cut() {
    in_both_modes(0..4, |case| {
        let world = world(case, keeping);
        let points = run(&world, |world| {
            let log = world.open();
            let mut held = group_at(&log, "held", 0);
            let mut other = group_at(&log, "other", 0);
            let reader = beside(world);
            let mut foreign = reader.consumer("foreign").build().unwrap();
            fill(&log, "x", END);
            log.sync().unwrap();
            settle(world);
            let points = world.watch();
            for committed in [15, 31, END] {
                held.commit_offset(committed.into()).unwrap();
                foreign.commit_offset(committed.into()).unwrap();
                other.commit_offset(committed.into()).unwrap();
                if committed == 31 {
                    drop(other);
                    other = group_at(&log, "other", 0);
                }
                settle(world);
                assert_eq!(log.log_start_offset(), (committed / 6 * 6).min(KEPT));
            }
            crate::common::taken(&points)
        });
        let removals = points.iter().filter(|point| point.call == Call::Remove);
        assert!(removals.count() > 0);
        for point in case.some(points, 12) {
            crate::common::told(&point.path, || {
                case.each_power_cut(&point.disk, 1, |cut| {
                    assert_reads_on(case, cut, &["held", "foreign", "other"]);
                });
            });
        }
    });
}

#[test]
fn a_group_whose_file_can_not_be_synced_holds_the_log_back_until_it_commits_again() {
    for is_held in [true, false] {
        in_both_modes(0..3, |case| {
            run(&world(case, keeping), |world| {
                let log = world.open();
                let mut slow = Some(group_at(&log, "slow", 0));
                let sent = fill(&log, "x", END);
                log.sync().unwrap();
                settle(world);
                let fault = Fault::always(Call::Synced, "groups/", Effect::FailedSync);
                world.machine.inject(&fault);
                let mut consumer = slow.take().unwrap();
                consumer.commit_offset(END.into()).unwrap();
                slow = Some(consumer).filter(|_| is_held);
                settle(world);
                assert!(fault.fired() > 0);
                world.machine.lift_faults();
                settle(world);
                // A later sync that returns success says nothing of what the failed one lost.
                assert_has_all_from(&log, 0, &sent);
                let plan = log.plan_retention().unwrap();
                assert_eq!(holders(&plan), [("slow", 0)]);
                drop(slow);
                let mut slow = log.consumer("slow").build().unwrap();
                slow.commit_offset(END.into()).unwrap();
                settle(world);
                assert_has_all_from(&log, KEPT, &sent);
            });
        });
    }
}

#[test]
fn a_group_whose_file_is_damaged_holds_everything_back_and_is_named() {
    in_both_modes(0..2, |case| {
        let world = world(case, keeping);
        let mut disk = run(&world, |world| {
            let log = world.open();
            let groups = [group_at(&log, "hurt", 0), group_at(&log, "well", 0)];
            fill(&log, "x", 4 * PER_SEGMENT);
            for mut group in groups {
                group.commit_offset(8.into()).unwrap();
            }
            settle(world);
            assert_eq!(log.log_start_offset(), 6);
            log.close().unwrap();
            world.machine.process_crash()
        });
        damage_both_slots(&mut disk, "hurt");
        case.reopen(&disk, |world, log| {
            let mut well = log.consumer("well").build().unwrap();
            fill(log, "y", 6 * PER_SEGMENT);
            well.commit_offset(log.log_end_offset()).unwrap();
            settle(world);
            assert_eq!(log.log_start_offset(), 6);
            let plan = log.plan_retention().unwrap();
            assert_eq!(holders(&plan), [("hurt", 6)], "the log start stands for it");
            assert_eq!(plan.held_back[0].segments, 7);
            log.delete_group("hurt").unwrap();
            settle(world);
            assert_eq!(log.log_start_offset(), KEPT);
        });
    });
}

#[test]
fn a_group_that_does_not_count_holds_nothing_back() {
    in_both_modes(0..2, |case| {
        let world = world(case, |options| keeping(options).exclude_group("debug"));
        run(&world, |world| {
            let log = world.open();
            let mut debug = log.consumer("debug").build().unwrap();
            let mut slow = group_at(&log, "slow", 0);
            let sent = fill(&log, "x", END);
            slow.commit_offset(20.into()).unwrap();
            settle(world);
            assert_has_all_from(&log, 18, &sent);
            let plan = log.plan_retention().unwrap();
            assert_eq!(holders(&plan), [("slow", 20)]);
            assert_eq!(drain(&mut debug).gaps, [(0, 18, GapReason::Retention)]);
            assert_eq!(log.stats().lost_to_retention, 0, "it does not count");
        });
    });
}

#[test]
fn a_stale_group_is_named_and_holds_nothing_back_until_it_commits_again() {
    in_both_modes(0..3, |case| {
        let world = world(case, |options| keeping(options).groups_stale_after(HOUR));
        run(&world, |world| {
            let log = world.open();
            let mut busy = group_at(&log, "busy", 0);
            let mut idle = group_at(&log, "idle", 0);
            fill(&log, "x", END);
            idle.commit_offset(3.into()).unwrap();
            idle.seek_to_committed();
            world.machine.sleep(Duration::from_secs(3570));
            busy.commit_offset(30.into()).unwrap();
            settle(world);
            assert_eq!(log.log_start_offset(), 0);
            let plan = log.plan_retention().unwrap();
            assert_eq!(plan.stale_groups, [""; 0]);
            world.machine.sleep(Duration::from_secs(60));
            assert_eq!(log.log_start_offset(), 30);
            let plan = log.plan_retention().unwrap();
            assert_eq!(plan.stale_groups, ["idle"]);
            assert_eq!(holders(&plan), [("busy", 30)]);
            let seen = drain(&mut idle);
            assert_eq!(seen.gaps, [(3, 30, GapReason::Retention)]);
            idle.commit_offset(31.into()).unwrap();
            busy.commit_offset(END.into()).unwrap();
            settle(world);
            assert_eq!(log.log_start_offset(), 30);
            let plan = log.plan_retention().unwrap();
            assert_eq!(plan.stale_groups, [""; 0]);
            assert_eq!(holders(&plan), [("idle", 31)]);
        });
    });
}

#[test]
fn how_long_a_group_was_idle_is_known_after_a_restart() {
    in_both_modes(0..2, |case| {
        let world = world(case, |options| keeping(options).groups_stale_after(HOUR));
        let disk = run(&world, |world| {
            let log = world.open();
            let groups = [group_at(&log, "idle", 0), group_at(&log, "late", 0)];
            fill(&log, "x", END);
            log.close().unwrap();
            drop(groups);
            world.machine.process_crash()
        });
        let world = case.boot(&disk);
        world.machine.jump_wall_clock(2 * 3_600_000);
        run(&world, |world| {
            let log = world.open();
            let plan = log.plan_retention().unwrap();
            assert_eq!(plan.stale_groups, ["idle", "late"]);
            settle(world);
            assert_eq!(log.log_start_offset(), KEPT);
        });
    });
}

#[test]
fn the_report_names_who_holds_back_the_farthest_behind_first_with_segments_and_bytes() {
    in_both_modes(0..2, |case| {
        run(&world(case, keeping), |world| {
            let log = world.open();
            let mut groups: Vec<_> = [("a", 13), ("b", 7), ("c", 40), ("d", END)]
                .map(|(name, at)| (group_at(&log, name, 0), at))
                .into();
            fill(&log, "x", END);
            for (group, at) in &mut groups {
                group.commit_offset((*at).into()).unwrap();
            }
            // The second lives on only in its file.
            drop(groups.remove(1));
            let report = log.enforce_retention().unwrap();
            assert_eq!(report.log_start_offset, PER_SEGMENT);
            assert_eq!(holders(&report), [("b", 7), ("a", 13), ("c", 40)]);
            let held: Vec<_> = report.held_back.iter().map(|held| held.segments).collect();
            assert_eq!(held, [7, 6, 2]);
            for held in &report.held_back {
                let bytes = held.segments * PER_SEGMENT * LEN as u64;
                assert!((bytes..held.segments * SEGMENT).contains(&held.bytes));
            }
            assert_eq!(holders(&log.plan_retention().unwrap()), holders(&report));
            settle(world);
        });
    });
}

#[test]
fn a_group_of_another_process_counts_as_well_also_when_nobody_holds_it() {
    in_both_modes(0..3, |case| {
        run(&world(case, keeping), |world: &World| {
            let log: Log = world.open();
            let reader = beside(world);
            let mut foreign = reader.consumer("foreign").build().unwrap();
            let sent = fill(&log, "x", END);
            settle(world);
            assert_has_all_from(&log, 0, &sent);
            foreign.commit_offset(15.into()).unwrap();
            settle(world);
            assert_has_all_from(&log, 12, &sent);
            drop(foreign);
            settle(world);
            assert_eq!(holders(&log.plan_retention().unwrap()), [("foreign", 15)]);
            let mut here = log.consumer("foreign").build().unwrap();
            assert_eq!(drain(&mut here).offsets(), (15..END).collect::<Vec<_>>());
            here.commit().unwrap();
            settle(world);
            assert_eq!(see(&log).records, sent[48..]);
        });
    });
}

#[test]
fn a_group_whose_file_can_not_be_read_holds_the_log_back() {
    in_both_modes(0..2, |case| {
        run(&world(case, keeping), |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            let sent = fill(&log, "x", END);
            settle(world);
            let fault = Fault::always(Call::Open, "groups/slow.offset", Effect::Fail(EIO));
            world.machine.inject(&fault);
            slow.commit_offset(END.into()).unwrap();
            settle(world);
            assert!(fault.fired() > 0);
            assert_has_all_from(&log, 0, &sent);
            world.machine.lift_faults();
            settle(world);
            assert_has_all_from(&log, KEPT, &sent);
        });
    });
}

#[test]
fn a_group_whose_consumer_is_gone_is_free_at_once_though_its_file_is_being_synced() {
    in_both_modes(0..30, |case| {
        run(&world(case, keeping), |world| {
            let log = world.open();
            let mut group = group_at(&log, "g", 0);
            fill(&log, "x", END);
            log.sync().unwrap();
            let beside = log.clone();
            let cleaner = world.spawn("cleaner", move |_| {
                for _ in 0..6 {
                    drop(beside.enforce_retention().unwrap());
                }
            });
            for committed in 1..END {
                let receipt = group.commit_offset_async(committed.into(), &CommitOptions::new());
                drop(group);
                group = log.consumer("g").build().unwrap();
                assert_eq!(group.committed(), committed);
                drop(receipt.unwrap());
            }
            cleaner.join();
        });
    });
}
