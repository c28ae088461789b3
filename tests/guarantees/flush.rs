//! DESIGN 2.2: what happens to written records meanwhile, and when a sync fails.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    Acks, ErrorKind, FlushPolicy, Fsync, Log, Producer, Record,
    testing::sim::{Call, Choices, Disk, Effect, Fault},
};

use crate::{
    common::{
        Case, count_calls, drain, in_both_modes, is_segment, run, see, send, send_many, taken,
        told, written,
    },
    sim::{
        PATH,
        oracle::Crash,
        world::{World, value},
    },
};

const INTERVAL: Duration = Duration::from_millis(100);
/// What was appended is noticed within half the interval, and within 50 ms at most; and the sync
/// takes its time.
const NOTICED: Duration = Duration::from_millis(55);

fn flushing(case: Case, policy: FlushPolicy) -> World {
    let mut world = case.world();
    world.options = world.options.flush(policy);
    world
}

/// Everything below the durable offset is there after any power cut.
fn assert_durable(case: Case, log: &Log, world: &World, sent: &[(u64, String)]) {
    let durable = log.durable_offset().get();
    let disk = world.machine.process_crash();
    case.each_power_cut(&disk, 4, |cut| {
        let below = sent.iter().filter(|(offset, _)| *offset < durable);
        case.read(cut).assert_has(below);
    });
}

#[test]
fn a_flush_comes_by_message_count() {
    in_both_modes(0..4, |case| {
        run(&flushing(case, FlushPolicy::every_messages(4)), |world| {
            let log = world.open();
            let producer = written(&log);
            let mut sent = Vec::new();
            for number in 0..10 {
                sent.push(send(&producer, value("counted", number, 700)));
                assert_eq!(log.durable_offset().get(), sent.len() as u64 / 4 * 4);
                assert_durable(case, &log, world, &sent);
            }
            let batch = ["a", "b", "c", "d", "e"].map(Record::new);
            drop(producer.send_batch(batch).unwrap());
            assert_eq!(log.durable_offset(), 15, "a batch counts its records");
            world.machine.sleep(Duration::from_secs(3600));
            send(&producer, "f");
            world.machine.sleep(Duration::from_secs(3600));
            assert_eq!(log.durable_offset(), 15, "time does not count");
        });
    });
}

#[test]
fn a_flush_comes_by_interval() {
    in_both_modes(0..4, |case| {
        let world = flushing(case, FlushPolicy::every(INTERVAL));
        world.machine.switch_never();
        run(&world, |world| {
            let log = world.open();
            let producer = written(&log);
            let mut sent = Vec::new();
            for number in 0..6 {
                let before = log.durable_offset();
                sent.push(send(&producer, value("timed", number, 700)));
                world.machine.sleep(INTERVAL / 2);
                sent.push(send(&producer, value("later", number, 700)));
                assert_eq!(log.durable_offset(), before, "it is not over yet");
                world.machine.sleep(INTERVAL / 2 + NOTICED);
                assert_eq!(log.durable_offset().get(), sent.len() as u64);
                assert_durable(case, &log, world, &sent);
            }
            let syncs = count_calls(world, |call, path| call == Call::Sync && is_segment(path));
            world.machine.sleep(Duration::from_secs(60));
            assert!(*syncs.lock().unwrap() < 4, "there is nothing to flush");
        });
    });
}

#[test]
fn a_flush_comes_by_both_whichever_is_first() {
    let both = [
        FlushPolicy::every_messages(4).or_every(INTERVAL),
        FlushPolicy::every(INTERVAL).or_every_messages(4),
    ];
    in_both_modes(0..4, |case| {
        for policy in both {
            let world = flushing(case, policy);
            world.machine.switch_never();
            run(&world, |world| {
                let log = world.open();
                let producer = written(&log);
                let mut sent = send_many(&producer, "first", 0..4, 60);
                assert_eq!(log.durable_offset(), 4, "by count");
                sent.extend(send_many(&producer, "second", 0..2, 60));
                assert_eq!(log.durable_offset(), 4);
                world.machine.sleep(INTERVAL + NOTICED);
                assert_eq!(log.durable_offset(), 6, "by interval");
                assert_durable(case, &log, world, &sent);
            });
        }
    });
}

