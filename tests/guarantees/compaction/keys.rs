//! Which records are kept.

use duralog::{CleanupPolicy, Record};

use super::common::{
    compact, compacted, fill, left, producer, put, read, read_from, settle, world, world_with,
};
use crate::common::{in_both_modes, run, segments};

#[test]
fn of_each_key_the_last_record_is_kept_with_its_offset() {
    in_both_modes(0..3, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = put(&producer, &["a", "b", "c"], 0..100);
            sent.extend(fill(&producer, "end", 20));
            let report = compact(world, &log);
            let kept = read(&log);
            assert_eq!(kept, left(&sent, report.clean_below.get()));
            assert!(report.clean_below.get() > 100);
            assert_eq!(report.passes, 1);
            assert!(report.skipped.is_empty());
            assert!(report.replaced > 5, "{report:?}");
            assert!(report.bytes_after < report.bytes_before / 2, "{report:?}");
            let gone = (sent.len() - kept.len()) as u64;
            assert_eq!(report.records_before - report.records_after, gone);
            assert_eq!(log.log_end_offset().get(), sent.len() as u64);
        });
    });
}

#[test]
fn compacting_again_changes_nothing() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a", "b", "c"], 0..100);
            compact(world, &log);
            let (before, disk) = (read(&log), world.machine.process_crash());
            let report = log.compact().unwrap();
            assert_eq!(report.replaced, 0);
            assert_eq!(report.bytes_after, report.bytes_before);
            assert_eq!(read(&log), before);
            for segment in segments(&disk) {
                let now = world.machine.process_crash().read(&segment);
                assert_eq!(now, disk.read(&segment), "{}", segment.display());
            }
        });
    });
}

#[test]
fn what_is_sent_later_removes_what_was_kept_before() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = Vec::new();
            for round in 0..4 {
                sent.extend(put(
                    &producer,
                    &["a", "b", "c"],
                    round * 50..round * 50 + 50,
                ));
                sent.extend(fill(&producer, &format!("round{round}-"), 5));
                let report = compact(world, &log);
                assert_eq!(read(&log), left(&sent, report.clean_below.get()));
            }
        });
    });
}

#[test]
fn segments_are_replaced_one_for_one_and_the_empty_ones_stay() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a"], 0..100);
            settle(world, &log);
            let before = segments(&world.machine.process_crash());
            log.compact().unwrap();
            assert_eq!(segments(&world.machine.process_crash()), before);
            let looked = duralog::testing::open_read_only(
                std::sync::Arc::new(world.machine.clone()),
                crate::sim::PATH,
            );
            let ends: Vec<_> = looked
                .unwrap()
                .segments()
                .unwrap()
                .iter()
                .map(|segment| (segment.base_offset.get(), segment.end_offset.get()))
                .collect();
            assert!(
                ends.windows(2).all(|pair| pair[0].1 == pair[1].0),
                "{ends:?}"
            );
        });
    });
}

#[test]
fn the_active_segment_and_what_is_not_durable_are_left_alone() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let sent = put(&producer, &["a"], 0..5);
            assert_eq!(compact(world, &log).segments, 0);
            assert_eq!(read(&log), sent);
            let mut all = sent;
            all.extend(put(&producer, &["a"], 5..100));
            // Rolled, but neither durable nor sealed.
            let report = log.compact().unwrap();
            assert_eq!((report.segments, report.clean_below.get()), (0, 0));
            assert_eq!(read(&log), all);
        });
    });
}

#[test]
fn of_a_batch_the_records_that_are_left_stay_one_batch_at_their_offsets() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let batch: Vec<_> = (0..20)
                .map(|n| Record::new(format!("v{n}")).key(format!("k{}", n % 12)))
                .collect();
            drop(producer.send_batch(&batch).unwrap());
            put(&producer, &["k10", "k3"], 0..2);
            fill(&producer, "end", 40);
            compact(world, &log);
            let mut reader = log.reader().max_poll_records(1).build().unwrap();
            let read = reader.poll(std::time::Duration::ZERO).unwrap();
            let frames: Vec<_> = read.frames().collect();
            assert_eq!(frames.len(), 1);
            assert_eq!((frames[0].from.get(), frames[0].to.get()), (0, 20));
            let offsets: Vec<_> = read
                .iter()
                .map(|record| record.offset().unwrap().get())
                .collect();
            // k0 to k7 were sent twice; of the others, k10 and k3 were sent later.
            assert_eq!(offsets, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
            assert_eq!(read.len(), offsets.len());
            for record in &read {
                let value = format!("v{}", record.offset().unwrap());
                assert_eq!(record.value(), Some(value.as_bytes()));
            }
            drop(reader);
            let firsts: Vec<_> = (0..20).map(|from| read_from(&log, from)[0].0).collect();
            let expected = [
                8, 8, 8, 8, 8, 8, 8, 8, 8, 9, 11, 11, 12, 13, 14, 16, 16, 17, 18, 19,
            ];
            assert_eq!(firsts, expected);
        });
    });
}

