//! Sequences of named producers, as readers see them.

use std::{sync::Arc, time::Duration};

use duralog::{
    Acks, Batch, FrameProducer, Log, Offset, Producer, ReadOnlyLog, Record, SequenceCheck,
    SequenceFinding, SequenceKind, Start, testing::sim::Disk,
};

use super::parallel::rot;
use crate::{
    common::{Case, in_both_modes, in_log, run, see, send, written},
    sim::{
        PATH,
        world::{World, value},
    },
};

fn named(log: &Log, name: &str) -> Producer {
    let producer = log.producer().name(name).acks(Acks::Written);
    producer.build().unwrap()
}

fn line(name: &str, number: u64) -> String {
    value(name, usize::try_from(number).unwrap(), 90)
}

/// Sends lines by their numbers, which are their sequences, in batches of `many`.
fn import(producer: &Producer, numbers: std::ops::Range<u64>, many: usize) {
    let name = producer.name().unwrap();
    let numbers: Vec<_> = numbers.collect();
    for some in numbers.chunks(many) {
        let records: Vec<_> = some.iter().map(|n| Record::new(line(name, *n))).collect();
        let sent = producer.send_batch_sequenced(some[0], records).unwrap();
        assert!(!sent.is_duplicate());
    }
}

fn read_only(world: &World) -> ReadOnlyLog {
    duralog::testing::open_read_only(Arc::new(world.machine.clone()), PATH).unwrap()
}

/// Looks at all batches from `start` on, by a reader of the writing process or by another one.
fn each_batch(log: &Log, other: Option<&World>, start: Start, mut look: impl FnMut(&Batch<'_>)) {
    let reader = other.map_or_else(|| log.reader(), |world| read_only(world).reader());
    let mut reader = reader.start(start).max_poll_records(7).build().unwrap();
    loop {
        let batch = reader.poll(Duration::ZERO).unwrap();
        if batch.is_empty() && batch.gaps().is_empty() {
            return;
        }
        look(&batch);
    }
}

fn in_both_ways(world: &World, look: impl Fn(Option<&World>)) {
    look(None);
    look(Some(world));
}

fn check_all(log: &Log, other: Option<&World>, check: &mut SequenceCheck) -> Vec<SequenceFinding> {
    let mut findings = Vec::new();
    each_batch(log, other, Start::Earliest, |batch| {
        findings.extend(check.observe_batch(batch));
    });
    findings
}

#[test]
fn a_frame_says_which_named_producer_sent_it_wherever_reading_starts_and_in_other_processes() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (first, second) = (named(&log, "first"), named(&log, "second"));
            for round in 0..60 {
                import(&first, round * 3..round * 3 + 3, 2);
                send(&written(&log), "somebody without a name");
                import(&second, round..round + 1, 1);
            }
            // Opened again, in the same segment.
            let first = named(&log, "first");
            import(&first, 180..182, 1);
            assert!(log.stats().segments > 2, "{:?}", log.stats());
            let end = log.log_end_offset().get();
            in_both_ways(world, |other| {
                for start in (0..end).step_by(11) {
                    each_batch(&log, other, Start::At(start.into()), |batch| {
                        assert_senders(batch);
                    });
                }
            });
        });
    });
}

/// Each frame says who sent it, as its records do.
fn assert_senders(batch: &Batch<'_>) {
    let mut records = batch.iter().peekable();
    for frame in batch.frames() {
        while let Some(record) = records.next_if(|r| r.offset().unwrap() < frame.to) {
            let text = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
            let Some(FrameProducer {
                name,
                epoch,
                first_sequence,
                ..
            }) = &frame.producer
            else {
                assert_eq!(text, "somebody without a name");
                continue;
            };
            let name = name.as_deref().unwrap();
            let farther = record.offset().unwrap().since(frame.from);
            let sequence = first_sequence + farther;
            assert_eq!(text, line(name, sequence));
            assert_eq!(*epoch, if sequence < 180 { 1 } else { 2 });
        }
    }
}

#[test]
fn a_reader_of_another_process_learns_the_names_that_come_while_it_reads() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let other = read_only(world);
            let mut reader = other.reader().build().unwrap();
            let mut names = Vec::new();
            for name in ["one", "two", "three"] {
                let producer = named(&log, name);
                import(&producer, 0..1, 1);
                // Another one passes the frame that has the name.
                let end = other.log_end_offset().unwrap();
                import(&producer, 1..2, 1);
                let second = other.reader().start(Start::At(end)).build();
                let mut second = second.unwrap();
                for reader in [&mut second, &mut reader] {
                    let batch = reader.poll(Duration::ZERO).unwrap();
                    let last = batch.frames().last().unwrap().producer.unwrap();
                    assert_eq!((last.name.as_deref(), last.first_sequence), (Some(name), 1));
                    names.push(last.id);
                }
            }
            names.dedup();
            assert_eq!(names.len(), 3);
        });
    });
}

