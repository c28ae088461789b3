//! An append with `Acks::Written` to a log that is written through a mapping makes no system call
//! once the log has got going. strace is the witness.
//!
//! The test runs itself again under strace. That run appends between two marks, which are system
//! calls that nothing else makes; what the same thread calls between them is what its appends do.
//! Tracing slows the maintenance threads down, so the appends are paced, more slowly with each
//! attempt: an attempt in which they could not keep up shows nothing either way.

#![cfg(target_os = "linux")]

use std::{
    env, fmt, fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
};

use duralog::{Acks, FlushPolicy, Log, LogOptions, Producer, RecordRef};

const TEST: &str = "a_written_append_makes_no_system_call_in_the_steady_state";
/// In the environment of the traced run: where its log and its report go, and its pace.
const DIR: &str = "DURALOG_STEADY_STATE_DIR";
const PACE: &str = "DURALOG_STEADY_STATE_PACE";
/// Paths that are not there. Looking for one leaves a mark in the trace.
const BEGIN: &str = "/duralog-appends-begin";
const END: &str = "/duralog-appends-end";

const WARM_UP_RECORDS: u64 = 200_000;
const RECORDS: u64 = 200_000;
/// What the append lock does when a maintenance thread has it at that moment.
const LOCK_CALLS: [&str; 2] = ["sched_yield(", "futex("];
/// How often that may happen. The lock is held for some nanoseconds some hundred times a second,
/// and longer only if its holder is interrupted meanwhile, as on a busy machine it is at times.
const LOCK_CALLS_MAX: usize = 200;

/// How fast to append.
#[derive(Clone, Copy)]
struct Pace {
    /// Checksums to compute before each record.
    rounds: u32,
    /// Whether to sync in the background as by default.
    flush: bool,
}

/// From some microseconds a record to a hundred. The last one is for the slowest of disks.
const PACES: [Pace; 3] = [
    Pace {
        rounds: 128,
        flush: true,
    },
    Pace {
        rounds: 512,
        flush: true,
    },
    Pace {
        rounds: 2048,
        flush: false,
    },
];

