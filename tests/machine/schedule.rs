//! Threads, time and chance on the simulated machine.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use duralog::testing::{
    Access, Clock, FileSystem, Joiner, SyncKind, Threads,
    sim::{Call, Choices, Machine, Random},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A call that changes nothing.
fn call(machine: &Machine) {
    machine.read_dir(Path::new("/")).unwrap();
}

fn spawn(machine: &Machine, name: &str, run: impl FnOnce() + Send + 'static) -> Box<dyn Joiner> {
    machine.spawn(name, Box::new(run)).unwrap()
}

#[track_caller]
fn assert_no_problems(machine: &Machine, seed: u64) {
    assert_eq!(machine.problems(), Vec::<String>::new(), "seed {seed}");
}

/// All by which two runs can differ.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    moments: Vec<(u64, Call, PathBuf)>,
    count: u64,
    switches: u64,
    order: String,
    now: Duration,
    wall: u64,
    random: u64,
    crash: u64,
    cuts: Vec<u64>,
}

/// Three threads that write, sync, wait, and wake each other.
fn busy_run(seed: u64) -> Run {
    let machine = Machine::new(seed);
    let moments: Arc<Mutex<Vec<_>>> = Arc::default();
    let order: Arc<Mutex<String>> = Arc::default();
    let noted = Arc::clone(&moments);
    machine.observe(move |moment| {
        let what = (moment.number, moment.call, moment.path.to_path_buf());
        noted.lock().unwrap().push(what);
    });
    machine.run(|| {
        let parker = machine.parker();
        let joiners = ['a', 'b', 'c'].map(|name| {
            let (machine, order) = (machine.clone(), Arc::clone(&order));
            let waker = parker.waker();
            let run = {
                let machine = machine.clone();
                move || {
                    let path = format!("/{name}");
                    let file = machine.open(Path::new(&path), Access::Create).unwrap();
                    for number in 0..4 {
                        let bytes = machine.random().to_le_bytes();
                        file.write_at(&bytes, number * 300).unwrap();
                        order.lock().unwrap().push(name);
                        machine.sleep(Duration::from_micros(number * 3));
                    }
                    file.sync(SyncKind::Data).unwrap();
                    waker.wake();
                }
            };
            spawn(&machine, "busy", run)
        });
        parker.park(None);
        for joiner in joiners {
            joiner.join();
        }
    });
    assert_no_problems(&machine, seed);
    let cut = |choice| machine.power_cut(&mut Choices::of(choice)).fingerprint();
    let (moments, order) = (moments.lock().unwrap(), order.lock().unwrap());
    Run {
        moments: moments.clone(),
        count: machine.moments(),
        switches: machine.switches(),
        order: order.clone(),
        now: machine.monotonic(),
        wall: machine.wall_millis(),
        random: machine.random(),
        crash: machine.process_crash().fingerprint(),
        cuts: (0..20).map(cut).collect(),
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let mut runs = BTreeSet::new();
    for seed in 0..30 {
        let run = busy_run(seed);
        assert_eq!(run.count, run.moments.len() as u64, "seed {seed}");
        assert_eq!(run, busy_run(seed), "seed {seed}");
        runs.insert((run.moments, run.order));
    }
    assert!(runs.len() > 15, "{} of 30 runs differ", runs.len());
}

#[test]
fn the_same_choices_leave_the_same_disk() {
    let machine = Machine::new(0);
    machine.run(|| {
        let file = machine.open(Path::new("/file"), Access::Create).unwrap();
        file.set_len(10_000).unwrap();
        file.sync(SyncKind::Data).unwrap();
        machine.open_dir(Path::new("/")).unwrap().sync().unwrap();
        file.write_at(&[1; 10_000], 0).unwrap();
    });
    let cut = |seed| machine.power_cut(&mut Choices::of(seed)).fingerprint();
    let cuts: Vec<_> = (0..100).map(cut).collect();
    assert!(cuts.iter().copied().eq((0..100).map(cut)));
    let different: BTreeSet<_> = cuts.iter().collect();
    assert!(different.len() > 30, "{} of 100 differ", different.len());
}

/// The order in which the steps of two threads are made that take two each.
fn interleaving(seed: u64, switches: bool) -> String {
    let machine = Machine::new(seed);
    if !switches {
        machine.switch_never();
    }
    let order: Arc<Mutex<String>> = Arc::default();
    machine.run(|| {
        let joiners = ['a', 'b'].map(|name| {
            let (own, order) = (machine.clone(), Arc::clone(&order));
            let run = move || {
                for _ in 0..2 {
                    call(&own);
                    order.lock().unwrap().push(name);
                }
            };
            spawn(&machine, "stepping", run)
        });
        for joiner in joiners {
            joiner.join();
        }
    });
    assert_no_problems(&machine, seed);
    let order = order.lock().unwrap();
    order.clone()
}

#[test]
fn every_order_of_two_threads_is_seen() {
    let seen: BTreeSet<_> = (0..400).map(|seed| interleaving(seed, true)).collect();
    let expected = ["aabb", "abab", "abba", "baab", "baba", "bbaa"];
    assert!(seen.iter().eq(&expected), "{seen:?}");
}

#[test]
fn a_machine_that_never_switches_lets_a_thread_go_on_until_it_waits() {
    let seen: BTreeSet<_> = (0..100).map(|seed| interleaving(seed, false)).collect();
    assert!(seen.iter().eq(&["aabb", "bbaa"]), "{seen:?}");
}

#[test]
fn one_thread_runs_at_a_time() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        let busy = Arc::new(AtomicBool::new(false));
        let sum = Arc::new(AtomicU64::new(0));
        machine.run(|| {
            let work = {
                let (machine, sum) = (machine.clone(), Arc::clone(&sum));
                move || {
                    for _ in 0..50 {
                        assert!(!busy.swap(true, Ordering::SeqCst));
                        // An addition in two steps, which would lose some between threads.
                        let seen = sum.load(Ordering::Relaxed);
                        std::hint::black_box((0..100).sum::<u64>());
                        sum.store(seen + 1, Ordering::Relaxed);
                        assert!(busy.swap(false, Ordering::SeqCst));
                        call(&machine);
                    }
                }
            };
            let joiners = [1, 2].map(|_| spawn(&machine, "counting", work.clone()));
            work();
            for joiner in joiners {
                joiner.join();
            }
        });
        assert_no_problems(&machine, seed);
        assert_eq!(sum.load(Ordering::Relaxed), 150, "seed {seed}");
    }
}

