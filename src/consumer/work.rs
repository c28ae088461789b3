//! What the workers of a [`ParallelConsumer`](super::ParallelConsumer) share: the records that were
//! read, those that failed, and what is acknowledged. Under one lock, and without any of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
    time::Duration,
};

use super::acks::{AckTracker, Ticket};
use crate::{
    fs::{WaitId, WaitList},
    log::Gap,
    offset::Offset,
    record::{Record, RecordRef, Timestamp},
};

/// A record to be handed out, or that is.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    pub(super) offset: Offset,
    /// How often it was handed out.
    pub(super) attempts: u32,
    /// In front of it.
    pub(super) gaps: Vec<Gap>,
    append_time: Timestamp,
    record: Record,
    /// Once it was handed out.
    ticket: Ticket,
}

impl Delivery {
    /// A copy of a record that was read.
    pub(super) fn of(record: RecordRef<'_>) -> Option<Self> {
        Some(Self {
            offset: record.offset?,
            append_time: record.append_time,
            record: record.to_record(),
            ..Self::default()
        })
    }

    pub(super) fn record(&self) -> RecordRef<'_> {
        RecordRef {
            offset: Some(self.offset),
            append_time: self.append_time,
            ..self.record.as_ref()
        }
    }
}

/// What there was to know when nothing was found.
#[derive(Debug)]
pub(super) struct Idle {
    /// How often something had changed by then.
    changes: u64,
    /// It would help to read on.
    pub(super) wants_more: bool,
    /// Where reading goes on.
    pub(super) position: Offset,
    /// When a record that failed is to be handed out again.
    pub(super) due: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Work {
    acks: AckTracker,
    max_in_flight: usize,
    /// Read and not handed out yet, in order.
    fresh: VecDeque<Delivery>,
    /// To be handed out again: by when, then first come, first served.
    failed: BTreeMap<(Duration, u64), Failed>,
    /// How many have failed.
    failures: u64,
    /// How often was read.
    reads: u64,
    /// Where reading goes on.
    position: Offset,
    /// The prefix when it was committed last.
    settled: Offset,
    committed: Offset,
    /// Those that no commit has passed.
    gaps: VecDeque<Gap>,
    /// How many of the last of them have no record behind them yet.
    trailing: usize,
    /// How often something came that one who found nothing may want to know.
    changes: u64,
    waiters: WaitList<()>,
}

#[derive(Debug)]
struct Failed {
    delivery: Delivery,
    /// How often was read by then.
    reads: u64,
}

/// What comes next.
enum Next {
    Failed((Duration, u64)),
    Fresh,
}

impl Work {
    /// Reading begins at `position`; `committed` is elsewhere if the group was reset.
    pub(super) fn new(position: Offset, committed: Offset, max_in_flight: usize) -> Self {
        Self {
            acks: AckTracker::new(position),
            settled: position,
            max_in_flight,
            fresh: VecDeque::new(),
            failed: BTreeMap::new(),
            failures: 0,
            reads: 0,
            position,
            committed,
            gaps: VecDeque::new(),
            trailing: 0,
            changes: 0,
            waiters: WaitList::new(),
        }
    }

    /// Everything below is acknowledged, or has no record.
    pub(super) fn prefix(&self) -> Offset {
        self.acks.prefix()
    }

    /// Whether the prefix is not committed yet.
    pub(super) fn is_behind(&self) -> bool {
        self.prefix() > self.settled
    }

    pub(super) fn committed(&self) -> Offset {
        self.committed
    }

    pub(super) fn in_flight(&self) -> usize {
        self.acks.len()
    }

    pub(super) fn gaps(&self) -> Vec<Gap> {
        self.gaps.iter().copied().collect()
    }

    fn has_room(&self) -> bool {
        self.acks.len() < self.max_in_flight
    }

    /// Whether it would help to read on.
    pub(super) fn wants_more(&self) -> bool {
        self.fresh.is_empty() && self.has_room()
    }

    /// What to hand out now. What failed comes before what was read since, and after what was read
    /// before: so one that always fails holds up nobody, and is not forgotten.
    fn choose(&self, now: Duration) -> Option<Next> {
        let is_full = !self.has_room();
        let failed = self.failed.first_key_value();
        let failed = failed
            .filter(|((due, _), failed)| *due <= now && (is_full || failed.reads < self.reads));
        match failed {
            Some((key, _)) => Some(Next::Failed(*key)),
            None => (!is_full && !self.fresh.is_empty()).then_some(Next::Fresh),
        }
    }

