//! Short things that programs do with a log. Each is crashed at every call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use duralog::{Acks, FlushPolicy, testing::Threads};

use crate::sim::world::{World, value};

/// A workload: its name, and what it does on a new machine.
pub type Workload = (&'static str, fn(&mut World));

pub const ALL: &[Workload] = &[
    ("durable", durable),
    ("written", written),
    ("rolls", rolls),
    ("batches", batches),
    ("counted", counted),
    ("timed", timed),
    ("shared", shared),
    ("handed", handed),
    ("consumed", consumed),
    ("reopened", reopened),
    ("aged", aged),
];

fn values(writer: &str, range: std::ops::Range<usize>, len: usize) -> Vec<String> {
    range.map(|number| value(writer, number, len)).collect()
}

/// One after the other, each waited for.
fn durable(world: &mut World) {
    let log = world.open();
    let producer = log.producer().build().unwrap();
    for value in values("durable", 0..8, 60) {
        world.send(&producer, Acks::Durable, &[value]);
    }
    drop(producer);
    world.close(log);
}

/// Nothing is waited for, and one sync comes in between.
fn written(world: &mut World) {
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for (number, value) in values("written", 0..24, 100).into_iter().enumerate() {
        world.send(&producer, Acks::Written, &[value]);
        if number == 8 {
            world.sync(&log);
        }
    }
    drop(producer);
    world.close(log);
}

/// Several segments fill before anything is synced.
fn rolls(world: &mut World) {
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let values = values("rolls", 0..40, 700);
    for value in &values[..30] {
        world.send(&producer, Acks::Written, std::slice::from_ref(value));
    }
    world.sync(&log);
    for value in &values[30..] {
        world.send(&producer, Acks::Written, std::slice::from_ref(value));
    }
    drop(producer);
    world.close(log);
}

/// Batches, which are there as a whole or not at all; the last one fills most of a segment.
fn batches(world: &mut World) {
    let log = world.open();
    let producer = log.producer().build().unwrap();
    for batch in 0..5 {
        let values = values(&format!("batch{batch}"), 0..6, 150);
        let acks = if batch % 2 == 0 {
            Acks::Durable
        } else {
            Acks::Written
        };
        world.send(&producer, acks, &values);
    }
    world.send(&producer, Acks::Written, &values("large", 0..12, 500));
    drop(producer);
    world.close(log);
}

/// The flush policy counts records.
fn counted(world: &mut World) {
    world.options = world.options.clone().flush(FlushPolicy::every_messages(4));
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for value in values("counted", 0..18, 90) {
        world.send(&producer, Acks::Written, &[value]);
        world.look(&log);
    }
    drop(producer);
    world.close(log);
}

/// The flush policy has an interval; the background threads flush, seal and note it.
fn timed(world: &mut World) {
    world.options = world
        .options
        .clone()
        .flush(FlushPolicy::every(Duration::from_millis(20)));
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for (number, value) in values("timed", 0..30, 600).into_iter().enumerate() {
        world.send(&producer, Acks::Written, &[value]);
        if number % 7 == 0 {
            world.machine.sleep(Duration::from_millis(30));
            world.look(&log);
        }
    }
    world.machine.sleep(Duration::from_secs(2));
    world.look(&log);
    drop(producer);
    world.close(log);
}

/// Threads that write at the same time share syncs, while one reads.
fn shared(world: &mut World) {
    let log = world.open();
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let producer = log.producer().build().unwrap();
            world.spawn("writer", move |world| {
                for value in values(&format!("shared{writer}"), 0..5, 80) {
                    world.send(&producer, Acks::Durable, &[value]);
                }
            })
        })
        .collect();
    let mut reader = log.reader().build().unwrap();
    let mut left = 15;
    let began = world.now();
    while left > 0 {
        left -= reader.poll(Duration::from_secs(600)).unwrap().len();
        world.look(&log);
    }
    let waited = world.now().saturating_sub(began);
    assert!(waited < Duration::from_secs(60), "a reader was not woken");
    for writer in writers {
        writer.join();
    }
    drop(reader);
    world.close(log);
}

/// Each record is sent once the one before was read, while the reader begins to wait again: a
/// wake-up that is lost leaves it waiting.
fn handed(world: &mut World) {
    const ROUNDS: usize = 40;
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let parker = world.machine.parker();
    let (seen, answer) = (Arc::new(AtomicUsize::new(0)), parker.waker());
    let (count, readable) = (Arc::clone(&seen), log.clone());
    let reader = world.spawn("reader", move |_| {
        let mut reader = readable.reader().build().unwrap();
        while count.load(Ordering::SeqCst) < ROUNDS {
            let read = reader.poll(Duration::from_secs(600)).unwrap().len();
            count.fetch_add(read, Ordering::SeqCst);
            answer.wake_by_ref();
        }
    });
    for (number, value) in values("handed", 0..ROUNDS, 40).into_iter().enumerate() {
        let began = world.now();
        world.send(&producer, Acks::Written, &[value]);
        while seen.load(Ordering::SeqCst) <= number {
            parker.park(None);
        }
        let waited = world.now().saturating_sub(began);
        assert!(waited < Duration::from_secs(60), "a reader was not woken");
    }
    reader.join();
    drop(producer);
    world.close(log);
}

/// Two groups consume what is written meanwhile, and commit.
fn consumed(world: &mut World) {
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let mut billing = world.consumer(&log, "billing");
    for (number, value) in values("consumed", 0..10, 120).into_iter().enumerate() {
        world.send(&producer, Acks::Written, &[value]);
        if number % 3 == 2 {
            world.poll_and_commit(&mut billing, Duration::ZERO);
        }
    }
    let mut audit = world.consumer(&log, "audit");
    world.poll_and_commit(&mut audit, Duration::ZERO);
    world.sync(&log);
    world.poll_and_commit(&mut billing, Duration::ZERO);
    drop((billing, audit, producer));
    world.close(log);
}

/// Closed and opened again, each time with more appended.
fn reopened(world: &mut World) {
    for round in 0..3 {
        let log = world.open();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        for value in values(&format!("round{round}"), 0..4, 1500) {
            world.send(&producer, Acks::Written, &[value]);
        }
        drop(producer);
        if round == 1 {
            world.sync(&log);
        }
        world.close(log);
    }
}

/// Segments roll by age.
fn aged(world: &mut World) {
    world.options = world
        .options
        .clone()
        .segment_age(Duration::from_secs(60))
        .flush(FlushPolicy::every(Duration::from_secs(1)));
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for value in values("aged", 0..4, 200) {
        world.send(&producer, Acks::Written, &[value]);
        world.machine.sleep(Duration::from_secs(45));
        world.look(&log);
    }
    drop(producer);
    world.close(log);
}
