//! Another process looks at a log while it is written: it lists a directory in which names come and
//! go meanwhile.

use std::{sync::Arc, time::Duration};

use duralog::{ReadOnlyLog, testing::sim::Random};

use crate::{
    common::{Case, in_both_modes, run, send, written},
    sim::{
        PATH,
        world::{World, value},
    },
};

const RECORDS: usize = 90;
/// Two fill a segment.
const LEN: usize = 3_000;

fn line(number: usize) -> String {
    value("line", number, LEN)
}

/// Another process does something while this one fills segments.
fn while_it_is_written(case: Case, look: impl FnOnce(&World, &ReadOnlyLog)) {
    run(&case.world(), |world| {
        let log = world.open();
        let producer = written(&log);
        let mut random = Random::new(case.seed);
        let writer = world.spawn("writer", move |world| {
            for number in 0..RECORDS {
                drop(send(&producer, line(number)));
                if random.chance(30) {
                    log.sync().unwrap();
                    world.machine.sleep(Duration::from_micros(50));
                }
            }
            log.close().unwrap();
        });
        let machine = Arc::new(world.machine.clone());
        let other = duralog::testing::open_read_only(machine, PATH).unwrap();
        look(world, &other);
        writer.join();
    });
}

#[test]
fn a_consumer_of_another_process_is_given_each_record_once_and_no_gap() {
    in_both_modes(0..20, |case| {
        while_it_is_written(case, |_, log| {
            let mut consumer = log.consumer("other").max_poll_records(3).build().unwrap();
            let mut next = 0;
            while next < RECORDS {
                let batch = consumer.poll(Duration::from_millis(1)).unwrap();
                assert_eq!(batch.gaps(), []);
                for record in &batch {
                    assert_eq!(record.offset().unwrap(), next as u64);
                    assert_eq!(record.value(), Some(line(next).as_bytes()));
                    next += 1;
                }
                consumer.commit().unwrap();
            }
            assert_eq!(consumer.losses().total(), 0);
        });
    });
}

#[test]
fn verification_by_another_process_finds_no_damage_and_segments_follow_each_other() {
    in_both_modes(0..20, |case| {
        while_it_is_written(case, |_, log| {
            let mut end = 0;
            while end < RECORDS as u64 {
                let report = log.verify().unwrap();
                assert_eq!(report.damage, []);
                assert!(report.log_end_offset.get() >= end, "the log became shorter");
                end = report.log_end_offset.get();
                let segments = log.segments().unwrap();
                let follow = |pair: &[duralog::SegmentInfo]| {
                    assert_eq!(pair[0].end_offset, pair[1].base_offset);
                };
                segments.windows(2).for_each(follow);
            }
        });
    });
}
