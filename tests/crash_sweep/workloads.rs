//! Short things that programs do with a log. Each is crashed at every call.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

#[cfg(feature = "lz4")]
use duralog::Compression;
use duralog::{
    Acks, FlushPolicy, Fsync, LogOptions, ReadMode, Record,
    testing::{Threads, sim::Random},
};

use crate::sim::{
    PATH,
    examine::NAMED,
    oracle::Oracle,
    world::{World, value},
};

#[path = "workloads/compaction.rs"]
mod compaction;
#[path = "workloads/retention.rs"]
mod retention;

/// A workload: its name, and what it does on a new machine.
pub type Workload = (&'static str, fn(&mut World, u64));

pub const ALL: &[Workload] = &[
    ("durable", durable),
    ("written", written),
    ("rolls", rolls),
    ("batches", batches),
    #[cfg(feature = "lz4")]
    ("compressed", compressed),
    ("counted", counted),
    ("timed", timed),
    ("shared", shared),
    ("handed", handed),
    ("awaited", awaited),
    ("lingered", lingered),
    ("synced-beside", synced_beside),
    ("closed-beside", closed_beside),
    ("consumed", consumed),
    ("committed", committed),
    ("reopened", reopened),
    ("aged", aged),
    ("followed", followed),
    ("named", named),
    ("compacted-beside", compaction::beside),
    ("compacted", compaction::compacted),
    ("tombstones", compaction::tombstones),
    ("deleted-beside", compaction::deleted_beside),
    ("retained", retention::retained),
    ("expired", retention::expired),
    ("full", retention::full),
    ("random", random),
];

fn values(writer: &str, range: std::ops::Range<usize>, len: usize) -> Vec<String> {
    range.map(|number| value(writer, number, len)).collect()
}

/// One after the other, each waited for; with pauses, so that what is settled in the background is
/// settled beside the next ones.
fn durable(world: &mut World, _: u64) {
    let log = world.open();
    let producer = log.producer().build().unwrap();
    for (number, value) in values("durable", 0..12, 60).into_iter().enumerate() {
        world.send(&producer, Acks::Durable, &[value]);
        if number % 3 == 2 {
            world.machine.sleep(Duration::from_millis(600));
        }
    }
    drop(producer);
    world.close(log);
}

/// Nothing is waited for, and one sync comes in between.
fn written(world: &mut World, _: u64) {
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
fn rolls(world: &mut World, _: u64) {
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
fn batches(world: &mut World, _: u64) {
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

/// Compressed batches, and others between them.
#[cfg(feature = "lz4")]
fn compressed(world: &mut World, _: u64) {
    let log = world.open();
    let builder = log.producer().compression(Compression::Lz4);
    let producer = builder.build().unwrap();
    let plain = log.producer().build().unwrap();
    for batch in 0..5 {
        let values = values(&format!("packed{batch}"), 0..12, 400);
        let acks = [Acks::Durable, Acks::Written][batch % 2];
        world.send(&producer, acks, &values);
        world.send(
            &plain,
            Acks::Written,
            &self::values(&format!("plain{batch}"), 0..1, 60),
        );
    }
    drop((producer, plain));
    world.close(log);
}

/// The flush policy counts records.
fn counted(world: &mut World, _: u64) {
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
fn timed(world: &mut World, _: u64) {
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
fn shared(world: &mut World, _: u64) {
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

/// A named producer, which is opened again now and then; others send too. Several snapshots of what
/// is known of it are made, also while something is sent.
fn named(world: &mut World, seed: u64) {
    let often = FlushPolicy::every(Duration::from_millis(5));
    world.options = world.options.clone().flush(often);
    let mut random = Random::new(seed);
    let mut sent = values(NAMED, 0..27, 700).into_iter().peekable();
    let mut others = (0..).step_by(2);
    while sent.peek().is_some() {
        let log = world.open();
        let other = log.producer().acks(Acks::Written).build().unwrap();
        for _ in 0..2 {
            let builder = log.producer().name(NAMED).acks(Acks::Written);
            let producer = builder.build().unwrap();
            for value in sent.by_ref().take(9) {
                world.send(&producer, Acks::Written, &[value]);
                if random.chance(64) {
                    world.machine.sleep(Duration::from_millis(10));
                }
            }
            let pair = others.next().unwrap();
            world.send(&other, Acks::Written, &values("other", pair..pair + 2, 50));
        }
        drop(other);
        world.close(log);
    }
}

/// Each record is sent once the one before was read, while the reader begins to wait again: a
/// wake-up that is lost leaves it waiting.
fn handed(world: &mut World, _: u64) {
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

/// Receipts are awaited: the background thread syncs for them, and wakes who waits.
fn awaited(world: &mut World, _: u64) {
    let log = world.open();
    let tasks: Vec<_> = (0..3)
        .map(|task| {
            let producer = log.producer().build().unwrap();
            world.spawn("task", move |world| {
                for value in values(&format!("awaited{task}"), 0..6, 70) {
                    let began = world.now();
                    assert!(world.send_and_await(&producer, value));
                    let waited = world.now().saturating_sub(began);
                    assert!(waited < Duration::from_secs(60), "a task was not woken");
                }
            })
        })
        .collect();
    for task in tasks {
        task.join();
    }
    world.close(log);
}

/// Two threads fill the batches of one producer, each at a level of its own; the callback notes
/// what is promised. What lingers at the end is handed over by closing the log.
fn lingered(world: &mut World, seed: u64) {
    let log = world.open();
    let sends = Arc::new(Mutex::new(BTreeMap::new()));
    let (noting, noted) = (world.clone(), Arc::clone(&sends));
    let acks_of = |value: &str| {
        let is_first = value.starts_with("lingered0");
        if is_first {
            Acks::Durable
        } else {
            Acks::Written
        }
    };
    let builder = log.producer().linger(Duration::from_millis(2));
    let builder = builder.batch_bytes(400).on_completion(move |delivery| {
        let value = String::from_utf8_lossy(delivery.record().value().unwrap()).into_owned();
        // Of a batch only the first one is there, and stands for all.
        let found: Option<usize> = noted.lock().unwrap().get(&value).copied();
        let Some(number) = found else { return };
        let first = delivery.result().unwrap().get();
        noting.oracle(|oracle| oracle.written(number, first));
        if acks_of(&value) == Acks::Durable {
            noting.oracle(|oracle| oracle.durable(number));
        }
    });
    let producer = builder.build().unwrap();
    let threads: Vec<_> = (0..2)
        .map(|thread| {
            let (producer, sends) = (producer.clone(), Arc::clone(&sends));
            world.spawn("writer", move |world| {
                for (number, value) in values(&format!("lingered{thread}"), 0..10, 90)
                    .into_iter()
                    .enumerate()
                {
                    let begin = |values: Vec<String>| {
                        let first = values[0].clone();
                        let number = world.oracle(|oracle| oracle.begin(values));
                        sends.lock().unwrap().insert(first, number);
                    };
                    if number % 4 == 3 && thread == 0 {
                        let batch = [value.clone(), format!("b{value}"), format!("c{value}")];
                        begin(batch.to_vec());
                        let records = batch.each_ref().map(|value| Record::new(value.as_str()));
                        drop(producer.send_batch(&records).unwrap());
                    } else {
                        begin(vec![value.clone()]);
                        let record = Record::new(value.as_str());
                        drop(producer.send_with(record, acks_of(&value)).unwrap());
                    }
                    if number % 3 == 2 {
                        world.machine.sleep(Duration::from_millis(1 + seed % 3));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    world.look(&log);
    world.close(log);
    drop(producer);
}

/// One thread syncs while another one writes, and segments roll meanwhile.
fn synced_beside(world: &mut World, _: u64) {
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let writer = world.spawn("writer", move |world| {
        for value in values("beside", 0..26, 700) {
            world.send(&producer, Acks::Written, &[value]);
        }
    });
    for _ in 0..8 {
        world.sync(&log);
        world.machine.sleep(Duration::from_micros(20));
    }
    writer.join();
    world.close(log);
}

/// The log is closed while another thread writes: what was taken is there, the rest is refused.
fn closed_beside(world: &mut World, seed: u64) {
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    let writer = world.spawn("writer", move |world| {
        for value in values("closed", 0..60, 50) {
            if world.send(&producer, Acks::Written, &[value]).is_none() {
                return;
            }
        }
    });
    world
        .machine
        .sleep(Duration::from_micros(40 + seed % 5 * 30));
    let closed = world.close(log);
    writer.join();
    // The writer began one more send by then, which was refused.
    if closed {
        world.oracle(Oracle::closed);
    }
}

/// Two groups consume what is written meanwhile, and commit.
fn consumed(world: &mut World, _: u64) {
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

/// Groups commit durably at the same time, and write some commits in between; then one is alone.
fn committed(world: &mut World, _: u64) {
    let log = world.open();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for value in values("committed", 0..6, 90) {
        world.send(&producer, Acks::Written, &[value]);
    }
    let threads: Vec<_> = ["billing", "audit", "mail"]
        .into_iter()
        .map(|group| {
            let mut consumer = world.consumer(&log, group);
            world.spawn("committer", move |world| {
                for offset in 1..=3 {
                    assert!(world.commit_durably(&mut consumer, offset));
                }
                world.poll_and_commit(&mut consumer, Duration::ZERO);
            })
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    let mut alone = world.consumer(&log, "alone");
    assert!(world.commit_durably(&mut alone, 2));
    for offset in 3..=6 {
        world.commit_written(&mut alone, offset);
    }
    drop((alone, producer));
    world.close(log);
}

/// Closed and opened again, each time with more appended.
fn reopened(world: &mut World, _: u64) {
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
fn aged(world: &mut World, _: u64) {
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

/// Another process reads while the log is written, and sees each record once.
fn followed(world: &mut World, _: u64) {
    const RECORDS: usize = 24;
    world.options = world.options.clone().flush(FlushPolicy::every_messages(7));
    let log = world.open();
    let follower = world.spawn("follower", |world| {
        let machine = Arc::new(world.machine.clone());
        let log = duralog::testing::open_read_only(machine, PATH).unwrap();
        let mut reader = log.reader().build().unwrap();
        let mut next = 0;
        while next < RECORDS as u64 {
            let batch = reader.poll(Duration::from_secs(1)).unwrap();
            assert_eq!(batch.gaps(), [], "behind {next}");
            for record in &batch {
                assert_eq!(record.offset().unwrap(), next);
                next += 1;
            }
        }
        log.verify().unwrap();
    });
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for (number, value) in values("followed", 0..RECORDS, 800).into_iter().enumerate() {
        world.send(&producer, Acks::Written, &[value]);
        if number % 10 == 9 {
            world.machine.sleep(Duration::from_millis(5));
        }
    }
    follower.join();
    drop(producer);
    world.close(log);
}

/// Whatever the seed says.
fn random(world: &mut World, seed: u64) {
    let mut random = Random::new(seed);
    let mut sent = 0;
    for _ in 0..=random.below(3) {
        world.options = random_options(&mut random, world.options.clone());
        let log = world.open();
        let producer = log.producer().build().unwrap();
        let mut consumer = random.chance(128).then(|| world.consumer(&log, "billing"));
        for _ in 0..random.below(12) {
            match random.below(10) {
                0 => drop(world.sync(&log)),
                1 => world.machine.sleep(random_pause(&mut random)),
                2 => {
                    let sign = random.pick(&[-1, 1]).unwrap_or(1);
                    world.machine.jump_wall_clock(sign * 40_000_000);
                }
                3 => {
                    if let Some(consumer) = &mut consumer {
                        world.poll_and_commit(consumer, Duration::ZERO);
                    }
                }
                _ => {
                    let count = random.pick(&[1, 1, 1, 2, 9]).unwrap_or(1);
                    let len = random.pick(&[20, 90, 488, 700, 1_900]).unwrap_or(90) / count;
                    let acks = random.pick(&[Acks::Written, Acks::None, Acks::Durable]);
                    let values = values("random", sent..sent + count, len.max(16));
                    world.send(&producer, acks.unwrap_or_default(), &values);
                    sent += count;
                }
            }
            world.look(&log);
        }
        drop((consumer, producer));
        world.close(log);
    }
}

fn random_options(random: &mut Random, options: LogOptions) -> LogOptions {
    let policies = [
        FlushPolicy::never(),
        FlushPolicy::every_append(),
        FlushPolicy::every_messages(3),
        FlushPolicy::every(Duration::from_millis(10)),
    ];
    let policy = random.pick(&policies).unwrap_or_default();
    let reading = random.pick(&[ReadMode::Mapped, ReadMode::Copied]);
    let fsync = random.pick(&[Fsync::Data, Fsync::Full]);
    options
        .flush(policy)
        .read_mode(reading.unwrap_or_default())
        .fsync(fsync.unwrap_or_default())
}

fn random_pause(random: &mut Random) -> Duration {
    let pauses = [
        Duration::from_millis(1),
        Duration::from_millis(60),
        Duration::from_secs(3),
    ];
    random.pick(&pauses).unwrap_or_default()
}
