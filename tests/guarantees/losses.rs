//! DESIGN 2.3, items 1 to 5: nothing is lost silently.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    ErrorKind, FlushPolicy, GapReason, Log, OnDamage, Start,
    testing::sim::{Choices, Disk, Random},
};

use crate::{
    common::{
        Case, FRAME_HEADER, RESERVED, Seen, drain, footer, in_both_modes, in_log, is_segment,
        position_of, records_before, run, see, segment, segments, send, send_many, told, written,
    },
    sim::world::{World, value},
};

const LEN: usize = 600;

/// Records below `durable` are synced, `tail` more are only written.
fn synced_and_tail(world: &World, durable: usize, tail: usize) -> (Log, Vec<(u64, String)>) {
    let log = world.open();
    let producer = written(&log);
    let mut sent = send_many(&producer, "synced", 0..durable, LEN);
    log.sync().unwrap();
    sent.extend(send_many(&producer, "tail", 0..tail, LEN));
    (log, sent)
}

/// The same on a log that flushes by itself: what is synced is recorded too.
fn recording(case: Case) -> World {
    let mut world = case.world();
    world.options = world
        .options
        .flush(FlushPolicy::every(Duration::from_secs(1)));
    world
}

fn recorded_and_tail(world: &World, durable: usize, tail: usize) -> (Log, Vec<(u64, String)>) {
    let (log, mut sent) = synced_and_tail(world, durable, 0);
    world.machine.sleep(Duration::from_secs(4));
    sent.extend(send_many(&written(&log), "tail", 0..tail, LEN));
    (log, sent)
}

/// The disk with the checkpoint that `old` has.
fn with_checkpoint_of(old: &Disk, disk: &Disk) -> Disk {
    let mut disk = disk.clone();
    let bytes = old.read(&in_log("checkpoint")).unwrap();
    assert!(disk.write(&in_log("checkpoint"), 0, &bytes));
    disk
}

/// Flips a bit of a record's value.
fn damage(disk: &Disk, value: &str) -> Disk {
    let mut damaged = disk.clone();
    let mut paths = segments(disk).into_iter();
    let holds = |bytes: Vec<u8>| bytes.windows(value.len()).any(|w| w == value.as_bytes());
    let path = paths
        .find(|path| disk.read(path).is_some_and(holds))
        .unwrap();
    assert!(damaged.flip_bit(&path, position_of(disk, &path, value) + 20, 3));
    damaged
}

#[test]
fn below_the_recorded_durable_point_nothing_is_cut_and_damage_is_read_around() {
    in_both_modes(0..6, |case| {
        let (sent, disk) = run(&recording(case), |world| {
            let (_log, sent) = recorded_and_tail(world, 8, 3);
            (sent, world.machine.process_crash())
        });
        let hit = Random::new(case.seed).below(7);
        let (hit_at, hit_value) = &sent[hit];
        let mut images = case.power_cuts(&disk, 6);
        images.push(("the process ends".to_owned(), disk));
        for (what, image) in images {
            let damaged = damage(&image, hit_value);
            told(format!("{what}, offset {hit} is hit"), || {
                let path = segment(0);
                let before = damaged.read(&path).unwrap();
                let (seen, later) = case.reopen(&damaged, |world, log| {
                    let seen = see(log);
                    assert_eq!(log.stats().lost_to_damage, 1);
                    (seen, world.machine.process_crash())
                });
                let others = sent.iter().filter(|sent| sent.0 < 8 && sent.0 != *hit_at);
                seen.assert_has(others);
                seen.assert_covers(0..seen.end);
                assert_eq!(seen.gaps[0], (*hit_at, hit_at + 1, GapReason::Damage));
                let at = position_of(&image, &path, hit_value) - FRAME_HEADER;
                let frame = at..at + FRAME_HEADER + LEN;
                let kept = later.read(&path).unwrap();
                assert_eq!(kept[frame.clone()], before[frame], "its bytes are kept");
                assert_eq!(case.read(&later).gaps[0], seen.gaps[0], "and on record");
            });
        }
    });
}

