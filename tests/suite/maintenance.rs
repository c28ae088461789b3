//! Threads that serve several logs.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use duralog::{ErrorKind, FlushPolicy, Log, Record, Retention, WriteMode};
use tempfile::TempDir;

use crate::common::{Fault, OTHER_DEVICE, Op, PANIC, TestHost, eventually, write};

/// Logs on one machine.
struct Logs {
    dir: TempDir,
    host: Arc<TestHost>,
}

impl Logs {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            host: TestHost::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self, name: &str) -> Log {
        let options = Log::options()
            .flush(FlushPolicy::every(Duration::from_secs(1)))
            .write_mode(WriteMode::Auto);
        duralog::testing::open(self.host.clone(), &options, self.path(name)).unwrap()
    }

    /// Waits until the flush policy has made what the log has durable.
    fn see_flushed(&self, log: &Log) {
        eventually("the log is flushed", || {
            self.host.advance(Duration::from_secs(1));
            log.durable_offset() == log.log_end_offset()
        });
    }
}

#[test]
fn logs_share_two_threads_that_end_with_the_last_of_them() {
    let logs = Logs::new();
    let mut open: Vec<_> = (0..20).map(|n| logs.open(&n.to_string())).collect();
    assert_eq!(logs.host.threads(), 2);
    while let Some(log) = open.pop() {
        log.close().unwrap();
        let wanted = if open.is_empty() { 0 } else { 2 };
        assert_eq!(logs.host.threads(), wanted, "{} are open", open.len());
        for log in &open {
            write(log, ["one more"]);
        }
        for log in &open {
            logs.see_flushed(log);
        }
    }
    let again = logs.open("0");
    assert_eq!(logs.host.threads(), 2);
    write(&again, ["after all were closed"]);
    logs.see_flushed(&again);
}

#[test]
fn logs_that_clean_share_a_third_thread() {
    let logs = Logs::new();
    let options = Log::options().retention(Retention::new().max_segments(2));
    let open = |name| duralog::testing::open(logs.host.clone(), &options, logs.path(name)).unwrap();
    let plain = logs.open("plain");
    assert_eq!(logs.host.threads(), 2);
    let (first, second) = (open("first"), open("second"));
    assert_eq!(logs.host.threads(), 3);
    for log in [plain, first, second] {
        log.close().unwrap();
    }
    assert_eq!(logs.host.threads(), 0);
}

#[test]
fn logs_on_another_device_have_threads_of_their_own() {
    let logs = Logs::new();
    let here = logs.open("log");
    let there = logs.open(&format!("{OTHER_DEVICE}/log"));
    let also_there = logs.open(&format!("{OTHER_DEVICE}/second"));
    assert_eq!(logs.host.threads(), 4);
    here.close().unwrap();
    assert_eq!(logs.host.threads(), 2);
    for log in [&there, &also_there] {
        write(log, ["still served"]);
        logs.see_flushed(log);
    }
}

#[test]
fn a_panic_in_the_maintenance_of_a_log_latches_that_log_alone() {
    let logs = Logs::new();
    let (broken, well) = (logs.open("broken"), logs.open("well"));
    let fault = Fault::once(Op::Write, "broken/checkpoint", PANIC);
    logs.host.inject(&fault);
    write(&broken, ["its checkpoint follows"]);
    eventually("the maintenance thread writes a checkpoint", || {
        logs.host.advance(Duration::from_secs(1));
        broken.stats().latched
    });
    assert_eq!(fault.fired(), 1);
    let producer = broken.producer().build().unwrap();
    let failed = producer.send(Record::new("refused")).unwrap_err();
    let why = failed.error().source().unwrap().to_string();
    assert!(why.contains("duralog-settle panicked"), "{why}");
    assert!(matches!(
        broken.close().unwrap_err().kind(),
        ErrorKind::SyncFailed { .. }
    ));
    write(&well, ["served as before"]);
    logs.see_flushed(&well);
    well.close().unwrap();
    assert_eq!(logs.host.threads(), 0);
}

#[test]
fn no_thread_is_left_by_a_log_that_could_not_be_opened() {
    let logs = Logs::new();
    let log = logs.open("log");
    let second = duralog::testing::open(logs.host.clone(), &Log::options(), logs.path("log"));
    assert!(matches!(
        second.unwrap_err().kind(),
        ErrorKind::Locked { .. }
    ));
    drop(log);
    assert_eq!(logs.host.threads(), 0);
}
