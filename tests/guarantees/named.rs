//! Named producers: each record once, whatever happens between.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duralog::{
    Acks, ErrorKind, FlushPolicy, Log, Producer, Record, SequencedReceipt, WriteMode,
    testing::sim::{Choices, Disk, Machine, Random},
};

use crate::{
    common::{Case, in_both_modes, in_log, run, see, send, told, written},
    sim::{
        oracle::Oracle,
        world::{World, value},
    },
};

fn importer(log: &Log) -> Producer {
    log.producer()
        .name("importer")
        .acks(Acks::Written)
        .build()
        .unwrap()
}

fn line(number: u64) -> String {
    value("line", usize::try_from(number).unwrap(), 90)
}

/// Sends a line by its number.
fn import(producer: &Producer, number: u64) -> SequencedReceipt {
    producer
        .send_sequenced(number, Record::new(line(number)))
        .unwrap()
}

/// Sends lines, all of which are new.
fn import_all(producer: &Producer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert!(!import(producer, number).is_duplicate(), "line {number}");
    }
}

/// The log has these lines, once each and in order.
fn assert_lines(log: &Log, count: u64) {
    let values: Vec<_> = see(log)
        .records
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    let expected: Vec<_> = (0..count).map(line).collect();
    assert_eq!(values, expected);
}

fn last(log: &Log) -> Option<u64> {
    importer(log).last_sequence().unwrap()
}

#[test]
fn a_sequence_that_was_sent_before_is_a_duplicate_with_the_offset_it_got() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (other, importer) = (written(&log), importer(&log));
            assert_eq!(importer.last_sequence().unwrap(), None);
            let mut offsets = Vec::new();
            for number in 0..200 {
                send(&other, "somebody else's, between");
                let receipt = import(&importer, number);
                assert!(!receipt.is_duplicate());
                offsets.push(receipt.wait().unwrap().unwrap());
            }
            let end = log.log_end_offset();
            for (number, offset) in (0..200).zip(offsets) {
                let receipt = import(&importer, number);
                assert!(receipt.is_duplicate());
                let known = (number >= 200 - 64).then_some(offset);
                assert_eq!(receipt.offset(), known, "{number}");
                assert_eq!(receipt.wait().unwrap(), known);
            }
            assert_eq!(log.log_end_offset(), end, "nothing was appended");
            assert_eq!(importer.last_sequence().unwrap(), Some(199));
        });
    });
}

#[test]
fn a_sequence_that_leaves_some_out_is_refused_with_the_one_expected() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let importer = importer(&log);
            for expected in [0, 5] {
                let refused = importer.send_sequenced(expected + 3, Record::new("too early"));
                let (record, error) = refused.unwrap_err().into_parts();
                assert_eq!(record.as_ref().value(), Some(&b"too early"[..]));
                assert!(
                    matches!(
                        error.kind(),
                        ErrorKind::OutOfSequence { name, expected: e, found }
                            if name == "importer" && *e == expected && *found == expected + 3
                    ),
                    "{error}"
                );
                import_all(&importer, expected..expected + 5);
            }
            assert_lines(&log, 10);
        });
    });
}

#[test]
fn plain_sends_of_a_named_producer_take_the_sequences_that_are_next() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let importer = importer(&log);
            send(&importer, "0");
            drop(
                importer
                    .send_batch([Record::new("1"), Record::new("2")])
                    .unwrap(),
            );
            assert_eq!(importer.last_sequence().unwrap(), Some(2));
            assert!(import(&importer, 1).is_duplicate());
            assert!(!import(&importer, 3).is_duplicate());
            assert_eq!(see(&log).end, 4);
        });
    });
}

#[test]
fn of_a_batch_only_what_is_new_is_appended() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let importer = importer(&log);
            let batch = |numbers: std::ops::Range<u64>| {
                let records: Vec<_> = numbers.clone().map(|n| Record::new(line(n))).collect();
                importer
                    .send_batch_sequenced(numbers.start, records)
                    .unwrap()
            };
            let first = batch(0..10);
            assert_eq!((first.duplicates(), first.offset()), (0, Some(0.into())));
            let second = batch(5..60);
            assert_eq!((second.duplicates(), second.offset()), (5, Some(5.into())));
            assert!(!second.is_duplicate());
            let third = batch(50..60);
            assert!(third.is_duplicate());
            assert_eq!(third.wait().unwrap(), Some(50.into()));
            assert_eq!(batch(60..100).duplicates(), 0);
            assert_eq!(batch(0..5).offset(), None, "longer ago than is remembered");
            assert_lines(&log, 100);
        });
    });
}

