//! Records handed out one by one, and acknowledged in any order.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    CommitOptions, Durability, ErrorKind, GapReason, InFlight, Log, ParallelConsumer, Record,
    testing::sim::{Call, Choices, Disk, Effect, Fault},
};

use crate::{
    common::{
        Case, EIO, RESERVED, in_both_modes, in_log, position_of, run, segments, send, send_many,
        where_commits_are_calls, written,
    },
    sim::world::{World, value},
};

const LONG: Duration = Duration::from_secs(3600);

pub fn billing(log: &Log, max_in_flight: usize) -> ParallelConsumer {
    log.consumer("billing")
        .build_parallel(max_in_flight)
        .unwrap()
}

/// Takes what there is now.
fn take(consumer: &ParallelConsumer) -> Option<InFlight> {
    consumer.take(Duration::ZERO).unwrap()
}

fn take_all(consumer: &ParallelConsumer) -> Vec<InFlight> {
    std::iter::from_fn(|| take(consumer)).collect()
}

fn offsets(taken: &[InFlight]) -> Vec<u64> {
    taken.iter().map(|record| record.offset().get()).collect()
}

/// What the file of the group on this disk says is committed.
pub fn committed_on(disk: &Disk) -> Option<u64> {
    let bytes = disk.read(&in_log("groups/billing.offset"))?;
    let text = duralog::testing::decode_slots(&bytes, duralog::testing::SlotContent::Group)?;
    let (_, behind) = text.split_once("committed: Offset(")?;
    behind.split(')').next()?.parse().ok()
}

#[test]
fn only_the_prefix_of_what_is_acknowledged_is_committed_and_the_rest_comes_again() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..6, 40);
            let consumer = billing(&log, 10);
            let mut taken = take_all(&consumer);
            assert_eq!(offsets(&taken), [0, 1, 2, 3, 4, 5]);
            for (at, committed) in [(4, 0), (1, 0), (0, 2), (1, 2), (0, 5)] {
                taken.remove(at).ack().unwrap();
                assert_eq!(consumer.committed(), committed);
            }
            assert_eq!(offsets(&taken), [5]);
            assert_eq!(
                (consumer.in_flight(), consumer.lag().unwrap().records),
                (1, 1)
            );
            world.machine.process_crash()
        });
        assert_eq!(committed_on(&disk), Some(5));
        case.reopen(&disk, |_, log| {
            let consumer = billing(log, 10);
            let again = take_all(&consumer);
            assert_eq!(offsets(&again), [5]);
            assert_eq!(again[0].attempts(), 1);
        });
    });
}

#[test]
fn what_is_acknowledged_behind_one_that_is_not_comes_again_after_a_restart() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            let line = |n| Record::new(value("line", n, 40)).key("k");
            let records: Vec<_> = (0..5).map(line).collect();
            drop(written(&log).send_batch(records).unwrap());
            let consumer = billing(&log, 10);
            let mut taken = take_all(&consumer);
            let first = taken.remove(0);
            for record in taken {
                record.ack().unwrap();
            }
            assert_eq!((consumer.committed(), consumer.in_flight()), (0.into(), 5));
            let disk = world.machine.process_crash();
            first.ack().unwrap();
            assert_eq!((consumer.committed(), consumer.in_flight()), (5.into(), 0));
            disk
        });
        case.reopen(&disk, |_, log| {
            assert_eq!(offsets(&take_all(&billing(log, 10))), [0, 1, 2, 3, 4]);
        });
    });
}

#[test]
fn a_record_is_handed_out_with_all_that_was_sent() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let sent = Record::new("paid").key("order").header("trace", "af31");
            let sent = sent.timestamp(duralog::Timestamp::from_millis(77));
            drop(written(&log).send(&sent).unwrap());
            drop(written(&log).send(Record::tombstone("order")).unwrap());
            let consumer = billing(&log, 2);
            assert_eq!(consumer.group(), "billing");
            let [first, second] = &take_all(&consumer)[..] else {
                panic!("two records");
            };
            assert_eq!(first.record().to_record(), sent);
            assert_eq!(first.key(), Some(&b"order"[..]));
            assert_eq!(first.value(), Some(&b"paid"[..]));
            assert_eq!(first.headers().find("trace"), Some(&b"af31"[..]));
            assert_eq!(first.timestamp().as_millis(), 77);
            assert!(first.record().append_time().as_millis() > 77);
            assert_eq!(first.record().offset(), Some(0.into()));
            assert_eq!((second.key(), second.value()), (Some(&b"order"[..]), None));
        });
    });
}

