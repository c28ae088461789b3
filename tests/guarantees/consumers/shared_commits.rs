//! Durable commits of many groups that are made at the same time, and those that nobody waits for.

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use duralog::{
    CommitOptions, CommitReceipt, Consumer, Durability, ErrorKind, Log,
    testing::{
        Threads,
        sim::{Call, Choices, Disk, Effect, Fault},
    },
};

use crate::{
    common::{
        Case, EIO, ENOSPC, count_calls, drain, in_both_modes, in_log, is_segment, run, send_many,
        written,
    },
    sim::{PATH, world::World},
};

const JOURNAL: &str = "groups/commits";

fn durable() -> CommitOptions {
    CommitOptions::new().durability(Durability::Durable)
}

fn consumers(log: &Log, count: usize) -> Vec<Consumer> {
    let consumer = |number| {
        let mut consumer = log.consumer(format!("group-{number}")).build().unwrap();
        drain(&mut consumer);
        consumer
    };
    (0..count).map(consumer).collect()
}

fn committed(log: &Log) -> Vec<u64> {
    let groups = log.groups().unwrap();
    let committed = groups
        .iter()
        .map(|group| group.committed.as_ref().unwrap().get());
    committed.collect()
}

fn is_group(path: &Path) -> bool {
    path.parent()
        .is_some_and(|parent| parent.ends_with("groups"))
}

/// Commits of several threads at once, each noted with the moment at which it had returned.
fn commit_at_once(world: &World, log: &Log, groups: usize, noted: &Arc<Mutex<Vec<Noted>>>) {
    let threads: Vec<_> = consumers(log, groups)
        .into_iter()
        .map(|mut consumer| {
            let noted = Arc::clone(noted);
            world.spawn("committer", move |world| {
                for offset in 1..=6u64 {
                    consumer
                        .commit_offset_with(offset.into(), &durable())
                        .unwrap();
                    let group = consumer.group().to_owned();
                    noted
                        .lock()
                        .unwrap()
                        .push((world.machine.moments(), group, offset));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join();
    }
}

type Noted = (u64, String, u64);

#[test]
fn durable_commits_of_many_groups_that_are_waited_for_at_once_share_one_sync() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            // Else the log's own thread may get to lead some of them.
            world.machine.switch_never();
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut groups = consumers(&log, 8);
            commit_both(&mut groups, 1);
            let syncs = count_calls(world, |call, _| call == Call::Sync);
            commit_both(&mut groups, 2);
            assert_eq!(*syncs.lock().unwrap(), 1);
            assert_eq!(committed(&log), [2; 8]);
        });
    });
}

#[test]
fn threads_that_commit_durably_at_the_same_time_share_syncs() {
    let counted = Arc::new(Mutex::new((0, 0)));
    let counts = Arc::clone(&counted);
    in_both_modes(0..6, move |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            log.sync().unwrap();
            drop(consumers(&log, 8));
            let noted = Arc::default();
            let before = count_calls(world, |call, path| call == Call::Sync && is_group(path));
            commit_at_once(world, &log, 8, &noted);
            // Each consumer syncs its file as it is built, and both slots as it is dropped.
            let shared = *before.lock().unwrap() - 8 * 3;
            let mut counts = counts.lock().unwrap();
            counts.0 += shared;
            counts.1 += noted.lock().unwrap().len();
            assert_eq!(committed(&log), [6; 8]);
        });
    });
    let (syncs, commits) = *counted.lock().unwrap();
    assert!(
        syncs * 5 < commits * 4,
        "{syncs} syncs for {commits} commits"
    );
}

#[test]
fn a_shared_commit_that_returned_survives_a_power_cut_at_any_moment() {
    in_both_modes(0..6, |case| {
        let noted = Arc::default();
        let points = case.watch(|world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            commit_at_once(world, &log, 4, &noted);
        });
        let noted = noted.lock().unwrap();
        for point in case.some(points, 25) {
            let mut promised = BTreeMap::new();
            for (moment, group, offset) in noted.iter() {
                if *moment <= point.number {
                    promised.insert(group.clone(), *offset);
                }
            }
            case.each_power_cut(&point.disk, 4, |cut| check_promised(&case, cut, &promised));
        }
    });
}

