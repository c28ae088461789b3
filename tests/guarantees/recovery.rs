//! DESIGN 2.3, item 6: an unclean open, which may be interrupted anywhere and run again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    Acks, Log, WriteMode,
    testing::{
        SlotContent, decode_slots, recovery_rows,
        sim::{Call, Choices, Disk, Effect, Fault, Random},
    },
};

use crate::{
    common::{
        Case, RESERVED, checkpoint, in_both_modes, in_log, is_segment, position_of, run, see,
        segment, segments, send, send_many, taken, told, written,
    },
    sim::{
        oracle::{Crash, Oracle},
        world::{Point, World, value},
    },
};

/// Four durable records, then some that are only written.
fn fill(world: &World, count: usize, len: usize) -> Log {
    let log = world.open();
    let producer = log.producer().build().unwrap();
    for number in 0..count {
        let acks = if number < 4 {
            Acks::Durable
        } else {
            Acks::Written
        };
        world.send(&producer, acks, &[value("before", number, len)]);
    }
    log
}

/// Disks that have something to be recovered: what happened, the disk, and what was promised.
fn unclean(case: Case) -> Vec<(String, Disk, Crash, Oracle)> {
    let mut all = Vec::new();
    let (disk, promised) = run(&case.world(), |world| {
        let _log = fill(world, 24, 700);
        (world.machine.process_crash(), world.promised())
    });
    for (what, cut) in case.power_cuts(&disk, 6) {
        all.push((what, cut, Crash::Power, promised.clone()));
    }
    all.push((
        "the process ends".to_owned(),
        disk,
        Crash::Process,
        promised,
    ));
    let (disk, promised) = run(&case.world(), |world| {
        let log = fill(world, 20, 300);
        let fault = Fault::once(Call::Synced, ".log", Effect::FailedSync);
        world.machine.inject(&fault);
        assert!(!world.sync(&log));
        assert_eq!(fault.fired(), 1);
        (world.machine.process_crash(), world.promised())
    });
    let what = "a sync fails, and the process ends".to_owned();
    all.push((what, disk.clone(), Crash::Process, promised.clone()));
    let mut forgotten = disk;
    forgotten.drop_cache();
    let what = "a sync fails, and the cache is dropped".to_owned();
    all.push((what, forgotten, Crash::Process, promised));
    all
}

#[test]
fn what_recovery_served_survives_the_next_power_cut() {
    in_both_modes(0..8, |case| {
        for (what, disk, crash, oracle) in unclean(case) {
            told(what, || {
                case.judge(&disk, crash, &oracle);
                let (served, mut left) = case.reopen(&disk, |world, log| {
                    assert_eq!(log.durable_offset(), log.log_end_offset());
                    (see(log), world.machine.process_crash())
                });
                let cut = left.power_cut(&mut Choices::nothing());
                assert_eq!(
                    case.read(&cut).records,
                    served.records,
                    "then the power is cut"
                );
                left.drop_cache();
                assert_eq!(
                    case.read(&left).records,
                    served.records,
                    "the cache is dropped"
                );
            });
        }
    });
}

#[test]
fn what_recovery_cut_does_not_come_back_behind_records_of_the_same_size() {
    let holes = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&holes);
    in_both_modes(0..8, move |case| {
        for (what, image, _, _) in unclean(case) {
            told(what, || {
                let (expected, disk) = case.reopen(&image, |world, log| {
                    *counted.lock().unwrap() += usize::from(recovery_rows(log).contains('D'));
                    let mut expected = see(log).records;
                    let len = expected.last().map_or(700, |(_, value)| value.len());
                    let producer = log.producer().build().unwrap();
                    expected.extend(send_many(&producer, "after-", 0..6, len));
                    (expected, world.machine.process_crash())
                });
                assert_eq!(case.read(&disk).records, expected, "then the process ends");
                case.each_power_cut(&disk, 3, |cut| {
                    let twice = case.reopen(cut, |world, log| {
                        assert_eq!(see(log).records, expected);
                        send(&written(log), "again");
                        world.machine.power_cut(&mut Choices::everything())
                    });
                    let seen = case.read(&twice).records;
                    assert_eq!(seen[..expected.len()], expected);
                    assert_eq!(seen.len(), expected.len() + 1);
                });
            });
        }
    });
    assert!(*holes.lock().unwrap() > 20, "{holes:?}");
}