#[test]
fn a_flush_comes_with_every_append() {
    in_both_modes(0..4, |case| {
        run(&flushing(case, FlushPolicy::every_append()), |world| {
            let log = world.open();
            let producer = log.producer().acks(Acks::None).build().unwrap();
            let mut sent = Vec::new();
            for number in 0..10 {
                sent.push(send(&producer, value("each", number, 700)));
                assert_eq!(log.durable_offset().get(), sent.len() as u64);
                assert_durable(case, &log, world, &sent);
            }
        });
    });
}

#[test]
fn a_flush_never_comes_by_itself() {
    in_both_modes(0..4, |case| {
        run(&flushing(case, FlushPolicy::never()), |world| {
            let log = world.open();
            let producer = written(&log);
            let syncs = count_calls(world, |call, path| call == Call::Sync && is_segment(path));
            let mut sent = Vec::new();
            for number in 0..20 {
                sent.push(send(&producer, value("kernel", number, 700)));
                world.machine.sleep(Duration::from_secs(3600));
            }
            assert_eq!((*syncs.lock().unwrap(), log.durable_offset().get()), (0, 0));
            assert_eq!(log.sync().unwrap(), 20, "but when it is asked for");
            assert_durable(case, &log, world, &sent);
        });
    });
}

#[test]
fn by_default_a_flush_comes_every_second() {
    assert_eq!(
        FlushPolicy::default(),
        FlushPolicy::every(Duration::from_secs(1))
    );
    in_both_modes(0..4, |case| {
        let mut world = case.world();
        world.options = Log::options().segment_bytes(1 << 16).write_mode(case.mode);
        world.machine.switch_never();
        run(&world, |world| {
            let log = world.open();
            let sent = send_many(&written(&log), "default", 0..3, 60);
            world.machine.sleep(Duration::from_millis(900));
            assert_eq!(log.durable_offset(), 0);
            world.machine.sleep(Duration::from_millis(100) + NOTICED);
            assert_eq!(log.durable_offset(), 3);
            assert_durable(case, &log, world, &sent);
        });
    });
}

/// Lets an observer ask the log as long as this lives.
struct Watched(Arc<Mutex<Option<Log>>>);

impl Drop for Watched {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = None;
    }
}

#[test]
fn at_every_moment_all_below_the_durable_offset_survives_power_loss() {
    in_both_modes(0..6, |case| {
        let world = flushing(case, FlushPolicy::every_messages(3).or_every(INTERVAL));
        let moments = Arc::new(Mutex::new(Vec::new()));
        let sent = run(&world, |world| {
            let log = world.open();
            let producer = written(&log);
            let watched = Watched(Arc::new(Mutex::new(Some(log.clone()))));
            let (asked, noted) = (Arc::clone(&watched.0), Arc::clone(&moments));
            let mut last = None;
            world.machine.observe(move |moment| {
                let log = asked.lock().unwrap();
                let Some(log) = &*log else { return };
                let durable = log.durable_offset().get();
                if last != Some((durable, moment.version())) {
                    last = Some((durable, moment.version()));
                    noted
                        .lock()
                        .unwrap()
                        .push((durable, moment.process_crash()));
                }
            });
            let mut sent = Vec::new();
            for number in 0..20 {
                sent.push(send(&producer, value("watched", number, 800)));
                if number % 5 == 0 {
                    world.machine.sleep(INTERVAL * 2);
                }
            }
            sent
        });
        let moments = taken(&moments);
        assert!(moments.iter().any(|(durable, _)| (5..18).contains(durable)));
        for (durable, disk) in case.some(moments, 80) {
            told(format!("durable below {durable}"), || {
                for mut choices in [
                    Choices::nothing(),
                    Choices::of(durable),
                    Choices::no_names(),
                ] {
                    let seen = case.read(&disk.power_cut(&mut choices));
                    let below = sent.iter().filter(|(offset, _)| *offset < durable);
                    seen.assert_has(below);
                }
            });
        }
    });
}

