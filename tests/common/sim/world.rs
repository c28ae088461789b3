//! A machine, a log's options, and a book of what the log promised there.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use duralog::{
    Acks, CommitOptions, Consumer, Durability, FlushPolicy, Gap, Log, LogOptions,
    MIN_SEGMENT_BYTES, Producer, Record, RecordRef, Retention, RetentionReport, WriteMode,
    testing::{
        Clock, Joiner, Threads,
        sim::{Call, Disk, Machine},
    },
};

use super::{PATH, neighbour::Neighbour, oracle::Oracle};

/// A machine on which a workload runs.
#[derive(Clone, Debug)]
pub struct World {
    pub machine: Machine,
    pub options: LogOptions,
    oracle: Arc<Mutex<Oracle>>,
    neighbour: Option<Neighbour>,
}

/// A moment at which the machine might have crashed, and what had been promised by then.
#[derive(Clone, Debug)]
pub struct Point {
    pub number: u64,
    pub call: Call,
    pub path: String,
    /// The disk and the page cache.
    pub disk: Disk,
    pub oracle: Oracle,
}

/// Segments are small; nothing is flushed but what is asked for.
pub fn options(mode: WriteMode) -> LogOptions {
    Log::options()
        .segment_bytes(MIN_SEGMENT_BYTES)
        .flush(FlushPolicy::never())
        .write_mode(mode)
}

impl World {
    pub fn new(seed: u64, mode: WriteMode) -> Self {
        Self::on(Machine::new(seed), options(mode), Oracle::default())
    }

    pub fn on(machine: Machine, options: LogOptions, oracle: Oracle) -> Self {
        let oracle = Arc::new(Mutex::new(oracle));
        Self {
            machine,
            options,
            oracle,
            neighbour: None,
        }
    }

    /// Another log is open meanwhile, which is served by the same threads: something is appended
    /// to it with each send.
    pub fn with_neighbour(mut self) -> Self {
        self.neighbour = Some(Neighbour::default());
        self
    }

    /// Closes the other log and checks that it has what it was given. To be called in the machine.
    pub fn leave_neighbour(&self) {
        if let Some(neighbour) = &self.neighbour {
            neighbour.leave(&self.machine);
        }
    }

    /// Notes every moment at which something is different from the one before.
    pub fn watch(&self) -> Arc<Mutex<Vec<Point>>> {
        let points = Arc::new(Mutex::new(Vec::new()));
        let (noted, oracle) = (Arc::clone(&points), Arc::clone(&self.oracle));
        let mut last = None;
        self.machine.observe(move |moment| {
            let oracle = oracle.lock().unwrap();
            let versions = Some((moment.version(), oracle.version()));
            if versions != last {
                last = versions;
                noted.lock().unwrap().push(Point {
                    number: moment.number,
                    call: moment.call,
                    path: moment.path.display().to_string(),
                    disk: moment.process_crash(),
                    oracle: oracle.clone(),
                });
            }
        });
        points
    }

    pub fn oracle<R>(&self, change: impl FnOnce(&mut Oracle) -> R) -> R {
        change(&mut self.oracle.lock().unwrap())
    }

    /// What has been promised by now.
    pub fn promised(&self) -> Oracle {
        self.oracle(|oracle| oracle.clone())
    }

    pub fn try_open(&self) -> duralog::Result<Log> {
        if let Some(neighbour) = &self.neighbour {
            neighbour.open(&self.machine);
        }
        self.oracle(Oracle::opened);
        duralog::testing::open(Arc::new(self.machine.clone()), &self.options, PATH)
    }

    pub fn open(&self) -> Log {
        self.try_open().unwrap()
    }

