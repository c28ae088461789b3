//! Durable records from several threads at once, beside a floor that groups its syncs in the same
//! way. One JSON object a line; the two take turns, so that both see the same machine.
//!
//! ```sh
//! cargo bench --bench threads -- --dir /some/disk --seconds 2
//! ```

use std::{
    env,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use duralog::{Log, RecordRef};

#[path = "floor/grouped.rs"]
mod grouped;

use grouped::GroupedFile;

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

const THREADS: [usize; 4] = [1, 2, 4, 16];
const ROUNDS: usize = 3;
const VALUE: [u8; 100] = [b'x'; 100];

/// What some threads did in some time.
struct Measured {
    seconds: f64,
    /// How long each append took, in order.
    micros: Vec<f64>,
    syncs: u64,
}

fn main() -> Anyhow<()> {
    let mut dir = env::temp_dir();
    let mut time = Duration::from_secs(1);
    let mut given = env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or("an argument needs a value");
        match argument.as_str() {
            "--dir" => dir = PathBuf::from(value()?),
            "--seconds" => time = Duration::from_secs(value()?.parse()?),
            // What cargo passes to all benchmarks.
            _ => {}
        }
    }
    let scratch = tempfile::tempdir_in(dir)?;
    let log = Log::open(scratch.path().join("log"))?;
    let file = GroupedFile::create(&scratch.path().join("floor"));
    for threads in THREADS {
        for _ in 0..ROUNDS {
            let before = file.syncs();
            let mut floor = measure(threads, time, || file.append(&VALUE));
            floor.syncs = file.syncs() - before;
            report("floor", threads, &floor);

            let before = log.stats().syncs;
            let producer = log.producer().build()?;
            let append = || {
                let receipt = producer.send(RecordRef::new(&VALUE)).expect("send");
                receipt.wait().expect("sync");
            };
            let mut ours = measure(threads, time, append);
            ours.syncs = log.stats().syncs - before;
            report("duralog", threads, &ours);
        }
    }
    log.close()?;
    Ok(())
}

/// Calls `append` from so many threads until the time is over.
fn measure(threads: usize, time: Duration, append: impl Fn() + Sync) -> Measured {
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let mut micros = thread::scope(|scope| {
        let run = || {
            let mut micros = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                append();
                micros.push(began.elapsed().as_secs_f64() * 1e6);
            }
            micros
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let ended = running.into_iter();
        ended
            .flat_map(|thread| thread.join().expect("a thread panicked"))
            .collect::<Vec<_>>()
    });
    let seconds = began.elapsed().as_secs_f64();
    micros.sort_by(f64::total_cmp);
    Measured {
        seconds,
        micros,
        syncs: 0,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of appends are far below 2^52"
)]
fn report(who: &str, threads: usize, measured: &Measured) {
    let Measured {
        seconds,
        micros,
        syncs,
    } = measured;
    let count = micros.len();
    let at = |per_mille: usize| micros[(count - 1) * per_mille / 1000];
    println!(
        r#"{{"bench":"durable 100 B","who":"{who}","threads":{threads},"per_second":{:.0},"per_sync":{:.1},"p50_micros":{:.0},"p99_micros":{:.0},"p999_micros":{:.0}}}"#,
        count as f64 / seconds,
        count as f64 / *syncs as f64,
        at(500),
        at(990),
        at(999),
    );
}