#[test]
fn above_it_a_torn_tail_is_cut_reported_and_kept_in_quarantine_unless_it_is_zeros() {
    let (cut, zeros) = (Mutex::new(0), Mutex::new(0));
    in_both_modes(0..6, |case| {
        let (sent, disk) = run(&case.world(), |world| {
            let (_log, sent) = synced_and_tail(world, 3, 7);
            (sent, world.machine.process_crash())
        });
        case.each_power_cut(&disk, 30, |image| {
            let (seen, later, report) = case.reopen(image, |world, log| {
                (
                    see(log),
                    world.machine.process_crash(),
                    log.recovery().clone(),
                )
            });
            seen.assert_has(&sent[..3]);
            let lost = report.lost_tail.clone().unwrap();
            assert_eq!(lost.start.get(), seen.records.len() as u64);
            assert_eq!(seen.end, lost.end.get());
            // What the last segment had behind what was accepted, but for zeros.
            let survivors: u64 = 3 + sent[3..]
                .iter()
                .take_while(|record| seen.records.contains(record))
                .count() as u64;
            assert_eq!(survivors, lost.start.get(), "a prefix survives");
            let quarantined = |at: &std::path::PathBuf| later.read(at).unwrap();
            let kept: Vec<_> = report.quarantined.iter().map(quarantined).collect();
            assert_eq!(
                kept.iter().map(Vec::len).sum::<usize>() as u64,
                report.cut_bytes
            );
            *zeros.lock().unwrap() += usize::from(kept.is_empty());
            *cut.lock().unwrap() += usize::from(!kept.is_empty());
            for (path, bytes) in report.quarantined.iter().zip(kept) {
                assert!(bytes.iter().any(|&byte| byte != 0));
                let name = path.file_name().unwrap().to_str().unwrap();
                let base: u64 = name.split('-').next().unwrap().parse().unwrap();
                let before = image.read(&segment(base)).unwrap();
                assert!(
                    before.windows(bytes.len()).any(|w| w == bytes),
                    "the same bytes"
                );
                let note = quarantined(&format!("{}.txt", path.display()).into());
                assert!(String::from_utf8(note).unwrap().starts_with("unproven"));
            }
        });
    });
    let seen = (*cut.lock().unwrap(), *zeros.lock().unwrap());
    assert!(seen.0 > 50 && seen.1 > 20, "{seen:?}");
}

/// Records of which eight are durable. That is not recorded: the background has had no turn.
fn unrecorded(case: Case) -> (Vec<(u64, String)>, Disk) {
    let world = case.world();
    world.machine.switch_never();
    run(&world, |world| {
        let (_log, sent) = synced_and_tail(world, 8, 3);
        (sent, world.machine.process_crash())
    })
}

#[test]
fn damage_that_recovery_reads_is_in_its_report() {
    in_both_modes(0..4, |case| {
        let (sent, disk) = unrecorded(case);
        for image in [disk.power_cut(&mut Choices::everything()), disk] {
            let damaged = damage(&image, &sent[5].1);
            case.reopen(&damaged, |_, log| {
                let lost = log.recovery().damage.iter().filter(|d| d.from < d.to);
                let lost: Vec<_> = lost.collect();
                assert_eq!(lost.len(), 1, "{lost:?}");
                assert_eq!((lost[0].from.get(), lost[0].to.get()), (5, 6));
                assert_eq!(lost[0].path, segment(0));
                let at = position_of(&image, &segment(0), &sent[5].1) - FRAME_HEADER;
                assert_eq!(lost[0].position, at as u64);
                assert_eq!(log.stats().lost_to_damage, 1);
                assert_eq!(log.recovery().cut_bytes, 0);
                assert_eq!(see(log).gaps[0], (5, 6, GapReason::Damage));
                assert_eq!(log.stats().lost_to_damage, 1, "counted once");
            });
        }
    });
}