    /// Sends records in one call and notes what came of it; the first one's offset if all went
    /// well.
    pub fn send(&self, producer: &Producer, acks: Acks, values: &[String]) -> Option<u64> {
        if let Some(neighbour) = &self.neighbour {
            neighbour.send();
        }
        let send = self.oracle(|oracle| oracle.begin(values.to_vec()));
        let keyed = self.oracle(|oracle| oracle.is_keyed());
        let receipt = match values {
            [value] => producer.send_with(record_of(value, keyed), acks).ok(),
            several => {
                let records: Vec<_> = several.iter().map(|v| record_of(v, keyed)).collect();
                producer.send_batch(&records).ok()
            }
        };
        let Some(receipt) = receipt else {
            self.oracle(|oracle| oracle.refused(send));
            return None;
        };
        let first = receipt.offset().unwrap().get();
        self.oracle(|oracle| oracle.written(send, first));
        if acks == Acks::Durable {
            match receipt.wait() {
                Ok(_) => self.oracle(|oracle| oracle.durable(send)),
                Err(error) => {
                    self.doubt_if_latched(&error);
                    return None;
                }
            }
        }
        Some(first)
    }

    /// Sends a record and awaits its receipt; whether it is durable.
    pub fn send_and_await(&self, producer: &Producer, value: String) -> bool {
        let send = self.oracle(|oracle| oracle.begin(vec![value.clone()]));
        let Ok(receipt) = producer.send_with(Record::new(value), Acks::Durable) else {
            self.oracle(|oracle| oracle.refused(send));
            return false;
        };
        let first = receipt.offset().unwrap().get();
        self.oracle(|oracle| oracle.written(send, first));
        match self.block_on(receipt) {
            Ok(_) => {
                self.oracle(|oracle| oracle.durable(send));
                true
            }
            Err(error) => {
                self.doubt_if_latched(&error);
                false
            }
        }
    }

