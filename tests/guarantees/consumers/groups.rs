//! Groups are listed, described, reset and deleted; each has one live consumer.

use std::{sync::Arc, time::Duration};

use duralog::{
    CommitOptions, ErrorKind, Log, Start, Timestamp,
    testing::{Clock, sim::Choices},
};

use crate::{
    common::{drain, in_both_modes, run, send_many, written},
    sim::PATH,
};

fn names(log: &Log) -> Vec<String> {
    let groups = log.groups().unwrap();
    groups.into_iter().map(|group| group.name).collect()
}

#[test]
fn groups_are_listed_with_what_they_committed_and_when() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..6, 60);
            for (group, offset) in [("zebra", 2u64), ("audit", 5)] {
                let mut consumer = log.consumer(group).build().unwrap();
                world.machine.sleep(Duration::from_secs(3));
                let options = CommitOptions::new().metadata(group);
                consumer
                    .commit_offset_with(offset.into(), &options)
                    .unwrap();
            }
            let now = i64::try_from(world.machine.wall_millis()).unwrap();
            assert_eq!(names(&log), ["audit", "zebra"]);
            let audit = log.describe_group("audit").unwrap();
            assert_eq!(*audit.committed.as_ref().unwrap(), 5);
            assert_eq!(audit.metadata, b"audit");
            assert_eq!(audit.lag.unwrap().records, 1);
            let since = now - audit.commit_time.map(Timestamp::as_millis).unwrap();
            assert!((0..1000).contains(&since), "{since}");
            let missing = log.describe_group("nobody").unwrap_err();
            assert!(
                matches!(missing.kind(), ErrorKind::GroupNotFound { group } if group == "nobody")
            );
            assert!(matches!(
                log.describe_group("../meta").unwrap_err().kind(),
                ErrorKind::InvalidName { .. }
            ));
        });
    });
}

#[test]
fn a_group_is_reset_to_earliest_latest_an_offset_or_a_time_durably() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "early", 0..4, 60);
            world.machine.sleep(Duration::from_secs(5));
            let time = i64::try_from(world.machine.wall_millis()).unwrap();
            send_many(&written(&log), "late", 0..4, 60);
            drop(log.consumer("billing").build().unwrap());
            let reset = |to| log.reset_group("billing", to).unwrap().get();
            let committed = || {
                *log.describe_group("billing")
                    .unwrap()
                    .committed
                    .as_ref()
                    .unwrap()
            };
            assert_eq!((reset(Start::Latest), committed().get()), (8, 8));
            assert_eq!((reset(Start::Earliest), committed().get()), (0, 0));
            assert_eq!((reset(Start::At(3.into())), committed().get()), (3, 3));
            assert!(log.reset_group("billing", Start::At(9.into())).is_err());
            assert_eq!(committed(), 3);
            let time = Start::Time(Timestamp::from_millis(time));
            assert_eq!((reset(time), committed().get()), (4, 4));
            assert!(matches!(
                log.reset_group("nobody", Start::Latest).unwrap_err().kind(),
                ErrorKind::GroupNotFound { .. }
            ));
            assert_eq!(names(&log), ["billing"], "none was made");
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |_, log| {
            let billing = log.consumer("billing").build().unwrap();
            assert_eq!(billing.committed(), 4);
        });
    });
}

#[test]
fn a_deleted_group_is_durably_gone_and_a_later_one_of_the_name_is_new() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..4, 60);
            let mut billing = log.consumer("billing").build().unwrap();
            drain(&mut billing);
            billing.commit().unwrap();
            assert!(matches!(
                log.delete_group("billing").unwrap_err().kind(),
                ErrorKind::GroupInUse { group } if group == "billing"
            ));
            assert!(matches!(
                log.reset_group("billing", Start::Earliest)
                    .unwrap_err()
                    .kind(),
                ErrorKind::GroupInUse { .. }
            ));
            drop(billing);
            log.delete_group("billing").unwrap();
            assert!(names(&log).is_empty());
            assert!(matches!(
                log.delete_group("billing").unwrap_err().kind(),
                ErrorKind::GroupNotFound { .. }
            ));
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |_, log| {
            assert!(names(log).is_empty());
            assert_eq!(log.consumer("billing").build().unwrap().committed(), 0);
        });
    });
}

#[test]
fn a_group_has_one_live_consumer_also_across_processes_and_needs_no_cleaning() {
    in_both_modes(0..2, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            let machine = Arc::new(world.machine.clone());
            let other = duralog::testing::open_read_only(machine, PATH).unwrap();
            let held = log.consumer("billing").build().unwrap();
            for second in [
                log.consumer("billing").build(),
                other.consumer("billing").build(),
            ] {
                let error = second.unwrap_err();
                assert!(
                    matches!(error.kind(), ErrorKind::GroupInUse { group } if group == "billing"),
                    "{error}"
                );
            }
            drop(held);
            let held = other.consumer("billing").build().unwrap();
            assert!(log.consumer("billing").build().is_err());
            std::mem::forget(held);
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| {
            drop(log.consumer("billing").build().unwrap());
        });
    });
}