#[test]
fn on_damage_refuse_changes_nothing_and_serve_is_the_default() {
    in_both_modes(0..4, |case| {
        let (sent, disk) = unrecorded(case);
        let damaged = damage(&disk, &sent[2].1);
        let mut world = case.boot(&damaged);
        world.options = world.options.on_damage(OnDamage::Refuse);
        let before = world.machine.process_crash();
        let error = world.machine.run(|| world.try_open().unwrap_err());
        let is_damaged = matches!(error.kind(), ErrorKind::Damaged { from, to, .. }
            if (from.get(), to.get()) == (2, 3));
        assert!(is_damaged, "{error}");
        let after = world.machine.process_crash();
        assert_eq!(before.files(), after.files());
        for path in before.files() {
            assert_eq!(before.read(&path), after.read(&path), "{}", path.display());
        }
        assert_eq!(
            case.read(&damaged).records.len(),
            10,
            "the default serves the rest"
        );
    });
}

/// What power cuts leave of a log that grows.
fn each_cut_of_a_growing_log(case: Case, options: impl Fn(&mut World), look: impl Fn(&World)) {
    let points = case.watch(|world| {
        let (log, _) = synced_and_tail(world, 3, 24);
        world.sync(&log);
    });
    for point in case.some(points, 30) {
        case.each_power_cut(&point.disk, 6, |cut| {
            let mut world = case.boot(cut);
            options(&mut world);
            told(format!("at {:?} {}", point.call, point.path), || {
                run(&world, &look);
            });
        });
    }
}

#[test]
fn what_a_power_cut_leaves_of_a_segment_that_was_never_durable_is_no_damage() {
    in_both_modes(0..6, |case| {
        let nothing = |_: &mut World| ();
        each_cut_of_a_growing_log(case, nothing, |world| {
            let log = world.open();
            let damage = log.recovery().damage.iter();
            let of_segments: Vec<_> = damage.filter(|d| is_segment(&d.path)).collect();
            assert!(of_segments.is_empty(), "{of_segments:?}");
        });
    });
}

#[test]
fn what_a_power_cut_leaves_of_sound_hardware_is_never_refused_as_damage() {
    in_both_modes(0..6, |case| {
        let refuse = |world: &mut World| {
            world.options = world.options.clone().on_damage(OnDamage::Refuse);
        };
        each_cut_of_a_growing_log(case, refuse, |world| {
            let opened = world.try_open().map(drop);
            assert!(opened.is_ok(), "{opened:?}");
        });
    });
}

#[test]
fn wherever_a_bit_rots_records_are_right_or_their_loss_is_told() {
    in_both_modes(0..8, |case| {
        let (sent, disk) = run(&recording(case), |world| {
            let (log, sent) = recorded_and_tail(world, 24, 0);
            if case.seed % 2 == 0 {
                log.close().unwrap();
            }
            (sent, world.machine.power_cut(&mut Choices::nothing()))
        });
        let mut random = Random::new(case.seed);
        for _ in 0..60 {
            let path = random
                .pick(&segments(&disk).iter().collect::<Vec<_>>())
                .unwrap()
                .clone();
            let len = disk.read(&path).unwrap().len();
            let (position, bit) = (random.below(len), random.below(8));
            let mut rotten = disk.clone();
            rotten.flip_bit(&path, position, u8::try_from(bit).unwrap());
            told(
                format!("bit {bit} of byte {position} of {}", path.display()),
                || {
                    let seen = case.read(&rotten);
                    for record in &seen.records {
                        assert!(sent.contains(record), "{record:?} was never sent");
                    }
                    seen.assert_covers(0..seen.end);
                    assert!(seen.end >= 24 && seen.records.len() >= 11);
                },
            );
        }
    });
}

