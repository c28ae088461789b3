//! Where the records of a buffered producer wait for their batch to be sent.
//!
//! One lock guards all of it, held for a copy of one record and a few numbers. Nobody waits, makes
//! a call of the machine (but for the clock), or calls other people's code while holding it:
//! whom a change wakes is noted, and woken by [`Accumulator::unlock`].

use std::{
    sync::{Arc, OnceLock},
    task::Waker,
    thread::{self, ThreadId},
    time::Duration,
};

use super::{
    batch::{BATCH_OVERHEAD, Batch},
    builder::Buffering,
    completion::{Completion, Level, Stage},
    delivery::ProducerStats,
    line::Ticket,
    receipt::Receipt,
    state::{Closing, Rest, State},
};
use crate::{
    error::{ErrorKind, Result},
    fs::{Mutex, MutexGuard, Parker, wake_all},
    handle::{Holder, Unwritten},
    log::Shared,
    record::RecordRef,
};

/// Records between the threads that send and the one that appends.
#[derive(Debug)]
pub(super) struct Accumulator {
    pub(super) log: Arc<Shared>,
    pub(super) options: Buffering,
    state: Mutex<State>,
    sender_thread: OnceLock<ThreadId>,
}

/// What the sender does next.
pub(super) enum Work {
    Append(Batch),
    /// There is nothing to append for now.
    Nothing,
    /// And there will not be.
    End,
}

/// Whether a send waits for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    MaxBlock,
    None,
}

type Guard<'a> = MutexGuard<'a, State>;

impl Accumulator {
    pub(super) fn new(log: Arc<Shared>, options: Buffering, sender: Waker) -> Arc<Self> {
        let state = State::new(sender);
        Arc::new(Self {
            log,
            options,
            state: Mutex::new(state),
            sender_thread: OnceLock::new(),
        })
    }

    /// Lets go of the lock and wakes whoever has to know.
    #[inline]
    fn unlock(mut state: Guard<'_>) {
        if state.wakes.is_empty() {
            return;
        }
        let wakes = std::mem::take(&mut state.wakes);
        drop(state);
        wake_all(wakes);
    }

    pub(super) fn now(&self) -> Duration {
        self.log.site.host.monotonic()
    }

    pub(super) fn new_completion(&self) -> Arc<Completion> {
        Completion::new(Arc::clone(&self.log.site.host))
    }

    /// Adds a record of `len` bytes, which fits a batch, to the open one.
    ///
    /// # Errors
    ///
    /// `BufferFull`, `Closed`.
    #[inline]
    pub(super) fn add(
        &self,
        record: &RecordRef<'_>,
        len: usize,
        level: Level,
        patience: Patience,
    ) -> Result<Receipt> {
        let mut state = self.state.lock();
        state.check_open()?;
        if !state.admit(self, len, level, None) {
            state = self.wait_for_room(state, patience, |state, ticket| {
                state.admit(self, len, level, Some(ticket))
            })?;
        }
        let State { open, stats, .. } = &mut *state;
        // Admitted is what an open batch has room for.
        let open = open.as_mut().ok_or(ErrorKind::Closed)?;
        let receipt = open.push(record, len, level);
        stats.records_sent += 1;
        let is_first = open.count() == 1;
        if is_first || open.filled() >= self.options.batch_bytes {
            state.opened_or_filled(&self.options);
        }
        Self::unlock(state);
        Ok(receipt)
    }

    /// Adds a batch of its own, which `make` makes, and which takes this much memory at most.
    ///
    /// # Errors
    ///
    /// `BufferFull`, `Closed`.
    pub(super) fn add_batch(
        &self,
        bytes: usize,
        patience: Patience,
        make: impl FnOnce(Duration, Arc<Completion>) -> Batch,
    ) -> Result<Receipt> {
        let memory = BATCH_OVERHEAD + bytes;
        let mut state = self.state.lock();
        state.check_open()?;
        if !state.reserve(self, memory, None) {
            state = self.wait_for_room(state, patience, |state, ticket| {
                state.reserve(self, memory, Some(ticket))
            })?;
        }
        Self::unlock(state);
        // Large copies are made outside of the lock.
        let batch = make(self.now(), self.new_completion());
        debug_assert_eq!(batch.memory(), memory, "the room is for this");
        let mut state = self.state.lock();
        if let Err(closed) = state.check_open() {
            state.release(memory);
            Self::unlock(state);
            return Err(closed);
        }
        let receipt = batch.receipt();
        state.stats.records_sent += batch.count();
        state.seal();
        state.ready.push_back(batch);
        state.wake_sender(Duration::ZERO);
        Self::unlock(state);
        Ok(receipt)
    }

