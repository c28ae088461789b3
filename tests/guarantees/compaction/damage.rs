//! A segment that can't be read stops only itself, and what it may hold is safe.

use std::{path::PathBuf, time::Duration};

use duralog::{
    ErrorKind, GapReason, Log,
    testing::sim::{Call, Disk, Effect, Fault},
};

use super::common::{
    Entry, compact, compacted, delete, fill, left, producer, put, read, settle, text, world,
    world_with,
};
use crate::{
    common::{
        Case, EIO, ENOSPC, Seen, in_both_modes, in_log, position_of, run, see, segment, segments,
    },
    sim::world::World,
};

/// The segment that holds a value, and where.
fn find(disk: &Disk, value: &str) -> (PathBuf, usize) {
    let holds = |path: &PathBuf| {
        let bytes = disk.read(path).unwrap();
        bytes.windows(value.len()).any(|w| w == value.as_bytes())
    };
    let path = segments(disk).into_iter().find(holds).unwrap();
    let position = position_of(disk, &path, value);
    (path, position)
}

/// Flips a bit of a record's value; the second time that is undone.
fn flip(disk: &Disk, value: &str) -> Disk {
    let (path, position) = find(disk, value);
    let mut damaged = disk.clone();
    assert!(damaged.flip_bit(&path, position, 3));
    damaged
}

/// Values of all that is there.
fn values(seen: &Seen) -> Vec<&str> {
    seen.records.iter().map(|(_, value)| &**value).collect()
}

/// A log with `a` and `b` in three segments or more, closed.
fn closed(case: &Case, fill_up: impl FnOnce(&World, &Log) -> Vec<Entry>) -> (Vec<Entry>, Disk) {
    let options = compacted(case).tombstone_retention(Duration::ZERO);
    run(&world_with(case, options), |world| {
        let log = world.open();
        let mut sent = fill_up(world, &log);
        let producer = producer(&log);
        sent.extend(fill(&producer, "end", 30));
        drop(producer);
        settle(world, &log);
        log.close().unwrap();
        (sent, world.machine.process_crash())
    })
}

#[test]
fn a_damaged_segment_is_told_and_skipped_and_the_others_are_compacted() {
    in_both_modes(0..2, |case| {
        let (_, disk) = closed(&case, |_, log| put(&producer(log), &["a", "b"], 0..60));
        let damaged = flip(&disk, &text("a", 20));
        let (path, _) = find(&disk, &text("a", 20));
        let before = damaged.read(&path).unwrap();
        case.reopen(&damaged, |world, log| {
            let report = log.compact().unwrap();
            assert_eq!(report.skipped.len(), 1, "{report:?}");
            assert_eq!(report.skipped[0].path, path);
            assert!(report.skipped[0].reason.contains("damaged at byte"));
            assert!(report.replaced > 1, "{report:?}");
            assert_eq!(world.machine.process_crash().read(&path).unwrap(), before);
            let seen = see(log);
            assert_eq!(seen.gaps, [(20, 21, GapReason::Damage)]);
            // Of the others, what is not needed is gone; of this one, nothing.
            assert!(!values(&seen).contains(&&*text("a", 2)));
            assert!(values(&seen).contains(&&*text("b", 21)));
            assert!(values(&seen).contains(&&*text("b", 59)));
        });
    });
}

#[test]
fn nothing_goes_because_of_what_a_damaged_segment_may_have_held() {
    in_both_modes(0..2, |case| {
        // The last record of `a` is damaged.
        let (_, disk) = closed(&case, |_, log| {
            let producer = producer(log);
            let mut sent = put(&producer, &["a"], 0..1);
            sent.extend(fill(&producer, "between", 30));
            sent.extend(put(&producer, &["a"], 1..2));
            sent
        });
        let damaged = flip(&disk, &text("a", 1));
        case.reopen(&damaged, |_, log| {
            let report = log.compact().unwrap();
            assert_eq!(report.skipped.len(), 1);
            assert!(values(&see(log)).contains(&&*text("a", 0)));
        });
    });
}

