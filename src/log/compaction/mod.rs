//! Compaction: of each key, the last record is kept.
//!
//! What is to be done is [planned](plan) from values; a [job](job) does it in steps of bounded size,
//! with the keys it learned in [bounded memory](keys): it [walks](walk) through segments,
//! [writes](rewrite) those anew of which something goes, and [swaps](swap) them in. Neither the append lock nor a
//! reader waits for any of that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

mod job;
mod keys;
mod plan;
mod rewrite;
mod swap;
mod walk;

use job::{Job, Progress};
use plan::{Candidate, Plan, Situation, Times};

use super::{Shared, report::CompactionReport, segments::Segment};
use crate::{
    error::{ErrorKind, Result},
    format::checkpoint::Cleaned,
    fs::Mutex,
    offset::Offset,
    slot_file::SlotFile,
};

/// Bytes that one step reads, about.
const STEP: usize = 1 << 20;
/// Time between looks at whether there is something to compact. (Kafka's `log.cleaner.backoff.ms`.)
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What compacts a log.
#[derive(Debug, Default)]
pub(crate) struct Cleaner {
    /// On demand, one at a time.
    demand: Mutex<()>,
    state: Mutex<State>,
    /// Held while files of segments are replaced or deleted.
    pub(super) files: Mutex<()>,
    last: Mutex<Option<Result<CompactionReport>>>,
    /// A send found the log full, and no compaction was begun since: it does not wait.
    wanted: AtomicBool,
    /// The background has looked, and no segment was sealed since: it would find the same.
    looked: AtomicBool,
}

impl Cleaner {
    /// Whether to look before its time: once for each change.
    fn is_urgent(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) && !self.looked.load(Ordering::SeqCst)
    }
}

#[derive(Debug, Default)]
struct State {
    job: Option<Job>,
    /// It was asked for: whoever asked takes its steps.
    on_demand: bool,
    /// When the background thread goes on.
    due: Duration,
}

/// Ends what was done on demand, however that came.
struct OnDemand<'a>(&'a Shared);

impl Drop for OnDemand<'_> {
    fn drop(&mut self) {
        let mut state = self.0.cleaner.state.lock();
        self.0.abandon(&mut state);
        state.on_demand = false;
    }
}

impl Shared {
    /// Compacts all that may be, now.
    ///
    /// # Errors
    ///
    /// `NotCompacted`, `Io`, `StorageFull`, `SyncFailed`, `Closed`.
    pub(crate) fn compact(&self) -> Result<CompactionReport> {
        if !self.site.config.compaction.policy.compacts() {
            let path = self.site.dir.clone();
            return Err(ErrorKind::NotCompacted { path }.into());
        }
        let _turn = self.cleaner.demand.lock();
        self.check_writable()?;
        // What is durable by now need not wait for the background.
        self.seal_durable()?;
        let _on_demand = self.begin_on_demand()?;
        let compacted = loop {
            let mut state = self.cleaner.state.lock();
            match self.step_job(&mut state) {
                Ok(Progress::Going(_)) => {}
                Ok(Progress::Done) => {
                    let report = state.job.take().map(|job| job.report);
                    break Ok(report.unwrap_or_default());
                }
                Err(error) => break Err(error),
            }
        };
        *self.cleaner.last.lock() = Some(compacted.clone());
        compacted
    }

    /// What came of the last compaction.
    pub(crate) fn last_compaction(&self) -> Option<Result<CompactionReport>> {
        self.cleaner.last.lock().clone()
    }

