//! Waiting for records: as a thread and as a future, to be woken by what is appended and synced,
//! by other threads, and by the end of the log.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use duralog::{
    Acks, Consumer, ConsumerHandle, ErrorKind, Log, NextBatch, ReadOnlyLog, Record,
    testing::sim::{Call, Effect, Fault, Random},
};

use crate::{
    common::*,
    sim::{PATH, world::World},
};

const HOUR: Duration = Duration::from_secs(3600);
/// Nobody who was woken takes as long.
const SOON: Duration = Duration::from_secs(1);

/// A way to wait for the next batch; what it brings.
type Way = fn(&World, &mut Consumer) -> duralog::Result<Vec<u64>>;

fn offsets(batch: &duralog::Batch<'_>) -> Vec<u64> {
    let offset = |record: duralog::RecordRef<'_>| record.offset().unwrap().get();
    batch.iter().map(offset).collect()
}

fn as_thread(_: &World, consumer: &mut Consumer) -> duralog::Result<Vec<u64>> {
    Ok(offsets(&consumer.poll(HOUR)?))
}

fn as_future(world: &World, consumer: &mut Consumer) -> duralog::Result<Vec<u64>> {
    Ok(offsets(&world.block_on(consumer.next())?))
}

const WAYS: [Way; 2] = [as_thread, as_future];

/// Runs a test in both modes, for threads and for futures.
fn each_way(seeds: std::ops::Range<u64>, test: impl Fn(&World, &Log, Way)) {
    in_both_modes(seeds, |case| {
        for way in WAYS {
            run(&case.world(), |world| {
                let log = world.open();
                test(world, &log, way);
            });
        }
    });
}

/// Counts how often it is called, and can tell who else has it.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn new() -> (Arc<Self>, Waker) {
        let count = Arc::new(Self::default());
        let waker = Waker::from(Arc::clone(&count));
        (count, waker)
    }

    fn calls(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll_once(future: &mut NextBatch<'_>, waker: &Waker) -> Poll<Vec<u64>> {
    let polled = Pin::new(future).poll(&mut Context::from_waker(waker));
    polled.map(|batch| offsets(&batch.unwrap()))
}

fn read_only(world: &World) -> ReadOnlyLog {
    duralog::testing::open_read_only(Arc::new(world.machine.clone()), PATH).unwrap()
}

#[test]
fn who_waits_is_woken_by_an_append() {
    each_way(0..25, |world, log, way| {
        let mut consumer = log.consumer("billing").build().unwrap();
        let producer = written(log);
        let appender = world.spawn("appender", move |_| {
            send_many(&producer, "a", 0..3, 90);
        });
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.extend(way(world, &mut consumer).unwrap());
        }
        assert_eq!(seen, [0, 1, 2]);
        appender.join();
        assert!(world.now() < SOON, "it waited for its time to be over");
    });
}

#[test]
fn one_append_wakes_all_who_wait() {
    each_way(0..10, |world, log, way| {
        let others: Vec<_> = ["a", "b", "c"]
            .map(|group| {
                let mut consumer = log.consumer(group).build().unwrap();
                world.spawn(group, move |world| {
                    assert_eq!(way(world, &mut consumer).unwrap(), [0]);
                })
            })
            .into();
        send(&written(log), "for all");
        others.into_iter().for_each(duralog::testing::Joiner::join);
        assert!(world.now() < SOON);
    });
}

#[test]
fn a_consumer_of_durable_records_is_woken_by_the_sync_and_not_by_the_append() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let durable_only = log.consumer("billing").durable_only(true);
            let mut consumer = durable_only.build().unwrap();
            let (count, waker) = Count::new();
            let mut next = consumer.next();
            assert!(poll_once(&mut next, &waker).is_pending());
            send(&written(&log), "not durable yet");
            assert_eq!(count.calls(), 0);
            assert!(poll_once(&mut next, &waker).is_pending());
            log.sync().unwrap();
            assert_eq!(count.calls(), 1);
            assert_eq!(poll_once(&mut next, &waker), Poll::Ready(vec![0]));
        });
    });
    each_way(0..20, |world, log, way| {
        let durable_only = log.consumer("billing").durable_only(true);
        let mut consumer = durable_only.build().unwrap();
        let producer = log.producer().build().unwrap();
        let appender = world.spawn("appender", move |_| {
            send_many(&producer, "durable", 0..10, 90);
        });
        let mut seen = 0;
        while seen < 10 {
            seen += way(world, &mut consumer).unwrap().len();
            assert!(log.durable_offset().get() >= seen as u64);
        }
        appender.join();
        assert!(world.now() < SOON);
    });
}