/// Only `source` tells that the first record was durable; without it, it is part of a torn tail.
fn assert_tells(case: Case, source: &str, with: &Disk, without: &Disk, first: &str) {
    let outcome = |disk: &Disk| {
        let damaged = damage(disk, first);
        let seen = case.read(&damaged);
        seen.assert_covers(0..seen.end);
        seen.gaps[0]
    };
    assert_eq!(outcome(with), (0, 1, GapReason::Damage), "{source} tells");
    let (from, _, reason) = outcome(without);
    assert_eq!(
        (from, reason),
        (0, GapReason::LostTail),
        "without {source} nothing does"
    );
}

#[test]
fn the_checkpoint_alone_tells_what_was_durable() {
    in_both_modes(0..4, |case| {
        let (sent, old, with) = run(&recording(case), |world| {
            let log = world.open();
            let old = world.machine.process_crash();
            let sent = send_many(&written(&log), "synced", 0..4, LEN);
            world.machine.sleep(Duration::from_secs(4));
            (sent, old, world.machine.power_cut(&mut Choices::nothing()))
        });
        let without = with_checkpoint_of(&old, &with);
        assert_tells(case, "the checkpoint", &with, &without, &sent[0].1);
    });
}

#[test]
fn each_frame_header_tells_what_was_durable_when_it_was_written() {
    in_both_modes(0..4, |case| {
        let (sent, without, with) = run(&case.world(), |world| {
            let (log, sent) = synced_and_tail(world, 4, 0);
            let without = world.machine.power_cut(&mut Choices::nothing());
            send(&written(&log), value("behind", 0, LEN));
            let with = world.machine.power_cut(&mut Choices::everything());
            (sent, without, with)
        });
        let read = |disk: &Disk| disk.read(&in_log("checkpoint"));
        assert_eq!(read(&with), read(&without), "the checkpoint does not");
        assert_tells(case, "the next frame", &with, &without, &sent[0].1);
    });
}

#[test]
fn the_footer_of_a_sealed_segment_alone_tells_what_was_durable() {
    in_both_modes(0..4, |case| {
        let (sent, old, new) = run(&recording(case), |world| {
            let log = world.open();
            let sent = send_many(&written(&log), "sealed", 0..14, LEN);
            let old = world.machine.process_crash();
            world.machine.sleep(Duration::from_secs(4));
            (sent, old, world.machine.power_cut(&mut Choices::nothing()))
        });
        let is_sealed = |disk: &Disk| footer(&disk.read(&segment(0)).unwrap()).is_some();
        assert!(is_sealed(&new), "it is sealed once it is synced");
        let with = with_checkpoint_of(&old, &new);
        let mut without = with.clone();
        let (_, position) = footer(&without.read(&segment(0)).unwrap()).unwrap();
        assert!(without.set_len(&segment(0), position));
        assert_tells(case, "the footer", &with, &without, &sent[0].1);
    });
}

#[test]
fn the_checkpoint_is_written_after_syncs_and_segments_are_sealed_whatever_the_flush_policy() {
    in_both_modes(0..6, |case| {
        run(&case.world(), |world| {
            let (log, _) = synced_and_tail(world, 0, 14);
            // Long enough that the background has seen what was written.
            world.machine.sleep(Duration::from_secs(2));
            log.sync().unwrap();
            world.machine.sleep(Duration::from_secs(2));
            let disk = world.machine.process_crash();
            assert!(
                footer(&disk.read(&segment(0)).unwrap()).is_some(),
                "it is sealed"
            );
            let bytes = disk.read(&in_log("checkpoint")).unwrap();
            let content = duralog::testing::SlotContent::Checkpoint;
            let text = duralog::testing::decode_slots(&bytes, content).unwrap();
            assert!(text.contains("Mark { offset: Offset(14)"), "{text}");
        });
    });
}

