//! DESIGN 2.3, item 3: offsets are never reused.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use duralog::{
    Acks, Log, Record,
    testing::{
        recovery_rows,
        sim::{Call, Choices, Disk, Effect, Fault, Machine, Random},
    },
};

use crate::{
    common::{
        EIO, RESERVED, checkpoint, in_both_modes, in_log, is_segment, position_of, run, see,
        segment, send, send_many, taken, told, written,
    },
    sim::{
        oracle::{Crash, Oracle},
        world::{World, value},
    },
};

const LEN: usize = 600;

/// Records below `durable` are synced, `tail` more are only written.
fn synced_and_tail(world: &World, durable: usize, tail: usize) -> Log {
    let log = world.open();
    let producer = written(&log);
    send_many(&producer, "synced", 0..durable, LEN);
    log.sync().unwrap();
    send_many(&producer, "tail", 0..tail, LEN);
    log
}

#[test]
fn offsets_are_never_reused_over_many_crashes() {
    in_both_modes(0..8, |case| {
        let mut random = Random::new(case.seed);
        let mut disk = Disk::empty();
        // Whatever anybody was told of an offset.
        let mut known: BTreeMap<u64, String> = BTreeMap::new();
        for generation in 0..14 {
            let mut world = case.boot(&disk);
            if generation % 3 == 0 {
                world = World::on(
                    Machine::boot(disk.clone(), random.number()),
                    case.options(),
                    Oracle::default(),
                );
            }
            if generation % 4 == 3 {
                let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync).after(5);
                world.machine.inject(&fault);
            }
            let points = world.watch();
            let told_by_then = run(&world, |world| live(world, generation, &mut known));
            let points = taken(&points);
            let point = &points[random.below(points.len())];
            // Nobody was told what came after the crash.
            known.retain(|offset, _| {
                told_by_then
                    .get(offset)
                    .is_none_or(|moment| *moment <= point.number)
            });
            disk = match random.below(3) {
                0 => {
                    let mut disk = point.disk.clone();
                    if random.chance(64) {
                        disk.drop_cache();
                    }
                    disk
                }
                1 => point.disk.power_cut(&mut Choices::nothing()),
                _ => point.disk.power_cut(&mut Choices::of(random.number())),
            };
        }
    });
}

/// Opens, reads, and appends until the end, or until a sync fails. Returns when each offset was
/// first told to somebody in this life.
fn live(world: &World, generation: usize, known: &mut BTreeMap<u64, String>) -> BTreeMap<u64, u64> {
    let mut first_told = BTreeMap::new();
    let Ok(log) = world.try_open() else {
        return first_told;
    };
    let mut tell = |offset: u64, value: &str| {
        let before = known.entry(offset).or_insert_with(|| {
            first_told.insert(offset, world.machine.moments());
            value.to_owned()
        });
        assert_eq!(
            before, value,
            "offset {offset} is used again in generation {generation}"
        );
    };
    for (offset, value) in see(&log).records {
        tell(offset, &value);
    }
    let producer = written(&log);
    for number in 0..10 {
        let value = value(&format!("life{generation}"), number, 250);
        let acks = if number % 4 == 3 {
            Acks::Durable
        } else {
            Acks::Written
        };
        let Ok(receipt) = producer.send_with(Record::new(value.as_str()), acks) else {
            break;
        };
        tell(receipt.offset().unwrap().get(), &value);
        if receipt.wait().is_err() {
            break;
        }
    }
    first_told
}

#[test]
fn after_the_end_of_a_process_offsets_go_on_densely_also_behind_one_incomplete_frame() {
    let incomplete = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&incomplete);
    in_both_modes(0..8, move |case| {
        let points = case.watch(|world| {
            let log = world.open();
            for number in 0..8 {
                let value = value("dense", number, 900);
                world.send(&written(&log), Acks::Written, &[value]);
            }
        });
        let during = |call| matches!(call, Call::HalfCopied | Call::HalfWritten | Call::Copied);
        let mut points: Vec<_> = points.into_iter().filter(|p| during(p.call)).collect();
        points.retain(|point| is_segment(point.path.as_ref()));
        assert!(points.len() >= 6, "{}", points.len());
        for point in points {
            case.judge(&point.disk, Crash::Process, &point.oracle);
            case.reopen(&point.disk, |_, log| {
                let end = log.log_end_offset().get();
                *counted.lock().unwrap() += usize::from(recovery_rows(log).contains('C'));
                assert_eq!(log.recovery().lost_tail, None, "nobody was told of it");
                assert_eq!(send(&written(log), "next").0, end);
                assert_eq!(see(log).offsets(), (0..=end).collect::<Vec<_>>());
            });
        }
    });
    assert!(*incomplete.lock().unwrap() > 50, "{incomplete:?}");
}