#[test]
fn a_written_append_makes_no_system_call_in_the_steady_state() {
    if let Some(dir) = env::var_os(DIR) {
        return traced_run(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    if let Some(reason) = why_not(dir.path()) {
        println!("skipped: {reason}");
        return;
    }
    for pace in PACES {
        let attempt = Attempt::run(&dir.path().join(pace.to_string()), pace);
        println!("{pace}: {attempt}");
        assert!(
            attempt.other_threads_calls.contains("fallocate("),
            "the trace shows nothing of the maintenance threads:\n{}",
            attempt.other_threads_calls
        );
        if attempt.late_preparations == 0 {
            return attempt.check();
        }
    }
    panic!("the maintenance threads never kept up");
}

/// Why this can't be tested here.
fn why_not(dir: &Path) -> Option<String> {
    let stat = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(dir)
        .output()
        .expect("stat belongs to every Linux");
    let file_system = String::from_utf8_lossy(&stat.stdout).trim().to_owned();
    if !["ext2/ext3", "ext4", "xfs", "tmpfs"].contains(&&*file_system) {
        return Some(format!("the log is not mapped on {file_system}"));
    }
    match Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .output()
    {
        Err(error) => Some(format!("strace can't be run: {error}")),
        Ok(output) if !output.status.success() => Some(format!(
            "strace can't trace: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Ok(_) => None,
    }
}

/// What a traced run did between the marks.
struct Attempt {
    /// Lines of the trace, of the thread that appends.
    appender_calls: String,
    /// Lines of the trace, of all other threads.
    other_threads_calls: String,
    late_preparations: u64,
    syncs: u64,
}

impl Attempt {
    fn run(dir: &Path, pace: Pace) -> Self {
        fs::create_dir(dir).unwrap();
        let trace = dir.join("trace");
        let output = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=all", "-o"])
            .arg(&trace)
            .arg(env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(DIR, dir)
            .env(PACE, pace.to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "the traced run failed: {output:?}");
        let trace = fs::read_to_string(trace).unwrap();
        let report = fs::read_to_string(report_path(dir)).unwrap();
        Self::new(&trace, &report)
    }

    /// `trace` has lines of a thread's number and one of its calls.
    fn new(trace: &str, report: &str) -> Self {
        let mut lines = trace.lines().skip_while(|line| !line.contains(BEGIN));
        let begin = lines.next().expect("the mark at the beginning");
        let thread = thread_of(begin);
        let (mut appender_calls, mut other_threads_calls) = (String::new(), String::new());
        let mut ended = false;
        for line in lines {
            if line.contains(" resumed>") {
                // The end of a call whose beginning has a line of its own.
                continue;
            }
            if line.contains(END) {
                assert_eq!(thread_of(line), thread, "one thread sets both marks");
                ended = true;
                break;
            }
            let calls = if thread_of(line) == thread {
                &mut appender_calls
            } else {
                &mut other_threads_calls
            };
            calls.push_str(line);
            calls.push('\n');
        }
        assert!(ended, "the mark at the end");
        let mut numbers = report.split(' ').map(|number| number.parse().unwrap());
        Self {
            appender_calls,
            other_threads_calls,
            late_preparations: numbers.next().unwrap(),
            syncs: numbers.next().unwrap(),
        }
    }

    /// Checks that the appends made no system call but, rarely, for the lock.
    fn check(&self) {
        let is_for_lock = |line: &&str| LOCK_CALLS.iter().any(|call| line.contains(call));
        let (for_lock, others): (Vec<_>, Vec<_>) =
            self.appender_calls.lines().partition(is_for_lock);
        assert!(others.is_empty(), "the appends called {others:#?}");
        assert!(
            for_lock.len() <= LOCK_CALLS_MAX,
            "the appends waited for the lock too often: {for_lock:#?}"
        );
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} system calls in {RECORDS} appends, {} of other threads meanwhile, \
             {} late preparations, {} syncs",
            self.appender_calls.lines().count(),
            self.other_threads_calls.lines().count(),
            self.late_preparations,
            self.syncs
        )
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flush = if self.flush { "flush" } else { "no-flush" };
        write!(f, "{}-{flush}", self.rounds)
    }
}

impl Pace {
    /// Reads what [`Display`](fmt::Display) wrote.
    fn parse(text: &str) -> Self {
        let (rounds, flush) = text.split_once('-').unwrap();
        Self {
            rounds: rounds.parse().unwrap(),
            flush: flush == "flush",
        }
    }

    fn options(self) -> LogOptions {
        if self.flush {
            Log::options()
        } else {
            Log::options().flush(FlushPolicy::never())
        }
    }
}

fn thread_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

fn report_path(dir: &Path) -> PathBuf {
    dir.join("report")
}

/// What runs under strace.
fn traced_run(dir: &Path) {
    let pace = Pace::parse(&env::var(PACE).unwrap());
    let log = pace.options().open(dir.join("log")).unwrap();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    append(&producer, WARM_UP_RECORDS, pace.rounds);
    assert_mapped(&dir.join("log"));

    let before = log.stats();
    assert!(fs::metadata(BEGIN).is_err());
    append(&producer, RECORDS, pace.rounds);
    assert!(fs::metadata(END).is_err());
    let after = log.stats();

    assert_eq!(after.segments, 1, "no roll was to be in it");
    let late = after.late_preparations - before.late_preparations;
    let syncs = after.syncs - before.syncs;
    fs::write(report_path(dir), format!("{late} {syncs}")).unwrap();
}

fn append(producer: &Producer, records: u64, rounds: u32) {
    let value = [7; 100];
    for _ in 0..records {
        compute(&value, rounds);
        let receipt = producer.send(RecordRef::new(&value)).unwrap();
        assert!(receipt.offset().is_some());
    }
}

/// Spends time without asking what time it is, which would be a system call on some machines.
fn compute(bytes: &[u8], rounds: u32) {
    for _ in 0..rounds {
        let sum = |sum: u32, &byte: &u8| sum.rotate_left(5) ^ u32::from(byte);
        black_box(black_box(bytes).iter().fold(0, sum));
    }
}

/// Asserts that this process has a file of the log mapped to be written: a segment, as it maps no
/// others.
fn assert_mapped(log: &Path) {
    let log = log.canonicalize().unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let is_writable_segment =
        |line: &str| line.contains(" rw-s ") && line.contains(log.to_str().unwrap());
    assert!(
        maps.lines().any(is_writable_segment),
        "no segment is mapped:\n{maps}"
    );
}