fn check_promised(case: &Case, cut: &Disk, promised: &BTreeMap<String, u64>) {
    let check = |groups: Vec<duralog::GroupInfo>, who: &str| {
        for (name, offset) in promised {
            let found = groups.iter().find(|group| group.name == *name).unwrap();
            let committed = found.committed.as_ref().unwrap().get();
            assert!(
                committed >= *offset,
                "{who}: {name} is at {committed}, not {offset}"
            );
        }
    };
    if promised.is_empty() {
        return;
    }
    run(&case.boot(cut), |world| {
        let machine = Arc::new(world.machine.clone());
        let look = duralog::testing::open_read_only(machine, PATH).unwrap();
        check(look.groups().unwrap(), "read-only");
    });
    case.reopen(cut, |world, log| {
        check(log.groups().unwrap(), "opened");
        for (name, offset) in promised {
            assert!(log.consumer(name).build().unwrap().committed() >= (*offset).into());
        }
        let again = world.machine.power_cut(&mut Choices::nothing());
        case.reopen(&again, |_, log| {
            check(log.groups().unwrap(), "opened again");
        });
    });
}

/// Two commits that are waited for together, so that they are written to the journal.
fn commit_both(consumers: &mut [Consumer], offset: u64) {
    let commit = |consumer: &mut Consumer| {
        consumer
            .commit_offset_async(offset.into(), &durable())
            .unwrap()
    };
    let receipts: Vec<CommitReceipt> = consumers.iter_mut().map(commit).collect();
    for receipt in receipts {
        receipt.wait().unwrap();
    }
}

#[test]
fn the_journal_is_written_over_without_losing_the_last_word_of_any_group() {
    in_both_modes(0..1, |case| {
        let disk = run(&case.world(), |world| {
            // Else the log's own thread may get to lead some of them.
            world.machine.switch_never();
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut early = consumers(&log, 4);
            let journal = || world.machine.process_crash().read(&in_log(JOURNAL));
            // Two that are not taken together sync their groups' own files.
            let made = loop {
                commit_both(&mut early[2..], 3);
                if let Some(made) = journal() {
                    break made;
                }
            };
            // It has 2048 entries of a sector each.
            let mut now = made.clone();
            while now[..512] == made[..512] {
                for _ in 0..100 {
                    commit_both(&mut early[..2], 4);
                }
                now = journal().unwrap();
            }
            commit_both(&mut early[..2], 5);
            assert_eq!((made.len(), now.len()), (1 << 20, 1 << 20));
            assert!(
                now.chunks(512)
                    .all(|entry| entry.iter().any(|byte| *byte != 0))
            );
            std::mem::forget(early);
            world.machine.process_crash()
        });
        case.each_power_cut(&disk, 4, |cut| {
            case.reopen(cut, |_, log| assert_eq!(committed(log), [5, 5, 3, 3]));
        });
    });
}

#[test]
fn an_asynchronous_commit_takes_effect_at_once_and_an_older_one_never_overwrites_a_newer() {
    in_both_modes(0..3, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = consumers(&log, 1).remove(0);
            let older = billing.commit_offset_async(3.into(), &durable()).unwrap();
            assert_eq!(billing.committed(), 3);
            billing.commit_offset(7.into()).unwrap();
            older.wait().unwrap();
            assert_eq!(billing.committed(), 7);
            let refused = billing
                .commit_offset_async(5.into(), &durable())
                .unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::CommitBehind { .. }));
            std::mem::forget(billing);
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| assert_eq!(committed(log), [7]));
        case.each_power_cut(&disk, 10, |cut| {
            case.reopen(cut, |_, log| assert!(committed(log)[0] >= 3));
        });
    });
}

/// Awaits a receipt as an executor would; fails if nobody wakes it.
fn await_it(world: &World, receipt: CommitReceipt) -> duralog::Result<()> {
    let parker = world.machine.parker();
    let waker = parker.waker();
    let mut receipt = pin!(receipt);
    let began = world.now();
    loop {
        if let Poll::Ready(outcome) = receipt.as_mut().poll(&mut Context::from_waker(&waker)) {
            return outcome;
        }
        parker.park(Some(world.now() + Duration::from_secs(600)));
        assert!(
            world.now().checked_sub(began).unwrap() < Duration::from_secs(60),
            "it was not woken"
        );
    }
}

#[test]
fn an_awaited_commit_is_durable_without_anybody_waiting_in_a_call() {
    in_both_modes(0..4, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let tasks: Vec<_> = consumers(&log, 3)
                .into_iter()
                .map(|mut consumer| {
                    world.spawn("task", move |world| {
                        for offset in 1..=4u64 {
                            let commit = consumer.commit_offset_async(offset.into(), &durable());
                            await_it(world, commit.unwrap()).unwrap();
                        }
                        std::mem::forget(consumer);
                    })
                })
                .collect();
            for task in tasks {
                task.join();
            }
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |_, log| assert_eq!(committed(log), [4, 4, 4]));
    });
}