#[test]
fn a_wake_up_before_a_poll_ends_that_poll_and_the_next_one_has_the_records() {
    each_way(0..2, |world, log, way| {
        let mut consumer = log.consumer("billing").build().unwrap();
        send(&written(log), "there");
        consumer.handle().wake();
        consumer.handle().wake();
        assert_eq!(way(world, &mut consumer).unwrap(), [0; 0]);
        assert_eq!(consumer.position(), 0);
        assert_eq!(way(world, &mut consumer).unwrap(), [0]);
        assert!(world.now() < SOON);
    });
}

#[test]
fn a_poll_in_progress_is_woken_from_another_thread() {
    each_way(0..20, |world, log, way| {
        let mut consumer = log.consumer("billing").build().unwrap();
        let handle = consumer.handle();
        let waker = world.spawn("waker", move |_| handle.wake());
        assert_eq!(way(world, &mut consumer).unwrap(), [0; 0]);
        waker.join();
        assert!(world.now() < SOON);
    });
}

#[test]
fn a_loop_ends_when_its_consumer_is_stopped_and_has_committed_what_it_did() {
    each_way(0..20, |world, log, way| {
        let mut consumer = log.consumer("billing").build().unwrap();
        let handle = consumer.handle();
        let producer = written(log);
        let worker = world.spawn("worker", move |world| {
            let handle = consumer.handle();
            while !handle.is_stopped() {
                way(world, &mut consumer).unwrap();
                consumer.commit().unwrap();
            }
            assert!(consumer.poll(HOUR).unwrap().is_empty());
            consumer.commit().unwrap();
        });
        send_many(&producer, "a", 0..3, 90);
        handle.stop();
        worker.join();
        assert!(world.now() < SOON);
        let again = log.consumer("billing").build().unwrap();
        assert!(
            again.position().get() <= 3,
            "what was not polled comes later"
        );
    });
}

#[test]
fn a_consumer_that_is_stopped_is_told_of_no_error_when_the_log_is_closed() {
    each_way(0..4, |world, log, way| {
        let mut consumer = log.consumer("billing").build().unwrap();
        let (handle, log) = (consumer.handle(), log.clone());
        let closer = world.spawn("closer", move |_| {
            handle.stop();
            log.close().unwrap();
        });
        assert_eq!(way(world, &mut consumer).unwrap(), [0; 0]);
        closer.join();
        assert!(consumer.try_poll().unwrap().is_empty());
    });
}

#[test]
fn a_paused_poll_waits_out_its_time_and_returns_nothing_and_the_position_stays() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let mut consumer = log.consumer("billing").build().unwrap();
            let producer = written(&log);
            send(&producer, "before");
            consumer.pause();
            assert!(consumer.is_paused() && consumer.handle().is_paused());
            let appender = world.spawn("appender", move |world| {
                world.machine.sleep(SOON);
                send(&producer, "meanwhile");
            });
            let began = world.now();
            assert!(consumer.poll(5 * SOON).unwrap().is_empty());
            assert!(world.now() >= began + 5 * SOON);
            appender.join();
            assert_eq!(consumer.position(), 0);
            assert!(consumer.try_poll().unwrap().is_empty());
            assert!(consumer.poll(Duration::ZERO).unwrap().is_empty());
            consumer.resume();
            assert!(!consumer.is_paused());
            assert_eq!(offsets(&consumer.try_poll().unwrap()), [0, 1]);
        });
    });
}

#[test]
fn who_waits_while_paused_goes_on_when_the_pause_ends() {
    each_way(0..20, |world, log, way| {
        let mut consumer = log.consumer("billing").build().unwrap();
        send(&written(log), "there");
        let handle = consumer.handle();
        handle.pause();
        let resumer = world.spawn("resumer", move |_| handle.resume());
        assert_eq!(way(world, &mut consumer).unwrap(), [0]);
        resumer.join();
        assert!(world.now() < SOON);
    });
}

