//! Many logs in one process: on the real machine, and alone in it, so that what is counted is theirs.

#![cfg(target_os = "linux")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use duralog::{Acks, Log, Record};

const LOGS: usize = 200;
/// What an idle log may take besides what it has mapped from files.
const KIB_PER_LOG: u64 = 64;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn anonymous_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

#[test]
fn two_hundred_logs_take_two_threads_and_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let open = |number: usize| {
        let log = Log::open(dir.path().join(number.to_string())).unwrap();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        producer.send(Record::new("one")).unwrap().wait().unwrap();
        log
    };
    let without = threads();
    let mut logs = vec![open(0)];
    assert_eq!(threads(), without + 2);
    let before = anonymous_kib();
    logs.extend((1..LOGS).map(open));
    assert_eq!(threads(), without + 2);
    let grown = anonymous_kib().saturating_sub(before);
    assert!(grown < KIB_PER_LOG * LOGS as u64, "{grown} KiB");
    for log in logs {
        log.close().unwrap();
    }
    // The kernel lists a thread for a moment longer than its end takes to be seen.
    let patience = Instant::now() + Duration::from_secs(60);
    while threads() > without {
        assert!(Instant::now() < patience, "{} threads", threads());
        thread::yield_now();
    }
}