/// The moments of opening a disk.
fn moments_of_opening(case: Case, disk: &Disk) -> Vec<Point> {
    let world = case.boot(disk);
    let points = world.watch();
    world.machine.run(|| {
        let log = world.open();
        let points = taken(&points);
        drop(log);
        points
    })
}

#[test]
fn recovery_may_be_interrupted_anywhere_and_run_again() {
    in_both_modes(0..4, |case| {
        let mut random = Random::new(case.seed);
        for (what, disk, crash, oracle) in unclean(case) {
            let points = moments_of_opening(case, &disk);
            for point in case.some(points, 16) {
                let (call, path) = (point.call, &point.path);
                told(
                    format!("{what}, then interrupted at {call:?} {path}"),
                    || {
                        case.judge(&point.disk, crash, &oracle);
                        case.each_power_cut(&point.disk, 2, |cut| {
                            case.judge(cut, Crash::Power, &oracle);
                        });
                        // And the recovery of that, once more.
                        let cut = point.disk.power_cut(&mut Choices::of(random.number()));
                        let points = moments_of_opening(case, &cut);
                        let again = &points[random.below(points.len())];
                        let at = format!("and again at {:?} {}", again.call, again.path);
                        told(at, || {
                            let mut choices = Choices::of(random.number());
                            let disk = again.disk.power_cut(&mut choices);
                            case.judge(&disk, Crash::Power, &oracle);
                        });
                    },
                );
            }
        }
    });
}

#[test]
fn a_sync_that_fails_while_a_log_is_recovered_leaves_it_to_be_opened_again() {
    in_both_modes(0..4, |case| {
        let (disk, mut promised) = run(&case.world(), |world| {
            let _log = fill(world, 16, 700);
            (world.machine.process_crash(), world.promised())
        });
        promised.doubts();
        for spared in 0..100 {
            let world = case.boot(&disk);
            let fault = Fault::once(Call::Synced, "", Effect::FailedSync).after(spared);
            world.machine.inject(&fault);
            let (error, mut left) = run(&world, |world| {
                let opened = world.try_open();
                (
                    opened.as_ref().err().is_some(),
                    world.machine.process_crash(),
                )
            });
            if !error {
                assert!(spared >= 4, "only {spared} syncs");
                return;
            }
            told(format!("sync number {spared}"), || {
                assert_eq!(fault.fired(), 1);
                case.judge(&left, Crash::Process, &promised);
                left.drop_cache();
                case.judge(&left, Crash::Process, &promised);
                let next = case.reopen(&left, |_, log| send(&written(log), "next").0);
                assert!(next >= 16, "{next} is used again");
            });
        }
        panic!("it never opens");
    });
}

#[test]
fn the_first_opening_may_be_interrupted_at_every_call() {
    in_both_modes(0..4, |case| {
        let points = moments_of_opening(case, &Disk::empty());
        assert!(points.len() > 20, "{}", points.len());
        for point in points {
            told(
                format!("interrupted at {:?} {}", point.call, point.path),
                || {
                    let mut disks = case.power_cuts(&point.disk, 12);
                    disks.push(("the process ends".to_owned(), point.disk.clone()));
                    for (what, disk) in disks {
                        told(what, || {
                            let cut = case.reopen(&disk, |world, log| {
                                assert_eq!(see(log).records, []);
                                send(&log.producer().build().unwrap(), "the first");
                                world.machine.power_cut(&mut Choices::nothing())
                            });
                            let seen = case.read(&cut);
                            assert_eq!(seen.records.len(), 1);
                        });
                    }
                },
            );
        }
    });
}