#[test]
fn behind_a_segment_that_cannot_be_read_tombstones_stay_until_it_can() {
    in_both_modes(0..2, |case| {
        let (_, disk) = closed(&case, |_, log| {
            let producer = producer(log);
            let mut sent = put(&producer, &["a", "other"], 0..2);
            sent.extend(fill(&producer, "between", 30));
            sent.push(delete(&producer, "a"));
            sent
        });
        let other = text("other", 1);
        let damaged = flip(&disk, &other);
        let has_tombstone = |log: &Log| see(log).records.iter().any(|(_, value)| value.is_empty());
        let later = case.reopen(&damaged, |world, log| {
            for _ in 0..3 {
                let report = log.compact().unwrap();
                assert_eq!(report.skipped.len(), 1);
                // The value that it removes is still there.
                assert!(values(&see(log)).contains(&&*text("a", 0)));
                assert!(has_tombstone(log));
                world.machine.sleep(Duration::from_secs(60));
            }
            log.clone().close().unwrap();
            world.machine.process_crash()
        });
        // Whoever repaired it.
        let mut repaired = later.clone();
        let (path, position) = find(&disk, &other);
        assert!(repaired.flip_bit(&path, position, 3));
        case.reopen(&repaired, |_, log| {
            assert!(log.compact().unwrap().skipped.is_empty());
            assert!(!values(&see(log)).contains(&&*text("a", 0)));
            log.compact().unwrap();
            assert!(!has_tombstone(log));
            assert!(!values(&see(log)).contains(&&*text("a", 0)));
        });
    });
}

#[test]
fn a_segment_that_could_not_be_read_once_is_compacted_the_next_time() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = put(&producer, &["a", "b"], 0..60);
            sent.extend(fill(&producer, "end", 30));
            settle(world, &log);
            let path = format!("{}.log", 13);
            let fault = Fault::always(Call::Read, &path, Effect::Fail(EIO));
            world.machine.inject(&fault);
            let report = log.compact().unwrap();
            assert!(fault.fired() > 0);
            assert_eq!(report.skipped.len(), 1, "{report:?}");
            assert!(report.skipped[0].reason.contains("cannot read"));
            world.machine.lift_faults();
            let report = log.compact().unwrap();
            assert!(report.skipped.is_empty());
            assert_eq!(read(&log), left(&sent, report.clean_below.get()));
        });
    });
}

#[test]
fn damage_in_a_compacted_segment_is_a_gap_and_costs_nothing_else() {
    in_both_modes(0..2, |case| {
        let (sent, disk) = closed(&case, |world, log| {
            let sent = put(&producer(log), &["a", "b", "c", "d", "e", "f"], 0..100);
            fill(&producer(log), "more", 30);
            compact(world, log);
            sent
        });
        drop(sent);
        let whole = case.read(&disk);
        assert_eq!(whole.gaps, []);
        let hit = text("c", 98);
        let damaged = flip(&disk, &hit);
        let seen = case.read(&damaged);
        let kept: Vec<_> = whole
            .records
            .iter()
            .filter(|r| r.1 != hit)
            .cloned()
            .collect();
        assert_eq!(seen.records, kept);
        let [(from, to, GapReason::Damage)] = seen.gaps[..] else {
            panic!("{:?}", seen.gaps);
        };
        assert!((from..to).contains(&98), "{from} to {to}");
        assert!((98 - 6..=98).contains(&from) && to == 99, "{from} to {to}");
        let machine = std::sync::Arc::new(case.boot(&damaged).machine);
        let look = duralog::testing::open_read_only(machine, crate::sim::PATH).unwrap();
        let damage = look.verify().unwrap().damage;
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!((damage[0].from.get(), damage[0].to.get()), (from, to));
    });
}

