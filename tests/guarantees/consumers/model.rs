//! Two groups, one that polls and one that acknowledges, and whatever happens to them, their log and
//! their machine, in any order: what they are given agrees with a model of the log, and what they
//! have committed with a model of their commits.

mod commits;
mod workers;

use std::{collections::BTreeMap, ops::Range, time::Duration};

use duralog::{
    CommitOptions, CommitReceipt, Consumer, Durability, ErrorKind, FlushPolicy, Log, Offset,
    Producer, Record, Retention, WriteMode,
    testing::sim::{Choices, Disk, Machine},
};
use proptest::prelude::*;

use self::{commits::Commits, workers::Workers};
use crate::{
    common::{run, see, written},
    sim::{
        oracle::Oracle,
        world::{World, options},
    },
};

#[derive(Clone, Copy, Debug)]
enum Op {
    /// As many records, as one batch or one by one.
    Send(u64, bool),
    Sync,
    Poll,
    /// What was polled.
    Commit(How),
    /// So many offsets before what was polled, or behind it.
    CommitNear(i64, How),
    /// A record of the last poll.
    Fail(usize),
    SeekToCommitted,
    SeekToBeginning,
    SeekToEnd,
    Seek(i64),
    Rewind(i64),
    Lag,
    /// By one of the workers.
    Take,
    /// One of those they hold.
    Acknowledge(usize),
    GiveBack(usize),
    /// All that they have acknowledged.
    CommitAcknowledged,
    /// Records below an offset so far behind the log start.
    DeleteBefore(u64),
    /// All but so many segments.
    Retain(u64),
    Reopen,
    Kill,
    PowerCut(u64),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Written,
    Durable,
    Async,
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![Just(How::Written), Just(How::Durable), Just(How::Async)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (1..6_u64, any::<bool>()).prop_map(|(count, batch)| Op::Send(count, batch)),
        2 => Just(Op::Sync),
        16 => Just(Op::Poll),
        8 => how().prop_map(Op::Commit),
        4 => (-6..3_i64, how()).prop_map(|(back, how)| Op::CommitNear(back, how)),
        3 => (0..5_usize).prop_map(Op::Fail),
        4 => Just(Op::SeekToCommitted),
        1 => Just(Op::SeekToBeginning),
        1 => Just(Op::SeekToEnd),
        2 => (-9..9_i64).prop_map(Op::Seek),
        2 => (-9..2_i64).prop_map(Op::Rewind),
        1 => Just(Op::Lag),
        12 => Just(Op::Take),
        8 => (0..5_usize).prop_map(Op::Acknowledge),
        3 => (0..5_usize).prop_map(Op::GiveBack),
        1 => Just(Op::CommitAcknowledged),
        2 => (0..9_u64).prop_map(Op::DeleteBefore),
        1 => (1..4_u64).prop_map(Op::Retain),
        2 => Just(Op::Reopen),
        3 => Just(Op::Kill),
        3 => any::<u64>().prop_map(Op::PowerCut),
    ]
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
    PowerCut,
}

/// What was promised.
#[derive(Debug, Default)]
struct Model {
    records: BTreeMap<u64, String>,
    /// What was deleted. Who is in the middle of a segment reads it to its end.
    gone: BTreeMap<u64, String>,
    /// The log start.
    start: u64,
    /// Records below are durable.
    durable: u64,
    /// Of the group that polls.
    commits: Commits,
    /// Of the one that acknowledges.
    acknowledged: Commits,
    sent: u64,
}

impl Model {
    fn committed(&self) -> u64 {
        self.commits.last()
    }

    /// What a reader may be given at this offset.
    fn value(&self, offset: u64) -> Option<&[u8]> {
        let there = self.records.get(&offset);
        let value = there.or_else(|| self.gone.get(&offset))?;
        Some(value.as_bytes())
    }

