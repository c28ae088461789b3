//! The threads that do the maintenance: two for all logs of a file system, however many those are,
//! and a third once one of them has something to clean. They start with the first log there that
//! needs them, and end with the last that is closed.
//!
//! Logs on other file systems have threads of their own: a device that hangs holds up only what
//! is on it.

use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
    task::Waker,
    thread::{self, ThreadId},
    time::Duration,
};

use super::{
    Shared,
    rota::{MemberId, Rota},
};
use crate::fs::{Host, Joiner, Mutex, Parker, contain, wake_all};

/// All pools there are.
///
/// Not a lock of the simulated machine, as it is shared with others: whoever holds it makes no
/// call of a machine.
static POOLS: parking_lot::Mutex<Vec<Serving>> = parking_lot::Mutex::new(Vec::new());

/// A pool that serves at least one log.
struct Serving {
    pool: Arc<Pool>,
    logs: usize,
    next_id: MemberId,
}

impl Serving {
    fn add_log(&mut self) -> Place {
        self.logs += 1;
        self.next_id += 1;
        Place {
            pool: Arc::clone(&self.pool),
            id: self.next_id,
        }
    }
}

/// Whose logs are served together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    machine: usize,
    device: u64,
}

/// The threads.
#[derive(Debug)]
struct Pool {
    key: Key,
    host: Arc<dyn Host>,
    ahead: Arc<Line>,
    settle: Arc<Line>,
    clean: Arc<Line>,
}

/// One of the threads, and the logs it serves.
struct Line {
    name: &'static str,
    step: fn(&Shared) -> Option<Duration>,
    queue: Mutex<Queue>,
    waker: OnceLock<Waker>,
    thread: Mutex<Option<Box<dyn Joiner>>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[derive(Default)]
struct Queue {
    rota: Rota<Arc<Shared>>,
    /// Whose step is running, and where.
    running: Option<(MemberId, ThreadId)>,
    /// They wait for the end of that step.
    leaving: Vec<Waker>,
    stop: bool,
}

/// What a thread does next.
enum Turn {
    Serve(MemberId, Arc<Shared>),
    Wait(Option<Duration>),
    Stop,
}

/// A log's place among those that are served.
#[derive(Debug)]
pub(super) struct Place {
    pool: Arc<Pool>,
    id: MemberId,
}

impl Place {
    /// A place with the threads that serve the file system of `dir`. [`leave`](Self::leave) gives
    /// it up.
    ///
    /// # Errors
    ///
    /// What the operating system says about `dir`.
    pub(super) fn take(host: &Arc<dyn Host>, dir: &Path) -> io::Result<Self> {
        let key = Key {
            machine: host.identity(),
            device: host.device(dir)?,
        };
        let mut pools = POOLS.lock();
        if let Some(serving) = pools.iter_mut().find(|serving| serving.pool.key == key) {
            return Ok(serving.add_log());
        }
        let mut serving = Serving {
            pool: Arc::new(Pool::new(key, host)),
            logs: 0,
            next_id: 0,
        };
        let place = serving.add_log();
        pools.push(serving);
        Ok(place)
    }

    /// From now on the log is served.
    ///
    /// # Errors
    ///
    /// The operating system has no more threads.
    pub(super) fn begin(&self, log: &Arc<Shared>) -> io::Result<()> {
        let needed =
            |line: &&Arc<Line>| log.wants_cleaning() || !Arc::ptr_eq(line, &self.pool.clean);
        let lines = self.pool.lines();
        for line in lines.into_iter().filter(needed) {
            line.start(&self.pool.host)?;
        }
        for line in lines.into_iter().filter(needed) {
            line.queue.lock().rota.add(self.id, Arc::clone(log));
            line.wake();
        }
        Ok(())
    }

    pub(super) fn wake_ahead(&self) {
        self.pool.ahead.wake_member(self.id);
    }

    pub(super) fn wake_settle(&self) {
        self.pool.settle.wake_member(self.id);
    }

    /// Does nothing for a log that has nothing to clean.
    pub(super) fn wake_clean(&self) {
        self.pool.clean.wake_member(self.id);
    }

