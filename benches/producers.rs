//! Small records from several threads, gathered in batches by a buffered producer, beside the
//! direct path with the same threads. One JSON object a line; the two take turns, so that both see
//! the same machine.
//!
//! ```sh
//! cargo bench --bench producers -- --dir /some/disk --mib 128
//! ```
//!
//! `nanos` is the time for a record until all are written; `send_nanos` is what a thread waits in
//! a send, at the median and at the 99th percentile of runs of 64 sends.

use std::{
    env,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use duralog::{Acks, FlushPolicy, Log, Producer, RecordRef};

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

const THREADS: [usize; 3] = [1, 2, 8];
const ROUNDS: usize = 3;
const VALUE: [u8; 100] = [b'x'; 100];
const LINGER: Duration = Duration::from_millis(5);
/// Sends that are timed together: a clock costs as much as a send.
const RUN: usize = 64;

/// How the producer is built.
type Way = (&'static str, fn(&Log) -> duralog::Result<Producer>);

const WAYS: [Way; 3] = [
    ("direct", |log| log.producer().acks(Acks::Written).build()),
    ("linger 5 ms", |log| {
        log.producer().acks(Acks::Written).linger(LINGER).build()
    }),
    ("linger 5 ms, 1 MiB buffer", |log| {
        let builder = log.producer().acks(Acks::Written).linger(LINGER);
        builder.buffer_bytes(1 << 20).build()
    }),
];

fn main() -> Anyhow<()> {
    let mut dir = env::temp_dir();
    let mut mib = 64;
    let mut given = env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or("an argument needs a value");
        match argument.as_str() {
            "--dir" => dir = PathBuf::from(value()?),
            "--mib" => mib = value()?.parse()?,
            // What cargo passes to all benchmarks.
            _ => {}
        }
    }
    let records = (mib << 20) / VALUE.len();
    for threads in THREADS {
        for _ in 0..ROUNDS {
            for way in WAYS {
                measure(&dir, way, threads, records / threads)?;
            }
        }
    }
    Ok(())
}

/// Sends so many records from each thread into a new log.
#[expect(clippy::cast_precision_loss, reason = "numbers far below 2^52")]
fn measure(dir: &Path, (name, build): Way, threads: usize, each: usize) -> Anyhow<()> {
    let scratch = tempfile::tempdir_in(dir)?;
    let options = Log::options().flush(FlushPolicy::never());
    let log = options.open(scratch.path())?;
    let producer = build(&log)?;
    let began = Instant::now();
    let mut nanos = thread::scope(|scope| {
        let run = || {
            let mut nanos = Vec::with_capacity(each / RUN);
            for _ in 0..each / RUN {
                let began = Instant::now();
                for _ in 0..RUN {
                    drop(producer.send(RecordRef::new(&VALUE)).expect("send"));
                }
                nanos.push(began.elapsed().as_secs_f64() * 1e9 / RUN as f64);
            }
            nanos
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let ended = running.into_iter();
        ended
            .flat_map(|thread| thread.join().expect("a thread panicked"))
            .collect::<Vec<f64>>()
    });
    producer.flush()?;
    let took = began.elapsed();
    let records = nanos.len() * RUN;
    assert_eq!(log.log_end_offset(), records as u64);
    nanos.sort_by(f64::total_cmp);
    let at = |per_cent: usize| nanos[(nanos.len() - 1) * per_cent / 100];
    let peak = producer
        .stats()
        .map_or(0, |stats| stats.buffered_bytes_peak);
    let per_record = took.as_secs_f64() * 1e9 / records as f64;
    println!(
        r#"{{"bench":"written 100 B","way":"{name}","threads":{threads},"nanos":{per_record:.0},"send_nanos_p50":{:.0},"send_nanos_p99":{:.0},"buffered_peak_kib":{}}}"#,
        at(50),
        at(99),
        peak >> 10,
    );
    drop(producer);
    log.close()?;
    Ok(())
}