#[test]
fn what_failed_or_was_dropped_or_panicked_is_handed_out_again_and_blocks_the_commit() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..4, 40);
            let consumer = billing(&log, 10);
            take(&consumer).unwrap().fail();
            drop(take(&consumer).unwrap());
            let third = take(&consumer).unwrap();
            third.ack().unwrap();
            let again = take_all(&consumer);
            assert_eq!(offsets(&again), [3, 0, 1], "after what was read before");
            let attempts: Vec<_> = again.iter().map(InFlight::attempts).collect();
            assert_eq!(attempts, [1, 2, 2]);
            drop(again);
            assert_eq!(consumer.committed(), 0);
            for record in take_all(&consumer) {
                record.ack().unwrap();
            }
            assert_eq!((consumer.committed(), consumer.in_flight()), (4.into(), 0));
        });
    });
    // A panic in a thread of the machine is a problem of the machine, so this is on the real one.
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    send(&written(&log), "poison");
    let consumer = billing(&log, 1);
    let worked = catch_unwind(AssertUnwindSafe(|| {
        let record = take(&consumer).unwrap();
        panic!("{:?} is poison", record.value());
    }));
    assert!(worked.is_err());
    assert_eq!(take(&consumer).unwrap().attempts(), 2);
    assert_eq!(consumer.committed(), 0);
}

#[test]
fn a_record_that_always_fails_holds_up_neither_what_comes_later_nor_is_forgotten() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let producer = written(&log);
            let consumer = billing(&log, 100);
            send(&producer, "poison");
            take(&consumer).unwrap().fail();
            let mut seen = Vec::new();
            for number in 0..20 {
                send(&producer, format!("line {number}"));
                // One worker: it takes once for each record that is sent, and once more.
                for _ in 0..2 {
                    let record = take(&consumer).unwrap();
                    seen.push(record.offset().get());
                    if record.value() == Some(b"poison") {
                        record.fail();
                    } else {
                        record.ack().unwrap();
                    }
                }
            }
            assert_eq!(seen.iter().filter(|&&offset| offset == 0).count(), 20);
            seen.retain(|&offset| offset > 0);
            assert_eq!(seen, (1..=20).collect::<Vec<_>>());
            assert_eq!((consumer.committed(), consumer.in_flight()), (0.into(), 21));
        });
    });
}

#[test]
fn at_most_so_many_are_in_flight_and_one_that_failed_is_among_them() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..10, 40);
            let consumer = billing(&log, 3);
            let mut taken = take_all(&consumer);
            assert_eq!(offsets(&taken), [0, 1, 2]);
            taken.remove(1).ack().unwrap();
            taken.remove(1).ack().unwrap();
            assert!(take(&consumer).is_none(), "two wait behind the first");
            assert_eq!(consumer.in_flight(), 3);
            taken.remove(0).fail();
            let again = take_all(&consumer);
            assert_eq!((offsets(&again), again[0].attempts()), (vec![0], 2));
            for record in again {
                record.ack().unwrap();
            }
            assert_eq!(offsets(&take_all(&consumer)), [3, 4, 5]);
        });
    });
}

#[test]
fn a_bound_of_nothing_is_refused_and_a_group_is_held_until_the_last_record_is_given_back() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send(&written(&log), "line");
            let refused = log.consumer("billing").build_parallel(0).unwrap_err();
            assert!(matches!(
                refused.kind(),
                ErrorKind::InvalidOption {
                    name: "max_in_flight",
                    ..
                }
            ));
            let consumer = billing(&log, 1);
            let record = take(&consumer).unwrap();
            consumer.close().unwrap();
            let in_use = log.consumer("billing").build().unwrap_err();
            assert!(matches!(in_use.kind(), ErrorKind::GroupInUse { .. }));
            record.ack().unwrap();
            assert_eq!(log.consumer("billing").build().unwrap().committed(), 1);
        });
    });
}

/// Somebody waits to take, and somebody else does something: how long the wait took, and what it
/// found.
fn wait_for(
    world: &World,
    consumer: &ParallelConsumer,
    deed: impl FnOnce(&World) + Send + 'static,
) -> (Duration, Option<InFlight>) {
    let before = world.now();
    let found = Arc::new(Mutex::new(None));
    let (taken, worker) = (Arc::clone(&found), consumer.clone());
    let waiter = world.spawn("worker", move |world| {
        let found = worker.take(LONG).unwrap();
        *taken.lock().unwrap() = Some((world.now(), found));
    });
    let doer = world.spawn("doer", move |world| {
        world.machine.sleep(Duration::from_millis(3));
        deed(world);
    });
    doer.join();
    waiter.join();
    let (now, found) = found.lock().unwrap().take().unwrap();
    (now.saturating_sub(before), found)
}

fn assert_woken(waited: Duration) {
    assert!(waited < Duration::from_secs(1), "{waited:?}");
}

