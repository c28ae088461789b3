//! The simulated machine itself: its state, its threads, and the moments between.

use std::{
    cell::RefCell,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Once, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    Call, Choices, Fault, Random,
    fault::{Faults, Struck},
    image::Disk,
    schedule::{Next, Schedule, ThreadId},
    storage::{NodeId, Storage},
};
use crate::fs::panic_message;

/// What each call takes, at least.
const CALL_TIME: Duration = Duration::from_micros(2);
/// What looking at the clock takes.
const LOOK_TIME: Duration = Duration::from_nanos(100);
/// The wall clock when a machine is switched on: a moment in 2026.
const WALL_START: u64 = 1_790_000_000_000;

/// A deterministic machine with files, mapped memory, threads, clocks and power.
///
/// One of its threads runs at a time, and at each call another one may go on instead; which one,
/// and everything else that is left to chance, follows from the seed. So a run replays exactly.
///
/// Whatever uses it has to run in [`run`](Self::run), or in threads that were started there.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    state: Mutex<State>,
    boot: u64,
}

pub(super) struct State {
    pub(super) storage: Storage,
    pub(super) schedule: Schedule,
    pub(super) random: Random,
    faults: Faults,
    pub(super) locks: std::collections::BTreeMap<NodeId, u64>,
    pub(super) handles: u64,
    /// Mappings, and how much of each may be read.
    mappings: Vec<(NodeId, Weak<AtomicUsize>)>,
    wall: i128,
    observer: Option<Observer>,
    points: u64,
    problems: Vec<String>,
}

type Observer = Box<dyn FnMut(&Moment<'_>) + Send>;

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("points", &self.points)
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}

/// A moment just before a call takes effect, at which the machine may crash.
#[derive(Debug)]
pub struct Moment<'a> {
    /// How many came before.
    pub number: u64,
    /// The call.
    pub call: Call,
    /// What it is made on.
    pub path: &'a Path,
    storage: &'a Storage,
    boot: u64,
}

impl Moment<'_> {
    /// What the process leaves if it ends now.
    pub fn process_crash(&self) -> Disk {
        Disk::new(self.storage.after_process_crash(), self.boot)
    }

    /// What a power cut leaves now.
    pub fn power_cut(&self, choices: &mut Choices) -> Disk {
        Disk::new(self.storage.after_power_cut(choices), self.boot + 1)
    }

    /// Another number after each change of the storage.
    pub fn version(&self) -> u64 {
        self.storage.now()
    }
}

thread_local! {
    /// The machine that this thread belongs to, and its number there.
    static CURRENT: RefCell<Option<(Arc<Inner>, ThreadId)>> = const { RefCell::new(None) };
}

fn current() -> Option<(Arc<Inner>, ThreadId)> {
    CURRENT
        .try_with(|current| current.borrow().clone())
        .ok()
        .flatten()
}

/// From now on a panic in a thread of a machine is a problem of that machine, even if somebody
/// catches it.
fn note_panics() {
    static NOTED: Once = Once::new();
    NOTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // The thread may have the state already.
            if let Some((machine, _)) = current()
                && let Some(mut state) = machine.state.try_lock()
            {
                state.problem(panic.to_string());
            }
            before(panic);
        }));
    });
}

/// Takes a lock by trying, and lets others go on while it is held; `None` if this is no thread of a
/// simulated machine.
pub(crate) fn take_in_turn<G>(mut attempt: impl FnMut() -> Option<G>) -> Option<G> {
    let (machine, me) = current()?;
    machine.pass();
    loop {
        if let Some(guard) = attempt() {
            return Some(guard);
        }
        let mut state = machine.state.lock();
        let next = state.schedule.contend(me);
        assert!(next != Next::Stuck, "deadlock: a lock is never released");
        Inner::hand_over(state, me, next);
    }
}

impl Machine {
    /// A machine with an empty disk.
    pub fn new(seed: u64) -> Self {
        Self::boot(Disk::empty(), seed)
    }

    /// A machine that starts, or a process that starts on it, with what another one left.
    pub fn boot(disk: Disk, seed: u64) -> Self {
        let (storage, boot) = disk.into_parts();
        // What was random before the crash is not drawn again.
        let mut random = Random::new(seed ^ boot.rotate_left(32) ^ storage.now().rotate_left(48));
        let state = State {
            storage,
            schedule: Schedule::new(random.fork()),
            random,
            faults: Faults::default(),
            locks: std::collections::BTreeMap::new(),
            handles: 0,
            mappings: Vec::new(),
            wall: 0,
            observer: None,
            points: 0,
            problems: Vec::new(),
        };
        let state = Mutex::new(state);
        Self {
            inner: Arc::new(Inner { state, boot }),
        }
    }

