//! What consuming costs. One JSON object a line.
//!
//! ```sh
//! cargo bench --bench consumers -- --dir /some/disk
//! ```
//!
//! `poll and commit`: records of 100 bytes that are there already, polled and committed (`Written`)
//! in batches of 1, 100 and 10,000; the floor is a consumer that is never asked to commit.
//!
//! `commit`: one commit after the other, `Written` and `Durable`; beside it the system calls of a
//! commit that is not stored into mapped memory: a `pwrite` of as many bytes into a file of the same
//! size, and for `Durable` an `fdatasync`, without which there is none.
//!
//! `groups`: 1,000 groups on one log: built, committed in turn, committed durably in turn, by 16
//! threads at once, and asynchronously with one wait for all; described; dropped.
//!
//! `seen`: records of 100 bytes are sent at 100,000 a second and timed until the consumer, in another
//! thread, sees them; the floor is an unbounded channel of crossbeam.

use std::{
    env,
    fs::{self, File, OpenOptions},
    hint::black_box,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use duralog::{Acks, CommitOptions, Consumer, Durability, Log, RecordRef};

#[path = "harness/arguments.rs"]
mod arguments;
#[path = "harness/histogram.rs"]
mod histogram;
#[path = "harness/scratch.rs"]
mod scratch;

use arguments::{Anyhow, argument};
use histogram::Histogram;
use scratch::in_scratch;

const ROUNDS: usize = 3;
const VALUE: [u8; 100] = [b'x'; 100];
const BATCHES: [usize; 3] = [1, 100, 10_000];
const GROUPS: usize = 1_000;
const THREADS: usize = 16;
/// Bytes of a group's slot that are in use.
const SLOT_IN_USE: usize = 108;
const SEEN_RATE: u32 = 100_000;

fn main() -> Anyhow<()> {
    let dir: PathBuf = argument("--dir")?.unwrap_or_else(env::temp_dir);
    for _ in 0..ROUNDS {
        in_scratch(&dir, poll_and_commit)?;
        in_scratch(&dir, commit)?;
    }
    in_scratch(&dir, groups)?;
    let (mut ours, mut floor) = (Histogram::new(), Histogram::new());
    for _ in 0..ROUNDS {
        in_scratch(&dir, |dir| {
            floor.merge(&seen_through_a_channel());
            ours.merge(&seen(dir)?);
            Ok(())
        })?;
    }
    println!(r#"{{"case":"seen","rate":{SEEN_RATE},{ours},"floor":{{{floor}}}}}"#);
    Ok(())
}

fn poll_and_commit(dir: &Path) -> Anyhow<()> {
    const RECORDS: u64 = 1_000_000;
    let log = Log::open(dir.join("log"))?;
    let producer = log.producer().acks(Acks::Written).build()?;
    for _ in 0..RECORDS {
        drop(producer.send(RecordRef::new(&VALUE))?);
    }
    log.sync()?;
    for batch in BATCHES {
        let records = if batch == 1 { RECORDS / 5 } else { RECORDS };
        let consumer = |group: &str| {
            let builder = log.consumer(group).max_poll_records(batch);
            builder.max_poll_bytes(16 << 20).build()
        };
        let polled = read(&mut consumer("polled")?, records, |_| Ok(()))?;
        let committed = read(&mut consumer("committed")?, records, Consumer::commit)?;
        println!(
            r#"{{"case":"poll and commit","batch":{batch},"polled_nanos_a_record":{polled:.1},"committed_nanos_a_record":{committed:.1},"committed_records_a_second":{:.0}}}"#,
            1e9 / committed
        );
        log.delete_group("polled")?;
        log.delete_group("committed")?;
    }
    log.close()?;
    Ok(())
}

/// Nanoseconds a record.
fn read(
    consumer: &mut Consumer,
    records: u64,
    mut then: impl FnMut(&mut Consumer) -> duralog::Result<()>,
) -> Anyhow<f64> {
    let began = Instant::now();
    let mut left = records;
    while left > 0 {
        let mut count = 0;
        for record in &consumer.poll(Duration::ZERO)? {
            black_box(record.value());
            count += 1;
        }
        left = left.saturating_sub(count);
        then(consumer)?;
    }
    Ok(each(began, records) * 1e9)
}

/// Seconds for each of so many, since then.
#[expect(
    clippy::cast_precision_loss,
    reason = "there are fewer than 2^52 of anything"
)]
fn each(began: Instant, operations: u64) -> f64 {
    began.elapsed().as_secs_f64() / operations as f64
}