#[test]
fn a_commit_whose_receipt_is_dropped_is_made_durable_in_the_background() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = consumers(&log, 1).remove(0);
            drop(billing.commit_async(&durable()).unwrap());
            world.machine.sleep(Duration::from_secs(1));
            std::mem::forget(billing);
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |_, log| assert_eq!(committed(log), [9]));
    });
}

#[test]
fn what_the_background_made_durable_is_not_torn_by_the_commits_that_follow() {
    in_both_modes(0..1, |case| {
        let done = Mutex::new(u64::MAX);
        let points = case.watch(|world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = consumers(&log, 1).remove(0);
            drop(billing.commit_offset_async(3.into(), &durable()).unwrap());
            world.machine.sleep(Duration::from_secs(1));
            *done.lock().unwrap() = world.machine.moments();
            for offset in 4..9u64 {
                billing.commit_offset(offset.into()).unwrap();
            }
            std::mem::forget(billing);
        });
        let done = *done.lock().unwrap();
        for point in points.iter().filter(|point| point.number >= done) {
            case.each_power_cut(&point.disk, 300, |cut| {
                case.reopen(cut, |_, log| assert!(committed(log)[0] >= 3));
            });
        }
    });
}

#[test]
fn a_written_commit_that_is_asynchronous_waits_for_nothing() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = consumers(&log, 1).remove(0);
            let syncs = count_calls(world, |call, _| call == Call::Sync);
            let receipt = billing.commit_async(&CommitOptions::new()).unwrap();
            receipt.wait().unwrap();
            assert_eq!((*syncs.lock().unwrap(), billing.committed().get()), (0, 9));
        });
    });
}

#[test]
fn a_failed_sync_of_the_journal_is_told_to_its_groups_and_to_no_other() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            log.sync().unwrap();
            let mut groups = consumers(&log, 4);
            commit_both(&mut groups, 2);
            let fault = Fault::once(Call::Sync, JOURNAL, Effect::Fail(EIO));
            world.machine.inject(&fault);
            let commit =
                |consumer: &mut Consumer| consumer.commit_offset_async(3.into(), &durable());
            let receipts: Vec<_> = groups[..2].iter_mut().map(|c| commit(c).unwrap()).collect();
            for receipt in receipts {
                assert!(receipt.wait().unwrap_err().is_latched());
            }
            assert_eq!(fault.fired(), 1);
            assert!(groups[0].commit_offset(4.into()).unwrap_err().is_latched());
            commit_both(&mut groups[2..], 5);
            send_many(&log.producer().build().unwrap(), "more", 0..1, 60);
            let cut = world.machine.power_cut(&mut Choices::nothing());
            case.reopen(&cut, |_, log| assert_eq!(committed(log)[2..], [5, 5]));
        });
    });
}

#[test]
fn on_a_full_disk_durable_commits_go_on_without_the_journal() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            log.sync().unwrap();
            let mut groups = consumers(&log, 3);
            let fault = Fault::always(Call::Allocate, JOURNAL, Effect::Fail(ENOSPC));
            world.machine.inject(&fault);
            commit_both(&mut groups, 4);
            commit_both(&mut groups, 6);
            assert!(fault.fired() > 0);
            std::mem::forget(groups);
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |_, log| assert_eq!(committed(log), [6, 6, 6]));
    });
}

#[test]
fn a_latched_log_fails_durable_commits_that_are_on_their_way() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut billing = consumers(&log, 1).remove(0);
            let on_its_way = billing.commit_async(&durable()).unwrap();
            let fault = Fault::once(Call::Sync, ".log", Effect::Fail(EIO));
            world.machine.inject(&fault);
            log.sync().unwrap_err();
            assert!(await_it(world, on_its_way).unwrap_err().is_latched());
            assert!(is_segment(&crate::common::segment(0)));
        });
    });
}

#[test]
fn a_lone_durable_commit_needs_no_journal() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            for mut consumer in consumers(&log, 3) {
                consumer.commit_with(&durable()).unwrap();
            }
            assert!(
                world
                    .machine
                    .process_crash()
                    .read(&in_log(JOURNAL))
                    .is_none()
            );
        });
    });
}

#[test]
fn what_the_journal_says_of_a_deleted_group_is_not_said_of_a_new_one() {
    in_both_modes(0..1, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut groups = consumers(&log, 2);
            for offset in 1..=8 {
                commit_both(&mut groups, offset);
            }
            drop(groups);
            log.delete_group("group-0").unwrap();
            std::mem::forget(log.consumer("group-0").build().unwrap());
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |_, log| assert_eq!(committed(log), [0, 8]));
    });
}