    /// Records below are deleted; what is above is durable by then.
    fn delete_below(&mut self, start: u64) {
        assert!(start >= self.start, "the log start went back");
        let kept = self.records.split_off(&start);
        self.gone
            .append(&mut std::mem::replace(&mut self.records, kept));
        self.start = start;
        self.durable = self.durable.max(start);
    }

    /// Compares a log that was just opened with what was promised, and takes over what is there.
    fn judge(&mut self, log: &Log, end: End) {
        assert_eq!(log.log_start_offset(), self.start, "after {end:?}");
        let seen = see(log);
        let there: BTreeMap<_, _> = seen.records.iter().cloned().collect();
        for (offset, value) in &self.records {
            if end != End::PowerCut || *offset < self.durable {
                assert_eq!(there.get(offset), Some(value), "at {offset}, after {end:?}");
            }
        }
        for (offset, value) in &there {
            assert_eq!(self.records.get(offset), Some(value), "from nowhere");
        }
        self.records = there;
        self.durable = seen.end;
    }

    /// A commit is durable, and so are the records below it.
    fn is_durable(&mut self, number: usize) {
        // A later one may have been before it.
        if let Some(committed) = self.commits.is_durable(number) {
            self.durable = self.durable.max(committed);
        }
    }
}

/// A life of the process.
struct Life<'a> {
    model: &'a mut Model,
    log: Log,
    producer: Producer,
    billing: Consumer,
    workers: Workers,
    position: u64,
    failed: Option<u64>,
    /// Records of the last poll.
    polled: Vec<u64>,
    /// With the numbers of their commits.
    receipts: Vec<(usize, CommitReceipt)>,
}

impl<'a> Life<'a> {
    fn begin(world: &World, model: &'a mut Model, end: End) -> Self {
        let log = world.open();
        model.judge(&log, end);
        let billing = log.consumer("billing").max_poll_records(4).build().unwrap();
        model.commits.judge(billing.committed().get(), end);
        assert_eq!(billing.position(), billing.committed());
        let workers = Workers::begin(&log, model, end);
        Self {
            position: model.committed(),
            producer: written(&log),
            model,
            log,
            billing,
            workers,
            failed: None,
            polled: Vec::new(),
            receipts: Vec::new(),
        }
    }

    fn end(&self) -> u64 {
        self.log.log_end_offset().get()
    }

    fn send(&mut self, count: u64, as_batch: bool) {
        let values: Vec<_> = (self.model.sent..self.model.sent + count)
            .map(|number| format!("record {number:700}"))
            .collect();
        self.model.sent += count;
        let records: Vec<_> = values.iter().map(|v| Record::new(v.as_str())).collect();
        if as_batch {
            let receipt = self.producer.send_batch(&records).unwrap();
            let offsets = receipt.offsets().unwrap();
            self.model
                .records
                .extend((offsets.start.get()..).zip(values));
        } else {
            for (record, value) in records.iter().zip(values) {
                let offset = self.producer.send(record).unwrap().offset().unwrap();
                self.model.records.insert(offset.get(), value);
            }
        }
    }

    /// Records and gaps are all there is from the position on, without a hole.
    fn poll(&mut self) {
        let batch = self.billing.poll(Duration::ZERO).unwrap();
        let mut told: Vec<Range<u64>> = Vec::new();
        self.polled.clear();
        for gap in batch.gaps() {
            let range = gap.from.get()..gap.to.get();
            let inside = self.model.records.range(range.clone()).next();
            assert_eq!(inside, None, "{gap:?}");
            told.push(range);
        }
        for record in &batch {
            let offset = record.offset().unwrap().get();
            assert_eq!(record.value(), self.model.value(offset), "at {offset}");
            told.push(offset..offset + 1);
            self.polled.push(offset);
        }
        told.sort_by_key(|range| range.start);
        let mut next = self.position;
        for range in told {
            assert_eq!(range.start, next, "skipped unsaid");
            next = range.end;
        }
        assert_eq!(self.billing.position(), next);
        let rest = self.model.records.range(self.position..).next();
        assert!(
            next > self.position || rest.is_none(),
            "{rest:?} is not delivered"
        );
        self.position = next;
    }