#[test]
fn the_clean_mark_is_gone_from_the_device_before_the_first_append() {
    let appends = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&appends);
    in_both_modes(0..8, move |case| {
        let disk = run(&case.world(), |world| {
            let log = fill(world, 8, 300);
            assert!(world.close(log));
            world.machine.power_cut(&mut Choices::nothing())
        });
        assert_eq!(checkpoint(&disk).map(|(clean, _)| clean), Some(true));
        let world = case.boot(&disk);
        let counted = Arc::clone(&counted);
        let first = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&first);
        world.machine.observe(move |moment| {
            let stores = matches!(moment.call, Call::BeforeCopy | Call::Write);
            if stores && is_segment(moment.path) {
                let cut = moment.power_cut(&mut Choices::nothing());
                assert_eq!(checkpoint(&cut).map(|(clean, _)| clean), Some(false));
                noted.lock().unwrap().get_or_insert(cut);
                *counted.lock().unwrap() += 1;
            }
        });
        run(&world, |world| {
            let log = world.open();
            assert!(log.recovery().clean);
            send_many(&written(&log), "second", 0..4, 100);
        });
        let first = first.lock().unwrap().clone().unwrap();
        case.reopen(&first, |_, log| assert!(!log.recovery().clean));
    });
    assert!(*appends.lock().unwrap() >= 64, "{appends:?}");
}

#[test]
fn segments_that_roll_faster_than_they_are_synced_survive_as_a_prefix() {
    in_both_modes(0..8, |case| {
        let (sent, disk, promised) = run(&case.world(), |world| {
            let log = fill(world, 60, 900);
            assert!(log.stats().segments > 6, "{:?}", log.stats());
            (
                see(&log).records,
                world.machine.process_crash(),
                world.promised(),
            )
        });
        case.each_power_cut(&disk, 40, |cut| {
            let seen = case.judge(cut, Crash::Power, &promised);
            assert!(sent.starts_with(&seen.records), "{:?}", seen.offsets());
            assert!(seen.records.len() >= 4);
        });
        case.judge(&disk, Crash::Process, &promised);
    });
}

#[test]
fn a_crash_before_or_after_the_prepared_file_is_renamed_loses_nothing_promised() {
    in_both_modes(0..6, |case| {
        let points = case.watch(|world| {
            let log = fill(world, 30, 900);
            world.sync(&log);
        });
        let names: Vec<_> = points
            .iter()
            .map(|point| segments(&point.disk).len())
            .collect();
        let mut rolls = 0;
        for renamed in 1..points.len() {
            if names[renamed] == names[renamed - 1] || names[renamed] < 2 {
                continue;
            }
            rolls += 1;
            // The last one with the old name, and some with the new one.
            for point in points.iter().skip(renamed - 1).take(4) {
                told(format!("at {:?} {}", point.call, point.path), || {
                    around_a_roll(case, point);
                });
            }
        }
        assert!(rolls >= 3, "{rolls} rolls");
        let is_sync = |point: &&Point| matches!(point.call, Call::SyncDir | Call::DirSynced);
        for point in points.iter().rev().filter(is_sync).take(2) {
            told(format!("at {:?}", point.call), || {
                around_a_roll(case, point);
            });
        }
    });
}

fn around_a_roll(case: Case, point: &Point) {
    let prepared = |disk: &Disk| -> Vec<_> {
        let is_prepared = |path: &std::path::PathBuf| path.to_string_lossy().contains("/next-");
        disk.files().into_iter().filter(is_prepared).collect()
    };
    case.judge(&point.disk, Crash::Process, &point.oracle);
    let before = prepared(&point.disk);
    let left = case.reopen(&point.disk, |world, _| {
        prepared(&world.machine.process_crash())
    });
    assert!(
        left.iter().all(|path| !before.contains(path)),
        "{left:?} are left"
    );
    case.each_power_cut(&point.disk, 2, |cut| {
        case.judge(cut, Crash::Power, &point.oracle);
    });
}