#[test]
fn any_other_unclean_open_goes_on_at_the_reservation_and_reports_the_lost_tail() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let _log = synced_and_tail(world, 4, 5);
            world.machine.process_crash()
        });
        let (_, reserved) = checkpoint(&disk).unwrap();
        assert!((RESERVED..2 * RESERVED).contains(&reserved));
        let goes_on_at = |what: &str, disk: &Disk, from: std::ops::RangeInclusive<u64>| {
            told(what, || {
                case.reopen(disk, |_, log| {
                    let lost = log.recovery().lost_tail.clone().unwrap();
                    assert!(from.contains(&lost.start.get()), "{lost:?}");
                    assert_eq!(lost.end, reserved);
                    assert_eq!(send(&written(log), "next").0, reserved);
                    assert_eq!(log.stats().lost_to_tails, reserved - lost.start.get());
                });
            });
        };
        for (what, cut) in case.power_cuts(&disk, 12) {
            goes_on_at(&what, &cut, 4..=9);
        }
        // On the same boot: a hole in the tail is more than one frame that was being written.
        let mut holed = disk.clone();
        let position = position_of(&disk, &segment(0), &value("tail", 1, LEN));
        assert!(holed.write(&segment(0), position, &[0; 100]));
        goes_on_at("a hole", &holed, 5..=5);
    });
}

#[test]
fn a_failed_sync_is_noted_so_that_the_same_boot_goes_on_at_the_reservation() {
    in_both_modes(0..8, |case| {
        let disk = run(&case.world(), |world| {
            let log = synced_and_tail(world, 4, 5);
            let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync);
            world.machine.inject(&fault);
            assert!(log.sync().is_err());
            assert_eq!(fault.fired(), 1);
            world.machine.process_crash()
        });
        let mut forgotten = disk.clone();
        forgotten.drop_cache();
        for disk in [disk, forgotten] {
            case.reopen(&disk, |_, log| {
                assert!(log.recovery().same_boot);
                assert!(log.recovery().lost_tail.is_some());
                assert!(send(&written(log), "next").0 >= RESERVED);
            });
        }
    });
}

#[test]
fn the_reservation_stands_though_either_slot_of_the_checkpoint_rots() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let log = synced_and_tail(world, 0, 3);
            log.close().unwrap();
            let _log = synced_and_tail(world, 2, 7);
            world.machine.process_crash()
        });
        for (what, cut) in case.power_cuts(&disk, 6) {
            for slot in [0, 4096] {
                let mut rotten = cut.clone();
                assert!(rotten.flip_bit(&in_log("checkpoint"), slot + 40, 1));
                told(format!("{what}, the slot at {slot} rots"), || {
                    let next = case.reopen(&rotten, |_, log| send(&written(log), "next").0);
                    assert!(next >= RESERVED, "{next} may have been used");
                });
            }
        }
    });
}

#[test]
fn no_record_gets_an_offset_at_or_above_the_reservation_that_is_durable() {
    in_both_modes(0..1, |case| {
        let mut world = case.world();
        world.options = world.options.segment_bytes(16 << 20);
        world.machine.switch_never();
        let disk = run(&world, |world| {
            let log = world.open();
            let producer = written(&log);
            let fault = Fault::always(Call::Write, "checkpoint", Effect::Fail(EIO));
            world.machine.inject(&fault);
            let batch = vec![Record::new(""); 8192];
            while producer.send_batch(&batch).is_ok() {
                let durable = world.machine.power_cut(&mut Choices::nothing());
                let (_, reserved) = checkpoint(&durable).unwrap();
                let end = log.log_end_offset().get();
                assert!(end <= reserved, "{end} is not below {reserved}");
            }
            assert!(fault.fired() > 0 && log.log_end_offset().get() + 8192 > RESERVED);
            world.machine.lift_faults();
            for _ in 0..4 {
                drop(producer.send_batch(&batch).unwrap());
            }
            let durable = world.machine.power_cut(&mut Choices::nothing());
            let (_, reserved) = checkpoint(&durable).unwrap();
            assert!(log.log_end_offset().get() <= reserved && reserved > RESERVED);
            durable
        });
        let next = case.reopen(&disk, |_, log| send(&written(log), "next").0);
        assert!(next > RESERVED + 8192, "{next} was used already");
    });
}
