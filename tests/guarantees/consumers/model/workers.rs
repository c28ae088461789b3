//! A group whose records are acknowledged one by one.

use std::{collections::VecDeque, time::Duration};

use duralog::{CommitOptions, Durability, InFlight, Log, ParallelConsumer};

use super::{End, Model};

const MAX_IN_FLIGHT: usize = 5;

/// A record that was handed out and is above the prefix.
struct Out {
    offset: u64,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    GivenBack,
    Acknowledged,
}

/// The consumer, and what it has to do.
pub struct Workers {
    consumer: ParallelConsumer,
    held: Vec<InFlight>,
    /// In the order of their offsets.
    out: VecDeque<Out>,
    /// Everything below is acknowledged, or has no record.
    prefix: u64,
    /// Records from here on were never handed out in this life.
    next: u64,
}

impl Workers {
    pub fn begin(log: &Log, model: &mut Model, end: End) -> Self {
        let consumer = log
            .consumer("workers")
            .max_poll_records(3)
            .build_parallel(MAX_IN_FLIGHT)
            .unwrap();
        model.acknowledged.judge(consumer.committed().get(), end);
        let prefix = model.acknowledged.last();
        Self {
            consumer,
            held: Vec::new(),
            out: VecDeque::new(),
            prefix,
            next: prefix,
        }
    }

    /// One is given back before, or else there is room for one that is new, if there is one.
    pub fn take(&mut self, model: &Model) {
        let is_full = self.out.len() == MAX_IN_FLIGHT;
        let Some(record) = self.consumer.take(Duration::ZERO).unwrap() else {
            let given_back = self.out.iter().find(|out| out.state == State::GivenBack);
            assert!(given_back.is_none(), "it does not come again");
            let rest = model.records.range(self.next..).next();
            assert!(is_full || rest.is_none(), "{rest:?} is not delivered");
            return;
        };
        let offset = record.offset().get();
        assert_eq!(record.value(), model.value(offset), "at {offset}");
        if offset < self.next {
            let mut out = self.out.iter_mut();
            let again = out.find(|out| out.offset == offset).unwrap();
            assert_eq!(again.state, State::GivenBack, "{offset} is out twice");
            again.attempts += 1;
            again.state = State::Held;
            assert_eq!(record.attempts(), again.attempts);
        } else {
            assert!(!is_full, "{offset} is one too many");
            assert_eq!(record.attempts(), 1);
            self.told_of_all_before(&record, model);
            self.next = offset + 1;
            self.out.push_back(Out {
                offset,
                attempts: 1,
                state: State::Held,
            });
        }
        self.held.push(record);
        self.check(model);
    }

    /// The gaps in front of a record are all there is between it and the one before.
    fn told_of_all_before(&self, record: &InFlight, model: &Model) {
        let mut next = self.next;
        for gap in record.gaps() {
            assert_eq!(gap.from, next, "skipped unsaid");
            next = gap.to.get();
        }
        assert_eq!(record.offset(), next, "skipped unsaid");
        let skipped = model.records.range(self.next..next).next();
        assert_eq!(skipped, None, "a gap, and a record");
    }

    /// The record that is to be acknowledged or given back, if one is held.
    fn end_one(&mut self, index: usize, state: State) -> Option<InFlight> {
        let index = index.checked_rem(self.held.len())?;
        let record = self.held.swap_remove(index);
        let offset = record.offset();
        let out = self.out.iter_mut().find(|out| offset == out.offset);
        out.unwrap().state = state;
        Some(record)
    }

    pub fn acknowledge(&mut self, index: usize, model: &mut Model) {
        let Some(record) = self.end_one(index, State::Acknowledged) else {
            return;
        };
        record.ack().unwrap();
        let before = self.prefix;
        while let Some(done) = self.out.front()
            && done.state == State::Acknowledged
        {
            self.prefix = done.offset + 1;
            self.out.pop_front();
        }
        if self.prefix > before {
            model.acknowledged.add(self.prefix);
        }
        self.check(model);
    }

    pub fn give_back(&mut self, index: usize, model: &Model) {
        if let Some(record) = self.end_one(index, State::GivenBack) {
            record.fail();
        }
        self.check(model);
    }

    pub fn commit_durably(&mut self, model: &mut Model) {
        let durable = CommitOptions::new().durability(Durability::Durable);
        self.consumer.commit_with(&durable).unwrap();
        let number = model.acknowledged.add(self.prefix);
        let committed = model.acknowledged.is_durable(number);
        model.durable = model.durable.max(committed.unwrap());
        self.check(model);
    }

    pub fn lag(&self, end: u64) {
        assert_eq!(self.consumer.lag().unwrap().records, end - self.prefix);
    }

    fn check(&self, model: &Model) {
        assert_eq!(self.consumer.committed(), model.acknowledged.last());
        assert_eq!(self.consumer.in_flight(), self.out.len());
        for gap in self.consumer.gaps() {
            assert!(
                gap.to.get() > model.acknowledged.last(),
                "{gap:?} is told for ever"
            );
        }
    }

    pub fn close(self) {
        drop(self.held);
        self.consumer.close().unwrap();
    }
}
