//! Deleting all records below an offset, and what readers see of it.

use duralog::{
    Acks, ErrorKind, GapReason, Log, Record,
    testing::sim::{Call, Choices, Effect, Fault},
};

use super::common::{LEN, PER_SEGMENT, assert_has_all_from, beside, fill, group_at, settle, world};
use crate::{
    common::{Case, EIO, Seen, bases, drain, in_both_modes, run, see, told},
    sim::world::{World, value},
};

const SEGMENTS: u64 = 6;
const END: u64 = SEGMENTS * PER_SEGMENT;

/// The segments that hold something from `start` on are there, and nothing of others.
fn assert_files_are_gone(world: &World, start: u64) {
    for ending in [".log", ".index"] {
        let left = bases(world, ending);
        let is_below = |base: &u64| *base + PER_SEGMENT <= start && *base < start;
        assert!(!left.iter().any(is_below), "{ending}: {left:?}, {start}");
    }
}

fn delete(log: &Log, offset: u64) -> u64 {
    log.delete_records_before(offset.into()).unwrap().get()
}

#[test]
fn all_records_below_an_offset_are_deleted_and_the_others_stay_also_after_a_power_cut() {
    in_both_modes(0..3, |case| {
        for synced in [false, true] {
            for offset in [1, 5, 6, 7, 12, 29, END - 1, END] {
                let (sent, disk) = run(&case.world(), |world| {
                    let log = world.open();
                    let sent = fill(&log, "x", END);
                    if synced {
                        log.sync().unwrap();
                        settle(world);
                    }
                    assert_eq!(delete(&log, offset), offset);
                    assert_has_all_from(&log, offset, &sent);
                    assert_files_are_gone(world, offset);
                    assert_eq!(delete(&log, offset), offset, "again");
                    assert_eq!(delete(&log, offset / 2), offset, "it was higher");
                    assert_eq!(log.log_end_offset(), END);
                    assert_eq!(beside(world).verify().unwrap().damage, []);
                    (sent, world.machine.process_crash())
                });
                case.each_power_cut(&disk, 2, |cut| {
                    case.reopen(cut, |world, log| {
                        assert_eq!(log.log_start_offset(), offset);
                        assert_files_are_gone(world, offset);
                        // What is above was not all durable.
                        let kept = see(log).records;
                        let expected = &sent[usize::try_from(offset).unwrap()..];
                        assert!(expected.starts_with(&kept), "{kept:?}");
                        assert!(!synced || expected == kept);
                        let next = fill(log, "next", 2);
                        assert_eq!(see(log).records.last(), next.last());
                    });
                });
            }
        }
    });
}

#[test]
fn nothing_is_deleted_behind_the_end_of_the_log() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let sent = fill(&log, "x", END);
            let error = log.delete_records_before((END + 1).into()).unwrap_err();
            let ErrorKind::OffsetOutOfRange {
                requested,
                start,
                end,
            } = error.kind()
            else {
                panic!("{error:?}");
            };
            assert_eq!((requested.get(), start.get(), end.get()), (END + 1, 0, END));
            assert_has_all_from(&log, 0, &sent);
            assert_eq!(delete(&log, 0), 0);
            assert_has_all_from(&log, 0, &sent);
            assert_eq!(delete(&log, END), END);
            assert_has_all_from(&log, END, &[]);
            assert_eq!(log.stats().segments, 1);
            let next = fill(&log, "next", 3);
            assert_has_all_from(&log, END, &next);
        });
    });
}

#[test]
fn a_deletion_that_a_crash_interrupts_is_finished_at_the_next_opening() {
    in_both_modes(0..3, |case| {
        let world = case.world();
        let (points, sent) = run(&world, |world| {
            let log = world.open();
            let sent = fill(&log, "x", END);
            log.sync().unwrap();
            settle(world);
            let points = world.watch();
            delete(&log, 20);
            (crate::common::taken(&points), sent)
        });
        assert!(points.iter().any(|point| point.call == Call::Remove));
        let check = |disk: &_| {
            case.reopen(disk, |world, log| {
                let start = log.log_start_offset().get();
                assert!(start == 0 || start == 20, "{start}");
                assert_has_all_from(log, start, &sent);
                assert_files_are_gone(world, start);
                assert_eq!(beside(world).verify().unwrap().damage, []);
                assert_eq!(delete(log, 20), 20);
                assert_has_all_from(log, 20, &sent);
            });
        };
        for point in points {
            told(format!("{:?} of {}", point.call, point.path), || {
                check(&point.disk);
                case.each_power_cut(&point.disk, 1, check);
            });
        }
    });
}