    /// The offset of what is handed out next.
    pub(super) fn peek(&self, now: Duration) -> Option<Offset> {
        let next = match self.choose(now)? {
            Next::Failed(key) => self.failed.get(&key).map(|failed| &failed.delivery),
            Next::Fresh => self.fresh.front(),
        };
        next.map(|next| next.offset)
    }

    /// Hands out a record, if there is one now.
    pub(super) fn next(&mut self, now: Duration) -> Result<Delivery, Idle> {
        let next = match self.choose(now) {
            Some(Next::Failed(key)) => self.failed.remove(&key).map(|failed| failed.delivery),
            Some(Next::Fresh) => self.fresh.pop_front().map(|fresh| Delivery {
                ticket: self.acks.hand_out(fresh.offset),
                ..fresh
            }),
            None => None,
        };
        let mut next = next.ok_or_else(|| self.idle())?;
        next.attempts = next.attempts.saturating_add(1);
        Ok(next)
    }

    pub(super) fn idle(&self) -> Idle {
        Idle {
            changes: self.changes,
            wants_more: self.wants_more(),
            position: self.position,
            due: self.failed.first_key_value().map(|((due, _), _)| *due),
        }
    }

    /// Takes in what was read: records, and the gaps before and between them. Returns who is to be
    /// woken.
    #[must_use = "they wait to be woken"]
    pub(super) fn has_read(
        &mut self,
        records: Vec<Delivery>,
        gaps: &[Gap],
        position: Offset,
    ) -> Vec<Waker> {
        self.reads += 1;
        self.position = position;
        self.gaps.extend(gaps);
        self.trailing += gaps.len();
        let news = !records.is_empty();
        for mut record in records {
            if self.trailing > 0 {
                let first = self.gaps.len().saturating_sub(self.trailing);
                let before = self.gaps.range(first..);
                record.gaps = before
                    .take_while(|gap| gap.to <= record.offset)
                    .copied()
                    .collect();
                self.trailing = self.trailing.saturating_sub(record.gaps.len());
            }
            self.fresh.push_back(record);
        }
        self.wake_if(news)
    }

    /// A record is done with. Returns who is to be woken.
    #[must_use = "they wait to be woken"]
    pub(super) fn acknowledge(&mut self, delivery: &Delivery) -> Vec<Waker> {
        let has_moved = self.acks.acknowledge(delivery.ticket);
        self.wake_if(has_moved)
    }

    /// A record is to be handed out again. Returns who is to be woken.
    #[must_use = "they wait to be woken"]
    pub(super) fn give_back(&mut self, delivery: Delivery, due: Duration) -> Vec<Waker> {
        let reads = self.reads;
        self.failures += 1;
        let failed = Failed { delivery, reads };
        self.failed.insert((due, self.failures), failed);
        self.wake_if(true)
    }

    /// Everything below is committed.
    pub(super) fn has_committed(&mut self, prefix: Offset) {
        self.settled = prefix;
        self.committed = prefix;
        while self.gaps.front().is_some_and(|gap| gap.to <= prefix) {
            self.gaps.pop_front();
        }
    }

    fn wake_if(&mut self, news: bool) -> Vec<Waker> {
        self.changes += u64::from(news);
        if news && !self.waiters.is_empty() {
            self.waiters.take_all().collect()
        } else {
            Vec::new()
        }
    }

    /// Has `waker` called when something changes; `false` if something has since.
    pub(super) fn watch(&mut self, idle: &Idle, waker: &Waker, place: &mut Option<WaitId>) -> bool {
        if self.changes != idle.changes {
            return false;
        }
        // It is a parker's, not other people's code, so it may be dropped here.
        drop(self.waiters.add(place, waker.clone(), ()));
        true
    }

    /// Whoever is at `place` waits no longer.
    #[must_use = "it is dropped after the lock is released"]
    pub(super) fn forget(&mut self, place: &WaitId) -> Option<Waker> {
        self.waiters.remove(place)
    }
}