/// Which slots of the checkpoint are whole.
fn whole_slots(disk: &Disk) -> [bool; 2] {
    let bytes = disk.read(&in_log("checkpoint")).unwrap();
    [0..4096, 4096..8192].map(|other: std::ops::Range<usize>| {
        let mut alone = bytes.clone();
        alone.resize(8192, 0);
        alone[other].fill(0);
        decode_slots(&alone, SlotContent::Checkpoint).is_some()
    })
}

/// One slot is torn: the other one is used, and that is said.
fn assert_stood_in_for(case: Case, disk: &Disk) -> u64 {
    case.reopen(disk, |_, log| {
        let damage = &log.recovery().damage;
        let of_checkpoint = |d: &&duralog::Damage| d.path == in_log("checkpoint");
        let slots: Vec<_> = damage.iter().filter(of_checkpoint).collect();
        assert_eq!(slots.len(), 1, "{damage:?}");
        assert_eq!(slots[0].from, slots[0].to, "no record is lost by that");
        send(&written(log), "next").0
    })
}

#[test]
fn of_a_checkpoint_whose_newer_slot_a_power_cut_tore_the_older_one_is_used() {
    let torn = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&torn);
    in_both_modes(0..8, move |case| {
        let world = case.world();
        let points = world.watch();
        run(&world, |world| {
            let log = fill(world, 8, 400);
            points.lock().unwrap().clear();
            for round in 0..3 {
                world.sync(&log);
                world.machine.sleep(Duration::from_secs(1));
                world.send(&written(&log), Acks::Written, &[value("more", round, 300)]);
            }
            world.close(log);
        });
        let points = taken(&points);
        let is_open =
            |point: &Point| point.call == Call::Sync && point.path.ends_with("checkpoint");
        for point in points.into_iter().filter(is_open) {
            for (what, cut) in case.power_cuts(&point.disk, 200) {
                if whole_slots(&cut) == [true; 2] {
                    continue;
                }
                *counted.lock().unwrap() += 1;
                told(what, || {
                    let seen = case.judge(&cut, Crash::Power, &point.oracle);
                    let next = assert_stood_in_for(case, &cut);
                    assert!(next >= seen.end, "{next} is used again");
                });
            }
        }
    });
    assert!(*torn.lock().unwrap() > 20, "{torn:?}");
}

#[test]
fn of_a_checkpoint_that_was_half_written_the_older_slot_is_used() {
    let halves = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&halves);
    in_both_modes(0..4, move |case| {
        // Many damaged ranges make the checkpoint longer than a sector.
        let (sent, mut disk) = run(&case.world(), |world| {
            let log = world.open();
            let sent = send_many(&written(&log), "damaged", 0..90, 60);
            log.close().unwrap();
            (sent, world.machine.power_cut(&mut Choices::everything()))
        });
        for (offset, value) in sent.iter().step_by(2) {
            let holds = |path: &&std::path::PathBuf| {
                let bytes = disk.read(path).unwrap();
                bytes.windows(value.len()).any(|w| w == value.as_bytes())
            };
            let path = segments(&disk).iter().find(holds).unwrap().clone();
            let position = position_of(&disk, &path, value);
            assert!(disk.flip_bit(&path, position, 1), "{offset}");
        }
        let world = case.boot(&disk);
        let points = world.watch();
        let next = run(&world, |world| {
            let log = world.open();
            let next = send(&log.producer().build().unwrap(), "durable");
            assert_eq!(see(&log).records.len(), 46);
            world.machine.sleep(Duration::from_secs(1));
            log.close().unwrap();
            next
        });
        let points = taken(&points);
        let is_half = |p: &Point| p.call == Call::HalfWritten && p.path.ends_with("checkpoint");
        for point in points.into_iter().filter(is_half) {
            if whole_slots(&point.disk) == [true; 2] {
                // The other half is the same as it was.
                continue;
            }
            *counted.lock().unwrap() += 1;
            assert!(assert_stood_in_for(case, &point.disk) > next.0);
            let seen = case.read(&point.disk);
            seen.assert_has(sent.iter().skip(1).step_by(2));
            seen.assert_has([&next]);
        }
    });
    assert!(*halves.lock().unwrap() >= 8, "{halves:?}");
}