#[test]
fn opening_a_name_again_fences_the_producer_that_had_it() {
    in_both_modes(0..2, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            let (old, other) = (importer(&log), written(&log));
            let clone = old.clone();
            import_all(&old, 0..3);
            import_all(&clone, 3..4);
            let new = importer(&log);
            for fenced in [&old, &clone] {
                let failed = fenced.send_sequenced(4, Record::new("fenced")).unwrap_err();
                assert!(
                    matches!(failed.error().kind(), ErrorKind::Fenced { name } if name == "importer")
                );
                let failed = fenced.send(Record::new("fenced")).unwrap_err();
                assert!(matches!(failed.error().kind(), ErrorKind::Fenced { .. }));
                assert!(fenced.last_sequence().is_err());
            }
            import_all(&new, 4..6);
            send(&other, "others go on");
            assert_eq!(see(&log).end, 7);
        });
    });
}

#[test]
fn names_follow_the_rule_and_no_two_differ_in_case_alone() {
    let case = Case {
        mode: WriteMode::Mapped,
        seed: 0,
    };
    run(&case.world(), |world| {
        let log = world.open();
        let build = |name: &str| log.producer().name(name).build();
        drop(build("importer").unwrap());
        for name in ["", ".hidden", "a/b", "Importer"] {
            let refused = build(name).unwrap_err();
            assert!(
                matches!(refused.kind(), ErrorKind::InvalidName { .. }),
                "{name}"
            );
        }
        let unnamed = written(&log);
        let refused = unnamed.send_sequenced(0, Record::new("x")).unwrap_err();
        assert!(matches!(refused.error().kind(), ErrorKind::NoName));
        assert_eq!(unnamed.name(), None);
        assert_eq!(build("importer").unwrap().name(), Some("importer"));
    });
}

#[test]
fn a_durable_duplicate_is_waited_for_as_the_record_it_repeats() {
    in_both_modes(0..4, |case| {
        run(&case.world(), |world| {
            let log = world.open();
            import_all(&importer(&log), 0..3);
            assert_eq!(log.durable_offset(), 0);
            let durable = log.producer().name("importer").build().unwrap();
            let receipt = import(&durable, 1);
            assert!(receipt.is_duplicate());
            receipt.wait().unwrap();
            assert!(log.durable_offset() > 1.into());
        });
    });
}

#[test]
fn a_name_is_known_after_a_close_and_after_a_crash() {
    in_both_modes(0..8, |case| {
        let world = case.world();
        let disk = run(&world, |world| {
            let log = world.open();
            import_all(&importer(&log), 0..150);
            log.close().unwrap();
            let log = world.open();
            assert_eq!(last(&log), Some(149), "after a close");
            import_all(&importer(&log), 150..170);
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| {
            assert_eq!(last(log), Some(169), "after a crash of the process");
            let known = import(&importer(log), 169);
            assert!(known.is_duplicate() && known.offset() == Some(169.into()));
        });
        case.each_power_cut(&disk, 4, |cut| {
            case.reopen(cut, |_, log| {
                let next = last(log).map_or(0, |last| last + 1);
                assert!((150..=170).contains(&next), "{next}");
                import_all(&importer(log), next..180);
                assert_lines(log, 180);
            });
        });
    });
}

#[test]
fn an_epoch_outlives_its_process_so_that_no_two_are_alike() {
    in_both_modes(0..2, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            for _ in 0..3 {
                let producer = importer(&log);
                let next = producer.last_sequence().unwrap().map_or(0, |last| last + 1);
                import_all(&producer, next..next + 2);
            }
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| {
            let (old, new) = (importer(log), importer(log));
            assert!(old.send(Record::new("fenced")).is_err());
            import_all(&new, 6..7);
        });
    });
}

/// How a life of the importer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    PowerCut,
    /// It came to the end of the file.
    Done,
}

