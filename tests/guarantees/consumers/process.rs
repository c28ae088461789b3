//! The short way: a function for each record, retries, dead letters, and the way back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    Acks, Consumer, ConsumerBuilder, DeadLetter, ErrorKind, FlushPolicy, Log, Record, RetryPolicy,
    WriteMode, dead_letter_headers,
    testing::{
        Clock,
        sim::{Call, Choices, Disk, Effect, Fault, Machine, Random},
    },
};

use crate::{
    common::{Case, EIO, ENOSPC, Seen, in_both_modes, run, see, send_many, told, written},
    sim::{
        oracle::Oracle,
        world::{World, value},
    },
};

const DEAD: &str = "/data/dead";

fn open_dead(world: &World) -> Log {
    duralog::testing::open(Arc::new(world.machine.clone()), &world.options, DEAD).unwrap()
}

fn text(record: &duralog::RecordRef<'_>) -> String {
    String::from_utf8(record.value().unwrap().to_vec()).unwrap()
}

fn thrice() -> RetryPolicy {
    RetryPolicy::new()
        .attempts(3)
        .backoff(Duration::from_millis(100))
}

fn billing(log: &Log) -> ConsumerBuilder {
    log.consumer("billing").retry(thrice())
}

/// Fails on values that begin with "bad".
fn pick(record: &duralog::RecordRef<'_>) -> Result<(), String> {
    if text(record).starts_with("bad") {
        Err(format!("{} is bad", text(record)))
    } else {
        Ok(())
    }
}

fn send_all(log: &Log, values: &[&str]) {
    let producer = written(log);
    for value in values {
        drop(producer.send(Record::new(*value)).unwrap());
    }
}

#[test]
fn each_record_is_processed_in_order_and_committed_at_the_end() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..30, 60);
            let mut consumer = billing(&log).max_poll_records(7).build().unwrap();
            let mut seen = Vec::new();
            let processed = consumer
                .process_pending(|record| {
                    seen.push(record.offset().unwrap().get());
                    Ok::<_, String>(())
                })
                .unwrap();
            assert_eq!(seen, (0..30).collect::<Vec<_>>());
            assert_eq!((processed.records, processed.failures), (30, 0));
            assert_eq!(consumer.committed(), 30);
        });
    });
}

#[test]
fn what_fails_is_tried_again_with_growing_pauses_before_the_next_record() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_all(&log, &["good", "bad", "good too"]);
            let mut consumer = billing(&log).build().unwrap();
            let mut tries = Vec::new();
            let processed = consumer
                .process_pending(|record| {
                    tries.push((text(record), world.now()));
                    let again = tries.iter().filter(|(value, _)| value == "bad").count() < 3;
                    if again { pick(record) } else { Ok(()) }
                })
                .unwrap();
            let values: Vec<_> = tries.iter().map(|(value, _)| value.as_str()).collect();
            assert_eq!(values, ["good", "bad", "bad", "bad", "good too"]);
            let pause = |n: usize| tries[n + 1].1.checked_sub(tries[n].1).unwrap();
            // A fifth less at most; how much more is up to the other threads of the machine.
            assert!(pause(1) >= Duration::from_millis(80), "{tries:?}");
            assert!(pause(2) >= Duration::from_millis(160), "{tries:?}");
            assert_eq!((processed.records, processed.failures), (3, 2));
        });
    });
}

#[test]
fn a_panic_counts_as_a_failure() {
    // The machine notes every panic as a problem, so this is on real files.
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    send_all(&log, &["good", "bad"]);
    let once = RetryPolicy::new().attempts(1);
    let mut consumer = log.consumer("billing").retry(once).build().unwrap();
    let failed = consumer.process_pending(|record| {
        assert!(text(record) == "good", "it is bad");
        Ok::<_, String>(())
    });
    let error = failed.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::ProcessingFailed { offset, attempts: 1, reason }
            if *offset == 1 && reason == "panicked: it is bad"),
        "{error}"
    );
    assert_eq!(consumer.committed(), 1);
}

#[test]
fn without_a_log_for_dead_letters_it_ends_before_the_record_that_fails() {
    in_both_modes(0..2, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            send_all(&log, &["good", "bad", "good too"]);
            let mut consumer = billing(&log).build().unwrap();
            for _ in 0..2 {
                let error = consumer.process_pending(pick).unwrap_err();
                assert!(
                    matches!(error.kind(), ErrorKind::ProcessingFailed { offset, attempts: 3, .. }
                        if *offset == 1),
                    "{error}"
                );
                assert_eq!(
                    (consumer.committed().get(), consumer.position().get()),
                    (1, 1)
                );
            }
            let all = consumer.process_pending(|_| Ok::<_, String>(())).unwrap();
            assert_eq!(
                (all.records, consumer.committed().get()),
                (2, 3),
                "nothing was skipped"
            );
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| {
            assert_eq!(billing(log).build().unwrap().committed(), 3);
        });
    });
}