#[test]
fn a_paused_consumer_is_not_woken_by_appends_but_by_a_wake_up() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let mut consumer = log.consumer("billing").build().unwrap();
            let handle = consumer.handle();
            handle.pause();
            let (count, waker) = Count::new();
            let mut next = consumer.next();
            assert!(poll_once(&mut next, &waker).is_pending());
            send_many(&log.producer().build().unwrap(), "a", 0..3, 90);
            assert_eq!(count.calls(), 0);
            handle.wake();
            assert_eq!(count.calls(), 1);
            assert_eq!(poll_once(&mut next, &waker), Poll::Ready(vec![]));
        });
    });
}

#[test]
fn a_try_poll_never_waits() {
    in_both_modes(0..4, |case| {
        let world = case.world();
        // Then no other thread goes on unless this one waits.
        world.machine.switch_never();
        run(&world, |world| {
            let log = world.open();
            let mut consumer = log.consumer("billing").build().unwrap();
            let look = read_only(world);
            let mut reader = look.reader().build().unwrap();
            let parks = count_calls(world, |call, _| call == Call::Park);
            assert!(consumer.try_poll().unwrap().is_empty());
            assert!(reader.try_poll().unwrap().is_empty());
            send(&written(&log), "there");
            assert_eq!(offsets(&consumer.try_poll().unwrap()), [0]);
            assert_eq!(offsets(&reader.try_poll().unwrap()), [0]);
            assert!(consumer.try_poll().unwrap().is_empty());
            assert!(reader.try_poll().unwrap().is_empty());
            assert_eq!(*parks.lock().unwrap(), 0);
        });
    });
}

/// Ends the log while a consumer waits, paused or not; the error that it gets.
fn end_while_waiting(
    world: &World,
    log: &Log,
    way: Way,
    paused: bool,
    end: impl FnOnce(&World, &Log) + Send + 'static,
) -> duralog::Error {
    let mut consumer = log.consumer("billing").build().unwrap();
    if paused {
        consumer.pause();
    }
    let log = log.clone();
    let ender = world.spawn("ender", move |world| end(world, &log));
    let error = loop {
        match way(world, &mut consumer) {
            Err(error) => break error,
            Ok(seen) => assert_eq!(seen, [0], "what was there before the end may be seen"),
        }
    };
    ender.join();
    assert!(world.now() < SOON);
    error
}

#[test]
fn a_log_that_is_closed_tells_who_waits_also_while_paused() {
    for paused in [false, true] {
        each_way(0..10, |world, log, way| {
            let close = |_: &World, log: &Log| log.clone().close().unwrap();
            let error = end_while_waiting(world, log, way, paused, close);
            assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        });
    }
}

#[test]
fn a_log_that_is_latched_tells_who_waits_also_while_paused() {
    for paused in [false, true] {
        each_way(0..10, |world, log, way| {
            let latch = |world: &World, log: &Log| {
                let fault = Fault::always(Call::Synced, ".log", Effect::FailedSync);
                world.machine.inject(&fault);
                let producer = log.producer().build().unwrap();
                let sent = producer.send(Record::new("lost")).unwrap().wait();
                assert!(sent.unwrap_err().is_latched());
                assert!(fault.fired() > 0);
            };
            let error = end_while_waiting(world, log, way, paused, latch);
            assert!(error.is_latched(), "{error}");
        });
    }
}

#[test]
fn a_future_that_is_dropped_skips_nothing_and_leaves_no_waker_behind() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let look = read_only(world);
            let mut written_only = log.consumer("a").build().unwrap();
            let mut durable = log.consumer("b").durable_only(true).build().unwrap();
            let mut paused = log.consumer("c").build().unwrap();
            paused.pause();
            let mut foreign = look.consumer("d").build().unwrap();
            for consumer in [&mut written_only, &mut durable, &mut paused, &mut foreign] {
                let (count, waker) = Count::new();
                let mut next = consumer.next();
                assert!(poll_once(&mut next, &waker).is_pending());
                drop(waker);
                assert!(Arc::strong_count(&count) > 1, "nobody would wake it");
                drop(next);
                assert_eq!(Arc::strong_count(&count), 1, "{}", consumer.group());
            }
            send(&log.producer().build().unwrap(), "there");
            paused.resume();
            world.machine.sleep(SOON);
            for consumer in [&mut written_only, &mut durable, &mut paused, &mut foreign] {
                drop(consumer.next());
                assert_eq!(consumer.position(), 0);
                assert_eq!(as_future(world, consumer).unwrap(), [0]);
            }
        });
    });
}

