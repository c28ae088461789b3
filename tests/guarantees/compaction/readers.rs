//! Whoever reads meanwhile goes on undisturbed, and nobody is told a gap where records were removed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use duralog::{Batch, Offset, ReadMode, ReadOnlyLog, Reader, Start};

use super::common::{
    Entry, compact, compacted, fill, left, producer, put, read, read_from, settle, world,
    world_with,
};
use crate::{
    common::{in_both_modes, run},
    sim::{PATH, world::World},
};

fn entries(batch: &Batch<'_>) -> Vec<Entry> {
    assert_eq!(batch.gaps(), []);
    batch
        .iter()
        .map(|record| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let key = text(record.key().unwrap());
            (
                record.offset().unwrap().get(),
                key,
                record.value().map(text),
            )
        })
        .collect()
}

fn rest(reader: &mut Reader) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let read = entries(&reader.poll(Duration::ZERO).unwrap());
        if read.is_empty() {
            return all;
        }
        all.extend(read);
    }
}

fn look(world: &World) -> ReadOnlyLog {
    duralog::testing::open_read_only(Arc::new(world.machine.clone()), PATH).unwrap()
}

#[test]
fn a_reader_in_the_middle_of_a_segment_reads_that_one_as_it_was_and_the_next_as_they_are() {
    in_both_modes(0..4, |case| {
        for (what, copied) in [("mapped", false), ("copied", true), ("foreign", false)] {
            let mode = if copied {
                ReadMode::Copied
            } else {
                ReadMode::Mapped
            };
            let options = compacted(&case).read_mode(mode);
            run(&world_with(&case, options), |world| {
                let log = world.open();
                let producer = producer(&log);
                let mut sent = put(&producer, &["a", "b", "c"], 0..100);
                sent.extend(fill(&producer, "end", 30));
                settle(world, &log);
                let look = look(world);
                let builder = match what {
                    "foreign" => look.reader(),
                    _ => log.reader(),
                };
                let mut reader = builder
                    .start(Start::At(Offset::new(3)))
                    .max_poll_records(4)
                    .build()
                    .unwrap();
                let before = entries(&reader.poll(Duration::ZERO).unwrap());
                assert_eq!(before, sent[3..7], "{what}");
                let report = log.compact().unwrap();
                let behind = rest(&mut reader);
                let kept = left(&sent, report.clean_below.get());
                assert!(behind.len() < sent.len() / 2, "{what}");
                // Of the segment that it was in, all; of the others, what is left.
                let (old, new): (Vec<_>, Vec<_>) =
                    behind.iter().cloned().partition(|entry| entry.0 < 13);
                assert_eq!(old, sent[7..13], "{what}");
                let expected: Vec<_> = kept.into_iter().filter(|entry| entry.0 >= 13).collect();
                assert_eq!(new, expected, "{what}");
            });
        }
    });
}

#[test]
fn readers_and_groups_beside_the_compaction_never_meet_a_gap_nor_go_back_nor_miss_a_last_record() {
    in_both_modes(0..6, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = put(&producer, &["a", "b", "c", "d"], 0..150);
            sent.extend(fill(&producer, "end", 30));
            settle(world, &log);
            let last = left(&sent, 0);
            assert_eq!(last, sent);
            let readers: Vec<_> = (0..3)
                .map(|number| {
                    let (log, look) = (log.clone(), look(world));
                    let wanted = left(&sent, u64::MAX);
                    world.spawn("reader", move |world| {
                        let mut found: Vec<Entry> = Vec::new();
                        if number == 0 {
                            let mut group = log.consumer("g").max_poll_records(5).build().unwrap();
                            loop {
                                let read = entries(&group.poll(Duration::ZERO).unwrap());
                                if read.is_empty() {
                                    break;
                                }
                                group.commit().unwrap();
                                found.extend(read);
                                world.machine.sleep(Duration::from_micros(5));
                            }
                        } else {
                            let builder = match number {
                                1 => log.reader(),
                                _ => look.reader(),
                            };
                            let mut reader = builder.max_poll_records(3).build().unwrap();
                            loop {
                                let read = entries(&reader.poll(Duration::ZERO).unwrap());
                                if read.is_empty() {
                                    break;
                                }
                                found.extend(read);
                                world.machine.sleep(Duration::from_micros(3));
                            }
                        }
                        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
                        for entry in &wanted {
                            assert!(found.contains(entry), "reader {number}: {entry:?}");
                        }
                    })
                })
                .collect();
            let report = log.compact().unwrap();
            assert!(report.replaced > 0);
            for reader in readers {
                reader.join();
            }
        });
    });
}