#[test]
fn a_dead_letter_has_the_record_and_tells_where_it_is_from_and_what_happened() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let (log, dead) = (world.open(), open_dead(world));
            let record = Record::new("bad")
                .key("order-17")
                .header("trace", "af31")
                .header(dead_letter_headers::OFFSET, "a header of its own");
            written(&log).send(record.clone()).unwrap().wait().unwrap();
            let stamp = duralog::Timestamp::from_millis(12);
            written(&log)
                .send(record.clone().timestamp(stamp))
                .unwrap()
                .wait()
                .unwrap();
            let appended = log
                .reader()
                .build()
                .unwrap()
                .try_poll()
                .unwrap()
                .iter()
                .next()
                .unwrap()
                .append_time();
            world.machine.sleep(Duration::from_secs(3));
            let began = world.machine.wall_millis();
            let mut consumer = billing(&log).dead_letters(&dead).build().unwrap();
            let processed = consumer.process_pending(pick).unwrap();
            assert_eq!((processed.dead_letters, processed.failures), (2, 6));
            let mut reader = dead.reader().build().unwrap();
            let batch = reader.try_poll().unwrap();
            let letters: Vec<_> = batch
                .iter()
                .map(|r| (r, DeadLetter::of(&r).unwrap()))
                .collect();
            for (offset, (kept, letter)) in letters.iter().enumerate() {
                assert_eq!(
                    (letter.offset().get(), letter.group()),
                    (offset as u64, "billing")
                );
                assert_eq!((letter.attempts(), letter.error()), (3, "bad is bad"));
                assert_eq!(letter.source_path(), crate::sim::PATH.as_bytes());
                let first = u64::try_from(letter.first_failure().as_millis()).unwrap();
                assert!((began..began + 2000).contains(&first));
                assert_eq!(kept.key(), Some(&b"order-17"[..]));
                let expected = if offset == 0 { appended } else { stamp };
                assert_eq!(kept.timestamp(), expected, "its time is kept");
                assert_eq!(letter.record(), record.clone().timestamp(expected));
            }
            assert!(DeadLetter::of(&record.as_ref()).is_none());
        });
    });
}

#[test]
fn a_record_is_committed_only_when_its_dead_letter_is_durable() {
    in_both_modes(0..3, |case| {
        let disk = run(&case.world(), |world| {
            let (log, dead) = (world.open(), open_dead(world));
            send_all(&log, &["bad", "good", "bad too", "good too"]);
            log.sync().unwrap();
            let mut consumer = billing(&log).dead_letters(&dead).build().unwrap();
            consumer.process_pending(pick).unwrap();
            assert_eq!(consumer.committed(), 4);
            world.machine.process_crash()
        });
        case.each_power_cut(&disk, 10, |cut| {
            case.reopen(cut, |world, log| {
                let committed = billing(log).build().unwrap().committed().get();
                let letters = see(&open_dead(world)).records.len() as u64;
                assert!(letters >= [0, 1, 1, 2, 2][usize::try_from(committed).unwrap()]);
            });
        });
    });
}

#[test]
fn if_the_dead_letter_cannot_be_written_nothing_is_committed_beyond_the_record() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let (log, dead) = (world.open(), open_dead(world));
            send_all(&log, &["good", "bad", "good too"]);
            let mut consumer = billing(&log).dead_letters(&dead).build().unwrap();
            // Full for longer than it is tried.
            let fault = Fault::always(Call::Sync, "dead/", Effect::Fail(EIO));
            world.machine.inject(&fault);
            let error = consumer.process_pending(pick).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::DeadLetterFailed { offset, reason, source }
                    if *offset == 1 && reason == "bad is bad" && source.is_latched()),
                "{error}"
            );
            assert!(fault.fired() > 0);
            assert_eq!(
                (consumer.committed().get(), consumer.position().get()),
                (1, 1)
            );
        });
    });
}

