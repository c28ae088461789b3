//! What is in an accumulator, and how much memory that takes. Nothing in here waits, or calls
//! anybody: whom a change wakes is noted.

use std::{collections::VecDeque, task::Waker, time::Duration};

use super::{
    accumulator::Accumulator,
    batch::{BATCH_OVERHEAD, Batch, LEVEL_OVERHEAD},
    builder::Buffering,
    completion::{Level, Stage},
    delivery::ProducerStats,
    line::{Line, Ticket},
};
use crate::{
    error::{ErrorKind, Result},
    handle::Unwritten,
};

/// What a first buffer can hold; it grows up to a batch, and is used again then.
const FIRST_CAPACITY: usize = 4 << 10;
/// So many buffers are kept for the next batches.
const SPARES: usize = 4;

/// What the lock of an [`Accumulator`] guards.
#[derive(Debug)]
pub(super) struct State {
    /// Takes the next records.
    pub(super) open: Option<Batch>,
    /// Takes no more, in the order in which they are appended.
    pub(super) ready: VecDeque<Batch>,
    /// Buffers to be used again.
    pub(super) spares: Vec<Vec<u8>>,
    /// Memory of all records that are not done, and who waits for some of it.
    pub(super) used: usize,
    pub(super) waiting: Line,
    pub(super) closing: Option<Closing>,
    pub(super) rest: Option<Rest>,
    pub(super) sender: Waker,
    /// Whoever is to know of what was changed under the lock.
    pub(super) wakes: Vec<Waker>,
    /// Records that are done. They are done in the order in which they were taken.
    pub(super) done: u64,
    /// Who waits until so many are.
    pub(super) flushers: Vec<(u64, Waker)>,
    /// What no flush has told yet.
    pub(super) unwritten: Unwritten,
    pub(super) stats: ProducerStats,
}

/// No more records are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// Until this moment what is there is sent.
    Until(Duration),
    /// What is there is tried once.
    Once,
}

/// Why the sender sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    /// There is nothing to do before this moment.
    Idle(Option<Duration>),
    /// It is to try again later.
    Retries,
}

impl State {
    pub(super) fn new(sender: Waker) -> Self {
        Self {
            open: None,
            ready: VecDeque::new(),
            spares: Vec::new(),
            used: 0,
            waiting: Line::default(),
            closing: None,
            rest: None,
            sender,
            wakes: Vec::new(),
            done: 0,
            flushers: Vec::new(),
            unwritten: Unwritten::default(),
            stats: ProducerStats::default(),
        }
    }

    #[inline]
    pub(super) fn check_open(&self) -> Result<()> {
        match self.closing {
            None => Ok(()),
            Some(_) => Err(ErrorKind::Closed.into()),
        }
    }

    /// Sees to it that there is an open batch with room for a record; whether there is.
    #[inline]
    pub(super) fn admit(
        &mut self,
        of: &Accumulator,
        len: usize,
        level: Level,
        ticket: Option<Ticket>,
    ) -> bool {
        if let Some(open) = &self.open {
            if open.filled() + len > of.options.batch_bytes {
                self.seal();
            } else if len <= open.room() && level == open.level() {
                // The memory is taken already, so nobody who waits for some comes first.
                return true;
            }
        }
        self.extend(of, len, level, ticket)
    }

    /// Takes memory for a record, in the open batch or in a new one; whether there is enough.
    pub(super) fn extend(
        &mut self,
        of: &Accumulator,
        len: usize,
        level: Level,
        ticket: Option<Ticket>,
    ) -> bool {
        if !self.waiting.is_turn(ticket) {
            return false;
        }
        let options = &of.options;
        let room = options.buffer_bytes.saturating_sub(self.used);
        let Some(open) = &mut self.open else {
            let Some(room) = room.checked_sub(BATCH_OVERHEAD).filter(|room| len <= *room) else {
                return false;
            };
            let fits = |spare: &mut Vec<u8>| (len..=room).contains(&spare.len());
            let buffer = self.spares.pop_if(fits).unwrap_or_else(|| {
                let most = options.batch_bytes.min(options.buffer_bytes / 8);
                vec![0; FIRST_CAPACITY.min(most).min(room).max(len)]
            });
            let open = Batch::new(buffer, level, of.now(), of.new_completion());
            let memory = open.memory();
            self.open = Some(open);
            self.take(memory);
            return true;
        };
        let of_level = if level == open.level() {
            0
        } else {
            LEVEL_OVERHEAD
        };
        let missing = len.saturating_sub(open.room());
        if missing + of_level > room {
            return false;
        }
        let mut more = missing;
        if missing > 0 {
            let twice = open.capacity().min(options.batch_bytes - open.capacity());
            more = twice.clamp(missing, room - of_level);
            open.grow(more);
        }
        self.take(more + of_level);
        true
    }

    /// Takes memory for a batch of its own; whether there is enough.
    pub(super) fn reserve(
        &mut self,
        of: &Accumulator,
        memory: usize,
        ticket: Option<Ticket>,
    ) -> bool {
        let room = of.options.buffer_bytes.saturating_sub(self.used);
        if memory > room || !self.waiting.is_turn(ticket) {
            return false;
        }
        self.take(memory);
        true
    }

    fn take(&mut self, memory: usize) {
        self.used += memory;
        self.stats.buffered_bytes_peak = self.stats.buffered_bytes_peak.max(self.used as u64);
    }

    pub(super) fn release(&mut self, memory: usize) {
        self.used = self.used.saturating_sub(memory);
        let first = self.waiting.first();
        self.wakes.extend(first);
    }

    /// A batch is done: its memory is free, and whoever waited for it goes on.
    pub(super) fn finish(&mut self, batch: Batch, outcome: &Stage, batch_bytes: usize) {
        let failed = batch.failures(outcome);
        self.done += batch.count();
        self.stats.records_acknowledged += batch.count() - failed;
        self.stats.records_failed += failed;
        if let Stage::Failed { error, .. } = outcome
            && failed > 0
        {
            self.unwritten.add(failed, error);
        }
        self.release(batch.memory());
        if self.spares.len() < SPARES && batch.capacity() <= batch_bytes {
            self.spares.push(batch.into_buffer());
        }
        let done = self.done;
        let is_over = |(until, _): &mut (u64, Waker)| *until <= done;
        let woken = self.flushers.extract_if(.., is_over);
        self.wakes.extend(woken.map(|(_, waker)| waker));
    }

    /// The open batch takes no more.
    pub(super) fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            self.ready.push_back(open);
            self.wake_sender(Duration::ZERO);
        }
    }

    #[cold]
    pub(super) fn opened_or_filled(&mut self, options: &Buffering) {
        let Some(open) = &self.open else { return };
        if open.filled() >= options.batch_bytes {
            self.seal();
        } else {
            let due = open.opened.checked_add(options.linger);
            self.wake_sender(due.unwrap_or(Duration::MAX));
        }
    }

    /// There is something to do at `due`: wakes the sender if it sleeps for longer.
    pub(super) fn wake_sender(&mut self, due: Duration) {
        if let Some(Rest::Idle(until)) = self.rest
            && until.is_none_or(|until| due < until)
        {
            self.rest = None;
            self.wakes.push(self.sender.clone());
        }
    }
}