fn commit(dir: &Path) -> Anyhow<()> {
    let log = Log::open(dir.join("log"))?;
    let producer = log.producer().build()?;
    for _ in 0..10 {
        drop(producer.send(RecordRef::new(&VALUE))?);
    }
    log.sync()?;
    let mut billing = log.consumer("billing").build()?;
    let floor = floor_file(dir)?;
    for (durability, count) in [(Durability::Written, 200_000), (Durability::Durable, 2_000)] {
        let options = CommitOptions::new().durability(durability);
        let ours = time(count, || billing.commit_offset_with(10.into(), &options))?;
        let least = time(count, || {
            floor.write_all_at(&[1; SLOT_IN_USE], 0)?;
            match durability {
                Durability::Written => Ok(()),
                Durability::Durable => floor.sync_data(),
            }
        })?;
        println!(r#"{{"case":"commit","durability":"{durability:?}",{ours},"floor":{{{least}}}}}"#);
    }
    drop(billing);
    log.close()?;
    Ok(())
}

fn floor_file(dir: &Path) -> Anyhow<File> {
    let path = dir.join("floor");
    fs::write(&path, [0; 8192])?;
    let file = OpenOptions::new().write(true).open(path)?;
    file.sync_all()?;
    Ok(file)
}

fn time<E>(count: usize, mut body: impl FnMut() -> Result<(), E>) -> Result<Histogram, E> {
    let mut times = Histogram::new();
    for _ in 0..count {
        let began = Instant::now();
        body()?;
        times.record(began.elapsed());
    }
    Ok(times)
}

fn groups(dir: &Path) -> Anyhow<()> {
    let log = Log::open(dir.join("log"))?;
    let producer = log.producer().build()?;
    for _ in 0..100 {
        drop(producer.send(RecordRef::new(&VALUE))?);
    }
    log.sync()?;
    let tell = |what: &str, began: Instant, operations: usize| {
        let each = each(began, operations as u64) * 1e6;
        println!(
            r#"{{"case":"groups","groups":{GROUPS},"what":"{what}","micros_each":{each:.2}}}"#
        );
    };
    let began = Instant::now();
    let build = |number| log.consumer(format!("group-{number}")).build();
    let mut consumers = (0..GROUPS)
        .map(build)
        .collect::<duralog::Result<Vec<_>>>()?;
    tell("build (new)", began, GROUPS);

    let began = Instant::now();
    for offset in 1..=20u64 {
        for consumer in &mut consumers {
            consumer.commit_offset(offset.into())?;
        }
    }
    tell("commit written", began, 20 * GROUPS);

    let durable = CommitOptions::new().durability(Durability::Durable);
    let began = Instant::now();
    for consumer in &mut consumers {
        consumer.commit_offset_with(30.into(), &durable)?;
    }
    tell("commit durable, one thread", began, GROUPS);

    let began = Instant::now();
    thread::scope(|scope| {
        for part in consumers.chunks_mut(GROUPS.div_ceil(THREADS)) {
            let durable = &durable;
            scope.spawn(move || {
                for consumer in part {
                    consumer
                        .commit_offset_with(40.into(), durable)
                        .expect("commit");
                }
            });
        }
    });
    tell("commit durable, 16 threads", began, GROUPS);

    let began = Instant::now();
    let receipts = consumers
        .iter_mut()
        .map(|consumer| consumer.commit_offset_async(50.into(), &durable))
        .collect::<duralog::Result<Vec<_>>>()?;
    for receipt in receipts {
        receipt.wait()?;
    }
    tell("commit durable, waited for together", began, GROUPS);

    let began = Instant::now();
    assert_eq!(log.groups()?.len(), GROUPS);
    tell("describe", began, GROUPS);

    let began = Instant::now();
    drop(consumers);
    tell("drop", began, GROUPS);
    log.close()?;
    Ok(())
}

/// What is sent: when, in nanoseconds since the start.
fn stamped(start: Instant) -> [u8; 100] {
    let mut value = VALUE;
    let nanos = u64::try_from(start.elapsed().as_nanos()).expect("soon");
    value[..8].copy_from_slice(&nanos.to_le_bytes());
    value
}

fn age(value: &[u8], start: Instant) -> Duration {
    let sent = value
        .first_chunk::<8>()
        .copied()
        .map_or(0, u64::from_le_bytes);
    start.elapsed().saturating_sub(Duration::from_nanos(sent))
}

/// Calls `send` at an even rate for a second.
fn at_rate(start: Instant, mut send: impl FnMut()) {
    let gap = Duration::from_secs(1) / SEEN_RATE;
    for number in 1..=SEEN_RATE {
        while start.elapsed() < gap * number {
            std::hint::spin_loop();
        }
        send();
    }
}

fn seen_through_a_channel() -> Histogram {
    let start = Instant::now();
    let (sender, receiver) = crossbeam_channel::unbounded::<[u8; 100]>();
    let counter = thread::spawn(move || {
        let mut times = Histogram::new();
        while let Ok(value) = receiver.recv() {
            times.record(age(&value, start));
        }
        times
    });
    at_rate(start, || sender.send(stamped(start)).expect("send"));
    drop(sender);
    counter.join().expect("no panic")
}

fn seen(dir: &Path) -> Anyhow<Histogram> {
    let log = Log::open(dir.join("log"))?;
    let producer = log.producer().acks(Acks::Written).build()?;
    let mut consumer = log.consumer("billing").build()?;
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let start = Instant::now();
    let counter = thread::spawn(move || {
        let mut times = Histogram::new();
        loop {
            let last = is_done.load(Ordering::Acquire);
            let batch = consumer.poll(Duration::from_millis(100)).expect("poll");
            if batch.is_empty() && last {
                return times;
            }
            for record in &batch {
                times.record(age(record.value().unwrap_or_default(), start));
            }
            consumer.commit().expect("commit");
        }
    });
    at_rate(start, || {
        drop(
            producer
                .send(RecordRef::new(&stamped(start)))
                .expect("send"),
        );
    });
    done.store(true, Ordering::Release);
    let ours = counter.join().expect("no panic");
    assert_eq!(ours.count(), u64::from(SEEN_RATE));
    log.close()?;
    Ok(ours)
}