#[test]
fn a_full_disk_of_the_dead_letters_is_waited_for_as_the_policy_says() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let (log, dead) = (world.open(), open_dead(world));
            let large = "bad".repeat(2_000);
            send_all(
                &log,
                &[large.as_str(), large.as_str(), large.as_str(), "good"],
            );
            let mut consumer = billing(&log).dead_letters(&dead).build().unwrap();
            let fault = Fault::once(Call::Allocate, "dead/", Effect::Fail(ENOSPC));
            world.machine.inject(&fault);
            let processed = consumer.process_pending(|record| {
                if text(record).starts_with("bad") {
                    Err("bad")
                } else {
                    Ok(())
                }
            });
            assert_eq!(processed.unwrap().dead_letters, 3);
            assert_eq!(
                (see(&dead).records.len(), consumer.committed().get()),
                (3, 4)
            );
        });
    });
}

#[test]
fn stopping_ends_it_at_once_also_in_the_pause_before_another_try() {
    in_both_modes(0..3, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_all(&log, &["good", "bad"]);
            let forever = RetryPolicy::new()
                .attempts(u32::MAX)
                .backoff(Duration::from_secs(3600))
                .backoff_max(Duration::from_secs(3600));
            let consumer = log.consumer("billing").retry(forever).build().unwrap();
            let handle = consumer.handle();
            let result = Arc::new(Mutex::new(None));
            let (mut consumer, told) = (consumer, Arc::clone(&result));
            let worker = world.spawn("worker", move |_| {
                let processed = consumer.process(pick).unwrap();
                *told.lock().unwrap() = Some((
                    processed,
                    consumer.committed().get(),
                    consumer.position().get(),
                ));
            });
            world.machine.sleep(Duration::from_secs(60));
            assert!(result.lock().unwrap().is_none());
            let began = world.now();
            handle.stop();
            worker.join();
            assert!(world.now().checked_sub(began).unwrap() < Duration::from_secs(1));
            let (processed, committed, position) = result.lock().unwrap().take().unwrap();
            assert_eq!((processed.records, processed.failures), (1, 1));
            assert_eq!(
                (committed, position),
                (1, 1),
                "the one that failed comes again"
            );
        });
    });
}

#[test]
fn a_record_that_fails_once_it_is_stopped_is_not_given_up() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let (log, dead) = (world.open(), open_dead(world));
            send_all(&log, &["good", "bad"]);
            let once = RetryPolicy::new().attempts(1);
            let builder = log.consumer("billing").retry(once).dead_letters(&dead);
            let mut consumer = builder.build().unwrap();
            let handle = consumer.handle();
            let processed = consumer.process(|record| pick(record).inspect_err(|_| handle.stop()));
            assert_eq!(processed.unwrap().dead_letters, 0);
            assert_eq!(
                (consumer.committed().get(), dead.log_end_offset().get()),
                (1, 0)
            );
        });
    });
}

#[test]
fn to_be_woken_or_paused_ends_nothing_that_is_pending() {
    in_both_modes(0..3, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_all(&log, &["good", "good", "good"]);
            let mut consumer = billing(&log).max_poll_records(1).build().unwrap();
            let handle = consumer.handle();
            handle.wake();
            let processed = consumer.process_pending(|record| {
                handle.wake();
                if record.offset().unwrap() == 1 {
                    handle.pause();
                    let handle = handle.clone();
                    drop(world.spawn("resumes", move |world| {
                        world.machine.sleep(Duration::from_secs(5));
                        handle.resume();
                    }));
                }
                pick(record)
            });
            assert_eq!(
                (processed.unwrap().records, consumer.committed().get()),
                (3, 3)
            );
        });
    });
}

#[test]
fn it_waits_for_records_to_come_until_it_is_stopped() {
    in_both_modes(0..3, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let consumer = billing(&log).build().unwrap();
            let handle = consumer.handle();
            let mut consumer = consumer;
            let worker = world.spawn("worker", move |_| {
                let processed = consumer.process(pick).unwrap();
                assert_eq!((processed.records, consumer.committed().get()), (12, 12));
            });
            for number in 0..4 {
                send_many(&written(&log), "record", 3 * number..3 * number + 3, 60);
                world.machine.sleep(Duration::from_millis(1));
            }
            let committed = || log.describe_group("billing").unwrap().committed;
            while committed().unwrap() < 12.into() {
                world.machine.sleep(Duration::from_millis(1));
            }
            handle.stop();
            worker.join();
        });
    });
}

#[test]
fn what_takes_long_is_committed_in_between() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut consumer = billing(&log).build().unwrap();
            let mut committed = Vec::new();
            let processed = consumer.process_pending(|_| {
                world.machine.sleep(Duration::from_millis(60));
                committed.push(
                    log.describe_group("billing")
                        .unwrap()
                        .committed
                        .unwrap()
                        .get(),
                );
                Ok::<_, String>(())
            });
            assert_eq!(processed.unwrap().records, 9);
            assert_eq!(committed, [0, 0, 2, 2, 4, 4, 6, 6, 8]);
        });
    });
}

