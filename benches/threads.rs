//! Several threads at once, each beside a floor that does in the same way what cannot be left out.
//! One JSON object a line; the two take turns, so that both see the same machine.
//!
//! ```sh
//! cargo bench --bench threads -- --dir /some/disk --seconds 2
//! ```
//!
//! `durable 100 B`: each thread waits until its record is on the device. The floor groups its syncs
//! in the same way ([`GroupedFile`]).
//!
//! `written 100 B`: records with [`Acks::Written`], for half a second, into a new log. The floor
//! copies and checksums under one lock, into memory prepared in the background ([`Fresh`]). Then
//! each append is timed for another third of a second, which slows it down by two readings of the
//! clock.

use std::{
    env,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use duralog::{Acks, Log, RecordRef};
use parking_lot::Mutex;

#[path = "harness/arguments.rs"]
mod arguments;
#[path = "harness/background.rs"]
mod background;
#[path = "floor/frame.rs"]
mod frame;
#[path = "floor/fresh.rs"]
mod fresh;
#[path = "floor/grouped.rs"]
mod grouped;
#[path = "harness/histogram.rs"]
mod histogram;
#[path = "harness/scratch.rs"]
mod scratch;

use arguments::{Anyhow, argument};
use background::Background;
use frame::Frame;
use fresh::{Fresh, ROOM_MAX};
use grouped::GroupedFile;
use histogram::Histogram;
use scratch::in_scratch;

const DURABLE_THREADS: [usize; 4] = [1, 2, 4, 16];
const WRITTEN_THREADS: [usize; 4] = [1, 2, 4, 8];
const ROUNDS: usize = 3;
const VALUE: [u8; 100] = [b'x'; 100];
/// Short enough that the disk need not keep up: the first sync by itself comes after a second.
const WRITTEN_TIME: Duration = Duration::from_millis(500);
const WRITTEN_TIMED: Duration = Duration::from_millis(300);

/// What some threads did in some time.
struct Measured {
    per_second: f64,
    /// How long each append took.
    times: Histogram,
}

fn main() -> Anyhow<()> {
    let dir: PathBuf = argument("--dir")?.unwrap_or_else(env::temp_dir);
    let seconds = argument("--seconds")?.unwrap_or(1);
    in_scratch(&dir, |dir| durable(dir, Duration::from_secs(seconds)))?;
    for threads in WRITTEN_THREADS {
        for _ in 0..ROUNDS {
            in_scratch(&dir, |dir| {
                written_floor(dir, threads);
                Ok(())
            })?;
            in_scratch(&dir, |dir| written(dir, threads))?;
        }
    }
    Ok(())
}

fn durable(dir: &Path, time: Duration) -> Anyhow<()> {
    let log = Log::open(dir.join("log"))?;
    let file = GroupedFile::create(&dir.join("floor"));
    for threads in DURABLE_THREADS {
        for _ in 0..ROUNDS {
            let before = file.syncs();
            let floor = measure(threads, time, || file.append(&VALUE));
            report_durable("floor", threads, &floor, file.syncs() - before);

            let before = log.stats().syncs;
            let producer = log.producer().build()?;
            let append = || {
                let receipt = producer.send(RecordRef::new(&VALUE)).expect("send");
                receipt.wait().expect("sync");
            };
            let ours = measure(threads, time, append);
            report_durable("duralog", threads, &ours, log.stats().syncs - before);
        }
    }
    log.close()?;
    Ok(())
}

fn written(dir: &Path, threads: usize) -> Anyhow<()> {
    let log = Log::open(dir.join("log"))?;
    let producer = log.producer().acks(Acks::Written).build()?;
    let measured = measure_written(threads, || {
        drop(producer.send(RecordRef::new(&VALUE)).expect("send"));
    });
    report_written("duralog", threads, &measured, &log.stats().into());
    log.close()?;
    Ok(())
}

fn written_floor(dir: &Path, threads: usize) {
    let frame = Frame {
        value: &VALUE,
        values: 1,
    };
    let fresh = Mutex::new(Fresh::create(dir, ROOM_MAX));
    let measured = measure_written(threads, || fresh.lock().append(frame));
    let background = fresh.into_inner().close();
    report_written("floor", threads, &measured, &background);
}

/// The rate without a clock in the way, then the times.
fn measure_written(threads: usize, append: impl Fn() + Sync) -> Measured {
    let (counts, elapsed) = run(threads, WRITTEN_TIME, |stop| {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            append();
            count += 1;
        }
        count
    });
    let timed = measure(threads, WRITTEN_TIMED, append);
    Measured {
        per_second: per_second(counts.iter().sum(), elapsed),
        times: timed.times,
    }
}

/// Calls `append` from so many threads until the time is over, and times each call.
fn measure(threads: usize, time: Duration, append: impl Fn() + Sync) -> Measured {
    let (histograms, elapsed) = run(threads, time, |stop| {
        let mut times = Histogram::new();
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            append();
            times.record(began.elapsed());
        }
        times
    });
    let mut times = Histogram::new();
    for histogram in &histograms {
        times.merge(histogram);
    }
    Measured {
        per_second: per_second(times.count(), elapsed),
        times,
    }
}

/// Runs `work` on so many threads and tells it to stop after the time; returns what each has done,
/// and how long it took in fact.
fn run<T: Send>(
    threads: usize,
    time: Duration,
    work: impl Fn(&AtomicBool) -> T + Sync,
) -> (Vec<T>, Duration) {
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let done = thread::scope(|scope| {
        let work = || work(&stop);
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let ended = running.into_iter();
        ended
            .map(|thread| thread.join().expect("a thread panicked"))
            .collect()
    });
    (done, began.elapsed())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of appends are far below 2^52"
)]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of appends and of microseconds are far below 2^52"
)]
fn report_durable(who: &str, threads: usize, measured: &Measured, syncs: u64) {
    let Measured { per_second, times } = measured;
    let micros = |per_myriad| times.at(per_myriad) as f64 / 1e3;
    println!(
        r#"{{"bench":"durable 100 B","who":"{who}","threads":{threads},"per_second":{per_second:.0},"per_sync":{:.1},"p50_micros":{:.0},"p99_micros":{:.0},"p999_micros":{:.0}}}"#,
        times.count() as f64 / syncs as f64,
        micros(5_000),
        micros(9_900),
        micros(9_990),
    );
}

fn report_written(who: &str, threads: usize, measured: &Measured, background: &Background) {
    let Measured { per_second, times } = measured;
    println!(
        r#"{{"bench":"written 100 B","who":"{who}","threads":{threads},"per_second":{per_second:.0},"nanos":{:.1},{times},{background}}}"#,
        1e9 / per_second,
    );
}