#[test]
fn rolled_is_not_sealed_a_footer_stands_only_behind_frames_that_are_all_there() {
    let (sealed, rolled) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let counts = (Arc::clone(&sealed), Arc::clone(&rolled));
    in_both_modes(0..4, move |case| {
        let points = case.watch(|world| {
            let log = world.open();
            let producer = written(&log);
            for round in 0..3 {
                send_many(&producer, &format!("round{round}"), 0..12, 700);
                log.sync().unwrap();
                world.machine.sleep(Duration::from_millis(700));
            }
            send_many(&producer, "last", 0..24, 700);
            log.close().unwrap();
        });
        for point in points {
            let mut all = [
                Choices::nothing(),
                Choices::names_only(),
                Choices::no_names(),
            ]
            .to_vec();
            all.extend((0..3).map(|draw| Choices::of(point.number * 8 + draw)));
            for mut choices in all {
                let cut = point.disk.power_cut(&mut choices);
                let count = assert_footers(&cut);
                *counts.0.lock().unwrap() += count.0;
                *counts.1.lock().unwrap() += count.1;
            }
        }
    });
    let seen = (*sealed.lock().unwrap(), *rolled.lock().unwrap());
    assert!(seen.0 > 1000 && seen.1 > 1000, "{seen:?}");
}

/// Looks at all footers; returns how many there are, and how many segments but the last have none.
fn assert_footers(disk: &Disk) -> (usize, usize) {
    let named = segments(disk);
    let (mut sealed, mut rolled) = (0, 0);
    for path in disk.files() {
        let bytes = disk.read(&path).unwrap();
        let Some((end, position)) = footer(&bytes) else {
            rolled += usize::from(named.contains(&path) && named.last() != Some(&path));
            continue;
        };
        assert!(named.contains(&path), "a footer in {}", path.display());
        let (_, base) = duralog::testing::decode_segment_header(&bytes).unwrap();
        let there = records_before(&bytes, position);
        assert_eq!(base + there, end, "{}", path.display());
        sealed += 1;
    }
    (sealed, rolled)
}

#[test]
fn a_lost_tail_is_told_until_a_commit_passes_it_counted_once_and_totals_survive() {
    in_both_modes(0..6, |case| {
        let cut = run(&case.world(), |world| {
            let (log, _) = synced_and_tail(world, 4, 3);
            let mut billing = log.consumer("billing").build().unwrap();
            drain(&mut billing);
            billing.commit_offset(4.into()).unwrap();
            let mut cut = world.machine.power_cut(&mut Choices::nothing());
            let group = in_log("groups/billing.offset");
            let bytes = world.machine.process_crash().read(&group).unwrap();
            assert!(cut.write(&group, 0, &bytes));
            cut
        });
        let gap = (4, RESERVED, GapReason::LostTail);
        let again = case.reopen(&cut, |world, log| {
            let mut billing = log.consumer("billing").build().unwrap();
            // A batch without records tells it.
            let batch = billing.poll(Duration::ZERO).unwrap();
            let told: Vec<_> = batch
                .gaps()
                .iter()
                .map(|g| (g.from.get(), g.to.get()))
                .collect();
            assert_eq!((batch.len(), told), (0, vec![(gap.0, gap.1)]));
            drop(billing);
            let after = send(&written(log), "after");
            assert_eq!(after.0, RESERVED);
            for _ in 0..2 {
                let mut billing = log.consumer("billing").build().unwrap();
                let seen = drain(&mut billing);
                assert_eq!(
                    (&seen.gaps[..], &seen.records[..]),
                    (&[gap][..], &[after.clone()][..])
                );
            }
            assert_eq!(log.stats().lost_to_tails, RESERVED - 4, "counted once");
            world.machine.process_crash()
        });
        let committed = case.reopen(&again, |world, log| {
            assert_eq!(
                log.stats().lost_to_tails,
                RESERVED - 4,
                "it survives a restart"
            );
            let mut billing = log.consumer("billing").build().unwrap();
            assert_eq!(
                drain(&mut billing).gaps,
                [gap],
                "told again after a restart"
            );
            billing.commit().unwrap();
            world.machine.process_crash()
        });
        case.reopen(&committed, |_, log| {
            let mut billing = log.consumer("billing").build().unwrap();
            assert_eq!(drain(&mut billing), Seen::default());
            assert_eq!(see(log).gaps, [gap], "who reads from the start meets it");
            assert_eq!(log.stats().lost_to_tails, RESERVED - 4);
        });
    });
}

