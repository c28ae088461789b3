//! What became of a batch, for the receipts of its records.

use std::{sync::Arc, task::Waker, time::Duration};

use crate::{
    error::{Error, Result},
    fs::{Host, Mutex, wake_all},
    offset::Offset,
};

/// One for all records of a batch.
pub(super) struct Completion {
    host: Arc<dyn Host>,
    progress: Mutex<Progress>,
}

impl std::fmt::Debug for Completion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Completion")
    }
}

#[derive(Debug, Default)]
struct Progress {
    stage: Stage,
    waiters: Vec<Waiter>,
    last_place: u64,
}

#[derive(Debug)]
struct Waiter {
    place: PlaceId,
    level: Level,
    waker: Waker,
}

/// A future's place among the waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlaceId(u64);

/// What a record waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Written,
    Durable,
}

/// How far a batch is.
#[derive(Clone, Debug, Default)]
pub(super) enum Stage {
    /// It is in memory alone.
    #[default]
    Buffered,
    /// It is in the log, from this offset on.
    Written(Offset),
    /// And on the device.
    Durable(Offset),
    /// It will not get further.
    Failed {
        written: Option<Offset>,
        error: Error,
    },
}

impl Stage {
    /// The batch's first offset.
    pub(super) fn first(&self) -> Option<Offset> {
        match self {
            Self::Buffered => None,
            Self::Written(first) | Self::Durable(first) => Some(*first),
            Self::Failed { written, .. } => *written,
        }
    }

    /// What came of a record that waits for `level`, as far as its batch's first offset; `None`
    /// as long as that is open.
    pub(super) fn outcome(&self, level: Level) -> Option<Result<Offset, &Error>> {
        match (self, level) {
            (Self::Durable(first), _) | (Self::Written(first), Level::Written) => Some(Ok(*first)),
            (Self::Buffered, _) | (Self::Written(_), Level::Durable) => None,
            // It had reached its level when what was to follow failed.
            (Self::Failed { written, error }, level) => match (written, level) {
                (Some(first), Level::Written) => Some(Ok(*first)),
                _ => Some(Err(error)),
            },
        }
    }
}

impl Completion {
    pub(super) fn new(host: Arc<dyn Host>) -> Arc<Self> {
        let progress = Mutex::default();
        Arc::new(Self { host, progress })
    }

    /// The batch's first offset, once it is written.
    pub(super) fn first(&self) -> Option<Offset> {
        self.progress.lock().stage.first()
    }

    /// The batch has come further; wakes whom that concerns.
    pub(super) fn advance(&self, stage: Stage) {
        let mut progress = self.progress.lock();
        progress.stage = stage;
        let Progress { stage, waiters, .. } = &mut *progress;
        let is_over = |waiter: &mut Waiter| stage.outcome(waiter.level).is_some();
        let woken: Vec<_> = waiters.extract_if(.., is_over).collect();
        drop(progress);
        wake_all(woken.into_iter().map(|waiter| waiter.waker));
    }

    /// Waits until the level is reached, or until `until`: `None` then.
    ///
    /// # Errors
    ///
    /// Why the batch failed.
    pub(super) fn wait(&self, level: Level, until: Option<Duration>) -> Result<Option<Offset>> {
        if let Some(result) = self.progress.lock().stage.outcome(level) {
            return result.map(Some).map_err(Error::clone);
        }
        let parker = self.host.parker();
        let mut place = None;
        loop {
            if let Some(result) = self.poll(level, &parker.waker(), &mut place) {
                return result.map(Some);
            }
            parker.park(until);
            if until.is_some_and(|until| self.host.monotonic() >= until) {
                self.forget(place.take());
                let progress = self.progress.lock();
                let outcome = progress.stage.outcome(level).transpose();
                return outcome.map_err(Error::clone);
            }
        }
    }

    /// Waits so long at most.
    ///
    /// # Errors
    ///
    /// Why the batch failed.
    pub(super) fn wait_for(&self, level: Level, timeout: Duration) -> Result<Option<Offset>> {
        self.wait(level, self.host.monotonic().checked_add(timeout))
    }

    /// What came of it, if anything has; else `waker` is called when it does.
    pub(super) fn poll(
        &self,
        level: Level,
        waker: &Waker,
        place: &mut Option<PlaceId>,
    ) -> Option<Result<Offset>> {
        let mut progress = self.progress.lock();
        let before = place.take();
        progress
            .waiters
            .retain(|waiter| Some(waiter.place) != before);
        if let Some(result) = progress.stage.outcome(level) {
            return Some(result.map_err(Error::clone));
        }
        progress.last_place += 1;
        let new = PlaceId(progress.last_place);
        let waker = waker.clone();
        progress.waiters.push(Waiter {
            place: new,
            level,
            waker,
        });
        *place = Some(new);
        None
    }

    /// A future that is dropped waits no longer.
    pub(super) fn forget(&self, place: Option<PlaceId>) {
        if place.is_some() {
            let mut progress = self.progress.lock();
            progress
                .waiters
                .retain(|waiter| Some(waiter.place) != place);
        }
    }
}