    /// Waits in line until `admit` finds room.
    #[cold]
    fn wait_for_room<'a>(
        &'a self,
        mut state: Guard<'a>,
        patience: Patience,
        mut admit: impl FnMut(&mut State, Ticket) -> bool,
    ) -> Result<Guard<'a>> {
        // What is open may linger no longer: others need its room.
        state.seal();
        let waited = match patience {
            Patience::MaxBlock if !self.is_sender() => self.options.max_block,
            _ => Duration::ZERO,
        };
        let began = self.now();
        let until = began.checked_add(waited);
        let parker = self.log.site.host.parker();
        // Under the lock that was held when there was no room: whoever makes some sees this.
        let ticket = state.waiting.join(parker.waker());
        loop {
            let is_over = until.is_some_and(|until| self.now() >= until);
            if !is_over {
                Self::unlock(state);
                parker.park(until);
                state = self.state.lock();
            }
            let result = match state.check_open() {
                Ok(()) if admit(&mut state, ticket) => Ok(()),
                Ok(()) if is_over => {
                    let limit = self.options.buffer_bytes;
                    Err(ErrorKind::BufferFull { waited, limit }.into())
                }
                Ok(()) => {
                    state.seal();
                    continue;
                }
                Err(closed) => Err(closed),
            };
            let next = state.waiting.leave(ticket);
            state.wakes.extend(next);
            match result {
                Ok(()) => return Ok(state),
                Err(error) => {
                    Self::unlock(state);
                    return Err(error);
                }
            }
        }
    }

    /// Waits until every record that was taken by now is done.
    ///
    /// # Errors
    ///
    /// `NotAcknowledged`, `CalledBack`.
    pub(super) fn flush(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.seal();
        if self.is_sender() {
            Self::unlock(state);
            return Err(ErrorKind::CalledBack.into());
        }
        self.wait_until_done(state).check()
    }

    /// Takes no more records; returns what came of those that are there, once that is known.
    pub(super) fn close(&self, closing: Closing) -> Unwritten {
        let mut state = self.state.lock();
        if state.closing != Some(Closing::Once) {
            state.closing = Some(closing);
        }
        state.seal();
        state.rest = None;
        let State {
            wakes,
            waiting,
            sender,
            ..
        } = &mut *state;
        wakes.push(sender.clone());
        wakes.extend(waiting.all());
        if self.is_sender() {
            Self::unlock(state);
            return Unwritten::default();
        }
        self.wait_until_done(state)
    }

    pub(super) fn close_within(&self, timeout: Duration) -> Result<()> {
        let until = self.now().checked_add(timeout).unwrap_or(Duration::MAX);
        let is_sender = self.is_sender();
        let unwritten = self.close(Closing::Until(until));
        if is_sender {
            return Err(ErrorKind::CalledBack.into());
        }
        unwritten.check()
    }

    fn wait_until_done<'a>(&'a self, mut state: Guard<'a>) -> Unwritten {
        let target = state.stats.records_sent;
        if state.done < target {
            let parker = self.log.site.host.parker();
            while state.done < target {
                state.flushers.push((target, parker.waker()));
                Self::unlock(state);
                parker.park(None);
                state = self.state.lock();
            }
        }
        let unwritten = std::mem::take(&mut state.unwritten);
        Self::unlock(state);
        unwritten
    }

    pub(super) fn stats(&self) -> ProducerStats {
        let state = self.state.lock();
        ProducerStats {
            buffered_bytes: state.used as u64,
            ..state.stats
        }
    }

    /// Whether this is the thread that all others wait for.
    fn is_sender(&self) -> bool {
        self.sender_thread.get() == Some(&thread::current().id())
    }
}

/// For the sender.
impl Accumulator {
    pub(super) fn begin_sending(&self) {
        self.sender_thread.get_or_init(|| thread::current().id());
    }

    /// The next batch; waits for one if `waits`.
    pub(super) fn next_work(&self, parker: &dyn Parker, waits: bool) -> Work {
        let mut state = self.state.lock();
        loop {
            if let Some(batch) = state.ready.pop_front() {
                return Work::Append(batch);
            }
            let due = state.open.as_ref().map(|open| self.due(open));
            if due.is_some_and(|due| due <= self.now())
                && let Some(batch) = state.open.take()
            {
                return Work::Append(batch);
            }
            if state.closing.is_some() {
                return Work::End;
            }
            if !waits {
                return Work::Nothing;
            }
            state.rest = Some(Rest::Idle(due));
            Self::unlock(state);
            parker.park(due);
            state = self.state.lock();
            state.rest = None;
        }
    }

    /// When an open batch is sent.
    fn due(&self, open: &Batch) -> Duration {
        let due = open.opened.checked_add(self.options.linger);
        due.unwrap_or(Duration::MAX)
    }

    pub(super) fn closing(&self) -> Option<Closing> {
        self.state.lock().closing
    }

    /// Waits before another try; less long if the producer is closed meanwhile.
    pub(super) fn wait_to_retry(&self, parker: &dyn Parker, until: Duration) {
        let mut state = self.state.lock();
        state.stats.retries += 1;
        let until = match state.closing {
            Some(Closing::Once) => return,
            Some(Closing::Until(end)) => until.min(end),
            None => until,
        };
        state.rest = Some(Rest::Retries);
        Self::unlock(state);
        parker.park(Some(until));
        self.state.lock().rest = None;
    }

    /// A batch is done: its receipts and the callback were told.
    pub(super) fn done(&self, batch: Batch, outcome: &Stage, panics: u64) {
        let mut state = self.state.lock();
        state.finish(batch, outcome, self.options.batch_bytes);
        state.stats.callback_panics += panics;
        Self::unlock(state);
    }

    /// Takes no more, and returns what nobody will append.
    pub(super) fn abandon(&self) -> Vec<Batch> {
        let mut state = self.state.lock();
        state.closing = Some(Closing::Once);
        state.seal();
        let left = state.ready.drain(..).collect();
        let waiting: Vec<_> = state.waiting.all().collect();
        state.wakes.extend(waiting);
        Self::unlock(state);
        left
    }
}

impl Holder for Accumulator {
    fn hand_over(&self) -> Unwritten {
        self.close(Closing::Once)
    }
}