#[test]
fn a_wake_up_that_met_a_dropped_future_ends_the_next_poll() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let mut consumer = log.consumer("billing").build().unwrap();
            let handle = consumer.handle();
            let (count, waker) = Count::new();
            let mut next = consumer.next();
            assert!(poll_once(&mut next, &waker).is_pending());
            handle.wake();
            assert_eq!(count.calls(), 1);
            drop(next);
            assert!(consumer.poll(HOUR).unwrap().is_empty());
            assert!(world.now() < SOON);
        });
    });
}

#[test]
fn a_task_that_moves_is_woken_where_it_was_polled_last() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let mut consumer = log.consumer("billing").build().unwrap();
            let (before, first) = Count::new();
            let (now, second) = Count::new();
            let mut next = consumer.next();
            assert!(poll_once(&mut next, &first).is_pending());
            assert!(poll_once(&mut next, &second).is_pending());
            drop(first);
            assert_eq!(Arc::strong_count(&before), 1);
            send(&written(&log), "there");
            assert_eq!((before.calls(), now.calls()), (0, 1));
            assert_eq!(poll_once(&mut next, &second), Poll::Ready(vec![0]));
        });
    });
}

#[test]
fn the_records_of_another_process_wake_who_waits() {
    in_both_modes(0..10, |case| {
        for way in WAYS {
            run(&case.world(), |world| {
                let log = world.open();
                let look = read_only(world);
                let mut consumer = look.consumer("billing").build().unwrap();
                let producer = written(&log);
                let appender = world.spawn("appender", move |_| {
                    send_many(&producer, "a", 0..3, 90);
                });
                let mut seen = Vec::new();
                while seen.len() < 3 {
                    seen.extend(way(world, &mut consumer).unwrap());
                }
                assert_eq!(seen, [0, 1, 2]);
                appender.join();
                assert!(world.now() < SOON);
            });
        }
    });
}

#[test]
fn a_durable_consumer_of_another_process_s_log_is_woken_once_that_is_recorded() {
    in_both_modes(0..4, |case| {
        for way in WAYS {
            run(&case.world(), |world| {
                let log = world.open();
                let look = read_only(world);
                let durable_only = look.consumer("billing").durable_only(true);
                let mut consumer = durable_only.build().unwrap();
                let producer = log.producer().build().unwrap();
                let appender = world.spawn("appender", move |_| drop(send(&producer, "durable")));
                assert_eq!(way(world, &mut consumer).unwrap(), [0]);
                appender.join();
                assert!(world.now() < 3 * SOON);
            });
        }
    });
}

#[test]
fn who_waits_for_another_process_is_woken_and_stopped_at_once() {
    let tell: [fn(&ConsumerHandle); 2] = [ConsumerHandle::wake, ConsumerHandle::stop];
    in_both_modes(0..10, |case| {
        for (way, tell) in WAYS
            .into_iter()
            .flat_map(|way| tell.map(|tell| (way, tell)))
        {
            let world = case.world();
            // Nobody is held up by others, so that it can be seen how soon this is.
            world.machine.switch_never();
            run(&world, |world| {
                let _log = world.open();
                let look = read_only(world);
                let mut consumer = look.consumer("billing").build().unwrap();
                let handle = consumer.handle();
                let told_at = Arc::new(Mutex::new(Duration::ZERO));
                let noted = Arc::clone(&told_at);
                let teller = world.spawn("teller", move |world| {
                    // By now the pauses between looks are at their longest.
                    world.machine.sleep(SOON);
                    *noted.lock().unwrap() = world.now();
                    tell(&handle);
                });
                assert_eq!(way(world, &mut consumer).unwrap(), [0; 0]);
                let took = world.now().saturating_sub(*told_at.lock().unwrap());
                assert!(took < Duration::from_millis(5), "{took:?}");
                teller.join();
            });
        }
    });
}