#[test]
fn full_syncs_are_as_good_as_those_of_the_data() {
    in_both_modes(0..2, |case| {
        let mut world = case.world();
        world.options = world.options.fsync(Fsync::Full);
        run(&world, |world| {
            let log = world.open();
            let sent = send_many(&log.producer().build().unwrap(), "full", 0..12, 900);
            assert_eq!(log.durable_offset(), 12);
            assert_durable(case, &log, world, &sent);
        });
    });
}

#[test]
fn without_syncs_durable_is_refused_and_not_faked() {
    in_both_modes(0..4, |case| {
        let mut world = case.world();
        world.options = world.options.fsync(Fsync::Off);
        let syncs = count_calls(&world, |call, _| matches!(call, Call::Sync));
        let is_refusal = |error: &duralog::Error| matches!(error.kind(), ErrorKind::DurabilityOff);
        let (sent, disk) = run(&world, |world| {
            let log = world.open();
            assert!(is_refusal(&log.producer().build().unwrap_err()));
            let producer = written(&log);
            let refused = producer
                .send_with(Record::new("a"), Acks::Durable)
                .unwrap_err();
            assert!(is_refusal(refused.error()));
            assert_eq!(refused.record(), &Record::new("a"), "it is handed back");
            assert!(is_refusal(&log.sync().unwrap_err()));
            let sent = send_many(&producer, "off", 0..30, 600);
            world.machine.sleep(Duration::from_secs(60));
            assert_eq!(log.durable_offset(), 0, "nothing is called durable");
            (sent, world.machine.process_crash())
        });
        assert_eq!(*syncs.lock().unwrap(), 0, "no call at all");
        let off = |disk: &Disk| {
            let mut world = case.boot(disk);
            world.options = world.options.fsync(Fsync::Off);
            run(&world, |world| see(&world.open()))
        };
        assert_eq!(
            off(&disk).records,
            sent,
            "the end of a process takes nothing"
        );
        let mut contradiction = case.world();
        let both = contradiction.options.flush(FlushPolicy::every(INTERVAL));
        contradiction.options = both.fsync(Fsync::Off);
        let refused = contradiction.machine.run(|| contradiction.try_open().err());
        let refused = refused.unwrap();
        assert!(matches!(
            refused.kind(),
            ErrorKind::InvalidOption { name: "fsync", .. }
        ));
    });
}

/// Who meets the sync that fails.
type Victim = (
    &'static str,
    fn(&World, &Log, &Producer) -> Result<(), duralog::Error>,
);

const VICTIMS: [Victim; 5] = [
    ("a receipt", |_, _, producer| {
        let receipt = producer.send_with(Record::new("doubtful"), Acks::Durable)?;
        receipt.wait().map(drop)
    }),
    ("sync", |_, log, producer| {
        drop(producer.send(Record::new("doubtful"))?);
        log.sync().map(drop)
    }),
    ("the count", |_, _, producer| {
        for _ in 0..100 {
            drop(producer.send(Record::new("doubtful"))?);
        }
        Ok(())
    }),
    ("the interval", |world, log, producer| {
        drop(producer.send(Record::new("doubtful"))?);
        world.machine.sleep(Duration::from_secs(20));
        log.sync().map(drop)
    }),
    ("a roll", |_, log, producer| {
        send_many(producer, "doubtful", 0..20, 900);
        log.sync().map(drop)
    }),
];

#[test]
fn a_sync_that_fails_is_final_whoever_meets_it() {
    in_both_modes(0..4, |case| {
        for (name, victim) in VICTIMS {
            told(name, || a_failed_sync(case, victim));
        }
    });
}