#[test]
fn recovery_reads_only_what_was_not_recorded_as_durable() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let log = fill(world, 40, 600);
            log.sync().unwrap();
            log.close().unwrap();
            let log = world.open();
            send_many(&written(&log), "tail", 0..3, 100);
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| {
            assert_eq!(log.recovery().scanned_frames, 3);
            assert_eq!(see(log).records.len(), 43);
        });
    });
}

#[test]
fn a_clock_that_jumps_loses_nothing_and_append_times_never_go_back() {
    const HOUR: i64 = 3_600_000;
    in_both_modes(0..8, |case| {
        let mut random = Random::new(case.seed);
        let mut disk = Disk::empty();
        let mut sent = Vec::new();
        for life in 0..4 {
            let world = case.boot(&disk);
            let jump = [0, -HOUR, HOUR * 24 * 400, -HOUR * 24 * 800][life];
            world.machine.jump_wall_clock(jump);
            disk = run(&world, |world| {
                let log = world.open();
                for number in 0..12 {
                    let value = value(&format!("life{life}"), number, 500);
                    sent.push(send(&log.producer().build().unwrap(), value));
                    let hours = i64::try_from(random.below(20_000)).unwrap() - 10_000;
                    world.machine.jump_wall_clock(hours * HOUR);
                    world
                        .machine
                        .sleep(Duration::from_millis(random.number() % 5_000));
                }
                assert_eq!(see(&log).records, sent, "nothing is deleted");
                assert_times_rise(&log, sent.len());
                if life % 2 == 0 {
                    world.machine.process_crash()
                } else {
                    log.close().unwrap();
                    world.machine.power_cut(&mut Choices::nothing())
                }
            });
        }
        case.reopen(&disk, |_, log| {
            assert_eq!(see(log).records, sent);
            assert_times_rise(log, sent.len());
        });
    });
}

fn assert_times_rise(log: &Log, count: usize) {
    let mut reader = log.reader().build().unwrap();
    let mut times = Vec::new();
    loop {
        let batch = reader.poll(Duration::ZERO).unwrap();
        if batch.is_empty() {
            break;
        }
        times.extend(batch.iter().map(|record| record.append_time().as_millis()));
    }
    assert_eq!(times.len(), count);
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_clean_reopen_is_dense_and_scans_nothing_also_after_a_power_cut() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let log = fill(world, 12, 400);
            assert!(world.close(log));
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&disk, |_, log| {
            let report = log.recovery();
            assert!(report.clean && !report.same_boot, "{report:?}");
            assert_eq!((report.scanned_frames, &report.lost_tail), (0, &None));
            assert_eq!(send(&written(log), "next").0, 12);
        });
    });
}

#[test]
fn a_log_that_is_written_in_the_other_mode_next_is_the_same_log() {
    in_both_modes(0..4, |case| {
        let (promised, disk) = run(&case.world(), |world| {
            let _log = fill(world, 12, 700);
            (world.promised(), world.machine.process_crash())
        });
        let other = match case.mode {
            WriteMode::Mapped => WriteMode::Buffered,
            _ => WriteMode::Mapped,
        };
        let other = Case {
            mode: other,
            ..case
        };
        other.judge(&disk, Crash::Process, &promised);
        other.each_power_cut(&disk, 6, |cut| {
            let seen = other.judge(cut, Crash::Power, &promised);
            assert!(seen.end >= RESERVED);
            assert!(cut.read(&segment(0)).is_some());
        });
    });
}
