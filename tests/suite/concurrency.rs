//! Many threads on one log.

use std::{
    collections::HashMap,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use duralog::{Acks, Log, Offset, Record};

use crate::common::{MODES, Scenario};

const PRODUCERS: u64 = 8;
const EACH: u64 = 5_000;
const POLL: Duration = Duration::from_secs(1);

/// Sends numbered records, some in batches, at all levels; returns what went where.
fn produce(log: &Log, thread: u64) -> Vec<(Offset, String)> {
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while number < EACH {
        let value = |number: u64| format!("{thread}:{number}");
        if number % 7 == 0 && number + 3 <= EACH {
            let batch: Vec<_> = (number..number + 3)
                .map(|n| Record::new(value(n)))
                .collect();
            let offsets = producer.send_batch(&batch).unwrap().offsets().unwrap();
            for at in 0..3 {
                acknowledged.push((offsets.start.advance(at), value(number + at)));
            }
            number += 3;
            continue;
        }
        let acks = if number % 500 == 1 {
            Acks::Durable
        } else {
            Acks::Written
        };
        let receipt = producer
            .send_with(Record::new(value(number)), acks)
            .unwrap();
        acknowledged.push((receipt.wait().unwrap(), value(number)));
        number += 1;
    }
    acknowledged
}

/// Consumes all there will be, committing as it goes, and starting again now and then.
fn consume(log: &Log, group: &str) -> Vec<(Offset, String)> {
    let mut seen = Vec::new();
    while (seen.len() as u64) < PRODUCERS * EACH {
        let mut consumer = log.consumer(group).max_poll_records(333).build().unwrap();
        for _ in 0..20 {
            let batch = consumer.poll(POLL).unwrap();
            assert_eq!(batch.gaps(), []);
            for record in &batch {
                let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                seen.push((record.offset().unwrap(), value));
            }
            consumer.commit().unwrap();
        }
    }
    seen
}

#[test]
fn eight_producers_and_three_groups_agree_over_rolls_with_what_was_acknowledged() {
    for mode in MODES {
        let scenario = Scenario::new(mode);
        let log = scenario.open();
        let (mut acknowledged, groups) = thread::scope(|scope| {
            let log = &log;
            let consumers: Vec<_> = ["a", "b", "c"]
                .map(|group| scope.spawn(move || consume(log, group)))
                .into_iter()
                .collect();
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|thread| scope.spawn(move || produce(log, thread)))
                .collect();
            let acknowledged: Vec<_> = producers
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect();
            let groups: Vec<_> = consumers
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect();
            (acknowledged, groups)
        });
        assert!(log.stats().segments > 50);
        for_each_thread_in_order(&acknowledged);
        acknowledged.sort();
        assert_eq!(acknowledged.len() as u64, PRODUCERS * EACH);
        let dense = (0..)
            .zip(&acknowledged)
            .all(|(n, (offset, _))| *offset == Offset::new(n));
        assert!(dense, "each offset is used once");
        for seen in groups {
            assert_eq!(seen, acknowledged);
        }
        drop(log);
        let log = scenario.open();
        assert_eq!(log.log_end_offset(), PRODUCERS * EACH);
        assert!(log.recovery().clean);
    }
}

/// What one thread sent has offsets in the order in which it was sent.
fn for_each_thread_in_order(acknowledged: &[(Offset, String)]) {
    let mut last: HashMap<&str, Offset> = HashMap::new();
    for (offset, value) in acknowledged {
        let (thread, _) = value.split_once(':').unwrap();
        if let Some(before) = last.insert(thread, *offset) {
            assert!(before < *offset);
        }
    }
}

/// Set when it is dropped, so that a failing test ends its threads too.
#[derive(Default)]
struct Stop(AtomicBool);

struct StopGuard<'a>(&'a Stop);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_child_process_that_is_being_started_holds_no_lock_of_a_log_or_a_group() {
    let scenario = Scenario::new(MODES[0]);
    let stop = Stop::default();
    thread::scope(|scope| {
        let _guard = StopGuard(&stop);
        scope.spawn(|| {
            while !stop.0.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        for _ in 0..100 {
            let log = scenario.open();
            for _ in 0..5 {
                drop(log.consumer("billing").build().unwrap());
            }
            log.close().unwrap();
        }
    });
}