#[test]
fn who_waits_to_take_is_woken_by_an_append_an_acknowledgement_a_failure_and_a_word() {
    in_both_modes(0..20, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let consumer = billing(&log, 2);
            let appended = log.clone();
            let (waited, first) = wait_for(world, &consumer, move |_| {
                send(&written(&appended), "one");
            });
            assert_woken(waited);
            let first = first.unwrap();
            send_many(&written(&log), "line", 1..4, 40);
            let second = take(&consumer).unwrap();
            // Two are in flight.
            let (waited, third) = wait_for(world, &consumer, move |_| first.ack().unwrap());
            assert_woken(waited);
            let third = third.unwrap();
            assert_eq!(third.offset(), 2);
            let (waited, again) = wait_for(world, &consumer, move |_| second.fail());
            assert_woken(waited);
            let again = again.unwrap();
            assert_eq!((again.offset(), again.attempts()), (1.into(), 2));
            let handle = consumer.handle();
            let (waited, nothing) = wait_for(world, &consumer, move |_| handle.wake());
            assert_woken(waited);
            assert!(nothing.is_none());
            let (waited, other) = wait_for(world, &consumer, move |_| drop(again));
            assert_woken(waited);
            other.unwrap().ack().unwrap();
            third.ack().unwrap();
            let handle = consumer.handle();
            handle.pause();
            assert!(take(&consumer).is_none());
            let (waited, last) = wait_for(world, &consumer, move |_| handle.resume());
            assert_woken(waited);
            assert_eq!(last.unwrap().offset(), 3);
        });
    });
}

#[test]
fn all_who_wait_return_when_the_work_ends() {
    in_both_modes(0..10, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..2, 40);
            let consumer = billing(&log, 1);
            let in_flight = take(&consumer).unwrap();
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let worker = consumer.clone();
                    world.spawn("worker", move |_| {
                        assert!(worker.take(LONG).unwrap().is_none());
                    })
                })
                .collect();
            world.machine.sleep(Duration::from_millis(3));
            let before = world.now();
            consumer.clone().close().unwrap();
            workers.into_iter().for_each(duralog::testing::Joiner::join);
            assert_woken(world.now().checked_sub(before).unwrap());
            assert!(consumer.handle().is_stopped());
            in_flight.ack().unwrap();
            assert_eq!(consumer.committed(), 1, "what is in flight still counts");
            assert!(take(&consumer).is_none());
        });
    });
}

#[test]
fn workers_who_wait_while_the_log_is_closed_are_told() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let consumer = billing(&log, 1);
            let worker = consumer.clone();
            let waiter = world.spawn("worker", move |_| {
                let error = worker.take(LONG).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
            });
            world.machine.sleep(Duration::from_millis(3));
            log.close().unwrap();
            waiter.join();
        });
    });
}

#[test]
fn a_record_that_is_to_be_retried_later_comes_then_and_not_before() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..3, 40);
            let consumer = billing(&log, 3);
            let start = world.now();
            let delay = |seconds| Duration::from_secs(seconds);
            for (record, seconds) in take_all(&consumer).into_iter().zip([30, 10, 20]) {
                record.retry_after(delay(seconds));
            }
            assert!(take(&consumer).is_none());
            for (offset, seconds) in [(1, 10), (2, 20), (0, 30)] {
                let record = consumer.take(LONG).unwrap().unwrap();
                assert_eq!(record.offset(), offset);
                let waited = world.now().checked_sub(start).unwrap();
                assert!(
                    waited >= delay(seconds) && waited < delay(seconds + 1),
                    "{waited:?}"
                );
                record.ack().unwrap();
            }
        });
    });
}

#[test]
fn a_take_that_finds_nothing_returns_when_its_time_is_over() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let consumer = billing(&world.open(), 1);
            let before = world.now();
            assert!(consumer.take(Duration::from_secs(5)).unwrap().is_none());
            let waited = world.now().checked_sub(before).unwrap();
            assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(6));
        });
    });
}

/// A log of ten records with the one at `hit` damaged.
fn damaged(case: Case, hit: usize) -> Disk {
    let disk = run(&case.world(), |world| {
        let log = world.open();
        send_many(&written(&log), "line", 0..10, 90);
        log.close().unwrap();
        world.machine.process_crash()
    });
    rot(&disk, &value("line", hit, 90))
}

/// The disk with a bit flipped in the frame of this value.
pub fn rot(disk: &Disk, value: &str) -> Disk {
    let holds = |path: &&PathBuf| {
        let bytes = disk.read(path).unwrap();
        bytes.windows(value.len()).any(|w| w == value.as_bytes())
    };
    let paths = segments(disk);
    let path = paths.iter().find(holds).unwrap();
    let mut rotten = disk.clone();
    assert!(rotten.flip_bit(path, position_of(disk, path, value) + 20, 3));
    rotten
}

