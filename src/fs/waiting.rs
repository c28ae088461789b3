//! Waiting without losing a wake-up, for threads and futures alike.
//!
//! Who waits puts its waker on a [`WaitList`] under the lock of whatever it waits for, and looks
//! there again under the same lock before it lets go: a change comes either before that, and is
//! seen, or after it, and finds the waker. A thread waits with its parker's waker, a future with
//! that of its task.
//!
//! Who waits for two things at once does that with one after the other, with the same waker. A
//! change of the first between the two has called the waker by then.
//!
//! Wakers are other people's code: they are cloned before a lock is taken, and called and dropped
//! after it is released. (The last waker of a task may drop the task, and with it a future that
//! takes the same lock to leave its list.)

use std::{sync::atomic::Ordering, task::Waker};

use super::{AtomicU8, Mutex, wake_all};

/// A place on a list. Whoever has it may still wait, or may have been woken.
#[derive(Debug)]
pub(crate) struct WaitId(u64);

/// Those who wait for something, and what is known about each; first come, first woken.
#[derive(Debug)]
pub(crate) struct WaitList<T> {
    /// By `id`.
    waiters: Vec<Waiter<T>>,
    last_id: u64,
}

#[derive(Debug)]
struct Waiter<T> {
    id: u64,
    waker: Waker,
    about: T,
}

impl<T> Default for WaitList<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> WaitList<T> {
    pub(crate) const fn new() -> Self {
        Self {
            waiters: Vec::new(),
            last_id: 0,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Puts `waker` on the list, in place of what is at `place`. Returns a waker that is not needed
    /// any more.
    #[must_use = "it is dropped after the lock is released"]
    pub(crate) fn add(
        &mut self,
        place: &mut Option<WaitId>,
        waker: Waker,
        about: T,
    ) -> Option<Waker> {
        let before = place
            .as_ref()
            .and_then(|place| self.find(place))
            .and_then(|at| self.waiters.get_mut(at));
        if let Some(waiter) = before {
            waiter.about = about;
            return Some(std::mem::replace(&mut waiter.waker, waker));
        }
        self.last_id += 1;
        let id = self.last_id;
        self.waiters.push(Waiter { id, waker, about });
        *place = Some(WaitId(id));
        None
    }

    /// Takes whoever is at `place` off the list, if it is still there.
    #[must_use = "it is dropped after the lock is released"]
    pub(crate) fn remove(&mut self, place: &WaitId) -> Option<Waker> {
        let at = self.find(place)?;
        Some(self.waiters.remove(at).waker)
    }

    fn find(&self, WaitId(id): &WaitId) -> Option<usize> {
        let by_id = |waiter: &Waiter<T>| waiter.id;
        self.waiters.binary_search_by_key(id, by_id).ok()
    }

    /// Takes all off the list, to be woken.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Waker> + use<T> {
        let taken = std::mem::take(&mut self.waiters);
        taken.into_iter().map(|waiter| waiter.waker)
    }

    /// Takes those off the list of whom this is true, to be woken.
    #[must_use = "they wait to be woken"]
    pub(crate) fn take_if(&mut self, is_over: impl Fn(&T) -> bool) -> Vec<Waker> {
        let taken = self.waiters.extract_if(.., |waiter| is_over(&waiter.about));
        taken.map(|waiter| waiter.waker).collect()
    }

    /// Takes the first off the list of whom this is true, to be woken.
    #[must_use = "it waits to be woken"]
    pub(crate) fn take_first(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<Waker> {
        let at = self.position(is_wanted)?;
        Some(self.waiters.remove(at).waker)
    }

    /// Whether this is true of anybody.
    pub(crate) fn any(&self, is_wanted: impl Fn(&T) -> bool) -> bool {
        self.position(is_wanted).is_some()
    }

    fn position(&self, is_wanted: impl Fn(&T) -> bool) -> Option<usize> {
        let about = |waiter: &Waiter<T>| is_wanted(&waiter.about);
        self.waiters.iter().position(about)
    }
}

/// To return at once, this once.
const WOKEN: u8 = 1;
/// To return at once, from now on.
const STOPPED: u8 = 2;
/// To wait, whatever there is.
const PAUSED: u8 = 4;

/// What others have told whoever polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing: it reads what there is.
    Nothing,
    /// To wait until it is told otherwise.
    Paused,
    /// To return with nothing.
    Return,
}

/// Tells one who polls, now or later, what others want of it. Looking at it takes no lock.
#[derive(Debug)]
pub(crate) struct Signal {
    /// Changed under the lock of `waiters`, except that who looks takes `WOKEN` away.
    flags: AtomicU8,
    waiters: Mutex<WaitList<()>>,
}

impl Default for Signal {
    fn default() -> Self {
        Self {
            flags: AtomicU8::new(0),
            waiters: Mutex::new(WaitList::new()),
        }
    }
}

impl Signal {
    /// What is to be done now. Being woken is over once it was seen here.
    #[inline]
    pub(crate) fn look(&self) -> Told {
        match self.flags.load(Ordering::Acquire) {
            0 => Told::Nothing,
            flags => self.look_closer(flags),
        }
    }

