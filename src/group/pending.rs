//! Durable commits on their way to the device.

use std::{
    sync::{Arc, OnceLock},
    task::Waker,
};

use super::shared::GroupShared;
use crate::{
    error::Result,
    fs::{Mutex, wake_all},
    offset::Offset,
};

/// A commit that is in the page cache, and is to be durable.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(super) group: Arc<GroupShared>,
    pub(super) generation: u64,
    /// What the group's file holds in that generation.
    pub(super) payload: Vec<u8>,
    /// Records below have to be durable before.
    pub(super) needs: Offset,
    outcome: OnceLock<Result<()>>,
}

impl Pending {
    pub(super) fn new(
        group: Arc<GroupShared>,
        generation: u64,
        payload: Vec<u8>,
        needs: Offset,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            generation,
            payload,
            needs,
            outcome: OnceLock::new(),
        })
    }

    /// What came of it; `None` while it is on its way.
    pub(crate) fn outcome(&self) -> Option<Result<()>> {
        self.outcome.get().cloned()
    }

    /// Decides it. A failure is one of the group's file, or of what stands for it.
    pub(super) fn decide(&self, outcome: &Result<()>) {
        if let Err(error) = outcome
            && error.is_latched()
        {
            self.group.latch(error);
        }
        self.outcome.get_or_init(|| outcome.clone());
    }

    /// It fails for a reason that is not its group's: whether it is durable is not known, and the
    /// group goes on. Does nothing if it is decided.
    pub(super) fn fail_without_latch(&self, failed: &Result<()>) {
        self.outcome.get_or_init(|| failed.clone());
    }
}

/// Commits that wait for whoever leads next, and those who wait for them.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Arc<Pending>>,
    leading: bool,
    wakers: Vec<(u64, Waker)>,
    next_id: u64,
}

/// What somebody who waits for a commit is to do.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is decided.
    Done(Result<()>),
    /// Lead: these are to be made durable, and then [`Queue::finish`] is to be called.
    Lead(Vec<Arc<Pending>>),
    /// Wait until the waker is called.
    Wait(u64),
}

impl Queue {
    pub(super) fn push(&self, pending: Arc<Pending>) {
        self.0.lock().waiting.push(pending);
    }

    /// Looks at a commit under the lock under which leaders finish, so that no wake-up is lost.
    /// One who can't `lead` only waits.
    pub(super) fn turn(&self, pending: &Pending, lead: bool, waker: &Waker) -> Turn {
        let mut state = self.0.lock();
        if let Some(outcome) = pending.outcome() {
            return Turn::Done(outcome);
        }
        if lead && !state.leading {
            state.leading = true;
            return Turn::Lead(std::mem::take(&mut state.waiting));
        }
        state.next_id += 1;
        let id = state.next_id;
        state.wakers.push((id, waker.clone()));
        Turn::Wait(id)
    }

    /// All that wait, for one who waits for none of them; `None` if there is nothing to lead.
    pub(super) fn lead_all(&self) -> Option<Vec<Arc<Pending>>> {
        let mut state = self.0.lock();
        if state.leading || state.waiting.is_empty() {
            return None;
        }
        state.leading = true;
        Some(std::mem::take(&mut state.waiting))
    }

    /// Somebody waits no longer.
    pub(super) fn forget(&self, id: u64) {
        self.0.lock().wakers.retain(|(waiter, _)| *waiter != id);
    }

    /// Ends a leadership. Whether commits came meanwhile.
    pub(super) fn finish(&self) -> bool {
        let mut state = self.0.lock();
        state.leading = false;
        let wakers = std::mem::take(&mut state.wakers);
        let more = !state.waiting.is_empty();
        drop(state);
        wake_all(wakers.into_iter().map(|(_, waker)| waker));
        more
    }
}
