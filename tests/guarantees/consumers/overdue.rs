//! A consumer that holds a batch for too long is reported, while it holds it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{ConsumerBuilder, ConsumerInfo, ErrorKind, Log, testing::sim::Call};

use crate::{
    common::*,
    sim::{PATH, world::World},
};

const MINUTE: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_secs(1);

/// Those that were reported, and when.
type Reported = Arc<Mutex<Vec<(Duration, ConsumerInfo)>>>;

/// Notes what is reported of the consumer.
fn noting(world: &World, builder: ConsumerBuilder) -> (ConsumerBuilder, Reported) {
    let reported = Reported::default();
    let (noted, world) = (Arc::clone(&reported), world.clone());
    let builder = builder.on_overdue(move |consumer| {
        noted.lock().unwrap().push((world.now(), consumer.clone()));
    });
    (builder, reported)
}

fn with_records(world: &World) -> Log {
    let log = world.open();
    send_many(&log.producer().build().unwrap(), "a", 0..10, 90);
    log
}

#[test]
fn a_batch_that_is_held_too_long_is_reported_once_when_that_begins() {
    in_both_modes(0..10, |case| {
        run(&case.world(), |world| {
            let log = with_records(world);
            let builder = log.consumer("billing").max_poll_records(2);
            let (builder, reported) = noting(world, builder.max_poll_interval(MINUTE));
            let mut consumer = builder.build().unwrap();
            for round in 1..=3 {
                let before = world.now();
                assert_eq!(consumer.try_poll().unwrap().len(), 2);
                let after = world.now();
                world.machine.sleep(MINUTE.saturating_sub(MOMENT));
                consumer.commit().unwrap();
                assert_eq!(taken(&reported), []);
                assert_eq!(log.stats().overdue_consumers, 0);
                world.machine.sleep(10 * MINUTE);
                let [(at, told)] = &*taken(&reported) else {
                    panic!("it is told once for each batch");
                };
                assert!(
                    (before + MINUTE..after + MINUTE + MOMENT).contains(at),
                    "{at:?}"
                );
                assert_eq!((&*told.group, told.position.get()), ("billing", round * 2));
                assert!(told.overdue && told.held_for.unwrap() >= MINUTE);
                let stats = log.stats();
                assert_eq!((stats.overdue_consumers, stats.overdue_batches), (1, round));
            }
            assert_eq!(consumer.try_poll().unwrap().len(), 2);
            let stats = log.stats();
            assert_eq!((stats.overdue_consumers, stats.overdue_batches), (0, 3));
        });
    });
}

#[test]
fn who_polls_in_time_or_waits_for_records_is_not_reported() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = with_records(world);
            let builder = log.consumer("billing").max_poll_records(1);
            let (builder, reported) = noting(world, builder.max_poll_interval(MINUTE));
            let mut consumer = builder.build().unwrap();
            for _ in 0..10 {
                assert_eq!(consumer.try_poll().unwrap().len(), 1);
                world.machine.sleep(MINUTE.saturating_sub(MOMENT));
            }
            // It waits, and holds nothing.
            assert!(consumer.poll(10 * MINUTE).unwrap().is_empty());
            world.machine.sleep(10 * MINUTE);
            assert_eq!(taken(&reported), []);
            assert_eq!(log.stats().overdue_batches, 0);
        });
    });
}

#[test]
fn what_a_future_brought_is_held_until_the_next_one_is_made() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = with_records(world);
            let builder = log.consumer("billing").max_poll_interval(MINUTE);
            let (builder, reported) = noting(world, builder);
            let mut consumer = builder.build().unwrap();
            assert_eq!(world.block_on(consumer.next()).unwrap().len(), 10);
            world.machine.sleep(2 * MINUTE);
            assert_eq!(taken(&reported).len(), 1);
            assert_eq!(log.stats().overdue_consumers, 1);
            drop(consumer.next());
            assert_eq!(log.stats().overdue_consumers, 0);
        });
    });
}

#[test]
fn the_live_consumers_of_a_process_can_be_seen() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = with_records(world);
            assert_eq!(log.consumers(), []);
            let a = log.consumer("a").max_poll_records(4);
            let mut a = a.max_poll_interval(MINUTE).build().unwrap();
            let b = log.consumer("b").build().unwrap();
            a.try_poll().unwrap();
            a.commit().unwrap();
            a.try_poll().unwrap();
            world.machine.sleep(2 * MINUTE);
            let seen = log.consumers();
            let [of_a, of_b] = &*seen else {
                panic!("{seen:?}");
            };
            assert_eq!((&*of_a.group, &*of_b.group), ("a", "b"));
            assert_eq!((of_a.position.get(), of_a.committed.get()), (8, 4));
            assert!(of_a.overdue && of_a.held_for.unwrap() >= 2 * MINUTE);
            assert_eq!((of_b.position.get(), of_b.committed.get()), (0, 0));
            assert!(!of_b.overdue && of_b.held_for.is_none());
            drop(b);
            a.seek(2.into()).unwrap();
            let seen = log.consumers();
            assert_eq!((seen.len(), seen[0].position.get()), (1, 2));
            drop(a);
            assert_eq!(log.consumers(), []);
        });
    });
}