    /// The same, without taking it for seen.
    pub(crate) fn told(&self) -> Told {
        told_by(self.flags.load(Ordering::Acquire))
    }

    #[cold]
    fn look_closer(&self, flags: u8) -> Told {
        let told = told_by(flags);
        if told == Told::Return && flags & STOPPED == 0 {
            self.flags.fetch_and(!WOKEN, Ordering::AcqRel);
        }
        told
    }

    /// Has `waker` called when something else is to be done than what was `told`; `false` if that
    /// is so already.
    pub(crate) fn watch(&self, told: Told, waker: &Waker, place: &mut Option<WaitId>) -> bool {
        let waker = waker.clone();
        let mut waiters = self.waiters.lock();
        let is_so = told_by(self.flags.load(Ordering::Acquire)) == told;
        let unused = if is_so {
            waiters.add(place, waker, ())
        } else {
            Some(waker)
        };
        drop(waiters);
        drop(unused);
        is_so
    }

    /// Whoever is at `place` waits no longer.
    pub(crate) fn forget(&self, place: &mut Option<WaitId>) {
        if let Some(place) = place.take() {
            let unused = self.waiters.lock().remove(&place);
            drop(unused);
        }
    }

    /// The poll in progress returns at once, or the next one.
    pub(crate) fn wake(&self) {
        self.change(|flags| flags | WOKEN);
    }

    /// From now on polls return at once.
    pub(crate) fn stop(&self) {
        self.change(|flags| flags | STOPPED);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.flags.load(Ordering::Acquire) & STOPPED != 0
    }

    /// From now on polls wait until their time is over.
    pub(crate) fn pause(&self) {
        self.change(|flags| flags | PAUSED);
    }

    /// From now on polls return what there is.
    pub(crate) fn resume(&self) {
        self.change(|flags| flags & !PAUSED);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.flags.load(Ordering::Acquire) & PAUSED != 0
    }

    fn change(&self, to: impl Fn(u8) -> u8) {
        let mut waiters = self.waiters.lock();
        let mut flags = self.flags.load(Ordering::Acquire);
        // Who takes `WOKEN` away meanwhile has no lock.
        while let Err(now) =
            self.flags
                .compare_exchange(flags, to(flags), Ordering::AcqRel, Ordering::Acquire)
        {
            flags = now;
        }
        let woken = waiters.take_all();
        drop(waiters);
        wake_all(woken);
    }
}

fn told_by(flags: u8) -> Told {
    if flags & (STOPPED | WOKEN) != 0 {
        Told::Return
    } else if flags & PAUSED != 0 {
        Told::Paused
    } else {
        Told::Nothing
    }
}