    fn begin_on_demand(&self) -> Result<OnDemand<'_>> {
        let mut state = self.cleaner.state.lock();
        self.check_writable()?;
        self.abandon(&mut state);
        state.on_demand = true;
        let guard = OnDemand(self);
        let (plan, segments) = self.plan_compaction();
        state.job = Some(self.job(&plan, segments));
        drop(state);
        Ok(guard)
    }

    /// Has the background look at once, as the log is full. If it has looked since the last
    /// segment was sealed, it looks when the next one is, or when its time has come.
    pub(super) fn compact_when_full(&self) {
        let compacts = self.site.config.compaction.policy.compacts();
        if compacts && !self.cleaner.wanted.swap(true, Ordering::SeqCst) && self.cleaner.is_urgent()
        {
            self.maintenance.wake_clean();
        }
    }

    /// A segment was sealed: there may be more to compact.
    pub(super) fn note_sealed(&self) {
        self.cleaner.looked.store(false, Ordering::SeqCst);
        if self.cleaner.is_urgent() {
            self.maintenance.wake_clean();
        }
    }

    /// Compacts on in the background, if that is due, and says when to go on; `None` if the log is not compacted.
    pub(super) fn step_compaction(&self) -> Option<Duration> {
        let config = &self.site.config.compaction;
        if !config.policy.compacts() {
            return None;
        }
        let now = self.site.host.monotonic();
        let mut state = self.cleaner.state.lock();
        if state.on_demand {
            return Some(now + STEP_ASIDE);
        }
        // The pauses within a job are what its rate is made of.
        if now < state.due && (state.job.is_some() || !self.cleaner.is_urgent()) {
            return Some(state.due);
        }
        if state.job.is_none() {
            // Before: what is sealed from here on may be missed.
            self.cleaner.looked.store(true, Ordering::SeqCst);
            let (plan, segments) = self.plan_compaction();
            // On a full log anything that may be freed is worth it.
            let is_wanted = self.cleaner.wanted.load(Ordering::SeqCst) && plan.dirty_bytes > 0;
            if !is_wanted && !plan.is_due(config.min_dirty) {
                state.due = now + LOOK_AGAIN;
                return Some(state.due);
            }
            self.cleaner.wanted.store(false, Ordering::SeqCst);
            state.job = Some(self.job(&plan, segments));
        }
        let done = match self.step_job(&mut state) {
            Ok(Progress::Going(bytes)) => {
                state.due = now + time_for(bytes, config.rate);
                return Some(state.due);
            }
            Ok(Progress::Done) => {
                let report = state.job.take().map(|job| job.report);
                Ok(report.unwrap_or_default())
            }
            Err(error) => {
                self.abandon(&mut state);
                Err(error)
            }
        };
        *self.cleaner.last.lock() = Some(done);
        state.due = now + LOOK_AGAIN;
        let next = if self.cleaner.is_urgent() {
            now
        } else {
            state.due
        };
        Some(next)
    }

    /// The log is closed: nothing of it is touched from now on.
    pub(super) fn stop_cleaning(&self) {
        let mut state = self.cleaner.state.lock();
        self.abandon(&mut state);
    }

    fn abandon(&self, state: &mut State) {
        if let Some(mut job) = state.job.take() {
            job.abandon(self);
        }
    }

    fn step_job(&self, state: &mut State) -> Result<Progress> {
        self.check_writable()?;
        match &mut state.job {
            Some(job) => job.step(self, STEP),
            None => Ok(Progress::Done),
        }
    }

    fn job(&self, plan: &Plan, segments: Vec<(Arc<Segment>, Offset)>) -> Job {
        let (memory, began) = (
            self.site.config.compaction.memory,
            self.site.host.monotonic(),
        );
        let cleaned = self.checkpoint.cleaned();
        Job::new(segments, plan, self.times(), cleaned, memory, began)
    }

    fn times(&self) -> Times {
        let config = &self.site.config.compaction;
        Times {
            now: self.ages.at(self.site.host.monotonic()),
            lag: config.min_lag,
            tombstones: config.tombstone_retention,
        }
    }

    /// What is to be compacted, and the segments it is about.
    fn plan_compaction(&self) -> (Plan, Vec<(Arc<Segment>, Offset)>) {
        let durable = self.durable();
        let mut segments = self.segments.all_with_ends();
        let cleaned = self.checkpoint.cleaned();
        let times = self.times();
        let candidate = |(segment, end): &(Arc<Segment>, Offset)| Candidate {
            base: segment.base,
            end: *end,
            bytes: segment.file_bytes(),
            // Only asked for where it decides something.
            last_time: if times.lag.is_zero() || *end <= cleaned.below {
                None
            } else {
                segment.last_time(&*self.site.host)
            },
            compacted: segment.compacted(),
            sealed: segment.is_sealed(),
        };
        let candidates: Vec<_> = segments.iter().map(candidate).collect();
        let plan = plan::plan(&Situation {
            segments: &candidates,
            durable,
            cleaned,
            times,
        });
        segments.truncate(plan.segments);
        (plan, segments)
    }

    /// Stores how far the log is compacted.
    fn note_cleaned(&self, cleaned: Cleaned) -> Result<()> {
        self.write_checkpoint(SlotFile::write, |content| content.cleaned = Some(cleaned))
    }
}

/// Time until the background looks again, where somebody else compacts.
const STEP_ASIDE: Duration = Duration::from_millis(100);

/// How long so many bytes take at this rate.
fn time_for(bytes: usize, rate: u64) -> Duration {
    let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