#[test]
fn the_thread_that_looks_at_another_process_s_log_is_there_while_somebody_waits() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let _log = world.open();
            let watch = |call, path: &std::path::Path| {
                call == Call::Spawn && path == std::path::Path::new("duralog-watch")
            };
            let started = count_calls(world, watch);
            let look = read_only(world);
            let mut a = look.consumer("a").build().unwrap();
            let mut b = look.consumer("b").build().unwrap();
            assert!(a.poll(SOON).unwrap().is_empty());
            assert_eq!(*started.lock().unwrap(), 0, "a thread looks for itself");
            for round in 1..=3 {
                let (mut next_a, mut next_b) = (a.next(), b.next());
                let waker = Waker::noop();
                assert!(poll_once(&mut next_a, waker).is_pending());
                assert!(poll_once(&mut next_b, waker).is_pending());
                world.machine.sleep(SOON);
                assert_eq!(*started.lock().unwrap(), round, "one for all who wait");
                drop(next_a);
                world.machine.sleep(SOON);
                assert!(poll_once(&mut next_b, waker).is_pending());
                assert_eq!(*started.lock().unwrap(), round, "somebody still waits");
                drop(next_b);
                world.machine.sleep(SOON);
            }
        });
    });
}

#[test]
fn where_no_thread_can_be_started_the_future_says_so_and_the_next_one_tries_again() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            const EAGAIN: i32 = 11;
            let log = world.open();
            let look = read_only(world);
            let mut consumer = look.consumer("billing").build().unwrap();
            let fault = Fault::once(Call::Spawn, "duralog-watch", Effect::Fail(EAGAIN));
            world.machine.inject(&fault);
            let error = as_future(world, &mut consumer).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
            assert_eq!(fault.fired(), 1);
            let producer = written(&log);
            let appender = world.spawn("appender", move |_| drop(send(&producer, "there")));
            assert_eq!(as_future(world, &mut consumer).unwrap(), [0]);
            appender.join();
        });
    });
}

/// Waits in some way, which may be given up; what it brought.
fn wait_somehow(world: &World, consumer: &mut Consumer, random: &mut Random) -> Vec<u64> {
    match random.below(5) {
        0 => as_thread(world, consumer).unwrap(),
        1 => as_future(world, consumer).unwrap(),
        2 => offsets(&consumer.try_poll().unwrap()),
        3 => offsets(&consumer.poll(Duration::from_micros(50)).unwrap()),
        _ => {
            let next = pin!(consumer.next());
            match next.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(batch) => offsets(&batch.unwrap()),
                Poll::Pending => Vec::new(),
            }
        }
    }
}

#[test]
fn however_one_waits_is_woken_and_gives_up_each_record_is_seen_once_and_in_order() {
    const RECORDS: usize = 30;
    in_both_modes(0..30, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let mut random = Random::new(case.seed);
            let durable_only = random.below(2) == 0;
            let builder = log.consumer("billing").durable_only(durable_only);
            let mut consumer = builder.max_poll_records(3).build().unwrap();
            let (handle, producer) = (consumer.handle(), log.producer().build().unwrap());
            let appender = world.spawn("appender", move |_| {
                for number in 0..RECORDS {
                    let acks = if number % 4 == 3 {
                        Acks::Durable
                    } else {
                        Acks::Written
                    };
                    let receipt = producer.send_with(Record::new("value"), acks).unwrap();
                    receipt.wait().unwrap();
                }
                // The last of them is on the device, whoever is to see only those that are.
                drop(send(&producer, "the end"));
            });
            let disturber = world.spawn("disturber", move |_| {
                for _ in 0..5 {
                    handle.wake();
                    handle.pause();
                    handle.resume();
                }
            });
            let mut seen = Vec::new();
            while seen.len() <= RECORDS {
                seen.extend(wait_somehow(world, &mut consumer, &mut random));
            }
            appender.join();
            disturber.join();
            let expected: Vec<_> = (0..=RECORDS as u64).collect();
            assert_eq!(seen, expected);
            assert!(world.now() < HOUR, "it waited for its time to be over");
        });
    });
}