    fn commit(&mut self, offset: u64, how: How) {
        let at = Offset::new(offset);
        let durable = CommitOptions::new().durability(Durability::Durable);
        let result = match how {
            How::Written => self.billing.commit_offset(at).map(|()| None),
            How::Durable => {
                let committed = self.billing.commit_offset_with(at, &durable);
                committed.map(|()| None)
            }
            How::Async => self.billing.commit_offset_async(at, &durable).map(Some),
        };
        let committed = self.model.committed();
        match result {
            Ok(receipt) => {
                assert!(committed <= offset && offset <= self.end());
                assert!(self.failed.is_none_or(|failed| offset <= failed));
                let number = self.model.commits.add(offset);
                self.receipts
                    .extend(receipt.map(|receipt| (number, receipt)));
                if matches!(how, How::Durable) {
                    self.model.is_durable(number);
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::CommitBehind { .. } => assert!(offset < committed),
                ErrorKind::RecordFailed { offset: failed } => {
                    assert_eq!(Some(failed.get()), self.failed);
                    assert!(offset > failed.get());
                }
                ErrorKind::OffsetOutOfRange { .. } => assert!(offset > self.end()),
                _ => panic!("{error}"),
            },
        }
        assert_eq!(self.billing.committed(), self.model.committed());
    }

    fn sync(&mut self) {
        self.log.sync().unwrap();
        self.model.durable = self.end();
        for (number, receipt) in std::mem::take(&mut self.receipts) {
            receipt.wait().unwrap();
            self.model.is_durable(number);
        }
    }

    fn sought(&mut self, to: u64, result: duralog::Result<()>) {
        if (self.model.start..=self.end()).contains(&to) {
            result.unwrap();
            self.position = to;
        } else {
            let error = result.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. }));
        }
        assert_eq!(self.billing.position(), self.position);
    }

    fn rewind(&mut self, to: u64) {
        let failed = self.failed.is_some_and(|failed| to > failed);
        let result = self.billing.rewind(to.into());
        if failed || to > self.end() {
            result.unwrap_err();
        } else {
            result.unwrap();
            self.model.commits.add(to);
            (self.position, self.failed) = (to, None);
        }
        assert_eq!(self.billing.committed(), self.model.committed());
        assert_eq!(self.billing.position(), self.position);
    }

    fn seek_to_committed(&mut self) {
        self.billing.seek_to_committed();
        self.position = self.model.committed();
        self.failed = None;
    }

    fn fail(&mut self, index: usize) {
        let Some(&offset) = self.polled.get(index) else {
            return;
        };
        if self.polled[0] < self.model.start {
            return;
        }
        // The batch is gone by now: it is polled once more.
        self.billing.seek(self.polled[0].into()).unwrap();
        let batch = self.billing.poll(Duration::ZERO).unwrap();
        let record = batch
            .iter()
            .find(|record| record.offset() == Some(offset.into()));
        if let Some(record) = record {
            batch.fail(&record);
            self.failed = Some(self.failed.map_or(offset, |failed| failed.min(offset)));
        }
        self.position = self.billing.position().get();
    }

    fn lag(&self) {
        let lag = self.billing.lag().unwrap();
        assert_eq!(lag.records, self.end() - self.position);
        let rest = self.model.records.range(self.position..).next();
        assert_eq!(lag.age.is_some(), rest.is_some());
        assert_eq!(lag.bytes > 0, rest.is_some());
        self.workers.lag(self.end());
    }

    fn delete_before(&mut self, to: u64) {
        let result = self.log.delete_records_before(to.into());
        if to <= self.end() {
            assert_eq!(result.unwrap(), to);
            self.model.delete_below(to);
        } else {
            let error = result.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. }));
        }
        assert_eq!(self.log.log_start_offset(), self.model.start);
    }

    fn retain(&mut self, segments: u64) {
        let limits = Retention::new().max_segments(segments);
        let report = self.log.enforce_retention_of(limits).unwrap();
        assert!(self.log.stats().segments <= segments);
        let start = report.log_start_offset.get();
        let deleted = self.model.records.range(..start).count() as u64;
        assert!(report.records() >= deleted);
        self.model.delete_below(start);
        assert_eq!(self.log.log_start_offset(), start);
    }

    /// Does one operation.
    fn act(&mut self, op: Op) {
        let moved = |from: u64, by: i64| from.saturating_add_signed(by);
        match op {
            Op::Send(count, as_batch) => self.send(count, as_batch),
            Op::Sync => self.sync(),
            Op::Poll => self.poll(),
            Op::Commit(how) => self.commit(self.position, how),
            Op::CommitNear(by, how) => self.commit(moved(self.position, by), how),
            Op::Fail(index) => self.fail(index),
            Op::SeekToCommitted => self.seek_to_committed(),
            Op::SeekToBeginning => {
                let result = self.billing.seek_to_beginning();
                self.sought(self.model.start, result);
            }
            Op::SeekToEnd => {
                let result = self.billing.seek_to_end();
                self.sought(self.end(), result);
            }
            Op::Seek(by) => {
                let to = moved(self.position, by);
                let result = self.billing.seek(to.into());
                self.sought(to, result);
            }
            Op::Rewind(by) => self.rewind(moved(self.model.committed(), by)),
            Op::Lag => self.lag(),
            Op::Take => self.workers.take(self.model),
            Op::Acknowledge(index) => self.workers.acknowledge(index, self.model),
            Op::GiveBack(index) => self.workers.give_back(index, self.model),
            Op::CommitAcknowledged => self.workers.commit_durably(self.model),
            Op::DeleteBefore(by) => self.delete_before(self.model.start + by),
            Op::Retain(segments) => self.retain(segments),
            Op::Reopen | Op::Kill | Op::PowerCut(_) => {}
        }
    }
}