    /// Runs `main` as a thread of the machine. When it returns, the process is over: threads that
    /// it left running never go on.
    ///
    /// # Panics
    ///
    /// When `main` does.
    pub fn run<R>(&self, main: impl FnOnce() -> R) -> R {
        note_panics();
        let me = {
            let mut state = self.inner.state.lock();
            let me = state.schedule.add_thread();
            state.schedule.give_turn(Some(me));
            me
        };
        let before = CURRENT.replace(Some((Arc::clone(&self.inner), me)));
        let result = catch_unwind(AssertUnwindSafe(main));
        CURRENT.set(before);
        let mut state = self.inner.state.lock();
        state.schedule.end_all(me);
        drop(state);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Lets a thread go on until it waits: fewer schedules are seen, sooner.
    pub fn switch_never(&self) {
        self.inner.state.lock().schedule.switch_never();
    }

    /// Is called before each call takes effect. It must not use the machine, and not panic.
    pub fn observe(&self, observer: impl FnMut(&Moment<'_>) + Send + 'static) {
        self.inner.state.lock().observer = Some(Box::new(observer));
    }

    /// Makes a call go wrong.
    pub fn inject(&self, fault: &Arc<Fault>) {
        self.inner.state.lock().faults.add(Arc::clone(fault));
    }

    /// All goes well again.
    pub fn lift_faults(&self) {
        self.inner.state.lock().faults.lift();
    }

    /// Bounds the disk to what is in use and `free` bytes; `None` lifts the bound.
    pub fn set_free(&self, free: Option<u64>) {
        self.inner.state.lock().storage.set_free(free);
    }

    /// The page cache forgets what it takes for durable; how many sectors read differently now.
    pub fn drop_cache(&self) -> usize {
        self.inner.state.lock().storage.drop_cache()
    }

    /// Sets the wall clock ahead, or back.
    pub fn jump_wall_clock(&self, millis: i64) {
        self.inner.state.lock().wall += i128::from(millis);
    }

    /// Waits, in a thread of the machine, while others go on.
    ///
    /// # Panics
    ///
    /// Outside of [`run`](Self::run).
    pub fn sleep(&self, time: Duration) {
        let parker = self.inner.state.lock().schedule.add_parker();
        let until = self.inner.now() + time;
        self.inner.park(parker, Some(until));
    }

    /// What the process leaves if it ends now.
    pub fn process_crash(&self) -> Disk {
        let storage = self.inner.state.lock().storage.after_process_crash();
        Disk::new(storage, self.inner.boot)
    }

    /// What a power cut leaves now.
    pub fn power_cut(&self, choices: &mut Choices) -> Disk {
        let storage = self.inner.state.lock().storage.after_power_cut(choices);
        Disk::new(storage, self.inner.boot + 1)
    }

    /// How many moments at which it may crash have passed.
    pub fn moments(&self) -> u64 {
        self.inner.state.lock().points
    }

    /// How often another thread went on.
    pub fn switches(&self) -> u64 {
        self.inner.state.lock().schedule.switches()
    }

    /// What must not happen and did: a thread that panicked, threads that all wait for each other,
    /// a store that would have been a `SIGBUS`.
    pub fn problems(&self) -> Vec<String> {
        self.inner.state.lock().problems.clone()
    }
}

impl State {
    pub(super) fn map(&mut self, node: NodeId, readable: &Arc<AtomicUsize>) {
        self.mappings
            .retain(|(_, readable)| readable.strong_count() > 0);
        self.mappings.push((node, Arc::downgrade(readable)));
    }

    /// Whether a mapping of the file may be read behind `len`.
    pub(super) fn is_mapped_behind(&self, node: NodeId, len: usize) -> bool {
        let of_node = self.mappings.iter().filter(|(mapped, _)| *mapped == node);
        of_node
            .filter_map(|(_, readable)| readable.upgrade())
            .any(|readable| readable.load(Ordering::Relaxed) > len)
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }
}

impl Inner {
    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    /// The time. Who only looks at it sees it pass too.
    pub(super) fn now(&self) -> Duration {
        let mut state = self.state.lock();
        state.schedule.now += LOOK_TIME;
        state.schedule.now
    }

    pub(super) fn wall_millis(&self) -> u64 {
        let state = self.state.lock();
        let now = i128::try_from(state.schedule.now.as_millis()).unwrap_or(i128::MAX);
        let wall = i128::from(WALL_START) + now + state.wall;
        u64::try_from(wall).unwrap_or(0)
    }

    /// The state, without a call.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A call: others may go on first; whoever watches looks at what is there; then it takes
    /// effect, or goes wrong.
    pub(super) fn call<R>(
        self: &Arc<Self>,
        call: Call,
        path: impl FnOnce(&Storage) -> PathBuf,
        effect: impl FnOnce(&mut State, Option<Struck>) -> io::Result<R>,
    ) -> io::Result<R> {
        self.pass();
        let mut state = self.state.lock();
        let path = path(&state.storage);
        self.show(&mut state, call, &path);
        let struck = state.faults.strike(call, &path)?;
        effect(&mut state, struck)
    }

    /// A moment of something that can't fail.
    pub(super) fn pass_moment(
        self: &Arc<Self>,
        call: Call,
        path: impl FnOnce(&Storage) -> PathBuf,
        effect: impl FnOnce(&mut State),
    ) {
        self.pass();
        let mut state = self.state.lock();
        let path = path(&state.storage);
        self.show(&mut state, call, &path);
        effect(&mut state);
    }

    fn show(&self, state: &mut State, call: Call, path: &Path) {
        if let Some(mut observer) = state.observer.take() {
            observer(&Moment {
                number: state.points,
                call,
                path,
                storage: &state.storage,
                boot: self.boot,
            });
            state.observer = Some(observer);
        }
        state.points += 1;
    }

    /// Time passes, and another thread may go on.
    pub(super) fn pass(&self) {
        let Some((machine, me)) = current() else {
            return;
        };
        debug_assert!(self.is(&machine), "a thread of another machine");
        let mut state = self.state.lock();
        state.schedule.now += CALL_TIME;
        let next = state.schedule.choose(me);
        if next != me {
            Self::hand_over(state, me, Next::Thread(next));
        }
    }

    /// Gives the turn to another thread and waits for it to come back.
    fn hand_over(mut state: MutexGuard<'_, State>, me: ThreadId, next: Next) {
        Self::give(&mut state, next);
        let Some(turn) = state.schedule.turn_of(me) else {
            return;
        };
        while !state.schedule.has_turn(me) {
            turn.wait(&mut state);
        }
        state.schedule.resume(me);
    }

    fn give(state: &mut State, next: Next) {
        let next = match next {
            Next::Thread(thread) => Some(thread),
            Next::Stuck => {
                let problem = "all threads wait for each other: a wake-up was lost";
                state.problem(problem.to_owned());
                // A wake-up without a reason is allowed, and lets the run end.
                assert!(state.schedule.wake_all(), "deadlock");
                match state.schedule.find_ready() {
                    Next::Thread(thread) => Some(thread),
                    Next::Stuck => None,
                }
            }
        };
        state.schedule.give_turn(next);
        if let Some(turn) = next.and_then(|thread| state.schedule.turn_of(thread)) {
            turn.notify_one();
        }
    }

    pub(super) fn park(self: &Arc<Self>, parker: usize, until: Option<Duration>) {
        let me = self.me();
        self.pass();
        let mut state = self.state.lock();
        self.show(&mut state, Call::Park, Path::new(""));
        let over = until.is_some_and(|until| until <= state.schedule.now);
        if !state.schedule.take_wake(parker) && !over {
            let next = state.schedule.park(me, parker, until);
            Self::hand_over(state, me, next);
            self.state.lock().schedule.take_wake(parker);
        }
    }

    pub(super) fn wake(self: &Arc<Self>, parker: usize) {
        self.state.lock().schedule.wake(parker);
        self.pass();
    }

    pub(super) fn spawn(
        self: &Arc<Self>,
        name: &str,
        run: Box<dyn FnOnce() + Send>,
    ) -> io::Result<ThreadId> {
        self.call(Call::Spawn, |_| PathBuf::from(name), |_, _| Ok(()))?;
        let me = self.state.lock().schedule.add_thread();
        let (machine, owned) = (Arc::clone(self), name.to_owned());
        let body = move || machine.thread(me, &owned, run);
        let spawned = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body);
        if let Err(error) = spawned {
            self.state.lock().schedule.cancel(me);
            return Err(error);
        }
        Ok(me)
    }

    fn thread(self: Arc<Self>, me: ThreadId, name: &str, run: Box<dyn FnOnce() + Send>) {
        let mut state = self.state.lock();
        let Some(turn) = state.schedule.turn_of(me) else {
            return;
        };
        while !state.schedule.has_turn(me) {
            turn.wait(&mut state);
        }
        drop(state);
        CURRENT.set(Some((Arc::clone(&self), me)));
        let result = catch_unwind(AssertUnwindSafe(run));
        CURRENT.set(None);
        let mut state = self.state.lock();
        if let Err(panic) = result {
            state.problem(format!("{name} panicked: {}", panic_message(&*panic)));
        }
        let next = state.schedule.end(me);
        Self::give(&mut state, next);
    }

    pub(super) fn join(self: &Arc<Self>, thread: ThreadId) {
        let me = self.me();
        self.pass();
        let mut state = self.state.lock();
        if me == thread || state.schedule.has_ended(thread) {
            return;
        }
        let next = state.schedule.join(me, thread);
        Self::hand_over(state, me, next);
    }

    fn is(&self, other: &Arc<Self>) -> bool {
        std::ptr::eq(self, Arc::as_ptr(other))
    }

    /// The number of this thread.
    fn me(&self) -> ThreadId {
        let Some((machine, me)) = current() else {
            panic!("outside of Machine::run nobody can wait");
        };
        debug_assert!(self.is(&machine), "a thread of another machine");
        me
    }
}