fn a_failed_sync(case: Case, victim: fn(&World, &Log, &Producer) -> Result<(), duralog::Error>) {
    let policy = FlushPolicy::every_messages(60).or_every(Duration::from_secs(10));
    let (confirmed, disk) = run(&flushing(case, policy), |world| {
        let log = world.open();
        let producer = log.producer().build().unwrap();
        let mut confirmed = Vec::new();
        for number in 0..9 {
            let value = value("confirmed", number, 300);
            let offset = world.send(&producer, Acks::Durable, std::slice::from_ref(&value));
            confirmed.push((offset.unwrap(), value));
        }
        let lazy = written(&log);
        let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync);
        world.machine.inject(&fault);
        let error = victim(world, &log, &lazy).unwrap_err();
        assert!(error.is_latched(), "{error}");
        assert_eq!(fault.fired(), 1);
        world.machine.lift_faults();

        let retried = count_calls(world, |call, path| call == Call::Sync && is_segment(path));
        assert!(log.stats().latched);
        for producer in [&producer, &lazy] {
            let failed = producer.send(Record::new("later")).unwrap_err();
            assert!(failed.error().is_latched(), "{failed}");
        }
        assert!(log.sync().unwrap_err().is_latched());
        world.machine.sleep(Duration::from_secs(60));
        assert_eq!(log.durable_offset(), 9, "nothing more is called durable");
        assert!(log.clone().close().unwrap_err().is_latched());
        assert_eq!(*retried.lock().unwrap(), 0, "nothing is tried again");
        (confirmed, world.machine.process_crash())
    });
    let mut forgotten = disk.clone();
    forgotten.drop_cache();
    let power_cuts = case.power_cuts(&disk, 6);
    let processes = [
        ("the process ends", disk),
        ("the cache is dropped", forgotten),
    ];
    let all = processes.map(|(what, disk)| (what.to_owned(), disk));
    for (what, disk) in all.into_iter().chain(power_cuts) {
        told(what, || shows_what_survived(case, &disk, &confirmed));
    }
}

/// Nothing confirmed is gone; what is not there is told; what is called durable now is so.
fn shows_what_survived(case: Case, disk: &Disk, confirmed: &[(u64, String)]) {
    let (seen, cut) = case.reopen(disk, |world, log| {
        let seen = see(log);
        assert_eq!(seen.durable, seen.end);
        seen.assert_covers(0..seen.end);
        seen.assert_has(confirmed);
        assert!(log.recovery().lost_tail.is_some(), "the tail is in doubt");
        let damage = &log.recovery().damage;
        assert!(
            damage.iter().all(|damage| damage.from == damage.to),
            "{damage:?}"
        );
        (seen, world.machine.power_cut(&mut Choices::nothing()))
    });
    let again = case.read(&cut);
    again.assert_has(&seen.records);
    assert_eq!(again.records.len(), seen.records.len());
}

#[test]
fn every_waiter_gets_the_error_of_a_failed_sync() {
    in_both_modes(0..8, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync);
            world.machine.inject(&fault);
            let errors = Arc::new(Mutex::new(0));
            let mut threads: Vec<_> = (0..5)
                .map(|_| {
                    let (producer, errors) = (log.producer().build().unwrap(), Arc::clone(&errors));
                    world.spawn("waiter", move |_| {
                        let error = match producer.send(Record::new("doubtful")) {
                            Ok(receipt) => receipt.wait().unwrap_err(),
                            Err(failed) => failed.into_parts().1,
                        };
                        assert!(error.is_latched(), "{error}");
                        *errors.lock().unwrap() += 1;
                    })
                })
                .collect();
            for durable_only in [false, true] {
                let mut reader = log.reader().durable_only(durable_only).build().unwrap();
                let errors = Arc::clone(&errors);
                threads.push(world.spawn("reader", move |world| {
                    let began = world.now();
                    let wait = Duration::from_secs(3600);
                    while reader.poll(wait).is_ok_and(|batch| !batch.is_empty()) {}
                    assert!(reader.poll(wait).unwrap_err().is_latched());
                    assert!(world.now() < began + wait, "it was not woken");
                    *errors.lock().unwrap() += 1;
                }));
            }
            for thread in threads {
                thread.join();
            }
            assert_eq!((*errors.lock().unwrap(), fault.fired()), (7, 1));
            assert_eq!(log.durable_offset(), 0);
        });
    });
}

