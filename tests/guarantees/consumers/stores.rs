//! Commits that are stored into mapped memory, or written in their place: what a kill or a power cut
//! in the middle of one leaves, and what is said of it.

use std::sync::{Arc, Mutex};

use duralog::{
    CommitOptions, Consumer, Durability, Fsync, Log, LogOptions, WriteMode,
    testing::sim::{Call, Disk, Effect, Fault},
};

use crate::{
    common::{Case, count_calls, in_both_modes, in_log, run, send_many, taken, told, written},
    sim::{PATH, world::World},
};

const GROUP_FILE: &str = "groups/billing.offset";
const ENOMEM: i32 = 12;
/// Where the four slots of a group's file are.
const SLOTS: [usize; 4] = [0, 512, 4096, 4608];

fn billing(log: &Log) -> Consumer {
    log.consumer("billing").build().unwrap()
}

/// How far commits have come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    begun: u64,
    returned: u64,
    durable: u64,
}

/// The disk at each moment of a commit.
type Moments = Vec<(Call, Progress, Disk)>;

/// Commits 1 to 20, some of them durably, and closes the consumer in between.
fn commit_and_watch(world: &World, durable: impl Fn(u64) -> bool) -> Moments {
    let log = world.open();
    send_many(&written(&log), "record", 0..20, 60);
    let mut consumer = billing(&log);
    let progress = Arc::<Mutex<Progress>>::default();
    let moments = Arc::<Mutex<Moments>>::default();
    let (now, noted) = (Arc::clone(&progress), Arc::clone(&moments));
    world.machine.observe(move |moment| {
        if moment.path == in_log(GROUP_FILE) {
            let image = (moment.call, *now.lock().unwrap(), moment.process_crash());
            noted.lock().unwrap().push(image);
        }
    });
    for offset in 1..=20 {
        let options = CommitOptions::new().durability(if durable(offset) {
            Durability::Durable
        } else {
            Durability::Written
        });
        progress.lock().unwrap().begun = offset;
        consumer
            .commit_offset_with(offset.into(), &options)
            .unwrap();
        let mut now = progress.lock().unwrap();
        now.returned = offset;
        if durable(offset) {
            now.durable = offset;
        }
        drop(now);
        if offset.is_multiple_of(7) {
            consumer.close().unwrap();
            consumer = billing(&log);
        }
    }
    taken(&moments)
}

/// What a process that only reads finds: the committed offset, and damage of the group's file.
fn look(case: &Case, disk: &Disk) -> (u64, Vec<String>) {
    run(&case.boot(disk), |world| {
        let machine = Arc::new(world.machine.clone());
        let look = duralog::testing::open_read_only(machine, PATH).unwrap();
        let group = look.describe_group("billing").unwrap();
        let damage = look.verify().unwrap().damage;
        let damage = damage
            .into_iter()
            .filter(|damage| damage.path == in_log(GROUP_FILE))
            .map(|damage| format!("{} at {}", damage.reason, damage.position));
        (group.committed.unwrap().get(), damage.collect())
    })
}

fn committed_on(case: &Case, disk: &Disk) -> u64 {
    case.reopen(disk, |_, log| billing(log).committed().get())
}

/// Each third commit is durable.
fn thirds(offset: u64) -> bool {
    offset.is_multiple_of(3)
}

fn with_fsync(case: &Case, fsync: Fsync) -> World {
    let mut world = case.world();
    let options: LogOptions = case.options().fsync(fsync);
    world.options = options;
    world
}

#[test]
fn a_kill_at_any_moment_of_a_commit_leaves_it_or_the_one_before_and_no_damage() {
    in_both_modes(0..3, |case| {
        for fsync in [Fsync::Data, Fsync::Off] {
            let world = with_fsync(&case, fsync);
            let durable = |offset| fsync == Fsync::Data && thirds(offset);
            let moments = run(&world, |world| commit_and_watch(world, durable));
            let mut halves = 0;
            for (call, progress, disk) in case.some(moments, 120) {
                told(format!("{fsync:?}, before {call:?}, {progress:?}"), || {
                    let (committed, damage) = look(&case, &disk);
                    assert!((progress.returned..=progress.begun).contains(&committed));
                    assert_eq!(damage, [""; 0]);
                    assert_eq!(committed_on(&case, &disk), committed);
                });
                halves += usize::from(call == Call::HalfCopied);
            }
            assert_eq!(halves > 0, case.mode == WriteMode::Mapped);
        }
    });
}

#[test]
fn a_power_cut_at_any_moment_of_a_commit_leaves_the_last_durable_one_or_a_later_one() {
    in_both_modes(0..3, |case| {
        let moments = run(&case.world(), |world| commit_and_watch(world, thirds));
        for (call, progress, disk) in case.some(moments, 60) {
            told(format!("before {call:?}, {progress:?}"), || {
                case.each_power_cut(&disk, 6, |cut| {
                    let committed = committed_on(&case, cut);
                    assert!((progress.durable..=progress.begun).contains(&committed));
                });
            });
        }
    });
}

