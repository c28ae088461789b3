//! Futures that wait for what another process writes. Nothing wakes this process then, so a thread
//! looks at the log for all of them: one for each log that is open read-only, as long as somebody
//! waits.

use std::{
    sync::{Arc, Weak},
    task::Waker,
    time::Duration,
};

use super::{read_only::ReadOnly, source::News};
use crate::{
    error::{Error, Result},
    fs::{Mutex, Parker, WaitId, WaitList, wake_all},
    offset::Offset,
};

/// The pauses between looks at a log that another process writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) const SHORTEST: Self = Self(Duration::from_millis(1));
    const LONGEST: Duration = Duration::from_millis(50);

    pub(crate) fn get(self) -> Duration {
        self.0
    }

    /// The next one, if this one brought nothing.
    pub(crate) fn longer(self) -> Self {
        Self((self.0 * 2).min(Self::LONGEST))
    }

    fn is_longest(self) -> bool {
        self.0 == Self::LONGEST
    }
}

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiters: WaitList<News>,
    /// Wakes the thread that looks; there is one if it is there.
    thread: Option<Waker>,
    /// Somebody new waits: the pauses begin anew.
    anew: bool,
}

impl Watch {
    /// Whoever is at `place` waits no longer.
    pub(super) fn forget(&self, place: &WaitId) {
        let unused = self.0.lock().waiters.remove(place);
        drop(unused);
    }
}

impl ReadOnly {
    /// Has `waker` called when there may be news.
    ///
    /// # Errors
    ///
    /// `Io` if no thread can be started to look for them.
    pub(super) fn watch_for(
        self: &Arc<Self>,
        news: News,
        waker: &Waker,
        place: &mut Option<WaitId>,
    ) -> Result<()> {
        let is_new = place.is_none();
        let waker = waker.clone();
        let mut state = self.watch.0.lock();
        state.anew |= is_new;
        let unused = state.waiters.add(place, waker, news);
        let thread = state.thread.clone();
        let parker = thread.is_none().then(|| self.host().parker());
        if let Some(parker) = &parker {
            state.thread = Some(parker.waker());
        }
        drop(state);
        drop(unused);
        if let Some(parker) = parker {
            let running = Running(Arc::downgrade(self));
            let run = Box::new(move || running.run(&*parker));
            let started = self.host().spawn("duralog-watch", run);
            started.map_err(|error| Error::io("start a thread for", &self.dir, error))?;
        }
        wake_all(thread.filter(|_| is_new));
        Ok(())
    }
}

/// The thread that looks. It keeps no log open.
struct Running(Weak<ReadOnly>);

/// What the thread remembers from one look to the next.
struct Pace {
    pause: Pause,
    found: (Offset, Offset),
}

impl Running {
    fn run(&self, parker: &dyn Parker) {
        let mut pace = Pace {
            pause: Pause::SHORTEST,
            found: (Offset::ZERO, Offset::ZERO),
        };
        loop {
            let Some(log) = self.0.upgrade() else { return };
            if !log.look_for_all(&mut pace) {
                return;
            }
            let until = log.host().monotonic() + pace.pause.get();
            drop(log);
            parker.park(Some(until));
        }
    }
}

impl Drop for Running {
    /// Whoever began to wait meanwhile starts another thread. The same if this one panicked, or was
    /// never started.
    fn drop(&mut self) {
        if let Some(log) = self.0.upgrade() {
            let mut state = log.watch.0.lock();
            state.thread = None;
            let woken = state.waiters.take_all();
            drop(state);
            wake_all(woken);
        }
    }
}

impl ReadOnly {
    /// Wakes those for whom there is news; `false` once nobody has waited for a while.
    fn look_for_all(&self, pace: &mut Pace) -> bool {
        let mut state = self.watch.0.lock();
        let anew = std::mem::take(&mut state.anew);
        let nobody_waits = state.waiters.is_empty();
        drop(state);
        let mut is_news = false;
        if !nobody_waits {
            let found = self.find_ends();
            is_news = found.as_ref().is_ok_and(|found| *found != pace.found);
            let woken = self.watch.0.lock().waiters.take_if(|news| match &found {
                // They meet the error themselves, or find out that it is over.
                Err(_) => true,
                Ok(ends) => is_there(*news, *ends),
            });
            pace.found = found.unwrap_or(pace.found);
            wake_all(woken);
        }
        let may_end = nobody_waits && pace.pause.is_longest();
        pace.pause = if anew || is_news {
            Pause::SHORTEST
        } else {
            pace.pause.longer()
        };
        !may_end
    }
}

fn is_there(news: News, (end, durable): (Offset, Offset)) -> bool {
    match news {
        News::Written(offset) => end > offset,
        News::Durable(offset) => durable > offset,
        News::End(_) => false,
    }
}
