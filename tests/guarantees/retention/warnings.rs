//! Groups that are about to lose records are warned, through a call and in the report.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{GroupRetention, LogOptions, Retention, RetentionWarning};

use super::common::{PER_SEGMENT, SEGMENT, fill, group_at, settle, world};
use crate::{
    common::{Case, in_both_modes, run, taken},
    sim::world::World,
};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

type Heard = Arc<Mutex<Vec<RetentionWarning>>>;

/// A machine whose logs note each warning.
fn warned_world(case: Case, change: impl FnOnce(LogOptions) -> LogOptions) -> (World, Heard) {
    let heard = Heard::default();
    let noted = Arc::clone(&heard);
    let world = world(case, |options| {
        change(options).on_retention_warning(move |warning| {
            noted.lock().unwrap().push(warning.clone());
        })
    });
    (world, heard)
}

fn aging(options: LogOptions) -> LogOptions {
    options.retention(Retention::new().max_age(HOUR))
}

#[test]
fn a_group_is_warned_once_before_it_loses_records_by_their_age_and_again_after_it_caught_up() {
    in_both_modes(0..4, |case| {
        let (world, heard) = warned_world(case, aging);
        run(&world, |world| {
            let log = world.open();
            let mut slow = group_at(&log, "slow", 0);
            let mut fast = group_at(&log, "fast", 0);
            fill(&log, "x", 3 * PER_SEGMENT);
            fast.commit_offset(log.log_end_offset()).unwrap();
            slow.commit_offset(2.into()).unwrap();
            world.machine.sleep(HOUR / 2);
            assert_eq!(taken(&heard), [], "there is time");
            world.machine.sleep(HOUR * 2 / 5);
            let told = taken(&heard);
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!((&*told[0].group, told[0].records), ("slow", 4));
            let within = told[0].within;
            let about = 885 * SECOND..=900 * SECOND;
            assert!(about.contains(&within), "{within:?}");
            assert_eq!(log.log_start_offset(), 0, "it comes before");
            let plan = log.plan_retention().unwrap();
            let planned: Vec<_> = plan
                .warnings
                .iter()
                .map(|w| (&*w.group, w.records))
                .collect();
            assert_eq!(planned, [("slow", 4)]);
            assert!(plan.warnings[0].within < told[0].within);
            // It catches up, and falls behind again.
            slow.commit_offset(log.log_end_offset()).unwrap();
            world.machine.sleep(15 * SECOND);
            assert_eq!(log.plan_retention().unwrap().warnings, []);
            fill(&log, "y", 2 * PER_SEGMENT);
            fast.commit_offset(log.log_end_offset()).unwrap();
            world.machine.sleep(HOUR * 9 / 10);
            let told = taken(&heard);
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!((&*told[0].group, told[0].records), ("slow", PER_SEGMENT));
            world.machine.sleep(HOUR);
            assert_eq!(taken(&heard), [], "it did not catch up");
            assert_eq!(log.stats().lost_to_retention, 2 * PER_SEGMENT);
        });
    });
}

/// Two records a second.
fn trickle(world: &World, log: &duralog::Log, seconds: u64) {
    for second in 0..seconds {
        fill(log, &format!("s{second}"), 2);
        world.machine.sleep(SECOND);
    }
}

fn growing_log_warns(limits: Retention) {
    in_both_modes(0..3, |case| {
        let (world, heard) = warned_world(case, |options| options.retention(limits));
        run(&world, |world| {
            let log = world.open();
            let slow = group_at(&log, "slow", 0);
            let mut seconds = 0;
            while heard.lock().unwrap().is_empty() {
                assert_eq!(log.log_start_offset(), 0, "it comes before");
                assert!(seconds < 300, "it comes");
                trickle(world, &log, 1);
                seconds += 1;
            }
            let told = taken(&heard);
            assert_eq!((&*told[0].group, told[0].records), ("slow", PER_SEGMENT));
            let plan = log.plan_retention().unwrap();
            assert_eq!(plan.warnings.len(), 1);
            let mut left = 0;
            while log.log_start_offset() == 0 {
                trickle(world, &log, 1);
                left += 1;
            }
            let within = told[0].within.as_secs();
            assert!(
                within <= 2 * left + 5 && left <= 2 * within + 5,
                "{within} and {left}"
            );
            trickle(world, &log, 30);
            assert_eq!(taken(&heard), [], "once");
            drop(slow);
        });
    });
}

