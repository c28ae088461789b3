//! Consumers that commit by themselves: after the interval, and before processing.

use std::time::Duration;

use duralog::{
    Consumer, ErrorKind, Log,
    testing::sim::{Call, Choices, Effect, Fault},
};

use crate::common::{EIO, drain, in_both_modes, run, send_many, where_commits_are_calls, written};

const SECOND: Duration = Duration::from_secs(1);

fn automatic(log: &Log) -> Consumer {
    let builder = log.consumer("billing").max_poll_records(1);
    builder.auto_commit_after(SECOND).build().unwrap()
}

fn at_most_once(log: &Log) -> Consumer {
    let builder = log.consumer("billing").max_poll_records(2);
    builder.commit_before_processing().build().unwrap()
}

fn poll(consumer: &mut Consumer) -> Vec<u64> {
    let batch = consumer.poll(Duration::ZERO).unwrap();
    let offsets = batch.iter().filter_map(|record| record.offset());
    offsets.map(duralog::Offset::get).collect()
}

#[test]
fn an_automatic_commit_is_of_what_an_earlier_poll_returned_once_the_interval_is_over() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = automatic(&log);
            assert_eq!((poll(&mut billing), poll(&mut billing)), (vec![0], vec![1]));
            assert_eq!(billing.committed(), 0, "the interval is not over");
            world.machine.sleep(SECOND);
            assert_eq!(billing.committed(), 0, "only a poll commits");
            assert_eq!(poll(&mut billing), [2]);
            assert_eq!(billing.committed(), 2, "and not what it returns");
            assert_eq!(poll(&mut billing), [3]);
            assert_eq!(billing.committed(), 2);
        });
    });
}

#[test]
fn what_the_last_poll_returned_is_not_committed_by_closing_and_comes_again() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = automatic(&log);
            for _ in 0..4 {
                poll(&mut billing);
            }
            billing.close().unwrap();
            let mut billing = automatic(&log);
            assert_eq!(
                (billing.committed().get(), poll(&mut billing)),
                (3, vec![3])
            );
            poll(&mut billing);
            drop(billing);
            assert_eq!(automatic(&log).committed(), 4, "dropping is closing");
        });
    });
}

#[test]
fn what_failed_is_not_committed_automatically_nor_what_is_behind_it() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = automatic(&log);
            poll(&mut billing);
            let batch = billing.poll(Duration::ZERO).unwrap();
            batch.fail(&batch.iter().next().unwrap());
            for _ in 0..3 {
                world.machine.sleep(SECOND);
                poll(&mut billing);
                assert_eq!(billing.committed(), 1);
            }
            billing.seek_to_committed();
            assert_eq!(poll(&mut billing), [1]);
            poll(&mut billing);
            world.machine.sleep(SECOND);
            poll(&mut billing);
            assert_eq!(billing.committed(), 3);
        });
    });
}

#[test]
fn an_automatic_commit_that_fails_is_told_by_the_poll_which_returns_nothing() {
    where_commits_are_calls(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = automatic(&log);
            poll(&mut billing);
            world.machine.sleep(SECOND);
            let fault = Fault::once(Call::Write, "billing.offset", Effect::Fail(EIO));
            world.machine.inject(&fault);
            billing.poll(Duration::ZERO).unwrap_err();
            assert_eq!(fault.fired(), 1);
            assert_eq!(poll(&mut billing), [1], "the position is as before");
            assert_eq!(billing.committed(), 1, "it is tried again");
        });
    });
}

#[test]
fn a_commit_before_processing_is_durable_before_the_records_are_returned() {
    in_both_modes(0..4, |case| {
        let (seen, disk) = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = at_most_once(&log);
            let seen = poll(&mut billing);
            assert_eq!(billing.committed(), 2);
            (seen, world.machine.process_crash())
        });
        assert_eq!(seen, [0, 1]);
        case.each_power_cut(&disk, 10, |cut| {
            case.reopen(cut, |_, log| {
                let mut billing = at_most_once(log);
                let rest = drain(&mut billing);
                assert!(rest.offsets().iter().all(|offset| *offset >= 2), "repeated");
            });
        });
    });
}

#[test]
fn if_the_commit_before_processing_fails_nothing_is_returned() {
    where_commits_are_calls(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = at_most_once(&log);
            let fault = Fault::once(Call::Write, "billing.offset", Effect::Fail(EIO));
            world.machine.inject(&fault);
            billing.poll(Duration::ZERO).unwrap_err();
            assert_eq!((fault.fired(), billing.position().get()), (1, 0));
            assert_eq!(poll(&mut billing), [0, 1]);
        });
    });
}

#[test]
fn a_gap_is_told_again_until_a_commit_passes_it_in_each_mode() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..2, 60);
            log.sync().unwrap();
            send_many(&written(&log), "lost", 0..2, 60);
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |world, log| {
            send_many(&written(log), "after", 0..2, 60);
            let told = |mut consumer: Consumer| drain(&mut consumer).gaps.len();
            let poll_to_gap = || {
                let mut billing = automatic(log);
                while billing.poll(Duration::ZERO).unwrap().gaps().is_empty() {}
                billing
            };
            drop(poll_to_gap());
            let mut billing = poll_to_gap();
            world.machine.sleep(SECOND);
            drain(&mut billing);
            drop(billing);
            assert_eq!(told(automatic(log)), 0, "a commit has passed it");
            let builder = log.consumer("fast");
            assert_eq!(told(builder.commit_before_processing().build().unwrap()), 1);
            assert_eq!(told(log.consumer("fast").build().unwrap()), 0, "told once");
        });
    });
}

#[test]
fn an_interval_below_a_millisecond_is_refused_by_name() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = log.consumer("billing").auto_commit_after(Duration::ZERO);
            let error = builder.build().unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::InvalidOption { name, .. }
                    if *name == "auto_commit_after"),
                "{error}"
            );
            assert!(log.groups().unwrap().is_empty(), "nothing was made");
        });
    });
}