const LINES: u64 = 120;

/// A life of the importer: it goes on where the log says, and is stopped somewhere.
fn live(disk: Disk, case: &Case, random: &mut Random) -> (Disk, End) {
    let machine = Machine::boot(disk, random.number());
    let options = case
        .options()
        .flush(FlushPolicy::every(Duration::from_millis(3)));
    let world = World::on(machine.clone(), options, Oracle::default());
    let stop_at = random.below(400) as u64;
    let by_power = random.chance(128);
    let choices = random.number();
    let taken: Arc<Mutex<Option<Disk>>> = Arc::default();
    let image = Arc::clone(&taken);
    machine.observe(move |moment| {
        if moment.number == stop_at {
            *image.lock().unwrap() = Some(if by_power {
                moment.power_cut(&mut Choices::of(choices))
            } else {
                moment.process_crash()
            });
        }
    });
    let batches = random.chance(64);
    run(&world, |world| {
        let log = world.open();
        let importer = importer(&log);
        let mut next = importer.last_sequence().unwrap().map_or(0, |last| last + 1);
        // It is not sure, and begins a little earlier.
        next = next.saturating_sub(5);
        while next < LINES {
            let many = if batches { 7.min(LINES - next) } else { 1 };
            let records: Vec<_> = (next..next + many).map(|n| Record::new(line(n))).collect();
            drop(importer.send_batch_sequenced(next, records).unwrap());
            next += many;
        }
        drop(importer);
        log.close().unwrap();
    });
    let crashed = taken.lock().unwrap().take();
    match crashed {
        Some(disk) if by_power => (disk, End::PowerCut),
        Some(disk) => (disk, End::Killed),
        None => (machine.process_crash(), End::Done),
    }
}

#[test]
fn an_importer_that_is_stopped_a_thousand_times_imports_each_line_once() {
    let modes = [WriteMode::Mapped, WriteMode::Buffered];
    let (mut killed, mut cut) = (0, 0);
    for (seed, mode) in (0..).zip(modes.into_iter().cycle()) {
        if killed + cut >= 1000 {
            break;
        }
        let case = Case { mode, seed };
        let mut random = Random::new(seed);
        let mut disk = Machine::new(seed).process_crash();
        told(format!("{mode:?}, seed {seed}"), || {
            loop {
                let (left, end) = live(disk.clone(), &case, &mut random);
                disk = left;
                match end {
                    End::Killed => killed += 1,
                    End::PowerCut => cut += 1,
                    End::Done => break,
                }
            }
            case.reopen(&disk, |_, log| assert_lines(log, LINES));
        });
    }
    assert!(
        killed > 300 && cut > 300,
        "{killed} kills, {cut} power cuts"
    );
}

#[test]
fn what_is_known_survives_the_snapshot_that_is_damaged() {
    in_both_modes(0..4, |case| {
        let disk = run(&case.world(), |world| {
            let log = world.open();
            import_all(&importer(&log), 0..400);
            log.close().unwrap();
            world.machine.process_crash()
        });
        // Whatever is wrong with either file, the records are there.
        for name in ["producers-0", "producers-1"] {
            let mut damaged = disk.clone();
            damaged.flip_bit(&in_log(name), 50, 0);
            case.reopen(&damaged, |_, log| {
                assert_eq!(last(log), Some(399), "{name}");
            });
        }
        let mut damaged = disk.clone();
        for name in ["producers-0", "producers-1"] {
            damaged.flip_bit(&in_log(name), 50, 0);
        }
        run(&case.boot(&damaged), |world| {
            let host = Arc::new(world.machine.clone());
            let look = duralog::testing::open_read_only(host, crate::sim::PATH).unwrap();
            let damage = look.verify().unwrap().damage;
            assert_eq!(damage.len(), 1, "{damage:?}");
            assert!(damage[0].reason.contains("named producers"), "{damage:?}");
        });
        case.reopen(&damaged, |_, log| {
            let damage = &log.recovery().damage;
            assert_eq!(damage.len(), 1, "{damage:?}");
            assert!(damage[0].reason.contains("named producers"), "{damage:?}");
            assert_eq!(last(log), Some(399));
        });
    });
}