#[test]
fn a_group_is_warned_before_it_loses_records_as_the_log_has_too_many_bytes() {
    growing_log_warns(Retention::new().max_bytes(40 * SEGMENT));
}

#[test]
fn a_group_is_warned_before_it_loses_records_as_the_log_has_too_many_segments() {
    growing_log_warns(Retention::new().max_segments(40));
}

#[test]
fn a_panic_in_the_call_of_a_warning_is_contained() {
    in_both_modes(0..3, |case| {
        let calls = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&calls);
        let world = world(case, |options| {
            aging(options).on_retention_warning(move |_| {
                *counted.lock().unwrap() += 1;
                panic!("as intended");
            })
        });
        let start = world.machine.run(|| {
            let log = world.open();
            let _slow = group_at(&log, "slow", 0);
            fill(&log, "x", 2 * PER_SEGMENT);
            world.machine.sleep(3540 * SECOND);
            assert_eq!(*calls.lock().unwrap(), 1);
            world.machine.sleep(120 * SECOND);
            let start = log.log_start_offset();
            log.close().unwrap();
            start
        });
        assert_eq!(start, 2 * PER_SEGMENT, "retention goes on");
        assert_eq!(*calls.lock().unwrap(), 1);
    });
}

#[test]
fn the_call_of_a_warning_may_use_the_log() {
    in_both_modes(0..3, |case| {
        let log: Arc<Mutex<Option<duralog::Log>>> = Arc::default();
        let plans = Arc::new(Mutex::new(Vec::new()));
        let (used, noted) = (Arc::clone(&log), Arc::clone(&plans));
        let world = world(case, |options| {
            aging(options).on_retention_warning(move |warning| {
                let log = used.lock().unwrap().take();
                if let Some(log) = log {
                    let plan = log.plan_retention().unwrap();
                    assert_eq!(plan.warnings[0].group, warning.group);
                    noted.lock().unwrap().push(log.enforce_retention().unwrap());
                    *used.lock().unwrap() = Some(log);
                }
            })
        });
        run(&world, |world| {
            let opened = world.open();
            let _slow = group_at(&opened, "slow", 0);
            fill(&opened, "x", 2 * PER_SEGMENT);
            *log.lock().unwrap() = Some(opened);
            world.machine.sleep(3540 * SECOND);
            assert_eq!(taken(&plans).len(), 1);
            let opened = log.lock().unwrap().take().unwrap();
            opened.close().unwrap();
        });
    });
}

#[test]
fn who_does_not_count_or_holds_the_log_back_is_not_warned() {
    in_both_modes(0..2, |case| {
        for groups in [GroupRetention::Drop, GroupRetention::KeepUnconsumed] {
            let (world, heard) = warned_world(case, |options| {
                let options = aging(options).group_retention(groups);
                options.exclude_group("debug").groups_stale_after(HOUR / 10)
            });
            run(&world, |world| {
                let log = world.open();
                let _debug = group_at(&log, "debug", 0);
                let _stale = group_at(&log, "stale", 0);
                let mut held = group_at(&log, "held", 0);
                fill(&log, "x", 2 * PER_SEGMENT);
                for minute in 0..58_u64 {
                    held.commit_offset((minute / 5).into()).unwrap();
                    world.machine.sleep(60 * SECOND);
                }
                let told: Vec<_> = taken(&heard).into_iter().map(|w| w.group).collect();
                match groups {
                    GroupRetention::Drop => assert_eq!(told, ["held"]),
                    GroupRetention::KeepUnconsumed => assert_eq!(told, [""; 0]),
                }
                settle(world);
            });
        }
    });
}
