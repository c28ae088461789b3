//! What is refused, what is left alone for a while, and when the background begins.

use std::time::Duration;

use duralog::{CleanupPolicy, ErrorKind, LogOptions, Record, Retention};

use super::common::{
    DAY, compact, compacted, delete, fill, in_background, left, producer, put, read, settle, world,
    world_with,
};
use crate::{
    common::{Case, in_both_modes, run},
    sim::world::World,
};

/// That the record of this number has none.
fn is_no_key(error: &duralog::Error, number: usize) -> bool {
    matches!(error.kind(), ErrorKind::NoKey { path, index }
        if *index == number && path.as_path() == std::path::Path::new(crate::sim::PATH))
}

#[test]
fn a_record_without_a_key_is_refused_and_handed_back_on_every_path() {
    in_both_modes(0..2, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let direct = log.producer();
            let retrying = log.producer().delivery_timeout(Duration::from_secs(1));
            let buffered = log.producer().linger(Duration::from_millis(5));
            let named = log.producer().name("importer");
            for (builder, name) in [
                (direct, "direct"),
                (retrying, "retrying"),
                (buffered, "buffered"),
                (named, "named"),
            ] {
                let producer = builder.build().unwrap();
                let failed = producer.send(Record::new("plain")).unwrap_err();
                assert!(is_no_key(failed.error(), 0), "{name}");
                assert_eq!(failed.into_record(), Record::new("plain"));
                let failed = producer.try_send(Record::new("x").header("h", "v"));
                assert!(is_no_key(failed.unwrap_err().error(), 0), "{name}");
                let batch = vec![Record::new("a").key("a"), Record::new("b")];
                let failed = producer.send_batch(batch.clone()).unwrap_err();
                assert!(is_no_key(failed.error(), 1), "{name}");
                assert_eq!(failed.into_record(), batch);
                if name == "named" {
                    let failed = producer.send_sequenced(0, Record::new("b"));
                    assert!(is_no_key(failed.unwrap_err().error(), 0));
                    let failed = producer.send_batch_sequenced(0, batch.clone());
                    assert!(is_no_key(failed.unwrap_err().error(), 1));
                    assert_eq!(producer.last_sequence().unwrap(), None);
                }
                producer.flush().unwrap();
            }
            assert_eq!(log.log_end_offset(), 0);
            // A key of no bytes is a key.
            let producer = producer(&log);
            drop(producer.send(Record::new("v").key("")).unwrap());
            delete(&producer, "k");
            assert_eq!(read(&log).len(), 2);
        });
    });
}

#[test]
fn a_log_that_is_not_compacted_takes_records_without_a_key_and_refuses_to_be() {
    in_both_modes(0..1, |case| {
        run(&world_with(&case, case.options()), |world| {
            let log = world.open();
            drop(producer(&log).send(Record::new("plain")).unwrap());
            let error = log.compact().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::NotCompacted { .. }));
            assert!(log.last_compaction().is_none());
        });
    });
}

#[test]
fn both_policies_that_compact_do() {
    in_both_modes(0..1, |case| {
        let both = case
            .options()
            .cleanup_policy(CleanupPolicy::CompactAndDelete);
        run(&world_with(&case, both), |world| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a"], 0..60);
            assert!(compact(world, &log).records_after < 2);
        });
    });
}

fn is_refused(error: &duralog::Error, named: &str) -> bool {
    matches!(error.kind(), ErrorKind::InvalidOption { name, .. } if *name == named)
}

#[test]
fn limits_for_once_are_refused_where_the_last_record_of_each_key_is_kept_and_nothing_goes() {
    in_both_modes(0..1, |case| {
        run(&world(&case), |world| {
            let log = world.open();
            let sent = put(&producer(&log), &["a"], 0..60);
            let one = Retention::new().max_segments(1);
            let error = log.enforce_retention_of(one).unwrap_err();
            assert!(is_refused(&error, "retention"), "{error}");
            let error = log.plan_retention_of(one).unwrap_err();
            assert!(is_refused(&error, "retention"), "{error}");
            assert_eq!(log.enforce_retention().unwrap().deleted, []);
            assert_eq!(read(&log), sent);
        });
    });
}

#[test]
fn a_compacted_log_is_refused_for_dead_letters_before_any_is_lost() {
    in_both_modes(0..1, |case| {
        run(&world_with(&case, case.options()), |world| {
            let log = world.open();
            for policy in [CleanupPolicy::Compact, CleanupPolicy::CompactAndDelete] {
                let host = std::sync::Arc::new(world.machine.clone());
                let options = case.options().cleanup_policy(policy);
                let path = format!("/data/{policy:?}");
                let dead = duralog::testing::open(host, &options, &path).unwrap();
                let built = log.consumer("billing").dead_letters(&dead).build();
                let error = built.unwrap_err();
                assert!(is_refused(&error, "dead_letters"), "{error}");
                assert!(error.to_string().contains(&path), "{error}");
            }
            assert!(log.groups().unwrap().is_empty(), "it is not even made");
        });
    });
}