#[test]
fn where_the_frame_with_the_name_is_damaged_the_name_is_known_all_the_same() {
    in_both_modes(0..2, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            import(&named(&log, "importer"), 0..6, 1);
            log.close().unwrap();
            world.machine.process_crash()
        });
        let mut damaged = rot(&disk, &line("importer", 0));
        let name_of_second = |disk: &Disk| {
            case.reopen(disk, |world, log| {
                let mut names = Vec::new();
                in_both_ways(world, |other| {
                    let mut found = Vec::new();
                    each_batch(log, other, Start::Earliest, |batch| {
                        found.extend(batch.frames().map(|frame| frame.producer.unwrap().name));
                    });
                    found.dedup();
                    drop(found);
                });
                for other in [None, Some(world)] {
                    each_batch(log, other, Start::Earliest, |batch| {
                        names.extend(batch.frames().map(|frame| frame.producer.unwrap().name));
                    });
                }
                names.dedup();
                names
            })
        };
        let known: Vec<Option<Arc<str>>> = vec![Some("importer".into())];
        assert_eq!(name_of_second(&damaged), known);
        // Unless all that says it is damaged.
        for name in ["producers-0", "producers-1"] {
            damaged.flip_bit(&in_log(name), 50, 0);
        }
        assert_eq!(name_of_second(&damaged), [None]);
        case.reopen(&damaged, |_, log| {
            let mut check = SequenceCheck::new();
            assert_eq!(check_all(log, None, &mut check), []);
            let next: Vec<_> = (0..3)
                .map(|id| check.next_sequence(&format!("#{id}")))
                .collect();
            assert_eq!(next.iter().flatten().collect::<Vec<_>>(), [&6]);
        });
    });
}

/// Two producers take turns.
fn two_importers(case: Case) -> Disk {
    run(&case.world(), |world| {
        let log = world.open();
        let (one, two) = (named(&log, "one"), named(&log, "two"));
        for round in 0..40 {
            import(&one, round * 5..round * 5 + 5, 5);
            import(&two, round..round + 1, 1);
        }
        log.close().unwrap();
        world.machine.process_crash()
    })
}

#[test]
fn a_log_without_damage_has_nothing_to_report() {
    in_both_modes(0..2, |case| {
        case.reopen(&two_importers(case), |world, log| {
            in_both_ways(world, |other| {
                let mut check = SequenceCheck::new();
                assert_eq!(check_all(log, other, &mut check), []);
                assert_eq!(check.totals().observed, 240);
                // Read again from the middle, nothing is repeated.
                assert_eq!(check_all(log, other, &mut check), []);
                assert_eq!(check.totals().observed, 240);
                assert_eq!(check.next_sequence("one"), Some(200));
                assert_eq!(check.next_sequence("two"), Some(40));
            });
        });
    });
}

#[test]
fn damage_makes_exactly_the_sequences_missing_that_it_takes() {
    in_both_modes(0..2, |case| {
        let disk = two_importers(case);
        // A frame of five, and one of the other's.
        let damaged = rot(&rot(&disk, &line("one", 52)), &line("two", 30));
        case.reopen(&damaged, |world, log| {
            assert_eq!(see(log).gaps.len(), 2);
            in_both_ways(world, |other| {
                let mut check = SequenceCheck::new();
                let findings = check_all(log, other, &mut check);
                let missing = |from, to| SequenceKind::Missing { from, to };
                let found: Vec<_> = findings
                    .iter()
                    .map(|found| (&*found.producer, found.kind, found.offset.map(Offset::get)))
                    .collect();
                assert_eq!(
                    found,
                    [
                        ("one", missing(50, 55), Some(66)),
                        ("two", missing(30, 31), Some(31 * 6 + 5)),
                    ]
                );
                assert_eq!(check.totals().missing, 6);
            });
        });
    });
}

#[test]
fn a_reader_that_starts_within_a_frame_takes_its_first_record_for_the_start() {
    in_both_modes(0..1, |case| {
        case.reopen(&two_importers(case), |world, log| {
            in_both_ways(world, |other| {
                let mut check = SequenceCheck::new();
                each_batch(log, other, Start::At(9.into()), |batch| {
                    assert_eq!(check.observe_batch(batch), []);
                });
                assert_eq!(check.totals().observed, 240 - 9);
                // What came before is not known to have come.
                let before = check.observe("one", 7).unwrap().kind;
                assert_eq!(
                    before,
                    SequenceKind::OutOfOrder {
                        sequence: 7,
                        expected: 200
                    }
                );
                let first = check.observe("one", 8).unwrap().kind;
                assert_eq!(first, SequenceKind::Repeated { sequence: 8 });
            });
        });
    });
}