    /// The log is served no more, once this returns; the threads end with the last one.
    pub(super) fn leave(&self) {
        for line in self.pool.lines() {
            line.remove(self.id, &*self.pool.host);
        }
        if self.pool.lose_log() {
            self.pool.stop();
        }
    }
}

impl Pool {
    fn new(key: Key, host: &Arc<dyn Host>) -> Self {
        Self {
            key,
            host: Arc::clone(host),
            ahead: Line::new("duralog-ahead", Shared::step_ahead),
            settle: Line::new("duralog-settle", Shared::step_settle),
            clean: Line::new("duralog-clean", Shared::step_clean),
        }
    }

    fn lines(&self) -> [&Arc<Line>; 3] {
        [&self.ahead, &self.settle, &self.clean]
    }

    /// One log less; whether that was the last one. Nobody finds this pool any more then.
    fn lose_log(&self) -> bool {
        let mut pools = POOLS.lock();
        for serving in pools
            .iter_mut()
            .filter(|serving| serving.pool.key == self.key)
        {
            serving.logs -= 1;
        }
        let before = pools.len();
        pools.retain(|serving| serving.logs > 0);
        pools.len() < before
    }

    fn stop(&self) {
        for line in self.lines() {
            line.queue.lock().stop = true;
            line.wake();
        }
        for line in self.lines() {
            // Taken out first: the thread may be this one, which must not wait for itself.
            let thread = line.thread.lock().take();
            if let Some(thread) = thread {
                thread.join();
            }
        }
    }
}

impl Line {
    fn new(name: &'static str, step: fn(&Shared) -> Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            name,
            step,
            queue: Mutex::new(Queue::default()),
            waker: OnceLock::new(),
            thread: Mutex::new(None),
        })
    }

    /// Starts the thread, if it is not running yet.
    fn start(self: &Arc<Self>, host: &Arc<dyn Host>) -> io::Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let parker = host.parker();
            let (line, clock) = (Arc::clone(self), Arc::clone(host));
            // Set before it is needed: whoever has a place here came through this lock.
            let waker = parker.waker();
            *thread = Some(host.spawn(self.name, Box::new(move || line.run(&*clock, &*parker)))?);
            self.waker.get_or_init(|| waker);
        }
        Ok(())
    }

    fn run(&self, host: &dyn Host, parker: &dyn Parker) {
        loop {
            let now = host.monotonic();
            let turn = self.queue.lock().turn(now);
            match turn {
                Turn::Serve(id, log) => {
                    let due = self.serve(&log);
                    let leaving = self.queue.lock().end_turn(id, due);
                    wake_all(leaving);
                }
                Turn::Wait(until) => parker.park(until),
                Turn::Stop => return,
            }
        }
    }

    /// Calls a log's step. One that panics takes neither the thread nor the other logs with it:
    /// that log is latched, as nobody knows what it left undone.
    fn serve(&self, log: &Shared) -> Option<Duration> {
        contain(|| (self.step)(log)).unwrap_or_else(|message| {
            log.latch_by_panic(&format!("{} panicked: {message}", self.name));
            None
        })
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    fn wake_member(&self, id: MemberId) {
        let is_news = self.queue.lock().rota.wake(id);
        if is_news {
            self.wake();
        }
    }

    /// Takes a log out, and waits for the end of its step if one is running; but not in that step
    /// itself: whoever is woken by it may close the log.
    fn remove(&self, id: MemberId, host: &dyn Host) {
        let parker = host.parker();
        loop {
            let mut queue = self.queue.lock();
            queue.rota.remove(id);
            let here = thread::current().id();
            let is_running = |&(running, at): &_| running == id && at != here;
            if !queue.running.as_ref().is_some_and(is_running) {
                return;
            }
            queue.leaving.push(parker.waker());
            drop(queue);
            parker.park(None);
        }
    }
}

impl Queue {
    fn turn(&mut self, now: Duration) -> Turn {
        if self.stop {
            return Turn::Stop;
        }
        match self.rota.next(now) {
            Some((id, log)) => {
                self.running = Some((id, thread::current().id()));
                Turn::Serve(id, log)
            }
            None => Turn::Wait(self.rota.first_due()),
        }
    }

    /// Returns whom to wake.
    fn end_turn(&mut self, id: MemberId, due: Option<Duration>) -> Vec<Waker> {
        self.running = None;
        self.rota.set_due(id, due);
        std::mem::take(&mut self.leaving)
    }
}
