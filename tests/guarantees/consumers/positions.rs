//! Where a group starts, where it is sent, and where it goes on when its offset is of no use.

use std::time::Duration;

use duralog::{
    CommitOptions, Consumer, ErrorKind, GapReason, Log, Offset, OffsetReset, ResetReason, Start,
    testing::sim::Disk,
};

use crate::common::{Case, drain, in_both_modes, in_log, run, send_many, written};

const GROUP_FILE: &str = "groups/billing.offset";

fn starting(log: &Log, group: &str, start: Start) -> u64 {
    let builder = log.consumer(group).start(start);
    builder.build().unwrap().position().get()
}

fn with_reset(log: &Log, reset: OffsetReset) -> duralog::Result<Consumer> {
    log.consumer("billing").offset_reset(reset).build()
}

/// A log of six records, of which a group has committed four.
fn four_of_six(case: &Case) -> Disk {
    run(&case.world(), |world| {
        let log = world.open();
        send_many(&written(&log), "record", 0..6, 60);
        let mut billing = log.consumer("billing").build().unwrap();
        drain(&mut billing);
        billing.commit_offset(4.into()).unwrap();
        drop(billing);
        log.close().unwrap();
        world.machine.process_crash()
    })
}

fn damage_both_slots(disk: &mut Disk) {
    let bytes = disk.read(&in_log(GROUP_FILE)).unwrap();
    for slot in [0, 4096] {
        assert!(disk.write(&in_log(GROUP_FILE), slot + 40, &[!bytes[slot + 40]]));
    }
}

#[test]
fn a_new_group_starts_at_the_earliest_latest_an_offset_or_a_time() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "early", 0..4, 60);
            world.machine.sleep(Duration::from_secs(5));
            let noon = duralog::Timestamp::from_millis(
                i64::try_from(duralog::testing::Clock::wall_millis(&world.machine)).unwrap(),
            );
            send_many(&written(&log), "late", 0..4, 60);
            assert_eq!(starting(&log, "a", Start::default()), 0);
            assert_eq!(starting(&log, "b", Start::Latest), 8);
            assert_eq!(starting(&log, "c", Start::At(3.into())), 3);
            assert_eq!(starting(&log, "d", Start::Time(noon)), 4);
            assert_eq!(
                starting(&log, "d", Start::Latest),
                4,
                "it is not new any more"
            );
            let beyond = log.consumer("e").start(Start::At(9.into())).build();
            assert!(matches!(
                beyond.unwrap_err().kind(),
                ErrorKind::OffsetOutOfRange { .. }
            ));
        });
    });
}

#[test]
fn seeking_moves_the_position_and_commits_nothing() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "early", 0..4, 60);
            world.machine.sleep(Duration::from_secs(5));
            let time = duralog::testing::Clock::wall_millis(&world.machine);
            send_many(&written(&log), "late", 0..4, 60);
            let mut billing = log.consumer("billing").build().unwrap();
            billing.commit_offset(2.into()).unwrap();
            let next = |consumer: &mut Consumer| drain(consumer).offsets().first().copied();
            assert_eq!(next(&mut billing), Some(0));
            billing.seek_to_end().unwrap();
            assert_eq!((billing.position().get(), next(&mut billing)), (8, None));
            billing.seek_to_beginning().unwrap();
            assert_eq!(next(&mut billing), Some(0));
            let time = duralog::Timestamp::from_millis(i64::try_from(time).unwrap());
            billing.seek_to_timestamp(time).unwrap();
            assert_eq!(next(&mut billing), Some(4));
            billing.seek(7.into()).unwrap();
            assert_eq!(next(&mut billing), Some(7));
            billing.seek_to_committed();
            assert_eq!(next(&mut billing), Some(2));
            assert!(billing.seek(9.into()).is_err());
            assert_eq!(
                (billing.position().get(), billing.committed().get()),
                (8, 2)
            );
        });
    });
}

#[test]
fn a_group_damaged_in_both_slots_follows_the_policy_and_says_so_and_keeps_the_bytes() {
    in_both_modes(0..2, |case| {
        let mut disk = four_of_six(&case);
        damage_both_slots(&mut disk);
        let damaged = disk.read(&in_log(GROUP_FILE)).unwrap();
        for (policy, to) in [(OffsetReset::Earliest, 0), (OffsetReset::Latest, 6)] {
            case.reopen(&disk, |world, log| {
                send_many(&written(log), "more", 0..1, 60);
                let to = if to == 6 { 7 } else { to };
                let mut billing = with_reset(log, policy).unwrap();
                let batch = billing.poll(Duration::ZERO).unwrap();
                let told = batch.reset().expect("it is told in the batch").clone();
                assert_eq!(told.to, to);
                assert!(matches!(&told.reason, ResetReason::Damaged { error }
                    if error.is_corruption()));
                drop(billing);
                let now = world.machine.process_crash();
                let kept = now.read(&in_log("quarantine/billing.offset-0.damaged"));
                assert_eq!(kept.as_ref(), Some(&damaged));
                let cut = now.power_cut(&mut duralog::testing::sim::Choices::nothing());
                assert_eq!(
                    cut.read(&in_log("quarantine/billing.offset-0.damaged")),
                    kept
                );
            });
        }
        case.reopen(&disk, |_, log| {
            let error = with_reset(log, OffsetReset::Error).unwrap_err();
            assert!(error.is_corruption(), "{error}");
            assert!(
                log.groups().unwrap()[0].committed.is_err(),
                "nothing has changed"
            );
            log.reset_group("billing", Start::At(5.into())).unwrap();
            let mut billing = with_reset(log, OffsetReset::Error).unwrap();
            assert_eq!(drain(&mut billing).offsets(), [5]);
        });
    });
}