#[test]
fn time_passes_with_calls_and_jumps_to_the_next_moment_that_somebody_waits_for() {
    for seed in 0..50 {
        let machine = Machine::new(seed);
        let order: Arc<Mutex<Vec<(u32, Duration)>>> = Arc::default();
        machine.run(|| {
            let start = machine.monotonic();
            call(&machine);
            assert!(machine.monotonic() > start);
            let joiners = [3, 1, 2].map(|hours| {
                let (own, order) = (machine.clone(), Arc::clone(&order));
                let run = move || {
                    own.sleep(HOUR * hours);
                    order.lock().unwrap().push((hours, own.monotonic()));
                };
                spawn(&machine, "sleeping", run)
            });
            for joiner in joiners {
                joiner.join();
            }
            assert!(machine.monotonic() < start + HOUR * 4, "seed {seed}");
        });
        assert_no_problems(&machine, seed);
        for (at, (hours, now)) in (1u32..).zip(order.lock().unwrap().iter()) {
            assert_eq!(at, *hours, "seed {seed}");
            let late = now.checked_sub(HOUR * at).expect("not before its moment");
            assert!(late < Duration::from_secs(1), "seed {seed}: {late:?}");
        }
    }
}

#[test]
fn a_thread_that_could_go_on_is_never_held_up_for_long() {
    for seed in 0..200 {
        let machine = Machine::new(seed);
        machine.run(|| {
            let own = machine.clone();
            let sleeper = spawn(&machine, "sleeping", move || own.sleep(HOUR));
            for _ in 0..200 {
                call(&machine);
            }
            assert!(machine.monotonic() < HOUR, "seed {seed}");
            sleeper.join();
            assert!(machine.monotonic() >= HOUR, "seed {seed}");
        });
    }
}

#[test]
fn a_wake_up_that_is_lost_is_noted_and_the_run_ends() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        machine.run(|| {
            let own = machine.clone();
            let waiting = spawn(&machine, "waiting", move || own.parker().park(None));
            waiting.join();
        });
        let problems = machine.problems();
        assert_eq!(problems.len(), 1, "seed {seed}: {problems:?}");
        assert!(problems[0].contains("a wake-up was lost"), "seed {seed}");
    }
}