#[test]
fn a_bit_that_flips_in_a_commit_is_reported_and_takes_back_no_more_than_that_one() {
    in_both_modes(0..4, |case| {
        let moments = run(&case.world(), |world| commit_and_watch(world, thirds));
        let between = |(call, progress, _): &(Call, Progress, Disk)| {
            let is_first = matches!(call, Call::BeforeCopy | Call::Write);
            is_first && progress.returned > progress.durable
        };
        let moments = moments.into_iter().filter(between).collect();
        for (_, progress, disk) in case.some(moments, 12) {
            let bytes = disk.read(&in_log(GROUP_FILE)).unwrap();
            let (before, _) = look(&case, &disk);
            let mut taken_back = 0;
            for slot in SLOTS.into_iter().filter(|slot| bytes[*slot] != 0) {
                let mut rotten = disk.clone();
                let flipped = [bytes[slot + 50] ^ 4];
                assert!(rotten.write(&in_log(GROUP_FILE), slot + 50, &flipped));
                let (committed, damage) = look(&case, &rotten);
                assert_eq!(damage.len(), 1, "{damage:?}");
                assert!(
                    damage[0].ends_with(&format!("at {slot}")),
                    "{damage:?}, not {slot}"
                );
                assert!(committed >= progress.durable, "{progress:?}: {committed}");
                taken_back += u64::from(committed < before);
            }
            assert!(
                taken_back <= 1,
                "{progress:?}: others were older, or the same"
            );
        }
    });
}

#[test]
fn a_commit_behind_one_that_is_not_durable_takes_no_system_call_where_files_are_mapped() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut consumer = billing(&log);
            consumer.commit_offset(1.into()).unwrap();
            let stores = [
                Call::BeforeCopy,
                Call::HalfCopied,
                Call::Copied,
                Call::Stored,
            ];
            let calls = count_calls(world, move |call, path| {
                path == in_log(GROUP_FILE) && !stores.contains(&call)
            });
            for offset in 2..=9u64 {
                consumer.commit_offset(offset.into()).unwrap();
            }
            let expected = if case.mode == WriteMode::Mapped { 0 } else { 8 };
            assert_eq!(*calls.lock().unwrap(), expected);
        });
    });
}

#[test]
fn a_group_whose_file_cannot_be_mapped_is_written_by_calls() {
    in_both_modes(0..1, |case| {
        for call in [Call::Map, Call::Allocate] {
            let disk = run(&case.world(), |world| {
                let log = world.open();
                send_many(&written(&log), "record", 0..9, 60);
                let fault = Fault::once(call, GROUP_FILE, Effect::Fail(ENOMEM));
                world.machine.inject(&fault);
                let mut consumer = billing(&log);
                let is_mapped = case.mode == WriteMode::Mapped;
                assert_eq!(fault.fired(), usize::from(is_mapped));
                for offset in 1..=9u64 {
                    consumer.commit_offset(offset.into()).unwrap();
                }
                world.machine.process_crash()
            });
            assert_eq!(committed_on(&case, &disk), 9);
        }
    });
}

#[test]
fn a_group_whose_file_was_cut_goes_on_in_a_whole_one() {
    in_both_modes(0..2, |case| {
        let whole = run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..9, 60);
            let mut consumer = billing(&log);
            consumer.commit_offset(4.into()).unwrap();
            consumer.close().unwrap();
            log.close().unwrap();
            world.machine.process_crash()
        });
        for len in [512, 600, 4096, 4200, 4700] {
            let mut cut = whole.clone();
            assert!(cut.set_len(&in_log(GROUP_FILE), len));
            let disk = case.reopen(&cut, |world, log| {
                let mut consumer = billing(log);
                assert_eq!(consumer.committed(), 4, "{len}");
                for offset in 5..9u64 {
                    consumer.commit_offset(offset.into()).unwrap();
                }
                world.machine.process_crash()
            });
            assert_eq!(committed_on(&case, &disk), 8, "{len}");
        }
    });
}

#[test]
fn who_looks_while_commits_are_stored_never_sees_them_go_back() {
    in_both_modes(0..12, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            send_many(&written(&log), "record", 0..60, 60);
            let mut consumer = billing(&log);
            let looking = world.spawn("looker", |world| {
                let machine = Arc::new(world.machine.clone());
                let look = duralog::testing::open_read_only(machine, PATH).unwrap();
                let mut last = 0;
                while last < 60 {
                    let group = look.describe_group("billing").unwrap();
                    let committed = group.committed.unwrap().get();
                    assert!(committed >= last, "{committed} after {last}");
                    last = committed;
                }
            });
            for offset in 1..=60u64 {
                consumer.commit_offset(offset.into()).unwrap();
            }
            looking.join();
        });
    });
}
