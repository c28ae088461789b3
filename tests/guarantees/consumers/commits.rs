//! Commits: how far, how durable, and when they are refused.

use std::time::Duration;

use duralog::{
    CommitOptions, Consumer, Durability, ErrorKind, Fsync, Log, MAX_COMMIT_METADATA,
    testing::sim::{Call, Choices, Disk, Effect, Fault},
};

use crate::{
    common::{
        Case, EIO, count_calls, drain, in_both_modes, in_log, is_segment, run, send_many,
        where_commits_are_calls, written,
    },
    sim::world::World,
};

const GROUP_FILE: &str = "groups/billing.offset";

fn billing(log: &Log) -> Consumer {
    log.consumer("billing").build().unwrap()
}

fn with(durability: Durability) -> CommitOptions {
    CommitOptions::new().durability(durability)
}

/// A log with written records, and a consumer that has polled all of them.
fn polled(world: &World, records: usize) -> (Log, Consumer) {
    let log = world.open();
    send_many(&written(&log), "record", 0..records, 60);
    let mut billing = billing(&log);
    drain(&mut billing);
    (log, billing)
}

fn committed_on(case: &Case, disk: &Disk) -> u64 {
    case.reopen(disk, |_, log| billing(log).committed().get())
}

#[test]
fn a_written_commit_survives_the_process_and_costs_no_sync() {
    in_both_modes(0..3, |case| {
        let disk = run(&case.world(), |world| {
            let (_log, mut billing) = polled(world, 5);
            let syncs = count_calls(world, |call, _| call == Call::Sync);
            billing.commit().unwrap();
            assert_eq!(*syncs.lock().unwrap(), 0);
            world.machine.process_crash()
        });
        assert_eq!(committed_on(&case, &disk), 5);
    });
}

#[test]
fn a_durable_commit_survives_any_power_cut_and_so_do_the_records_below_it() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let (log, mut billing) = polled(world, 5);
            send_many(&written(&log), "later", 0..3, 60);
            billing.commit_with(&with(Durability::Durable)).unwrap();
            assert!(log.durable_offset() >= billing.committed());
            world.machine.process_crash()
        });
        case.each_power_cut(&disk, 10, |cut| {
            let seen = case.read(cut);
            assert_eq!(committed_on(&case, cut), 5);
            assert_eq!(seen.offsets()[..5], [0, 1, 2, 3, 4]);
        });
    });
}

#[test]
fn a_consumer_may_be_built_to_commit_durably() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let (log, first) = polled(world, 5);
            drop(first);
            let builder = log.consumer("billing");
            let mut billing = builder
                .commit_durability(Durability::Durable)
                .build()
                .unwrap();
            drain(&mut billing);
            billing.commit().unwrap();
            world.machine.power_cut(&mut Choices::nothing())
        });
        assert_eq!(committed_on(&case, &cut), 5);
    });
}

#[test]
fn an_earlier_durable_commit_survives_whatever_becomes_of_written_ones_behind_it() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let (_log, mut billing) = polled(world, 9);
            let durable = with(Durability::Durable);
            billing.commit_offset_with(3.into(), &durable).unwrap();
            for offset in 4..9u64 {
                billing.commit_offset(offset.into()).unwrap();
            }
            world.machine.process_crash()
        });
        case.each_power_cut(&disk, 20, |cut| {
            assert!(committed_on(&case, cut) >= 3);
        });
    });
}

#[test]
fn metadata_comes_back_with_the_commit_and_goes_with_the_next() {
    in_both_modes(0..2, |case| {
        let disk = run(&case.world(), |world| {
            let (log, mut billing) = polled(world, 5);
            let most = vec![7; MAX_COMMIT_METADATA];
            let options = CommitOptions::new().metadata(most.clone());
            billing.commit_offset_with(2.into(), &options).unwrap();
            assert_eq!(billing.committed_metadata(), most);
            assert_eq!(log.describe_group("billing").unwrap().metadata, most);
            let too_much = CommitOptions::new().metadata(vec![7; MAX_COMMIT_METADATA + 1]);
            let error = billing.commit_with(&too_much).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::TooLarge { .. }),
                "{error}"
            );
            assert_eq!(billing.committed(), 2, "nothing has changed");
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| {
            let mut billing = billing(log);
            assert_eq!(billing.committed_metadata().len(), MAX_COMMIT_METADATA);
            billing.commit_offset(3.into()).unwrap();
            assert_eq!(billing.committed_metadata(), b"");
        });
    });
}

