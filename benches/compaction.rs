//! How fast a log is compacted and in how much memory, and what appends notice of it. One JSON
//! object a line.
//!
//! ```sh
//! cargo bench --bench compaction -- --dir /some/disk --mib 64 --keys 10000000 --seconds 10
//! ```
//!
//! First logs of `--mib`, 4 and 16 times as much, each of whose keys stands there ten times: all of it
//! may be compacted, and a tenth is left. Then a log of `--keys` keys, twice each, in the default
//! memory. Values have 100 bytes, keys 16. `mb_per_s` is what the log was, by the time that
//! compacting it took; `keys_bytes` the memory for keys, `anonymous_kib` how much more memory the
//! process had than before, all told.
//!
//! Last, appends at a pace: to a log that nothing compacts, to one that the background compacts
//! meanwhile, and to one that is compacted on demand, as fast as that goes, again and again.

use std::{
    env,
    hint::black_box,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use duralog::{Acks, CleanupPolicy, CompactionReport, Log, LogOptions, Producer, RecordRef};

#[path = "harness/arguments.rs"]
mod arguments;
#[path = "harness/histogram.rs"]
mod histogram;
#[path = "harness/process.rs"]
#[expect(dead_code, reason = "descriptors are not looked at here")]
mod process;
#[path = "harness/scratch.rs"]
mod scratch;

use arguments::{Anyhow, argument};
use histogram::Histogram;
use process::anonymous_kib;
use scratch::in_scratch;

const VALUE: [u8; 100] = [b'x'; 100];
const SIZES: [u64; 3] = [1, 4, 16];
/// How often each key stands in a log.
const COPIES: u64 = 10;
/// A frame of such a key and value.
const FRAME: u64 = 24 + 2 + 1 + 16 + 1 + 100;
/// Appends a second, beside the compaction.
const PACE: u64 = 100_000;
/// Keys of what is appended then: few, so that there is always something to compact.
const FEW: u64 = 1_000;
const ROUNDS: usize = 3;

fn main() -> Anyhow<()> {
    let dir: PathBuf = argument("--dir")?.unwrap_or_else(env::temp_dir);
    let mib: u64 = argument("--mib")?.unwrap_or(64);
    let keys: u64 = argument("--keys")?.unwrap_or(10_000_000);
    let seconds = argument("--seconds")?.unwrap_or(10);
    for factor in SIZES {
        let records = ((factor * mib) << 20) / FRAME;
        compact("sizes", &dir, records, records / COPIES)?;
    }
    compact("keys", &dir, 2 * keys, keys)?;
    let all = [Beside::Nothing, Beside::Background, Beside::OnDemand];
    let mut times = all.map(|_| Histogram::new());
    for _ in 0..ROUNDS {
        for (beside, times) in all.into_iter().zip(&mut times) {
            times.merge(&appends(&dir, beside, mib * 16, seconds)?);
        }
    }
    for (beside, times) in all.into_iter().zip(&times) {
        println!(r#"{{"bench":"append beside, all rounds","beside":"{beside:?}",{times}}}"#);
    }
    Ok(())
}

fn options() -> LogOptions {
    Log::options().cleanup_policy(CleanupPolicy::Compact)
}

/// A key of 16 bytes.
fn key(number: u64) -> [u8; 16] {
    // In no order that a table could profit from.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u128::from(spread)
        .wrapping_mul(0x1_0000_0000_0001)
        .to_le_bytes()
}

fn send(producer: &Producer, number: u64) {
    let (key, value) = (key(number), black_box(&VALUE));
    let receipt = producer.send(RecordRef::new(value).with_key(&key));
    black_box(receipt.expect("send").offset());
}

/// A log with so many records, which go through the keys again and again; closed.
fn fill(path: &Path, options: &LogOptions, records: u64, keys: u64) -> Anyhow<()> {
    // Nothing begins before all is there.
    let young = options
        .clone()
        .min_compaction_lag(Duration::from_secs(1 << 30));
    let log = young.open(path)?;
    let producer = log.producer().acks(Acks::Written).build()?;
    for number in 0..records {
        send(&producer, number % keys);
    }
    drop(producer);
    log.close()?;
    Ok(())
}

fn compact(what: &str, dir: &Path, records: u64, keys: u64) -> Anyhow<()> {
    in_scratch(dir, |scratch| {
        let path = scratch.join("log");
        fill(&path, &options(), records, keys)?;
        let log = options().min_compaction_lag(Duration::ZERO).open(&path)?;
        let before = anonymous_kib()?;
        let (report, peak) = with_peak(|| log.compact())?;
        let report = report?;
        print_compaction(what, records, keys, &report, peak.saturating_sub(before));
        log.close()?;
        Ok(())
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of bytes are far below 2^52"
)]
fn print_compaction(what: &str, records: u64, keys: u64, report: &CompactionReport, kib: u64) {
    let seconds = report.elapsed.as_secs_f64();
    println!(
        r#"{{"bench":"compact {what}","records":{records},"keys":{keys},"bytes":{},"left_bytes":{},"left_records":{},"passes":{},"seconds":{seconds:.2},"mb_per_s":{:.0},"keys_bytes":{},"anonymous_kib":{kib}}}"#,
        report.bytes_before,
        report.bytes_after,
        report.records_after,
        report.passes,
        report.bytes_before as f64 / 1e6 / seconds,
        report.peak_memory,
    );
}

/// What goes on beside appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Background,
    OnDemand,
}

/// How long appends to a log take that holds so much, at a pace.
fn appends(dir: &Path, beside: Beside, mib: u64, seconds: u64) -> Anyhow<Histogram> {
    in_scratch(dir, |scratch| {
        let path = scratch.join("log");
        let records = (mib << 20) / FRAME;
        fill(&path, &options(), records, records / COPIES)?;
        let options = match beside {
            Beside::Nothing => options(),
            Beside::Background => options().min_compaction_lag(Duration::ZERO),
            Beside::OnDemand => options()
                .min_compaction_lag(Duration::ZERO)
                .min_dirty_ratio(1.0),
        };
        let log = options.open(&path)?;
        let producer = log.producer().acks(Acks::Written).build()?;
        let (done, compactions) = (AtomicBool::new(false), AtomicU64::new(0));
        let times = thread::scope(|scope| {
            if beside == Beside::OnDemand {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let report = log.compact().expect("compact");
                        compactions.fetch_add(1, Ordering::Relaxed);
                        if report.replaced == 0 {
                            // Until there is something to do again.
                            thread::sleep(Duration::from_millis(100));
                        }
                    }
                });
            }
            let times = append_paced(&producer, seconds);
            done.store(true, Ordering::Relaxed);
            times
        });
        drop(producer);
        let ended = log.last_compaction().is_some();
        println!(
            r#"{{"bench":"append beside","beside":"{beside:?}","pace":{PACE},"records":{},"ended":{ended},"compactions":{},{times}}}"#,
            times.count(),
            compactions.into_inner(),
        );
        log.close()?;
        Ok(times)
    })
}

fn append_paced(producer: &Producer, seconds: u64) -> Histogram {
    let mut times = Histogram::new();
    let start = Instant::now();
    for number in 0..PACE * seconds {
        let due = start + Duration::from_nanos(number * 1_000_000_000 / PACE);
        let mut began = Instant::now();
        while began < due {
            began = Instant::now();
        }
        send(producer, number % FEW);
        times.record(began.elapsed());
    }
    times
}

/// Does something, and looks meanwhile how much memory the process has.
fn with_peak<T>(work: impl FnOnce() -> T) -> Anyhow<(T, u64)> {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(anonymous_kib()?));
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_kib().unwrap_or(0), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    });
    Ok((result, peak.into_inner()))
}