#[test]
fn who_is_in_the_middle_of_a_deleted_segment_reads_it_to_its_end_and_others_are_told_the_gap() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let sent = fill(&log, "x", END);
            let mut inside = log.consumer("inside").max_poll_records(2).build().unwrap();
            let mut outside = group_at(&log, "outside", 0);
            let mut reader = log.reader().build().unwrap();
            let mut seen = Seen::default();
            seen.add(&inside.poll(std::time::Duration::ZERO).unwrap());
            assert_eq!(seen.records, sent[..2]);
            delete(&log, 20);
            let rest = drain(&mut inside);
            assert_eq!(rest.gaps, [(6, 20, GapReason::Retention)]);
            assert_eq!(rest.offsets(), (2..6).chain(20..END).collect::<Vec<_>>());
            assert_eq!(rest.records[..4], sent[2..6]);
            let gone = drain(&mut outside);
            assert_eq!(gone.gaps, [(0, 20, GapReason::Retention)]);
            assert_eq!(gone.records, sent[20..]);
            outside.commit().unwrap();
            assert_eq!(outside.losses().retention, 20);
            let mut seen = Seen::default();
            loop {
                let batch = reader.poll(std::time::Duration::ZERO).unwrap();
                if batch.is_empty() && batch.gaps().is_empty() {
                    break;
                }
                seen.add(&batch);
            }
            assert_eq!(seen.gaps, [(0, 20, GapReason::Retention)]);
            assert_eq!(seen.records, sent[20..]);
        });
    });
}

#[test]
fn who_is_in_the_middle_of_a_segment_that_stays_skips_what_is_below_the_log_start() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            fill(&log, "x", END);
            let mut inside = log.consumer("inside").max_poll_records(2).build().unwrap();
            assert_eq!(inside.poll(std::time::Duration::ZERO).unwrap().len(), 2);
            delete(&log, 5);
            let rest = drain(&mut inside);
            assert_eq!(rest.gaps, [(2, 5, GapReason::Retention)]);
            assert_eq!(rest.offsets(), (5..END).collect::<Vec<_>>());
        });
    });
}

#[test]
fn a_log_that_is_read_beside_goes_on_and_tells_the_gap() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let sent = fill(&log, "x", END);
            log.sync().unwrap();
            let other = beside(world);
            let mut reader = other.reader().build().unwrap();
            let mut foreign = other
                .consumer("foreign")
                .max_poll_records(2)
                .build()
                .unwrap();
            assert_eq!(foreign.poll(std::time::Duration::ZERO).unwrap().len(), 2);
            delete(&log, 20);
            assert_eq!(other.log_start_offset().unwrap(), 20);
            let seen = drain(&mut foreign);
            seen.assert_covers(2..END);
            // What it knows of the segment that stays may be from before.
            let (from, to, reason) = seen.gaps[0];
            assert_eq!((from, reason), (6, GapReason::Retention));
            assert!((18..=20).contains(&to), "{to}");
            let mut seen = Seen::default();
            while seen.records.last() != sent.last() {
                let batch = reader.poll(std::time::Duration::ZERO).unwrap();
                seen.add(&batch);
            }
            assert_eq!(seen.gaps, [(0, 20, GapReason::Retention)]);
            assert_eq!(seen.records, sent[20..]);
            let more = fill(&log, "more", 2 * PER_SEGMENT);
            log.sync().unwrap();
            assert_eq!(drain(&mut foreign).records, more);
            assert_eq!(other.verify().unwrap().damage, []);
        });
    });
}

#[test]
fn duplicates_are_told_although_the_segments_with_their_frames_are_gone() {
    in_both_modes(0..3, |case| {
        let named = |log: &Log| {
            let builder = log.producer().acks(Acks::Written).name("importer");
            builder.build().unwrap()
        };
        let record = |number: usize| Record::new(value("named", number, LEN));
        let again = |log: &Log, from: u64, count: usize| {
            let producer = named(log);
            for (sequence, number) in (0..).zip(0..count) {
                let sent = producer.send_sequenced(sequence, record(number)).unwrap();
                assert!(sent.is_duplicate(), "{sequence}");
            }
            assert_eq!(producer.last_sequence().unwrap(), Some(count as u64 - 1));
            assert_eq!(log.log_end_offset().get(), from);
        };
        let disk = run(&case.world(), |world| {
            let log = world.open();
            let producer = named(&log);
            for number in 0..24 {
                drop(
                    producer
                        .send_sequenced(number as u64, record(number))
                        .unwrap(),
                );
            }
            delete(&log, log.log_end_offset().get());
            again(&log, 24, 24);
            world.machine.process_crash()
        });
        case.each_power_cut(&disk, 3, |cut| {
            case.reopen(cut, |_, log| {
                assert_eq!(log.log_start_offset(), 24);
                again(log, log.log_end_offset().get(), 24);
            });
        });
    });
}