#[test]
fn after_a_failed_record_commits_beyond_it_are_refused_until_it_was_sought_to() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let (log, mut billing) = polled(world, 0);
            send_many(&written(&log), "record", 0..6, 60);
            let batch = billing.poll(Duration::ZERO).unwrap();
            batch.fail(&batch.iter().nth(4).unwrap());
            batch.fail(&batch.iter().nth(2).unwrap());
            let refused = billing.commit().unwrap_err();
            let first = |error: &duralog::Error| match error.kind() {
                ErrorKind::RecordFailed { offset } => offset.get(),
                other => panic!("{other}"),
            };
            assert_eq!(first(&refused), 2);
            assert_eq!(first(&billing.commit_offset(3.into()).unwrap_err()), 2);
            billing.commit_offset(2.into()).unwrap();
            send_many(&written(&log), "later", 0..1, 60);
            assert_eq!(drain(&mut billing).offsets(), [6]);
            assert_eq!(
                first(&billing.commit().unwrap_err()),
                2,
                "polling on does not help"
            );
            billing.seek_to_committed();
            assert_eq!(
                drain(&mut billing).offsets(),
                [2, 3, 4, 5, 6],
                "it comes again"
            );
            billing.commit().unwrap();
            assert_eq!(billing.committed(), 7);
        });
    });
}

#[test]
fn a_commit_below_an_earlier_one_is_refused_unless_it_is_a_rewind() {
    in_both_modes(0..2, |case| {
        let disk = run(&case.world(), |world| {
            let (_log, mut billing) = polled(world, 6);
            billing.commit().unwrap();
            billing.seek(2.into()).unwrap();
            for refused in [billing.commit(), billing.commit_offset(5.into())] {
                let error = refused.unwrap_err();
                assert!(
                    matches!(error.kind(), ErrorKind::CommitBehind { group, committed, .. }
                        if group == "billing" && *committed == 6),
                    "{error}"
                );
            }
            assert_eq!(billing.committed(), 6);
            billing.rewind(3.into()).unwrap();
            assert_eq!(
                (billing.committed().get(), billing.position().get()),
                (3, 3)
            );
            assert!(billing.rewind(9.into()).is_err(), "beyond the end");
            assert_eq!(billing.committed(), 3);
            world.machine.process_crash()
        });
        assert_eq!(committed_on(&case, &disk), 3);
    });
}

#[test]
fn with_fsync_off_a_durable_commit_is_refused_and_not_faked() {
    in_both_modes(0..1, |case| {
        let mut world = case.world();
        world.options = case.options().fsync(Fsync::Off);
        run(&world, |world| {
            let (log, mut billing) = polled(world, 3);
            let refused = billing.commit_with(&with(Durability::Durable)).unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::DurabilityOff));
            assert_eq!(billing.committed(), 0);
            billing.commit().unwrap();
            drop(billing);
            let builder = log.consumer("billing");
            let refused = builder.commit_before_processing().build().unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::DurabilityOff));
        });
    });
}