#[test]
fn seeking_to_what_was_removed_leads_to_the_next_record() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a", "b", "c"], 0..100);
            fill(&producer, "end", 40);
            compact(world, &log);
            let all = read(&log);
            let look = look(world);
            for from in 0..log.log_end_offset().get() {
                let expected: Vec<_> = all.iter().filter(|e| e.0 >= from).cloned().collect();
                assert_eq!(read_from(&log, from), expected, "from {from}");
                let start = Start::At(Offset::new(from));
                let mut reader = look.reader().start(start).build().unwrap();
                assert_eq!(rest(&mut reader), expected, "from {from}, elsewhere");
            }
        });
    });
}

#[test]
fn a_group_goes_on_where_it_was_though_that_record_is_gone() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = put(&producer, &["a", "b", "c"], 0..100);
            sent.extend(fill(&producer, "end", 40));
            let mut group = log.consumer("g").max_poll_records(10).build().unwrap();
            assert_eq!(group.poll(Duration::ZERO).unwrap().len(), 10);
            group.commit().unwrap();
            drop(group);
            let report = compact(world, &log);
            let mut group = log.consumer("g").build().unwrap();
            assert_eq!(group.position().get(), 10);
            let mut read = Vec::new();
            while group.position() < log.log_end_offset() {
                read.extend(entries(&group.poll(Duration::ZERO).unwrap()));
            }
            let kept = left(&sent, report.clean_below.get());
            let expected: Vec<_> = kept.into_iter().filter(|e| e.0 >= 10).collect();
            assert_eq!(read, expected);
        });
    });
}

#[test]
fn who_waits_at_the_end_is_given_what_comes_then() {
    in_both_modes(0..3, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a"], 0..100);
            let mut reader = log.reader().build().unwrap();
            let look = look(world);
            let mut other = look.reader().build().unwrap();
            rest(&mut reader);
            rest(&mut other);
            compact(world, &log);
            let mut sent = put(&producer, &["a"], 100..200);
            settle(world, &log);
            // The segment that both are in is another file by now.
            let report = log.compact().unwrap();
            sent = left(&sent, report.clean_below.get());
            let (one, two) = (rest(&mut reader), rest(&mut other));
            for found in [one, two] {
                assert_eq!(found.last(), sent.last());
                assert!(found.first().unwrap().0 >= 100);
            }
        });
    });
}

#[test]
fn searching_by_time_finds_the_first_record_that_is_left() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            for number in 0..120 {
                put(&producer, &["a", "b", "c"], number..number + 1);
                world.machine.sleep(Duration::from_millis(1));
            }
            fill(&producer, "end", 40);
            compact(world, &log);
            let mut reader = log.reader().build().unwrap();
            let batch = reader.poll(Duration::ZERO).unwrap();
            let times: Vec<_> = batch
                .iter()
                .map(|record| (record.append_time().as_millis(), record.offset().unwrap()))
                .collect();
            let (first, last) = (times[0].0 - 130, times.last().unwrap().0);
            let look = look(world);
            drop(look);
            for time in first..=last {
                let wanted = times.iter().find(|(at, _)| *at >= time).unwrap().1;
                let at = duralog::Timestamp::from_millis(time);
                assert_eq!(log.offset_for_timestamp(at).unwrap(), wanted, "{time}");
            }
        });
    });
}

#[test]
fn verifying_finds_nothing_wrong_with_a_compacted_log_and_says_where_it_ends() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a", "b"], 0..100);
            fill(&producer, "end", 20);
            compact(world, &log);
            let report = look(world).verify().unwrap();
            assert_eq!(report.damage, []);
            assert_eq!(report.unproven_bytes, 0);
            assert_eq!(report.log_end_offset, log.log_end_offset());
            drop(producer);
            log.close().unwrap();
            let report = look(world).verify().unwrap();
            assert_eq!(report.damage, []);
        });
    });
}

#[test]
fn another_process_that_verifies_a_log_while_it_is_compacted_finds_no_damage() {
    in_both_modes(0..100, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            put(&producer(&log), &["a", "b", "c"], 0..200);
            settle(world, &log);
            let (other, done) = (look(world), Arc::new(AtomicBool::new(false)));
            let is_over = Arc::clone(&done);
            let verifier = world.spawn("verifier", move |_| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(other.verify().unwrap().damage, []);
                    other.segments().unwrap();
                }
            });
            assert!(log.compact().unwrap().replaced > 3);
            done.store(true, Ordering::Relaxed);
            verifier.join();
        });
    });
}
