//! What a log costs when it is large: opening it after a close and after a kill, seeking in it by
//! offset and by time, memory and descriptors. One JSON object a line.
//!
//! ```sh
//! cargo bench --bench scale -- --gib 10 --dir /some/disk
//! ```

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use duralog::{Acks, Log, Offset, Record, Start, Timestamp};

#[path = "harness/arguments.rs"]
mod arguments;
#[path = "harness/process.rs"]
mod process;

use arguments::{Anyhow, argument};
use process::{anonymous_kib, descriptors};

const RECORD: usize = 1000;
const BATCH: usize = 10;
const SEEKS: usize = 2_000;
/// Time that the process that is killed writes for.
const WRITES_FOR: Duration = Duration::from_secs(3);

fn main() -> Anyhow<()> {
    if let Some(dir) = argument::<PathBuf>("--child")? {
        return write_until_killed(&dir);
    }
    let dir = argument("--dir")?.unwrap_or_else(env::temp_dir);
    let gib: u64 = argument("--gib")?.unwrap_or(1);
    let scratch = tempfile::tempdir_in(dir)?;
    let path = scratch.path().join("log");
    grow(&path, gib << 30)?;
    let log = open(&path, "closed", Duration::ZERO)?;
    seek(&log)?;
    seek_by_time(&log)?;
    log.close()?;
    let synced = kill_a_writer(&path)?;
    open(&path, "killed", synced)?.close()?;
    Ok(())
}

fn batch() -> Vec<Record> {
    vec![Record::new(vec![b'x'; RECORD]); BATCH]
}

/// Fills a log with so many bytes of records.
fn grow(path: &Path, bytes: u64) -> Anyhow<()> {
    let began = Instant::now();
    let log = Log::open(path)?;
    let producer = log.producer().acks(Acks::Written).build()?;
    let batch = batch();
    for _ in 0..bytes / (RECORD * BATCH) as u64 {
        drop(
            producer
                .send_batch(batch.as_slice())
                .map_err(|failed| failed.to_string())?,
        );
    }
    drop(producer);
    let segments = log.stats().segments;
    log.close()?;
    let seconds = began.elapsed().as_secs_f64();
    println!(r#"{{"bench":"grow","bytes":{bytes},"segments":{segments},"seconds":{seconds:.2}}}"#);
    Ok(())
}

/// Opens the log, which was left as `how` says; the device took `synced` for what was not flushed.
fn open(path: &Path, how: &str, synced: Duration) -> Anyhow<Log> {
    let began = Instant::now();
    let log = Log::open(path)?;
    let millis = began.elapsed().as_secs_f64() * 1e3;
    let report = log.recovery();
    println!(
        r#"{{"bench":"open","after":"{how}","millis":{millis:.2},"device_sync_millis":{:.2},"scanned_bytes":{},"clean":{},"anonymous_memory_kib":{},"descriptors":{}}}"#,
        synced.as_secs_f64() * 1e3,
        report.scanned_bytes,
        report.clean,
        anonymous_kib()?,
        descriptors()?,
    );
    Ok(log)
}

/// Reads the first record at random offsets.
fn seek(log: &Log) -> Anyhow<()> {
    let end = log.log_end_offset().get();
    let micros = sample(|random| {
        let offset = Offset::new(random % end);
        let mut reader = log
            .reader()
            .start(Start::At(offset))
            .max_poll_records(1)
            .build()?;
        let batch = reader.poll(Duration::ZERO)?;
        let first = batch.iter().next().and_then(|record| record.offset());
        assert_eq!(first, Some(offset));
        Ok(())
    })?;
    report("seek by offset", &micros)
}

/// Finds the first record at or after random times.
fn seek_by_time(log: &Log) -> Anyhow<()> {
    let time_at = |offset: u64| -> Anyhow<i64> {
        let start = Start::At(Offset::new(offset));
        let mut reader = log.reader().start(start).build()?;
        let batch = reader.poll(Duration::ZERO)?;
        let time = batch.iter().next().map(|record| record.append_time());
        Ok(time.ok_or("no record")?.as_millis())
    };
    let (first, last) = (time_at(0)?, time_at(log.log_end_offset().get() - 1)?);
    let span = u64::try_from(last - first)?.max(1);
    let micros = sample(|random| {
        let time = first + i64::try_from(random % span)?;
        log.offset_for_timestamp(Timestamp::from_millis(time))?;
        Ok(())
    })?;
    report("seek by time", &micros)
}

/// Times of many calls, in order of their length.
fn sample(mut call: impl FnMut(u64) -> Anyhow<()>) -> Anyhow<Vec<f64>> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut micros = Vec::new();
    for _ in 0..SEEKS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let began = Instant::now();
        call(random)?;
        micros.push(began.elapsed().as_secs_f64() * 1e6);
    }
    micros.sort_by(f64::total_cmp);
    Ok(micros)
}

fn report(what: &str, micros: &[f64]) -> Anyhow<()> {
    let at = |percent: usize| micros[(micros.len() - 1) * percent / 100];
    println!(
        r#"{{"bench":"{what}","calls":{},"p50_micros":{:.1},"p99_micros":{:.1},"max_micros":{:.1},"anonymous_memory_kib":{},"descriptors":{}}}"#,
        micros.len(),
        at(50),
        at(99),
        at(100),
        anonymous_kib()?,
        descriptors()?,
    );
    Ok(())
}

/// Lets another process write for a while and kills it. Returns what the device then took for what
/// was not flushed, of a copy of the last segment: the log itself is as the kill left it.
fn kill_a_writer(path: &Path) -> Anyhow<Duration> {
    let mut child = Command::new(env::current_exe()?)
        .arg("--child")
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    thread::sleep(WRITES_FOR);
    child.kill()?;
    child.wait()?;
    let mut segments: Vec<_> = fs::read_dir(path)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    let last = segments.pop().ok_or("no segment")?;
    let copy = path.with_file_name("copy");
    fs::copy(&last, &copy)?;
    let began = Instant::now();
    File::open(&copy)?.sync_data()?;
    let took = began.elapsed();
    fs::remove_file(&copy)?;
    Ok(took)
}

/// The process that is killed.
fn write_until_killed(path: &Path) -> Anyhow<()> {
    let log = Log::open(path)?;
    let producer = log.producer().acks(Acks::Written).build()?;
    let batch = batch();
    println!("writing");
    loop {
        drop(
            producer
                .send_batch(batch.as_slice())
                .map_err(|failed| failed.to_string())?,
        );
        // 10 MB a second: what a device has no trouble to flush.
        thread::sleep(Duration::from_millis(1));
    }
}
