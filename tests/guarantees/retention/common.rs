//! Logs of which something is to go.

use std::{sync::Arc, time::Duration};

use duralog::{Consumer, Log, LogOptions, MIN_SEGMENT_BYTES, ReadOnlyLog, Start};

use crate::{
    common::{Case, Seen, see, send_many, written},
    sim::{PATH, world::World},
};

/// Six records of this size fill a segment of the smallest size.
pub const LEN: usize = 1_000;
pub const PER_SEGMENT: u64 = 6;
pub const SEGMENT: u64 = MIN_SEGMENT_BYTES;

/// A machine whose logs have these options.
pub fn world(case: Case, change: impl FnOnce(LogOptions) -> LogOptions) -> World {
    let mut world = case.world();
    world.options = change(world.options);
    world
}

/// Sends so many records; where they are, and what.
pub fn fill(log: &Log, writer: &str, count: u64) -> Vec<(u64, String)> {
    let numbers = 0..usize::try_from(count).unwrap();
    send_many(&written(log), writer, numbers, LEN)
}

/// Lets the threads of the log do what is due. (Each may be held up by the machine for a while.)
pub fn settle(world: &World) {
    world.machine.sleep(Duration::from_secs(2));
}

/// All that is there from the log start on, and nothing else.
pub fn assert_has_all_from(log: &Log, start: u64, sent: &[(u64, String)]) -> Seen {
    let seen = see(log);
    let expected: Vec<_> = sent
        .iter()
        .filter(|(at, _)| *at >= start)
        .cloned()
        .collect();
    assert_eq!(log.log_start_offset(), start);
    assert_eq!(seen.records, expected);
    seen
}

/// A group that has committed so far. (It is read from there, not from where it polled.)
pub fn group_at(log: &Log, name: &str, committed: u64) -> Consumer {
    let mut consumer = log.consumer(name).start(Start::Earliest).build().unwrap();
    if consumer.committed().get() < committed {
        consumer.commit_offset(committed.into()).unwrap();
    }
    consumer.seek_to_committed();
    consumer
}

/// The same log, as another process sees it.
pub fn beside(world: &World) -> ReadOnlyLog {
    let machine = Arc::new(world.machine.clone());
    duralog::testing::open_read_only(machine, PATH).unwrap()
}
