//! Named producers know what they have sent, though the records are gone.

use std::time::Duration;

use duralog::{Acks, FlushPolicy, Log, Producer, Record};

use super::common::{compacted, fill, producer, settle, text, world_with};
use crate::common::{Case, in_both_modes, in_log, run};

fn importer(log: &Log, name: &str) -> Producer {
    let builder = log.producer().name(name).acks(Acks::Written);
    builder.build().unwrap()
}

/// Sends records of one key, from a sequence on.
fn import(producer: &Producer, sequences: std::ops::Range<u64>) {
    for sequence in sequences {
        let number = usize::try_from(sequence).unwrap();
        let record = Record::new(text("k", number)).key("k");
        let sent = producer.send_sequenced(sequence, record).unwrap();
        assert!(!sent.is_duplicate());
    }
}

fn knows(log: &Log, name: &str, sequences: u64) {
    let producer = importer(log, name);
    assert_eq!(producer.last_sequence().unwrap(), sequences.checked_sub(1));
    for sequence in [0, sequences / 2, sequences - 1] {
        let again = producer.send_sequenced(sequence, Record::new("again").key("k"));
        assert!(again.unwrap().is_duplicate(), "{name}, {sequence}");
    }
}

/// Two producers; all that the first one sent is removed. Then the log is not closed.
fn compacted_log(case: &Case, flush: FlushPolicy) -> duralog::testing::sim::Disk {
    let options = compacted(case).flush(flush);
    run(&world_with(case, options), |world| {
        let log = world.open();
        import(&importer(&log, "first"), 0..60);
        import(&importer(&log, "second"), 0..30);
        fill(&producer(&log), "end", 30);
        settle(world, &log);
        let report = log.compact().unwrap();
        assert!(report.clean_below.get() > 90, "{report:?}");
        assert!(report.records_after < 40, "{report:?}");
        knows(&log, "first", 60);
        world.machine.process_crash()
    })
}

#[test]
fn sequences_that_were_known_before_are_known_after_a_compaction_and_a_crash() {
    in_both_modes(0..4, |case| {
        for flush in [
            FlushPolicy::never(),
            FlushPolicy::every(Duration::from_millis(5)),
        ] {
            let disk = compacted_log(&case, flush);
            let mut images = case.power_cuts(&disk, 4);
            images.push(("the process ends".to_owned(), disk));
            for (what, image) in images {
                crate::common::told(what, || {
                    case.reopen(&image, |_, log| {
                        knows(log, "first", 60);
                        knows(log, "second", 30);
                    });
                });
            }
        }
    });
}

#[test]
fn they_are_known_though_one_of_the_two_files_that_say_it_is_damaged() {
    in_both_modes(0..2, |case| {
        let disk = compacted_log(&case, FlushPolicy::never());
        for file in ["producers-0", "producers-1"] {
            let mut damaged = disk.clone();
            assert!(damaged.flip_bit(&in_log(file), 50, 2), "{file}");
            case.reopen(&damaged, |_, log| {
                knows(log, "first", 60);
                knows(log, "second", 30);
            });
        }
    });
}

#[test]
fn they_are_known_where_nothing_is_ever_synced() {
    in_both_modes(0..2, |case| {
        let options = compacted(&case).fsync(duralog::Fsync::Off);
        let off = options.flush(FlushPolicy::never());
        let disk = run(&world_with(&case, off), |world| {
            let log = world.open();
            import(&importer(&log, "first"), 0..60);
            fill(&producer(&log), "end", 30);
            log.close().unwrap();
            // What was there when the log was opened counts as durable.
            let log = world.open();
            world.machine.sleep(Duration::from_secs(1));
            fill(&producer(&log), "more", 3);
            import(&importer(&log, "second"), 0..1);
            log.compact().unwrap();
            world.machine.process_crash()
        });
        case.reopen(&disk, |_, log| {
            knows(log, "first", 60);
            knows(log, "second", 1);
        });
    });
}

#[test]
fn a_batch_of_which_records_were_removed_has_the_sequences_that_it_had() {
    in_both_modes(0..2, |case| {
        let disk = run(&world_with(&case, compacted(&case)), |world| {
            let log = world.open();
            let named = importer(&log, "first");
            let batch: Vec<_> = (0..10)
                .map(|n| Record::new(text("b", n)).key(format!("k{n}")))
                .collect();
            assert_eq!(
                named
                    .send_batch_sequenced(0, &batch)
                    .unwrap()
                    .appended()
                    .end,
                10
            );
            for key in ["k0", "k4", "k9"] {
                let record = Record::new(text("later", 0)).key(key);
                drop(producer(&log).send(record).unwrap());
            }
            fill(&producer(&log), "end", 30);
            settle(world, &log);
            log.compact().unwrap();
            world.machine.process_crash()
        });
        // Without any file that says it, so that the frames are read.
        let mut bare = disk.clone();
        for file in ["producers-0", "producers-1"] {
            bare.remove(&in_log(file));
        }
        for image in [disk, bare] {
            case.reopen(&image, |_, log| knows(log, "first", 10));
        }
    });
}