#[test]
fn a_compacted_segment_is_read_whole_though_a_header_or_the_footer_is_damaged() {
    in_both_modes(0..2, |case| {
        let (_, disk) = closed(&case, |world, log| {
            let sent = put(&producer(log), &["a", "b", "c"], 0..60);
            fill(&producer(log), "more", 30);
            compact(world, log);
            sent
        });
        let whole = case.read(&disk);
        let path = segment(0);
        let len = disk.read(&path).unwrap().len();
        for position in [20, 60, 80, 512 + 20, 512 + 80, len - 30, len - 3] {
            let mut damaged = disk.clone();
            assert!(damaged.flip_bit(&path, position, 5));
            assert_eq!(case.read(&damaged), whole, "byte {position}");
        }
        // Both copies: then nothing of it can be read, and that is told.
        let mut damaged = disk.clone();
        assert!(damaged.flip_bit(&path, 60, 5) && damaged.flip_bit(&path, 512 + 60, 5));
        let seen = case.read(&damaged);
        assert_eq!(seen.gaps, [(0, 13, GapReason::Damage)]);
        // A part of it is cut off.
        let mut cut = disk.clone();
        assert!(cut.set_len(&segment(52), 1100));
        let seen = case.read(&cut);
        assert!(!seen.gaps.is_empty());
        assert!(seen.gaps.iter().all(|gap| gap.2 == GapReason::Damage));
    });
}

#[test]
fn a_full_disk_stops_a_compaction_changes_nothing_and_later_it_goes_on() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = put(&producer, &["a", "b"], 0..60);
            sent.extend(fill(&producer, "end", 30));
            settle(world, &log);
            for call in [Call::Create, Call::Write] {
                let fault = Fault::always(call, ".cleaned", Effect::Fail(ENOSPC));
                world.machine.inject(&fault);
                let error = log.compact().unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::StorageFull { .. }));
                assert_eq!(read(&log), sent);
                let left: Vec<_> = world.machine.process_crash().files();
                assert!(
                    left.iter()
                        .all(|path| path.extension().is_none_or(|e| e != "cleaned"))
                );
                world.machine.lift_faults();
            }
            let report = log.compact().unwrap();
            assert_eq!(read(&log), left(&sent, report.clean_below.get()));
        });
    });
}

#[test]
fn a_failed_sync_of_a_compaction_is_final_and_loses_nothing() {
    in_both_modes(0..2, |case| {
        for path in [".cleaned", "log"] {
            let (sent, disk) = run(&world(&case), |world| {
                let log = world.open();
                let producer = producer(&log);
                let mut sent = put(&producer, &["a", "b"], 0..60);
                sent.extend(fill(&producer, "end", 30));
                settle(world, &log);
                let call = if path == "log" {
                    Call::DirSynced
                } else {
                    Call::Synced
                };
                let path = if path == "log" {
                    crate::sim::PATH
                } else {
                    path
                };
                let fault = Fault::once(call, path, Effect::FailedSync);
                world.machine.inject(&fault);
                let error = log.compact().unwrap_err();
                assert_eq!(fault.fired(), 1);
                assert!(error.is_latched(), "{error}");
                assert!(log.stats().latched);
                (sent, world.machine.process_crash())
            });
            let mut images = case.power_cuts(&disk, 8);
            images.push(("the process ends".to_owned(), disk));
            for (what, image) in images {
                case.reopen(&image, |_, log| {
                    // Of the first segment it is as it was, or as it was to be.
                    let found = read(log);
                    assert!(found == sent || found == left(&sent, 13), "{what}");
                    let report = log.compact().unwrap();
                    assert_eq!(read(log), left(&sent, report.clean_below.get()), "{what}");
                });
            }
        }
    });
}

#[test]
fn what_an_interrupted_compaction_was_writing_is_removed_when_the_log_is_opened() {
    in_both_modes(0..1, |case| {
        let disk = run(&world(&case), |world| {
            let log = world.open();
            put(&producer(&log), &["a"], 0..30);
            let host = &world.machine;
            let left = in_log(&format!("{:020}.cleaned", 0));
            duralog::testing::FileSystem::open(host, &left, duralog::testing::Access::CreateNew)
                .unwrap();
            world.machine.process_crash()
        });
        case.reopen(&disk, |world, log| {
            assert_eq!(read(log).len(), 30);
            let files = world.machine.process_crash().files();
            assert!(
                files
                    .iter()
                    .all(|path| path.extension().is_none_or(|e| e != "cleaned"))
            );
        });
    });
}