#[test]
fn damage_is_told_until_a_commit_passes_it_counted_once_and_totals_survive() {
    in_both_modes(0..6, |case| {
        let (sent, disk) = run(&case.world(), |world| {
            let (log, sent) = synced_and_tail(world, 24, 0);
            log.consumer("billing").build().unwrap();
            log.close().unwrap();
            (sent, world.machine.process_crash())
        });
        let rotten = damage(&damage(&disk, &sent[2].1), &sent[3].1);
        let gap = (2, 4, GapReason::Damage);
        let read = |disk: &Disk, commit: bool| {
            case.reopen(disk, |world, log| {
                assert!(log.stats().lost_to_damage <= 2);
                let mut billing = log.consumer("billing").build().unwrap();
                let seen = drain(&mut billing);
                if commit {
                    billing.commit().unwrap();
                }
                see(log);
                assert_eq!(log.stats().lost_to_damage, 2, "counted once");
                world.machine.sleep(Duration::from_secs(2));
                (seen, world.machine.process_crash())
            })
        };
        let (first, disk) = read(&rotten, false);
        assert_eq!(first.gaps, [gap]);
        assert_eq!(first.records.len(), 22);
        let cut = disk.power_cut(&mut Choices::nothing());
        case.reopen(&cut, |_, log| {
            assert_eq!(
                log.stats().lost_to_damage,
                2,
                "the total survives without reading"
            );
        });
        let (second, disk) = read(&disk, true);
        assert_eq!(second.gaps, [gap], "told again");
        let (third, _) = read(&disk, false);
        assert_eq!(third.gaps, [], "a commit has passed it");
    });
}

#[test]
fn a_commit_that_is_ahead_of_the_log_after_a_power_cut_is_repaired_and_said() {
    let ahead = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&ahead);
    in_both_modes(0..6, move |case| {
        let disk = run(&case.world(), |world| {
            let (log, _) = synced_and_tail(world, 3, 6);
            let mut billing = log
                .consumer("billing")
                .start(Start::Earliest)
                .build()
                .unwrap();
            assert_eq!(drain(&mut billing).records.len(), 9);
            billing.commit().unwrap();
            world.machine.process_crash()
        });
        case.each_power_cut(&disk, 30, |cut| {
            case.reopen(cut, |_, log| {
                let lost = log.recovery().lost_tail.clone().unwrap();
                let mut billing = log.consumer("billing").build().unwrap();
                let committed = billing.committed();
                assert!([0, 9].contains(&committed.get()));
                let is_ahead = committed > lost.start;
                let said = if is_ahead {
                    vec![("billing".to_owned(), committed)]
                } else {
                    vec![]
                };
                assert_eq!(log.recovery().groups_ahead, said);
                *counted.lock().unwrap() += usize::from(is_ahead);
                let next = send(&written(log), "next");
                assert!(
                    next.0 >= RESERVED,
                    "an offset that was committed is used again"
                );
                let seen = drain(&mut billing);
                seen.assert_has([&next]);
                let from = seen.gaps[seen.gaps.len() - 1];
                let begins = committed.max(lost.start).get();
                assert_eq!(from, (begins, next.0, GapReason::LostTail));
            });
        });
    });
    assert!(*ahead.lock().unwrap() > 30, "{ahead:?}");
}