    /// Waits for a future: the whole of a runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let parker = self.machine.parker();
        let waker = parker.waker();
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => parker.park(Some(self.now() + Duration::from_secs(600))),
            }
        }
    }

    /// Notes how far the log says it is durable, and where it starts.
    pub fn look(&self, log: &Log) {
        let (start, durable) = (log.log_start_offset().get(), log.durable_offset().get());
        self.oracle(|oracle| {
            oracle.durable_below(durable);
            oracle.deleted_below(start);
        });
    }

    /// Deletes what is to go by these limits, and no more.
    pub fn enforce(&self, log: &Log, limits: Retention) -> RetentionReport {
        let planned = log.plan_retention_of(limits).unwrap();
        let start = planned.log_start_offset.get();
        self.oracle(|oracle| oracle.kept().may_delete_below(start));
        let report = log.enforce_retention_of(limits).unwrap();
        let start = report.log_start_offset.get();
        self.oracle(|oracle| oracle.deleted_below(start));
        report
    }

    pub fn delete_before(&self, log: &Log, offset: u64) {
        self.oracle(|oracle| oracle.kept().may_delete_unread_below(offset));
        let start = log.delete_records_before(offset.into()).unwrap().get();
        assert!(start >= offset);
        self.oracle(|oracle| oracle.deleted_below(start));
    }

    pub fn sync(&self, log: &Log) -> bool {
        let synced = log.sync();
        match &synced {
            Ok(offset) => {
                let offset = offset.get();
                self.oracle(|oracle| oracle.durable_below(offset));
            }
            Err(error) => self.doubt_if_latched(error),
        }
        synced.is_ok()
    }

    /// Compacts; how many segments were replaced.
    pub fn compact(&self, log: &Log) -> u64 {
        let end = log.log_end_offset().get();
        self.oracle(|oracle| oracle.may_remove_below(end));
        match log.compact() {
            Ok(report) => {
                assert_eq!(report.skipped, [], "nothing is damaged");
                report.replaced
            }
            Err(error) => {
                self.doubt_if_latched(&error);
                0
            }
        }
    }

    pub fn close(&self, log: Log) -> bool {
        let closed = log.close();
        match &closed {
            Ok(()) => self.oracle(Oracle::closed),
            Err(error) => self.doubt_if_latched(error),
        }
        closed.is_ok()
    }

    fn doubt_if_latched(&self, error: &duralog::Error) {
        if error.is_latched() {
            self.oracle(Oracle::doubts);
        }
    }

    /// A consumer of a group that starts at the log's beginning.
    pub fn consumer(&self, log: &Log, group: &str) -> Consumer {
        self.oracle(|oracle| oracle.group_begins(group, 0));
        let consumer = log.consumer(group).build().unwrap();
        self.oracle(|oracle| oracle.group_made(group));
        consumer
    }

    /// Polls once and commits what came, if anything did; how many records that were.
    pub fn poll_and_commit(&self, consumer: &mut Consumer, timeout: Duration) -> usize {
        let count = consumer.poll(timeout).unwrap().len();
        if count > 0 {
            self.commit(consumer);
        }
        count
    }

    /// Commits, and waits for no device.
    pub fn commit_written(&self, consumer: &mut Consumer, offset: u64) {
        let group = consumer.group().to_owned();
        self.oracle(|oracle| oracle.commit_begins(&group, offset));
        consumer.commit_offset(offset.into()).unwrap();
        self.oracle(|oracle| oracle.commit_returned(&group));
    }

    fn commit(&self, consumer: &mut Consumer) {
        let position = consumer.position().get();
        self.commit_written(consumer, position);
    }

    /// Polls and commits until nothing more comes; the gaps that were met.
    pub fn drain(&self, consumer: &mut Consumer) -> Vec<Gap> {
        let mut gaps = Vec::new();
        loop {
            let batch = consumer.poll(Duration::ZERO).unwrap();
            if batch.is_empty() && batch.gaps().is_empty() {
                return gaps;
            }
            gaps.extend_from_slice(batch.gaps());
            self.commit(consumer);
        }
    }

    /// Commits durably; whether it was.
    pub fn commit_durably(&self, consumer: &mut Consumer, offset: u64) -> bool {
        let group = consumer.group().to_owned();
        self.oracle(|oracle| oracle.commit_begins(&group, offset));
        let options = CommitOptions::new().durability(Durability::Durable);
        let committed = consumer.commit_offset_with(offset.into(), &options);
        if committed.is_ok() {
            self.oracle(|oracle| oracle.commit_is_durable(&group));
        }
        committed.is_ok()
    }

    /// Time since the machine was switched on.
    pub fn now(&self) -> Duration {
        self.machine.monotonic()
    }

    /// Runs `body` in another thread of the machine, and the result waits for it.
    pub fn spawn(&self, name: &str, body: impl FnOnce(&World) + Send + 'static) -> Box<dyn Joiner> {
        let world = self.clone();
        self.machine
            .spawn(name, Box::new(move || body(&world)))
            .unwrap()
    }
}

/// A value that tells who wrote it and stands in a frame of the same size as all others of `len`.
pub fn value(writer: &str, number: usize, len: usize) -> String {
    let name = format!("{writer}-{number:04}-");
    format!(
        "{name}{:.<fill$}",
        "",
        fill = len.saturating_sub(name.len())
    )
}

/// The key of a record with this value, in a log of keys.
pub fn key_of(value: &str) -> &str {
    value.split('-').next().unwrap_or_default()
}

/// A value that stands for a tombstone.
pub fn gone(key: &str, number: usize) -> String {
    format!("{key}-{number:04}-{GONE}")
}

pub fn is_gone(value: &str) -> bool {
    value.ends_with(GONE)
}

const GONE: &str = "gone";
/// The header of a tombstone that tells it from others.
const WHICH: &str = "which";

fn record_of(value: &str, keyed: bool) -> Record {
    if !keyed {
        Record::new(value)
    } else if is_gone(value) {
        Record::tombstone(key_of(value)).header(WHICH, value)
    } else {
        Record::new(value).key(key_of(value))
    }
}

/// What was sent with a record.
pub fn text_of<'a>(record: &RecordRef<'a>) -> &'a [u8] {
    let which = record.headers().find(WHICH);
    record.value().or(which).unwrap_or_default()
}