#[test]
fn gaps_are_told_before_the_record_behind_them() {
    in_both_modes(0..2, |case| {
        let cut = run(&case.world(), |world| {
            let log = world.open();
            send_all(&log, &["good"]);
            log.sync().unwrap();
            send_all(&log, &["lost"]);
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&cut, |_, log| {
            let lost = log.recovery().lost_tail.clone().unwrap();
            send_all(log, &["good", "good"]);
            let seen = Arc::new(Mutex::new(Vec::new()));
            let gaps = Arc::clone(&seen);
            let builder = billing(log).on_gap(move |gap| gaps.lock().unwrap().push(gap.from.get()));
            let mut consumer = builder.build().unwrap();
            let records = Arc::clone(&seen);
            let processed = consumer.process_pending(|record| {
                records.lock().unwrap().push(record.offset().unwrap().get());
                pick(record)
            });
            assert_eq!(processed.unwrap().lost, lost.end.since(lost.start));
            let end = lost.end.get();
            assert_eq!(*seen.lock().unwrap(), [0, 1, end, end + 1]);
            assert_eq!(consumer.losses().lost_tail, end - 1);
        });
    });
}

#[test]
fn dead_letters_to_the_same_log_and_zero_attempts_are_refused_by_name() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let refused = |builder: ConsumerBuilder, option: &str| {
                let error = builder.build().unwrap_err();
                assert!(
                    matches!(error.kind(), ErrorKind::InvalidOption { name, .. } if *name == option),
                    "{error}"
                );
            };
            refused(log.consumer("a").dead_letters(&log), "dead_letters");
            refused(
                log.consumer("a").retry(RetryPolicy::new().attempts(0)),
                "retry",
            );
            let builder = log.consumer("b").commit_before_processing();
            let error = builder.build().unwrap().process_pending(pick).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidOption { .. }));
        });
    });
}

#[test]
fn replay_sends_back_what_the_filter_wants_and_commits_it() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let (log, dead) = (world.open(), open_dead(world));
            send_all(&log, &["bad 1", "good", "bad 2"]);
            let mut consumer = billing(&log).dead_letters(&dead).build().unwrap();
            consumer.process_pending(pick).unwrap();
            send_all(&dead, &["no dead letter"]);
            let mut again = dead.consumer("replay").build().unwrap();
            let fault = Fault::always(Call::Sync, "/data/log/", Effect::Fail(EIO));
            let replayed = again
                .replay(&log, |letter| letter.error() == "bad 2 is bad")
                .unwrap();
            assert_eq!(
                (replayed.replayed, replayed.filtered, replayed.others),
                (1, 1, 1)
            );
            assert_eq!(again.committed(), 3);
            let mut reader = log.reader().build().unwrap();
            reader.seek(3.into()).unwrap();
            let batch = reader.try_poll().unwrap();
            let back = batch.iter().next().unwrap();
            assert_eq!(back.value(), Some(&b"bad 2"[..]));
            let of = back.headers().find(dead_letter_headers::REPLAY_OF);
            assert_eq!((back.headers().len(), of), (1, Some(&b"billing:2"[..])));
            again.seek_to_beginning().unwrap();
            world.machine.inject(&fault);
            assert!(again.replay(&log, |_| true).unwrap_err().is_latched());
            assert_eq!(again.position(), 0, "what was not sent back comes again");
        });
    });
}

#[test]
fn letters_that_are_replayed_together_share_a_sync() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let (log, dead) = (world.open(), open_dead(world));
            let bad: Vec<_> = (0..20).map(|number| format!("bad {number}")).collect();
            send_all(&log, &bad.iter().map(String::as_str).collect::<Vec<_>>());
            let mut consumer = billing(&log).dead_letters(&dead).build().unwrap();
            consumer.process_pending(pick).unwrap();
            let mut again = dead.consumer("replay").build().unwrap();
            let before = log.stats().syncs;
            assert_eq!(again.replay(&log, |_| true).unwrap().replayed, 20);
            assert!(log.stats().syncs - before < 10);
            assert_eq!(log.durable_offset(), 40);
            assert_eq!(again.committed(), 20);
        });
    });
}

#[test]
fn letters_from_another_log_are_left_alone() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let (log, dead) = (world.open(), open_dead(world));
            let host = Arc::new(world.machine.clone());
            let other = duralog::testing::open(host, &world.options, "/data/other").unwrap();
            send_all(&log, &["bad"]);
            let mut consumer = billing(&log).dead_letters(&dead).build().unwrap();
            consumer.process_pending(pick).unwrap();
            let mut again = dead.consumer("replay").build().unwrap();
            let replayed = again.replay(&other, |_| true).unwrap();
            assert_eq!((replayed.foreign, replayed.replayed), (1, 0));
            assert_eq!(other.log_end_offset(), 0);
        });
    });
}