#[test]
fn while_no_batch_is_held_or_the_one_that_is_was_reported_nobody_looks() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = with_records(world);
            let mut consumer = log.consumer("billing").build().unwrap();
            // The log comes to rest.
            world.machine.sleep(MINUTE);
            let parks = count_calls(world, |call, _| call == Call::Park);
            let parks_in_a_day = || {
                *parks.lock().unwrap() = 0;
                world.machine.sleep(24 * 60 * MINUTE);
                *parks.lock().unwrap()
            };
            // This thread's own sleep is one.
            assert_eq!(parks_in_a_day(), 1, "no batch is held");
            assert_eq!(consumer.try_poll().unwrap().len(), 10);
            // One look is when the batch is taken, and one when it is overdue.
            assert!(parks_in_a_day() <= 3);
            assert_eq!(log.stats().overdue_batches, 1);
            assert_eq!(parks_in_a_day(), 1, "it was reported");
        });
    });
}

#[test]
fn many_polls_wake_the_log_s_own_thread_once() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = with_records(world);
            for interval in [MINUTE, Duration::MAX] {
                let builder = log.consumer("billing").max_poll_interval(interval);
                let mut consumer = builder.max_poll_records(1).build().unwrap();
                world.machine.sleep(2 * MINUTE);
                let parks = count_calls(world, |call, _| call == Call::Park);
                for _ in 0..100 {
                    consumer.seek(0.into()).unwrap();
                    assert_eq!(consumer.try_poll().unwrap().len(), 1);
                }
                world.machine.sleep(MOMENT);
                let parks = *parks.lock().unwrap();
                assert!(parks <= 2, "{parks}");
            }
        });
    });
}

#[test]
fn a_panic_in_the_callback_is_contained_and_the_next_batch_is_reported() {
    in_both_modes(0..2, |case| {
        let world = case.world();
        world.machine.run(|| {
            let log = with_records(&world);
            let builder = log.consumer("billing").max_poll_interval(MINUTE);
            let builder = builder.on_overdue(|_| panic!("told of it"));
            let mut consumer = builder.max_poll_records(1).build().unwrap();
            for round in 1..=2 {
                assert_eq!(consumer.try_poll().unwrap().len(), 1);
                world.machine.sleep(2 * MINUTE);
                assert_eq!(log.stats().overdue_batches, round);
            }
            send(&log.producer().build().unwrap(), "the log goes on");
            assert!(!log.stats().latched);
        });
        let problems = world.machine.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems
                .iter()
                .all(|problem| problem.contains("told of it"))
        );
    });
}

#[test]
fn the_callback_may_use_the_log_and_even_close_it() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = with_records(world);
            let seen = Arc::new(Mutex::new(Vec::new()));
            let (noted, used) = (Arc::clone(&seen), log.clone());
            let builder = log.consumer("billing").max_poll_interval(MINUTE);
            let builder = builder.on_overdue(move |_| {
                let mut noted = noted.lock().unwrap();
                noted.push((used.consumers().len(), used.stats().overdue_batches));
                used.clone().close().unwrap();
            });
            let mut consumer = builder.build().unwrap();
            assert_eq!(consumer.try_poll().unwrap().len(), 10);
            world.machine.sleep(2 * MINUTE);
            assert_eq!(taken(&seen), [(1, 1)]);
            let error = consumer.try_poll().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Closed), "{error}");
        });
    });
}

#[test]
fn of_a_log_that_is_open_read_only_it_is_noticed_at_the_next_poll() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = with_records(world);
            let machine = Arc::new(world.machine.clone());
            let look = duralog::testing::open_read_only(machine, PATH).unwrap();
            let builder = look.consumer("billing").max_poll_interval(MINUTE);
            let (builder, reported) = noting(world, builder.max_poll_records(1));
            let mut consumer = builder.build().unwrap();
            assert_eq!(consumer.try_poll().unwrap().len(), 1);
            world.machine.sleep(2 * MINUTE);
            assert_eq!(taken(&reported), []);
            assert_eq!(consumer.try_poll().unwrap().len(), 1);
            let told = taken(&reported);
            assert_eq!(told.len(), 1);
            assert!(told[0].1.overdue && told[0].1.held_for.unwrap() >= 2 * MINUTE);
            assert_eq!(consumer.try_poll().unwrap().len(), 1);
            assert_eq!(taken(&reported), []);
            assert_eq!(
                log.consumers(),
                [],
                "it is another process, for all the log knows"
            );
        });
    });
}

#[test]
fn an_interval_of_nothing_is_refused() {
    in_both_modes(0..1, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let builder = log.consumer("billing").max_poll_interval(Duration::ZERO);
            let error = builder.build().unwrap_err();
            assert!(error.to_string().contains("max_poll_interval"), "{error}");
            log.consumer("billing").build().unwrap();
        });
    });
}
