//! What appends notice when segments are deleted beside them. One JSON object a line.
//!
//! ```sh
//! cargo bench --bench retention -- --dir /some/disk --segments 1000 --segment-kib 256 --rounds 5
//! ```
//!
//! Appends of 100 bytes at a pace, to a log of `--segments` segments: in turn nothing is deleted
//! meanwhile, and all those segments are. `deleted_in_nanos` is how long that took, `over_1_ms` how
//! many appends took longer than a millisecond.

use std::{
    env, fmt,
    hint::black_box,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use duralog::{Acks, Log, Producer, RecordRef, Retention};

#[path = "harness/arguments.rs"]
mod arguments;
#[path = "harness/histogram.rs"]
mod histogram;
#[path = "harness/scratch.rs"]
mod scratch;

use arguments::{Anyhow, argument};
use histogram::Histogram;
use scratch::in_scratch;

const VALUE: [u8; 100] = [b'x'; 100];
/// Appends a second.
const PACE: u64 = 100_000;
/// An append that takes longer is stalled.
const STALL: Duration = Duration::from_millis(1);
/// How long appends go on in a round.
const ROUND: Duration = Duration::from_secs(2);
/// When in a round segments are deleted.
const DELETE_AT: Duration = Duration::from_millis(500);

/// How long appends took.
#[derive(Debug)]
struct Times {
    all: Histogram,
    /// How many of them were stalled.
    stalls: u64,
}

impl Times {
    fn new() -> Self {
        Self {
            all: Histogram::new(),
            stalls: 0,
        }
    }

    fn record(&mut self, time: Duration) {
        self.all.record(time);
        self.stalls += u64::from(time > STALL);
    }

    fn merge(&mut self, other: &Self) {
        self.all.merge(&other.all);
        self.stalls += other.stalls;
    }
}

impl fmt::Display for Times {
    /// Members of a JSON object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#""over_1_ms":{},{}"#, self.stalls, self.all)
    }
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    segments: u64,
    segment_bytes: u64,
}

fn main() -> Anyhow<()> {
    let dir: PathBuf = argument("--dir")?.unwrap_or_else(env::temp_dir);
    let sizes = Sizes {
        segments: argument("--segments")?.unwrap_or(1_000),
        segment_bytes: argument("--segment-kib")?.unwrap_or(256) << 10,
    };
    let rounds = argument("--rounds")?.unwrap_or(5);
    let mut times = [false, true].map(|deletes| (deletes, Times::new()));
    for _ in 0..rounds {
        for (deletes, times) in &mut times {
            times.merge(&round(&dir, sizes, *deletes)?);
        }
    }
    for (deletes, times) in &times {
        println!(r#"{{"bench":"append beside deletion, all rounds","deletes":{deletes},{times}}}"#);
    }
    Ok(())
}

fn round(dir: &Path, sizes: Sizes, deletes: bool) -> Anyhow<Times> {
    in_scratch(dir, |scratch| {
        let log = filled(&scratch.join("log"), sizes)?;
        let producer = log.producer().acks(Acks::Written).build()?;
        let (order, orders) = mpsc::channel();
        let (times, outcome) = thread::scope(|scope| {
            let log = &log;
            let worker = scope.spawn(move || {
                let Ok(()) = orders.recv() else {
                    return Ok(None);
                };
                let start = Instant::now();
                let limits = Retention::new().max_segments(1);
                let report = log.enforce_retention_of(limits)?;
                Ok::<_, duralog::Error>(Some((report.deleted.len(), start.elapsed())))
            });
            let times = append_paced(&producer, deletes.then_some(&order));
            drop(order);
            (times, worker.join().expect("no panic"))
        });
        let (segments, took) = outcome?.unwrap_or_default();
        println!(
            r#"{{"bench":"append beside deletion","deleted":{segments},"deleted_in_nanos":{},"pace":{PACE},{times}}}"#,
            took.as_nanos()
        );
        drop(producer);
        log.close()?;
        Ok(times)
    })
}

/// A log of so many full segments, all durable.
fn filled(path: &Path, sizes: Sizes) -> Anyhow<Log> {
    let log = Log::options()
        .segment_bytes(sizes.segment_bytes)
        .open(path)?;
    let producer = log.producer().acks(Acks::Written).build()?;
    while log.stats().segments <= sizes.segments {
        for _ in 0..100 {
            send(&producer);
        }
    }
    drop(producer);
    // Segments are sealed as well then.
    log.close()?;
    let options = Log::options();
    Ok(options.segment_bytes(sizes.segment_bytes).open(path)?)
}

fn append_paced(producer: &Producer, delete: Option<&mpsc::Sender<()>>) -> Times {
    let mut times = Times::new();
    let mut delete = delete;
    let start = Instant::now();
    let mut number = 0;
    loop {
        let due = Duration::from_nanos(number * 1_000_000_000 / PACE);
        if due >= ROUND {
            return times;
        }
        if due >= DELETE_AT
            && let Some(delete) = delete.take()
        {
            delete.send(()).expect("somebody waits for it");
        }
        let mut began = Instant::now();
        while began < start + due {
            began = Instant::now();
        }
        send(producer);
        times.record(began.elapsed());
        number += 1;
    }
}

fn send(producer: &Producer) {
    let receipt = producer.send(RecordRef::new(black_box(&VALUE)));
    black_box(receipt.expect("send").offset());
}
