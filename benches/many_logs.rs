//! What it costs to have many logs open in one process: threads, memory, descriptors, and what
//! they do while nobody appends. One JSON object a line.
//!
//! ```sh
//! ulimit -n 8192; cargo bench --bench many_logs -- --dir /some/disk
//! ```

use std::{
    env, fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use duralog::{Acks, Log, RecordRef};

#[path = "harness/arguments.rs"]
mod arguments;
#[path = "harness/process.rs"]
mod process;

use arguments::{Anyhow, argument};
use process::{anonymous_kib, descriptors};

const LOGS: [usize; 4] = [0, 1, 100, 1000];
/// So long it is watched what idle logs do.
const IDLE: Duration = Duration::from_secs(2);
const VALUE: [u8; 100] = [b'x'; 100];

fn main() -> Anyhow<()> {
    let dir = argument("--dir")?.unwrap_or_else(env::temp_dir);
    let scratch = tempfile::tempdir_in(dir)?;
    for count in LOGS {
        measure(&scratch.path().join(count.to_string()), count)?;
    }
    Ok(())
}

/// Opens so many logs, appends to each, lets them rest, and closes them.
fn measure(dir: &Path, count: usize) -> Anyhow<()> {
    let before = anonymous_kib()?;
    let began = Instant::now();
    let logs = (0..count)
        .map(|number| Log::open(dir.join(number.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    let opened = began.elapsed();
    let began = Instant::now();
    for log in &logs {
        let producer = log.producer().acks(Acks::Written).build()?;
        producer.send(RecordRef::new(&VALUE))?.wait()?;
    }
    while logs.iter().any(|log| log.durable_offset() == 0) {
        thread::sleep(Duration::from_millis(10));
    }
    let flushed = began.elapsed();
    // Checkpoints follow.
    thread::sleep(Duration::from_secs(1));
    let switches = switches()?;
    thread::sleep(IDLE);
    let switches = self::switches()? - switches;
    println!(
        r#"{{"bench":"open logs","logs":{count},"open_millis":{:.1},"flushed_millis":{:.1},"threads":{},"descriptors":{},"anonymous_memory_kib":{},"grown_by_kib":{},"idle_switches_per_second":{}}}"#,
        opened.as_secs_f64() * 1e3,
        flushed.as_secs_f64() * 1e3,
        fs::read_dir("/proc/self/task")?.count(),
        descriptors()?,
        anonymous_kib()?,
        anonymous_kib()?.saturating_sub(before),
        switches / IDLE.as_secs(),
    );
    let began = Instant::now();
    for log in logs {
        log.close()?;
    }
    let closed = began.elapsed().as_secs_f64() * 1e3;
    println!(r#"{{"bench":"close logs","logs":{count},"close_millis":{closed:.1}}}"#);
    Ok(())
}

/// How often threads of this process were given a CPU after they had waited.
fn switches() -> Anyhow<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.ok_or("no switches")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}