#[test]
fn a_thread_that_panics_is_noted_and_ends() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        machine.run(|| {
            let own = machine.clone();
            let run = move || {
                call(&own);
                // Without the hook, which would print it.
                resume_unwind(Box::new("on purpose"));
            };
            spawn(&machine, "failing", run).join();
            call(&machine);
        });
        assert_eq!(machine.problems(), ["failing panicked: on purpose"]);
    }
}

#[test]
fn a_panic_that_somebody_catches_is_noted_too() {
    let machine = Machine::new(0);
    machine.run(|| {
        let run = || {
            let caught = catch_unwind(|| panic!("on purpose"));
            assert!(caught.is_err());
        };
        spawn(&machine, "going on", run).join();
    });
    let problems = machine.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("on purpose"), "{problems:?}");
}

#[test]
fn a_panic_of_the_first_thread_is_one_of_the_run() {
    let machine = Machine::new(0);
    let run = || machine.run(|| resume_unwind(Box::new("on purpose")));
    let panic = catch_unwind(AssertUnwindSafe(run)).map(|()| "none");
    let payload = panic.expect_err("it goes on to who runs it");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"on purpose"));
    assert_eq!(machine.run(|| 7), 7, "the machine is as before");
}

#[test]
fn threads_that_are_left_when_the_first_one_returns_never_go_on() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        let went_on = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&went_on);
        machine.run(|| {
            let own = machine.clone();
            let run = move || {
                own.sleep(HOUR);
                flag.store(true, Ordering::SeqCst);
            };
            drop(spawn(&machine, "left", run));
            machine.sleep(HOUR / 2);
        });
        machine.run(|| call(&machine));
        assert!(!went_on.load(Ordering::SeqCst), "seed {seed}");
        assert_no_problems(&machine, seed);
    }
}

#[test]
fn a_join_waits_for_the_end_of_the_thread() {
    for seed in 0..50 {
        let machine = Machine::new(seed);
        machine.run(|| {
            let ended = Arc::new(AtomicBool::new(false));
            let (own, flag) = (machine.clone(), Arc::clone(&ended));
            let run = move || {
                for _ in 0..10 {
                    call(&own);
                }
                own.sleep(HOUR);
                flag.store(true, Ordering::SeqCst);
            };
            let joiner = spawn(&machine, "joined", run);
            assert!(!ended.load(Ordering::SeqCst));
            joiner.join();
            assert!(ended.load(Ordering::SeqCst), "seed {seed}");
        });
        assert_no_problems(&machine, seed);
    }
}

#[test]
fn the_wall_clock_jumps_both_ways_while_the_other_one_goes_on() {
    let machine = Machine::new(0);
    machine.run(|| {
        let (wall, monotonic) = (machine.wall_millis(), machine.monotonic());
        machine.jump_wall_clock(5_000);
        assert_eq!(machine.wall_millis(), wall + 5_000);
        machine.jump_wall_clock(-60_000);
        assert_eq!(machine.wall_millis(), wall - 55_000);
        let passed = machine.monotonic().saturating_sub(monotonic);
        assert!(passed < Duration::from_millis(1), "{passed:?}");
        machine.sleep(HOUR);
        let ahead = machine.wall_millis() - (wall - 55_000);
        assert!((3_600_000..3_601_000).contains(&ahead), "{ahead}");
        machine.jump_wall_clock(i64::MIN);
        assert_eq!(machine.wall_millis(), 0, "it does not wrap");
        assert!(machine.monotonic() >= monotonic + HOUR);
    });
}

#[test]
fn chance_is_the_same_for_a_seed_and_spread_evenly() {
    let mut random = Random::new(7);
    let mut again = random.clone();
    assert!((0..100).all(|_| random.number() == again.number()));
    assert_ne!(random.fork().number(), random.fork().number());
    let mut seen = [0; 7];
    for _ in 0..7_000 {
        seen[random.below(7)] += 1;
    }
    assert!(
        seen.iter().all(|count| (800..1200).contains(count)),
        "{seen:?}"
    );
    let quarter = (0..10_000).filter(|_| random.chance(64)).count();
    assert!((2_200..2_800).contains(&quarter), "{quarter}");
    assert!((0..1000).all(|_| random.chance(256) && !random.chance(0)));
    assert_eq!(random.below(0), 0);
    assert_eq!(random.pick::<u8>(&[]), None);
    assert_eq!(random.pick(&[5]), Some(5));
}