#[test]
fn a_directory_or_a_checkpoint_that_fails_to_sync_is_final_too() {
    let policy = FlushPolicy::every(Duration::from_secs(1));
    in_both_modes(0..4, |case| {
        for (call, path) in [(Call::DirSynced, PATH), (Call::Synced, "checkpoint")] {
            let (sent, disk, promised) = run(&flushing(case, policy), |world| {
                let log = world.open();
                let durable = log.producer().build().unwrap();
                let sent = send_many(&durable, "confirmed", 0..3, 300);
                let producer = written(&log);
                // The background has a turn when this one waits.
                world.machine.switch_never();
                let fault = Fault::once(call, path, Effect::FailedSync);
                world.machine.inject(&fault);
                // Enough for a roll, so that there is a new name to be synced.
                send_many(&producer, "doubtful", 0..12, 700);
                let synced = log.sync();
                world.machine.sleep(Duration::from_secs(5));
                assert_eq!(fault.fired(), 1, "{path}");
                assert_eq!(synced.is_err(), call == Call::DirSynced);
                assert!(log.stats().latched);
                let failed = producer.send(Record::new("later")).unwrap_err();
                assert!(failed.error().is_latched());
                let durable = log.durable_offset().get();
                assert_eq!(durable, if call == Call::DirSynced { 3 } else { 15 });
                (sent, world.machine.process_crash(), durable)
            });
            case.each_power_cut(&disk, 8, |cut| {
                let seen = case.read(cut);
                seen.assert_has(&sent);
                assert!(seen.records.len() as u64 >= promised);
            });
        }
    });
}

#[test]
fn while_latched_what_is_durable_is_read_and_committed_and_nothing_above() {
    in_both_modes(0..8, |case| {
        let (sent, disk) = run(&case.world(), |world| {
            let log = world.open();
            let sent = send_many(&log.producer().build().unwrap(), "durable", 0..6, 90);
            let lazy = written(&log);
            let mut billing = log.consumer("billing").max_poll_records(8).build().unwrap();
            let mut ahead = log.consumer("ahead").build().unwrap();
            let mut reader = log.reader().build().unwrap();
            send_many(&lazy, "doubtful", 0..4, 90);
            assert_eq!(
                drain(&mut ahead).records.len(),
                10,
                "seen before the failure"
            );
            let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync);
            world.machine.inject(&fault);
            assert!(log.sync().unwrap_err().is_latched());
            assert_eq!(fault.fired(), 1);

            assert_eq!(reader.poll(Duration::ZERO).unwrap().len(), 6);
            assert!(reader.poll(Duration::ZERO).unwrap_err().is_latched());
            assert_eq!(billing.poll(Duration::ZERO).unwrap().len(), 6);
            billing.commit().unwrap();
            assert!(
                billing
                    .poll(Duration::from_secs(1))
                    .unwrap_err()
                    .is_latched()
            );
            assert!(billing.commit_offset(7.into()).unwrap_err().is_latched());
            assert!(
                ahead.commit().unwrap_err().is_latched(),
                "it would act on what may vanish"
            );
            ahead.commit_offset(4.into()).unwrap();
            assert_eq!((billing.committed().get(), ahead.committed().get()), (6, 4));
            (sent, world.machine.process_crash())
        });
        case.reopen(&disk, |_, log| {
            for (group, committed) in [("billing", 6), ("ahead", 4)] {
                let mut consumer = log.consumer(group).build().unwrap();
                assert_eq!(consumer.committed(), committed);
                let seen = drain(&mut consumer);
                seen.assert_has(&sent[usize::try_from(committed).unwrap()..]);
            }
        });
    });
}

#[test]
fn a_judge_finds_nothing_wrong_with_a_failed_sync() {
    in_both_modes(0..8, |case| {
        let points = case.watch(|world| {
            let log = world.open();
            let producer = log.producer().build().unwrap();
            for number in 0..4 {
                world.send(&producer, Acks::Durable, &[value("durable", number, 200)]);
            }
            let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync).after(1);
            world.machine.inject(&fault);
            for number in 0..4 {
                world.send(&producer, Acks::Durable, &[value("doubtful", number, 200)]);
            }
            assert_eq!(fault.fired(), 1);
        });
        for point in case.some(points, 24) {
            case.each_power_cut(&point.disk, 3, |cut| {
                case.judge(cut, Crash::Power, &point.oracle);
            });
        }
    });
}