/// Runs as many of the operations as one life takes; the disk that it leaves, and how it ended.
fn live(
    world: &World,
    model: &mut Model,
    end: End,
    ops: &mut std::vec::IntoIter<Op>,
) -> (Disk, End) {
    run(world, |world| {
        let mut life = Life::begin(world, model, end);
        for op in ops.by_ref() {
            match op {
                Op::Reopen => break,
                Op::Kill => return (world.machine.process_crash(), End::Killed),
                Op::PowerCut(seed) => {
                    let disk = world.machine.power_cut(&mut Choices::of(seed));
                    return (disk, End::PowerCut);
                }
                op => life.act(op),
            }
        }
        let Life {
            log,
            billing,
            workers,
            ..
        } = life;
        billing.close().unwrap();
        workers.close();
        log.close().unwrap();
        (world.machine.process_crash(), End::Closed)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn consumers_agree_with_a_model(
        ops in prop::collection::vec(op(), 1..120),
        seed in any::<u64>(),
        mapped in any::<bool>(),
    ) {
        let mode = if mapped { WriteMode::Mapped } else { WriteMode::Buffered };
        let options = options(mode).flush(FlushPolicy::never());
        let mut model = Model::default();
        let (mut disk, mut end) = (Machine::new(seed).process_crash(), End::Closed);
        let mut ops = ops.into_iter();
        for life in 0.. {
            let machine = Machine::boot(disk, seed.wrapping_add(life));
            let world = World::on(machine, options.clone(), Oracle::default());
            let is_over = ops.len() == 0;
            (disk, end) = live(&world, &mut model, end, &mut ops);
            if is_over {
                break;
            }
        }
    }
}
