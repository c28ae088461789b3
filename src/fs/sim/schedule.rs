//! Which of the simulated threads runs: one at a time, drawn from the seed. Time is simulated too:
//! it passes with each call, and jumps to the next moment that somebody waits for.

use std::{sync::Arc, time::Duration};

use parking_lot::Condvar;

use super::Random;

pub(super) type ThreadId = usize;
pub(super) type ParkerId = usize;

/// So many times in a row a thread may find its lock held before it counts as a deadlock.
const PATIENCE: usize = 100_000;

/// So many times in a row a lock is tried before time passes until somebody's moment comes.
const RETRIES: usize = 64;
/// So long a thread may be held up while it could go on.
const SLOWEST: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Schedule {
    random: Random,
    /// Odds, of 256, that another thread goes on at a call.
    switch: u16,
    pub(super) now: Duration,
    threads: Vec<Thread>,
    /// Whether each parker was woken.
    parkers: Vec<bool>,
    contended: usize,
    switches: u64,
}

#[derive(Debug)]
struct Thread {
    state: ThreadState,
    turn: Arc<Condvar>,
    has_turn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThreadState {
    Ready,
    /// It found a lock held, and tries again.
    Contends,
    Parked {
        parker: ParkerId,
        until: Option<Duration>,
    },
    Joins(ThreadId),
    Ended,
}

/// Who runs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Thread(ThreadId),
    /// All wait for each other.
    Stuck,
}

impl Schedule {
    pub(super) fn new(mut random: Random) -> Self {
        let switch = random.pick(&[4, 16, 64, 128]).unwrap_or(64);
        Self {
            random,
            switch,
            now: Duration::ZERO,
            threads: Vec::new(),
            parkers: Vec::new(),
            contended: 0,
            switches: 0,
        }
    }

    /// Goes on with the same thread as long as it does not wait.
    pub(super) fn switch_never(&mut self) {
        self.switch = 0;
    }

    /// How often another thread went on.
    pub(super) fn switches(&self) -> u64 {
        self.switches
    }

    pub(super) fn add_thread(&mut self) -> ThreadId {
        self.threads.push(Thread {
            state: ThreadState::Ready,
            turn: Arc::default(),
            has_turn: false,
        });
        self.threads.len() - 1
    }

    pub(super) fn add_parker(&mut self) -> ParkerId {
        self.parkers.push(false);
        self.parkers.len() - 1
    }

    pub(super) fn has_turn(&self, thread: ThreadId) -> bool {
        self.threads.get(thread).is_some_and(|t| t.has_turn)
    }

    pub(super) fn turn_of(&self, thread: ThreadId) -> Option<Arc<Condvar>> {
        Some(Arc::clone(&self.threads.get(thread)?.turn))
    }

    fn set(&mut self, thread: ThreadId, state: ThreadState) {
        if let Some(thread) = self.threads.get_mut(thread) {
            thread.state = state;
        }
    }

    fn state(&self, thread: ThreadId) -> ThreadState {
        let found = self.threads.get(thread);
        found.map_or(ThreadState::Ended, |thread| thread.state)
    }

    pub(super) fn has_ended(&self, thread: ThreadId) -> bool {
        self.state(thread) == ThreadState::Ended
    }

    /// Takes the turn from whoever has it.
    pub(super) fn give_turn(&mut self, to: Option<ThreadId>) {
        for (id, thread) in self.threads.iter_mut().enumerate() {
            thread.has_turn = Some(id) == to;
        }
        self.switches += u64::from(to.is_some());
    }

    /// A wake-up for a parker; it is kept if nobody waits.
    pub(super) fn wake(&mut self, parker: ParkerId) {
        if let Some(woken) = self.parkers.get_mut(parker) {
            *woken = true;
        }
        for thread in &mut self.threads {
            if matches!(thread.state, ThreadState::Parked { parker: p, .. } if p == parker) {
                thread.state = ThreadState::Ready;
            }
        }
    }

    /// Whether a wake-up was kept; it is used up then.
    pub(super) fn take_wake(&mut self, parker: ParkerId) -> bool {
        self.parkers.get_mut(parker).is_some_and(std::mem::take)
    }