#[test]
fn that_a_group_was_reset_is_told_until_a_commit() {
    in_both_modes(0..1, |case| {
        let mut disk = four_of_six(&case);
        damage_both_slots(&mut disk);
        case.reopen(&disk, |_, log| {
            let mut billing = log.consumer("billing").max_poll_records(1).build().unwrap();
            for _ in 0..2 {
                assert!(billing.poll(Duration::ZERO).unwrap().reset().is_some());
            }
            assert!(billing.reset().is_some());
            billing.commit().unwrap();
            assert!(billing.reset().is_none());
            assert!(billing.poll(Duration::ZERO).unwrap().reset().is_none());
        });
    });
}

#[test]
fn one_damaged_slot_of_a_group_is_no_reset() {
    in_both_modes(0..1, |case| {
        let mut disk = four_of_six(&case);
        assert!(disk.write(&in_log(GROUP_FILE), 40, &[0xa5; 8]));
        case.reopen(&disk, |_, log| {
            let billing = with_reset(log, OffsetReset::Error).unwrap();
            assert_eq!(
                (billing.committed().get(), billing.reset().is_none()),
                (4, true)
            );
        });
    });
}

/// Another process that reads a copy of the log which is behind.
#[test]
fn a_committed_offset_beyond_the_end_follows_the_policy_and_says_so() {
    in_both_modes(0..2, |case| {
        let mut disk = four_of_six(&case);
        let ahead = run(&case.boot(&disk), |world| {
            let log = world.open();
            send_many(&written(&log), "more", 0..6, 60);
            let mut billing = log.consumer("billing").build().unwrap();
            drain(&mut billing);
            billing.commit_with(&CommitOptions::new()).unwrap();
            drop(billing);
            log.close().unwrap();
            world
                .machine
                .process_crash()
                .read(&in_log(GROUP_FILE))
                .unwrap()
        });
        assert!(disk.write(&in_log(GROUP_FILE), 0, &ahead));
        for (policy, to) in [
            (OffsetReset::Earliest, Some(0)),
            (OffsetReset::Latest, Some(6)),
            (OffsetReset::Error, None),
        ] {
            run(&case.boot(&disk), |world| {
                let machine = std::sync::Arc::new(world.machine.clone());
                let look = duralog::testing::open_read_only(machine, crate::sim::PATH).unwrap();
                let built = look.consumer("billing").offset_reset(policy).build();
                let Some(to) = to else {
                    let error = built.unwrap_err();
                    assert!(
                        matches!(error.kind(), ErrorKind::OffsetOutOfRange { requested, .. }
                            if *requested == 12)
                    );
                    return;
                };
                let mut billing = built.unwrap();
                assert_eq!(billing.position(), to);
                let reset = billing.reset().unwrap();
                assert!(matches!(reset.reason, ResetReason::AheadOfEnd { committed }
                    if committed == 12));
                assert_eq!(reset.to, to);
                drain(&mut billing);
                billing.commit().unwrap();
                assert_eq!(
                    (billing.committed(), billing.reset().is_none()),
                    (Offset::new(6), true)
                );
            });
        }
    });
}

#[test]
fn lag_is_told_in_records_bytes_and_age() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let producer = written(&log);
            send_many(&producer, "record", 0..40, 1_000);
            world.machine.sleep(Duration::from_secs(7));
            send_many(&producer, "record", 40..50, 1_000);
            let mut billing = log.consumer("billing").build().unwrap();
            let lag = billing.lag().unwrap();
            assert_eq!(lag.records, 50);
            assert!((50_000..53_000).contains(&lag.bytes), "{lag:?}");
            assert!(lag.age.unwrap() >= Duration::from_secs(7), "{lag:?}");
            billing.seek(40.into()).unwrap();
            let lag = billing.lag().unwrap();
            assert_eq!(lag.records, 10);
            assert!((10_000..11_000).contains(&lag.bytes), "{lag:?}");
            assert!(lag.age.unwrap() < Duration::from_secs(7), "{lag:?}");
            let described = log.describe_group("billing").unwrap();
            assert_eq!(
                described.lag.unwrap().records,
                50,
                "of the committed offset"
            );
            billing.seek_to_end().unwrap();
            let lag = billing.lag().unwrap();
            assert_eq!((lag.records, lag.bytes, lag.age), (0, 0, None));
            let machine = std::sync::Arc::new(world.machine.clone());
            let look = duralog::testing::open_read_only(machine, crate::sim::PATH).unwrap();
            let lag = look.describe_group("billing").unwrap().lag.unwrap();
            assert_eq!(lag.records, 50);
            assert!(lag.bytes >= 50_000, "{lag:?}");
        });
    });
}

#[test]
fn a_gap_reason_of_a_reset_has_a_name() {
    assert_eq!(GapReason::OffsetReset.to_string(), "offset_reset");
}