const LINES: u64 = 24;

type Done = Arc<Mutex<Vec<(u64, String)>>>;

/// Processes until all is done, unless the machine stops at a random moment before.
fn live(disk: Disk, case: &Case, random: &mut Random, done: &Done) -> (Disk, Option<bool>) {
    let machine = Machine::boot(disk, random.number());
    let flush = FlushPolicy::every(Duration::from_millis(3));
    let world = World::on(
        machine.clone(),
        case.options().flush(flush),
        Oracle::default(),
    );
    let (stop_at, by_power) = (random.below(600) as u64, random.chance(128));
    let choices = random.number();
    let taken: Arc<Mutex<Option<Disk>>> = Arc::default();
    let image = Arc::clone(&taken);
    machine.observe(move |moment| {
        if moment.number == stop_at {
            *image.lock().unwrap() = Some(if by_power {
                moment.power_cut(&mut Choices::of(choices))
            } else {
                moment.process_crash()
            });
        }
    });
    let mut random = random.fork();
    run(&world, |world| process_all(world, &mut random, done));
    let crashed = taken.lock().unwrap().take();
    if crashed.is_some() {
        done.lock()
            .unwrap()
            .retain(|(moment, _)| *moment <= stop_at);
    }
    for entry in &mut *done.lock().unwrap() {
        entry.0 = 0;
    }
    match crashed {
        Some(disk) => (disk, Some(by_power)),
        None => (machine.process_crash(), None),
    }
}

fn process_all(world: &World, random: &mut Random, done: &Done) {
    let (log, dead) = (world.open(), open_dead(world));
    let builder = log.producer().name("importer").acks(Acks::Written);
    let importer = builder.build().unwrap();
    let first = importer.last_sequence().unwrap().map_or(0, |last| last + 1);
    for number in first..LINES {
        let line = value("line", usize::try_from(number).unwrap(), 60);
        drop(importer.send_sequenced(number, Record::new(line)).unwrap());
    }
    let quick = RetryPolicy::new()
        .attempts(2)
        .backoff(Duration::from_micros(50));
    let mut billing = log
        .consumer("billing")
        .max_poll_records(5)
        .retry(quick)
        .dead_letters(&dead)
        .build()
        .unwrap();
    billing
        .process_pending(|record| {
            if random.chance(90) {
                return Err("out of luck");
            }
            done.lock()
                .unwrap()
                .push((world.machine.moments(), text(record)));
            Ok(())
        })
        .unwrap();
    close(log, dead, billing);
}

fn close(log: Log, dead: Log, billing: Consumer) {
    billing.close().unwrap();
    dead.close().unwrap();
    log.close().unwrap();
}

#[test]
fn processing_that_is_stopped_a_thousand_times_loses_no_record_and_no_dead_letter() {
    let modes = [WriteMode::Mapped, WriteMode::Buffered];
    let (mut killed, mut cut, mut letters) = (0, 0, 0);
    for (seed, mode) in (0..).zip(modes.into_iter().cycle()) {
        if killed + cut >= 1000 {
            break;
        }
        let case = Case { mode, seed };
        let mut random = Random::new(seed);
        let mut disk = Machine::new(seed).process_crash();
        let done = Done::default();
        told(format!("{mode:?}, seed {seed}"), || {
            loop {
                let (left, end) = live(disk.clone(), &case, &mut random, &done);
                disk = left;
                match end {
                    Some(true) => cut += 1,
                    Some(false) => killed += 1,
                    None => break,
                }
            }
            let dead: Seen = case.reopen(&disk, |world, _| see(&open_dead(world)));
            let mut there: BTreeSet<_> = done
                .lock()
                .unwrap()
                .iter()
                .map(|(_, v)| v.clone())
                .collect();
            let mut of_letters = BTreeMap::new();
            for (_, value) in dead.records {
                *of_letters.entry(value.clone()).or_insert(0) += 1;
                there.insert(value);
            }
            letters += of_letters.len();
            for number in 0..LINES {
                let line = value("line", usize::try_from(number).unwrap(), 60);
                assert!(there.contains(&line), "line {number} was lost");
            }
        });
    }
    assert!(
        killed > 300 && cut > 300,
        "{killed} kills, {cut} power cuts"
    );
    assert!(letters > 100, "{letters}");
}