#[test]
fn the_options_are_stored_and_those_out_of_range_are_refused_by_name() {
    in_both_modes(0..1, |case| {
        let options = compacted(&case)
            .tombstone_retention(DAY * 3)
            .min_compaction_lag(DAY)
            .min_dirty_ratio(0.25)
            .compaction_memory(1 << 20)
            .compaction_rate(1 << 21);
        run(&world_with(&case, options.clone()), |world| {
            world.open().close().unwrap();
            let machine = std::sync::Arc::new(world.machine.clone());
            let look = duralog::testing::open_read_only(machine, crate::sim::PATH).unwrap();
            let stored = look.options();
            assert_eq!(stored.cleanup_policy, CleanupPolicy::Compact);
            assert_eq!(stored.tombstone_retention, DAY * 3);
            assert_eq!(stored.min_compaction_lag, DAY);
            assert!((stored.min_dirty_ratio - 0.25).abs() < 1e-9);
            assert_eq!(stored.compaction_memory, 1 << 20);
            assert_eq!(stored.compaction_rate, 1 << 21);
        });
        let refused = |options: LogOptions| {
            run(&world_with(&case, options), |world: &World| {
                match world.try_open().unwrap_err().kind() {
                    ErrorKind::InvalidOption { name, .. } => *name,
                    other => panic!("{other:?}"),
                }
            })
        };
        for ratio in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let name = refused(options.clone().min_dirty_ratio(ratio));
            assert_eq!(name, "min_dirty_ratio");
        }
        for memory in [0, (64 << 10) - 1, (4 << 30) + 1] {
            let name = refused(options.clone().compaction_memory(memory));
            assert_eq!(name, "compaction_memory");
        }
        assert_eq!(refused(options.compaction_rate(0)), "compaction_rate");
    });
}

#[test]
fn records_younger_than_the_lag_are_all_kept_and_remove_nothing() {
    in_both_modes(0..2, |case| {
        let options = compacted(&case).min_compaction_lag(DAY);
        run(&world_with(&case, options), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = put(&producer, &["a", "b"], 0..60);
            assert_eq!(compact(world, &log).segments, 0);
            assert_eq!(read(&log), sent);
            world.machine.sleep(DAY);
            let young = sent.len() as u64;
            sent.extend(put(&producer, &["a", "b"], 60..120));
            let report = compact(world, &log);
            let until = report.clean_below.get();
            assert!(until > 0 && until <= young, "{until}");
            assert_eq!(read(&log), left(&sent, until));
        });
    });
}

#[test]
fn a_wall_clock_that_jumps_ahead_makes_no_record_old() {
    in_both_modes(0..2, |case| {
        let options = compacted(&case).min_compaction_lag(DAY);
        run(&world_with(&case, options), |world| {
            let log = world.open();
            let sent = put(&producer(&log), &["a", "b"], 0..60);
            world.machine.jump_wall_clock(400 * 24 * 60 * 60 * 1000);
            assert_eq!(compact(world, &log).segments, 0);
            world.machine.jump_wall_clock(-800 * 24 * 60 * 60 * 1000);
            assert_eq!(compact(world, &log).segments, 0);
            assert_eq!(read(&log), sent);
        });
    });
}

#[test]
fn the_background_compacts_once_enough_is_dirty_and_tells_what_came_of_it() {
    in_both_modes(0..2, |case| {
        let options = in_background(&case).min_dirty_ratio(0.5);
        run(&world_with(&case, options), |world| {
            let log = world.open();
            let producer = producer(&log);
            let mut sent = put(&producer, &["a", "b"], 0..60);
            sent.extend(fill(&producer, "once", 100));
            assert!(log.last_compaction().is_none());
            settle(world, &log);
            world.machine.sleep(Duration::from_secs(60));
            let first = log.last_compaction().unwrap().unwrap();
            let clean_below = first.clean_below.get();
            assert!(clean_below > 60, "{first:?}");
            assert_eq!(read(&log), left(&sent, clean_below));
            // A few more are not enough, and so is waiting.
            sent.extend(put(&producer, &["a", "b"], 60..120));
            settle(world, &log);
            world.machine.sleep(DAY);
            assert_eq!(log.last_compaction().unwrap().unwrap(), first);
            sent.extend(put(&producer, &["a", "b"], 120..300));
            settle(world, &log);
            world.machine.sleep(Duration::from_secs(60));
            let second = log.last_compaction().unwrap().unwrap();
            assert!(second.clean_below > first.clean_below);
            assert_eq!(read(&log), left(&sent, second.clean_below.get()));
        });
    });
}

#[test]
fn the_background_takes_as_long_as_its_rate_says_and_what_is_asked_for_does_not() {
    in_both_modes(0..1, |case| {
        let slow = in_background(&case)
            .segment_bytes(256 << 10)
            .compaction_rate(64 << 10);
        let fill_up = |world: &World| {
            let log = world.open();
            let producer = producer(&log);
            put(&producer, &["a", "b", "c"], 0..4000);
            settle(world, &log);
            log
        };
        run(&world_with(&case, slow.clone()), |world| {
            let log = fill_up(world);
            world.machine.sleep(Duration::from_secs(120));
            let report = log.last_compaction().unwrap().unwrap();
            // Everything is read to learn the keys.
            let least = Duration::from_secs(report.bytes_before / (64 << 10));
            assert!(report.elapsed >= least, "{report:?}");
        });
        run(&world_with(&case, slow), |world| {
            let log = fill_up(world);
            let report = log.compact().unwrap();
            assert!(report.elapsed < Duration::from_secs(1), "{report:?}");
        });
    });
}

#[test]
fn what_is_asked_for_takes_over_from_the_background() {
    in_both_modes(0..2, |case: Case| {
        let slow = in_background(&case).compaction_rate(64 << 10);
        run(&world_with(&case, slow), |world| {
            let log = world.open();
            let producer = producer(&log);
            let sent = put(&producer, &["a", "b", "c"], 0..1000);
            settle(world, &log);
            world.machine.sleep(Duration::from_millis(14_500));
            let report = log.compact().unwrap();
            assert_eq!(read(&log), left(&sent, report.clean_below.get()));
            world.machine.sleep(Duration::from_secs(60));
            assert_eq!(log.last_compaction().unwrap().unwrap(), report);
        });
    });
}