#[test]
fn files_that_can_not_be_removed_are_removed_later_and_the_log_goes_on() {
    in_both_modes(0..3, |case| {
        let change = |options: duralog::LogOptions| {
            options.retention(duralog::Retention::new().max_segments(50))
        };
        let disk = run(&world(case, change), |world| {
            let log = world.open();
            let mut sent = fill(&log, "x", END);
            log.sync().unwrap();
            settle(world);
            let fault = Fault::always(Call::Remove, ".log", Effect::Fail(EIO));
            world.machine.inject(&fault);
            let error = log.delete_records_before(20.into()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error:?}");
            assert!(fault.fired() > 0);
            assert_has_all_from(&log, 20, &sent);
            sent.extend(fill(&log, "more", 2 * PER_SEGMENT));
            settle(world);
            assert!(bases(world, ".log").contains(&0));
            world.machine.lift_faults();
            world.machine.sleep(std::time::Duration::from_secs(10));
            assert_files_are_gone(world, 18);
            sent.extend(fill(&log, "again", 2 * PER_SEGMENT));
            assert_has_all_from(&log, 20, &sent);
            assert_eq!(delete(&log, 26), 26);
            assert!(!log.stats().latched);
            world.machine.process_crash()
        });
        case.reopen(&disk, |world, log| {
            assert_eq!(log.log_start_offset(), 26);
            assert_files_are_gone(world, 24);
        });
    });
}

#[test]
fn without_limits_files_that_can_not_be_removed_go_with_the_next_deletion_or_opening() {
    in_both_modes(0..3, |case: Case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            let sent = fill(&log, "x", END);
            let fault = Fault::once(Call::Remove, ".log", Effect::Fail(EIO));
            world.machine.inject(&fault);
            log.delete_records_before(20.into()).unwrap_err();
            assert_eq!(fault.fired(), 1);
            assert_eq!(delete(&log, 20), 20);
            assert_files_are_gone(world, 18);
            assert_has_all_from(&log, 20, &sent);
            world
                .machine
                .inject(&Fault::once(Call::Remove, ".log", Effect::Fail(EIO)));
            log.delete_records_before(26.into()).unwrap_err();
            assert!(bases(world, ".log").contains(&18));
            world.machine.process_crash()
        });
        case.reopen(&disk, |world, log| {
            assert_eq!(log.log_start_offset(), 26);
            assert_files_are_gone(world, 24);
        });
    });
}

#[test]
fn a_deletion_whose_note_fails_deletes_nothing() {
    in_both_modes(0..3, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            let sent = fill(&log, "x", END);
            log.sync().unwrap();
            settle(world);
            let fault = Fault::once(Call::Write, "checkpoint", Effect::Fail(EIO));
            world.machine.inject(&fault);
            log.delete_records_before(20.into()).unwrap_err();
            assert_eq!(fault.fired(), 1);
            assert_has_all_from(&log, 0, &sent);
            assert_eq!(bases(world, ".log").first(), Some(&0));
            assert_eq!(delete(&log, 20), 20);
            assert_has_all_from(&log, 20, &sent);
            world.machine.power_cut(&mut Choices::nothing())
        });
        case.reopen(&disk, |_, log| assert_eq!(log.log_start_offset(), 20));
    });
}

#[test]
fn who_has_read_all_of_a_log_that_is_deleted_then_is_given_what_is_sent_next() {
    in_both_modes(0..3, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            fill(&log, "x", PER_SEGMENT / 2);
            let mut consumer = log.consumer("billing").build().unwrap();
            let mut reader = log.reader().build().unwrap();
            drain(&mut consumer);
            assert!(!reader.try_poll().unwrap().is_empty());
            let end = log.log_end_offset().get();
            assert_eq!(delete(&log, end), end);
            let sent = fill(&log, "y", 2);
            assert_eq!(drain(&mut consumer).records, sent);
            assert_eq!(reader.try_poll().unwrap().len(), sent.len());
        });
    });
}

#[test]
fn what_was_processed_is_committed_though_it_was_deleted_meanwhile() {
    in_both_modes(0..3, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            fill(&log, "x", END);
            let mut consumer = log.consumer("billing").max_poll_records(3).build().unwrap();
            assert_eq!(consumer.try_poll().unwrap().len(), 3);
            delete(&log, 2 * PER_SEGMENT);
            consumer.commit().unwrap();
            assert_eq!(consumer.committed(), 3);
            drop(consumer);
            let mut again = log.consumer("billing").build().unwrap();
            assert_eq!(again.committed(), 3);
            let seen = drain(&mut again);
            assert_eq!(seen.gaps, [(3, 2 * PER_SEGMENT, GapReason::Retention)]);
        });
    });
}