#[test]
fn a_group_whose_file_fails_to_sync_takes_no_more_commits_and_the_log_goes_on() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let (log, mut billing) = polled(world, 4);
            let mut audit = log.consumer("audit").build().unwrap();
            drain(&mut audit);
            log.sync().unwrap();
            let fault = Fault::once(Call::Sync, GROUP_FILE, Effect::Fail(EIO));
            world.machine.inject(&fault);
            let durable = with(Durability::Durable);
            assert!(billing.commit_with(&durable).unwrap_err().is_latched());
            assert_eq!(fault.fired(), 1);
            for again in [billing.commit(), billing.commit_with(&durable)] {
                assert!(again.unwrap_err().is_latched(), "nothing is tried again");
            }
            audit.commit_with(&durable).unwrap();
            send_many(&log.producer().build().unwrap(), "more", 0..2, 60);
            drop(billing);
            let mut billing = self::billing(&log);
            drain(&mut billing);
            billing.commit_with(&durable).unwrap();
            assert_eq!(billing.committed(), 6);
        });
    });
}

#[test]
fn a_commit_that_cannot_be_written_changes_nothing_and_works_again_later() {
    where_commits_are_calls(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let (_log, mut billing) = polled(world, 6);
            billing.commit_offset(2.into()).unwrap();
            let fault = Fault::once(Call::Write, GROUP_FILE, Effect::Fail(EIO));
            world.machine.inject(&fault);
            billing.commit().unwrap_err();
            assert_eq!((fault.fired(), billing.committed().get()), (1, 2));
            let before = world.machine.process_crash();
            billing.commit().unwrap();
            assert_eq!(committed_on(&case, &world.machine.process_crash()), 6);
            before
        });
        assert_eq!(committed_on(&case, &disk), 2);
    });
}

#[test]
fn closing_makes_the_commit_durable_and_its_records() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let (_log, mut billing) = polled(world, 5);
            billing.commit().unwrap();
            billing.close().unwrap();
            world.machine.power_cut(&mut Choices::nothing())
        });
        let file = cut.read(&in_log(GROUP_FILE)).unwrap();
        assert_ne!(file[..4096], file[4096..], "slots differ in their places");
        for page in file.chunks(4096) {
            assert!(page[..8] != [0; 8] && page[512..] == [0; 4096 - 512]);
        }
        assert_eq!(committed_on(&case, &cut), 5);
        assert_eq!(case.read(&cut).offsets(), [0, 1, 2, 3, 4]);
    });
}

#[test]
fn gaps_that_commits_pass_are_counted_once_for_each_group() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let (log, mut billing) = polled(world, 5);
            log.sync().unwrap();
            send_many(&written(&log), "lost", 0..3, 60);
            billing.commit().unwrap();
            drop(log.consumer("audit").build().unwrap());
            world.machine.power_cut(&mut Choices::nothing())
        });
        let disk = case.reopen(&cut, |world, log| {
            let lost = log.recovery().lost_tail.clone().unwrap();
            let lost = lost.end.since(lost.start);
            send_many(&written(log), "after", 0..2, 60);
            for group in ["billing", "audit"] {
                let mut consumer = log.consumer(group).build().unwrap();
                drain(&mut consumer);
                assert_eq!(consumer.losses().total(), 0, "told, and not passed");
                consumer.seek_to_committed();
                drain(&mut consumer);
                consumer.commit().unwrap();
                assert_eq!(consumer.losses().lost_tail, lost);
                consumer.rewind(0.into()).unwrap();
                drain(&mut consumer);
                consumer.commit().unwrap();
                assert_eq!(consumer.losses().total(), lost, "once");
            }
            assert!(
                world
                    .machine
                    .process_crash()
                    .read(&in_log(GROUP_FILE))
                    .is_some()
            );
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| {
            for group in log.groups().unwrap() {
                assert!(group.losses.lost_tail > 0, "{group:?}");
                assert_eq!(group.losses.total(), group.losses.lost_tail);
            }
        });
    });
}

#[test]
fn a_durable_commit_of_what_is_durable_syncs_the_group_alone() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let (log, mut billing) = polled(world, 5);
            log.sync().unwrap();
            let syncs = count_calls(world, |call, path| call == Call::Sync && is_segment(path));
            billing.commit_with(&with(Durability::Durable)).unwrap();
            assert_eq!(*syncs.lock().unwrap(), 0);
        });
    });
}