#[test]
fn a_gap_is_told_with_the_record_behind_it_until_that_is_committed() {
    in_both_modes(0..2, |case| {
        let gap = |record: &InFlight| {
            let gaps = record.gaps().iter();
            gaps.map(|gap| (gap.from.get(), gap.to.get(), gap.reason))
                .collect::<Vec<_>>()
        };
        let expected = vec![(4, 5, GapReason::Damage)];
        let disk = case.reopen(&damaged(case, 4), |world, log| {
            let consumer = billing(log, 10);
            let taken = take_all(&consumer);
            assert_eq!(offsets(&taken), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
            for record in taken {
                let is_behind = record.offset() == 5;
                assert_eq!(gap(&record), if is_behind { &expected[..] } else { &[] });
                if !is_behind {
                    record.ack().unwrap();
                }
            }
            assert_eq!(consumer.committed(), 4, "in front of the gap");
            let again = take(&consumer).unwrap();
            assert_eq!(gap(&again), expected, "told again");
            assert_eq!(consumer.gaps(), again.gaps());
            let disk = world.machine.process_crash();
            again.ack().unwrap();
            assert_eq!((consumer.committed(), consumer.gaps()), (10.into(), vec![]));
            disk
        });
        case.reopen(&disk, |_, log| {
            let consumer = billing(log, 1);
            assert_eq!(gap(&take(&consumer).unwrap()), expected, "after a restart");
        });
    });
}

#[test]
fn a_gap_without_a_record_behind_it_is_told_too() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..2, 40);
            log.sync().unwrap();
            send_many(&written(&log), "line", 2..4, 40);
            drop(billing(&log, 1));
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |_, log| {
            let consumer = billing(log, 10);
            for record in take_all(&consumer) {
                record.ack().unwrap();
            }
            let [gap] = consumer.gaps()[..] else {
                panic!("{:?}", consumer.gaps());
            };
            assert_eq!(
                (gap.from, gap.to, gap.reason),
                (2.into(), RESERVED.into(), GapReason::LostTail)
            );
            assert_eq!(consumer.committed(), 2);
            send(&written(log), "after");
            let after = take(&consumer).unwrap();
            assert_eq!(after.gaps(), [gap]);
            after.ack().unwrap();
            assert_eq!(consumer.committed(), RESERVED + 1);
        });
    });
}

#[test]
fn a_commit_that_fails_is_told_and_tried_again_by_the_next() {
    where_commits_are_calls(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..4, 40);
            let consumer = billing(&log, 4);
            let mut taken = take_all(&consumer);
            let fail_once = || {
                let fault = Fault::once(Call::Write, "billing.offset", Effect::Fail(EIO));
                world.machine.inject(&fault);
                fault
            };
            let fault = fail_once();
            assert!(taken.remove(0).ack().is_err());
            assert_eq!((fault.fired(), consumer.committed()), (1, 0.into()));
            // The third is not behind the prefix; what is left of the first is.
            taken.remove(1).ack().unwrap();
            assert_eq!(consumer.committed(), 1);
            let fault = fail_once();
            assert!(taken.remove(0).ack().is_err());
            assert_eq!((fault.fired(), consumer.committed()), (1, 1.into()));
            consumer.commit().unwrap();
            assert_eq!(consumer.committed(), 3);
        });
    });
}

#[test]
fn a_durable_commit_survives_a_power_cut_with_its_records() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..5, 40);
            let consumer = billing(&log, 5);
            let mut taken = take_all(&consumer);
            taken.remove(0).ack().unwrap();
            taken.remove(0).ack().unwrap();
            let durably = CommitOptions::new().durability(Durability::Durable);
            consumer.commit_with(&durably).unwrap();
            world.machine.process_crash()
        });
        case.each_power_cut(&disk, 6, |cut| {
            assert_eq!(committed_on(cut), Some(2));
            case.reopen(cut, |_, log| {
                let consumer = billing(log, 1);
                assert_eq!(consumer.committed(), 2);
                assert!(log.recovery().groups_ahead.is_empty());
            });
        });
    });
}

#[test]
fn once_the_log_is_latched_nothing_above_its_durable_offset_is_handed_out() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "line", 0..2, 40);
            log.sync().unwrap();
            send_many(&written(&log), "line", 2..4, 40);
            let consumer = billing(&log, 4);
            let first = take(&consumer).unwrap();
            let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync);
            world.machine.inject(&fault);
            assert!(log.sync().is_err());
            // They were read before, all of them.
            let second = take(&consumer).unwrap();
            assert!(consumer.take(LONG).unwrap_err().is_latched());
            first.ack().unwrap();
            second.ack().unwrap();
            assert_eq!(consumer.committed(), 2);
            assert!(consumer.take(LONG).unwrap_err().is_latched());
        });
    });
}