    /// `me` has made a call: somebody else may go on.
    pub(super) fn choose(&mut self, me: ThreadId) -> ThreadId {
        self.contended = 0;
        if !self.random.chance(self.switch) {
            return me;
        }
        // Somebody who waits for a moment may be next too: then all others were slow until then.
        if self.random.chance(32)
            && let Some((until, thread)) = self.next_timer()
            && until <= self.now + SLOWEST
        {
            self.fire(until, thread);
            return thread;
        }
        let ready =
            self.with_state(|state| matches!(state, ThreadState::Ready | ThreadState::Contends));
        self.random.pick(&ready).unwrap_or(me)
    }

    /// `me` waits; who goes on?
    pub(super) fn park(&mut self, me: ThreadId, parker: ParkerId, until: Option<Duration>) -> Next {
        self.set(me, ThreadState::Parked { parker, until });
        self.next()
    }

    pub(super) fn join(&mut self, me: ThreadId, thread: ThreadId) -> Next {
        self.set(me, ThreadState::Joins(thread));
        self.next()
    }

    /// `me` found a lock held.
    pub(super) fn contend(&mut self, me: ThreadId) -> Next {
        self.contended += 1;
        if self.contended > PATIENCE {
            return Next::Stuck;
        }
        self.set(me, ThreadState::Contends);
        self.next()
    }

    /// It was not started after all.
    pub(super) fn cancel(&mut self, thread: ThreadId) {
        self.set(thread, ThreadState::Ended);
    }

    /// The process is over: nobody goes on.
    pub(super) fn end_all(&mut self, me: ThreadId) {
        self.set(me, ThreadState::Ended);
        self.give_turn(None);
    }

    pub(super) fn end(&mut self, me: ThreadId) -> Next {
        self.set(me, ThreadState::Ended);
        for thread in &mut self.threads {
            if thread.state == ThreadState::Joins(me) {
                thread.state = ThreadState::Ready;
            }
        }
        self.next()
    }

    /// Somebody who can go on, though nobody's state has changed.
    pub(super) fn find_ready(&mut self) -> Next {
        self.next()
    }

    /// Somebody who can go on: who is ready, else who waits for a moment, else who tries a lock.
    fn next(&mut self) -> Next {
        let ready = self.with_state(|state| state == ThreadState::Ready);
        if let Some(thread) = self.random.pick(&ready) {
            return Next::Thread(thread);
        }
        let contending = self.with_state(|state| state == ThreadState::Contends);
        // If trying does not help, who holds the lock is waiting for a moment.
        let timer = self.next_timer();
        if let Some(thread) = self.random.pick(&contending)
            && (timer.is_none() || self.contended % RETRIES != RETRIES - 1)
        {
            return Next::Thread(thread);
        }
        match timer {
            Some((until, thread)) => {
                self.fire(until, thread);
                Next::Thread(thread)
            }
            None => Next::Stuck,
        }
    }

    fn next_timer(&self) -> Option<(Duration, ThreadId)> {
        let threads = self.threads.iter().enumerate();
        let timers = threads.filter_map(|(id, thread)| match thread.state {
            ThreadState::Parked { until, .. } => Some((until?, id)),
            _ => None,
        });
        timers.min()
    }

    fn fire(&mut self, until: Duration, thread: ThreadId) {
        self.now = self.now.max(until);
        self.set(thread, ThreadState::Ready);
    }

    fn with_state(&self, is_wanted: impl Fn(ThreadState) -> bool) -> Vec<ThreadId> {
        let threads = self.threads.iter().enumerate();
        let wanted = threads.filter(|(_, thread)| is_wanted(thread.state));
        wanted.map(|(id, _)| id).collect()
    }

    /// It goes on.
    pub(super) fn resume(&mut self, thread: ThreadId) {
        if self.state(thread) == ThreadState::Contends {
            self.set(thread, ThreadState::Ready);
        }
    }

    /// Wakes all who wait without a moment to wait for; whether there was anybody.
    pub(super) fn wake_all(&mut self) -> bool {
        let mut any = false;
        for thread in &mut self.threads {
            if matches!(thread.state, ThreadState::Parked { .. }) {
                thread.state = ThreadState::Ready;
                any = true;
            }
        }
        any
    }
}