#[test]
fn records_keep_headers_times_and_the_time_of_their_append() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let producer = producer(&log);
            let own = std::time::UNIX_EPOCH + std::time::Duration::from_secs(77);
            let first = Record::new("v").key("k").header("h", "w").timestamp(own);
            drop(
                producer
                    .send_batch([&first, &Record::new("x").key("old")])
                    .unwrap(),
            );
            world.machine.sleep(std::time::Duration::from_secs(5));
            put(&producer, &["old"], 0..60);
            settle(world, &log);
            let look = || {
                let mut reader = log.reader().max_poll_records(1).build().unwrap();
                let batch = reader.poll(std::time::Duration::ZERO).unwrap();
                let record = batch.iter().next().unwrap();
                (record.to_record(), record.append_time())
            };
            let before = look();
            assert!(log.compact().unwrap().replaced > 0);
            assert_eq!(look(), before);
            assert_eq!(look().0, first);
        });
    });
}

#[test]
fn records_without_a_key_from_before_are_kept() {
    in_both_modes(0..2, |case| {
        let world = world_with(&case, case.options());
        run(&world, |world| {
            let log = world.open();
            let producer = producer(&log);
            for _ in 0..30 {
                drop(producer.send(Record::new(vec![b'x'; 400])).unwrap());
            }
            put(&producer, &["a"], 0..30);
            log.close().unwrap();
            let options = world.options.clone();
            let compacted = options.cleanup_policy(CleanupPolicy::Compact);
            let machine = std::sync::Arc::new(world.machine.clone());
            let log = duralog::testing::open(machine, &compacted, crate::sim::PATH).unwrap();
            let producer = super::common::producer(&log);
            put(&producer, &["a"], 30..60);
            compact(world, &log);
            let kept = read(&log);
            let keyless = kept.iter().filter(|entry| entry.1.is_empty()).count();
            assert_eq!(keyless, 30);
            assert!(kept.len() < 60, "{kept:?}");
        });
    });
}

#[test]
fn keys_that_do_not_fit_the_memory_take_more_passes_and_the_result_is_the_same() {
    in_both_modes(0..1, |case| {
        let small = compacted(&case)
            .segment_bytes(64 << 10)
            .compaction_memory(64 << 10);
        run(&world_with(&case, small), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = Vec::new();
            for round in 0..2 {
                for number in 0..4000 {
                    let key = format!("key-{number:06}");
                    let value = format!("{round}");
                    let record = Record::new(value.as_str()).key(key.as_str());
                    let offset = producer.send(record).unwrap().offset().unwrap().get();
                    sent.push((offset, key, Some(value)));
                }
            }
            let report = compact(world, &log);
            assert!(report.passes > 2, "{report:?}");
            assert!(report.peak_memory <= 64 << 10, "{report:?}");
            assert_eq!(read(&log), left(&sent, report.clean_below.get()));
            assert!(report.records_after < report.records_before / 3 * 2);
        });
    });
}

#[cfg(feature = "lz4")]
#[test]
fn compressed_batches_lose_what_goes_and_are_compressed_still() {
    use duralog::Compression;

    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let packing = log.producer().compression(Compression::Lz4);
            let packing = packing.build().unwrap();
            let mut sent = Vec::new();
            for batch in 0..60_u64 {
                let entries: Vec<_> = (0..8_u64)
                    .map(|n| (batch * 8 + n, format!("k{}", (batch * 5 + n) % 24)))
                    .collect();
                let value = |offset: u64| format!("{offset}-{}", "-".repeat(300));
                let records: Vec<_> = entries
                    .iter()
                    .map(|(offset, key)| Record::new(value(*offset)).key(key.as_str()))
                    .collect();
                drop(packing.send_batch(&records).unwrap());
                sent.extend(
                    entries
                        .into_iter()
                        .map(|(offset, key)| (offset, key, Some(value(offset)))),
                );
            }
            fill(&producer(&log), "end", 40);
            let report = compact(world, &log);
            assert!(report.clean_below.get() > 480, "{report:?}");
            let kept = read(&log);
            let of_batches: Vec<_> = kept.into_iter().filter(|entry| entry.0 < 480).collect();
            assert_eq!(of_batches, left(&sent, 480));
            let mut reader = log.reader().build().unwrap();
            let batch = reader.poll(std::time::Duration::ZERO).unwrap();
            let frame = batch.frames().next().unwrap();
            assert_eq!(frame.compression, Compression::Lz4);
        });
    });
}
