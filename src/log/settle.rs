//! Settling what was appended: syncing by the flush policy or when asked, footers, checkpoints.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Shared, maintenance::RETRY_AFTER};
use crate::{error::Result, offset::Offset, options::FlushPolicy};

/// Time between checkpoints while records become durable.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);
/// Time until a segment is looked at again that could not be cut because it is still read.
const SEAL_AGAIN: Duration = Duration::from_millis(50);

/// What one step remembers for the next.
#[derive(Debug, Default)]
pub(crate) struct SettlePace {
    /// Since when there are records that are not durable.
    unsynced_since: Option<Duration>,
    checkpoint_at: Duration,
    retry_at: Duration,
    /// The base offset of the last rolled segment that the device was told to begin with.
    begun: Option<Offset>,
}

impl Shared {
    /// Does what is due, and says when to look again; `None` is when woken.
    ///
    /// What fails here is tried again later; a failed sync latches the log, and whoever appends
    /// or waits is told.
    pub(crate) fn step_settle(&self) -> Option<Duration> {
        // Consumers are looked at on a latched log too, and with no pace held: whoever is told of
        // them may call the log.
        let next = [self.settle(), self.watch_members()];
        next.into_iter().flatten().min()
    }

    fn settle(&self) -> Option<Duration> {
        let now = self.site.host.monotonic();
        let mut pace = self.maintenance.settle_pace.lock();
        // Also if the log is latched: then they fail.
        self.settle_commits();
        if self.latch.is_set() {
            return None;
        }
        self.begin_writeback(&mut pace);
        let mut done = self.flush_if_due(&mut pace, now);
        if now >= pace.retry_at {
            done = done.and(self.seal_durable());
            done = done.and(self.snapshot_if_due());
            if now >= pace.checkpoint_at {
                done = done.and(self.refresh_checkpoint());
                pace.checkpoint_at = now + CHECKPOINT_EVERY;
            }
        }
        if done.is_err() {
            pace.retry_at = now + RETRY_AFTER;
        }
        self.next_settle(&mut pace, now)
    }

    /// Has the device begin with rolled segments, which nobody writes to any more, so that it does
    /// not idle until the next flush and then get all at once.
    fn begin_writeback(&self, pace: &mut SettlePace) {
        if self.site.config.flush == FlushPolicy::never() || self.sync_kind().is_none() {
            return;
        }
        let rolled = self.append.lock().unsynced.clone();
        for segment in rolled {
            if pace.begun.is_none_or(|begun| begun < segment.base) {
                segment.begin_writeback();
                pace.begun = Some(segment.base);
            }
        }
    }

    /// Syncs if the flush policy's interval is over, or somebody asked.
    fn flush_if_due(&self, pace: &mut SettlePace, now: Duration) -> Result<()> {
        let end = self.end();
        pace.see(end > self.durable(), now);
        let asked = self.syncer.requested.swap(false, Ordering::AcqRel);
        let due = pace
            .flush_at(self.site.config.flush.interval)
            .is_some_and(|at| now >= at);
        if !(asked || due) || self.sync_kind().is_none() {
            return Ok(());
        }
        self.sync_until(end)?;
        // What was appended during the sync has waited since it began, at most.
        pace.unsynced_since = None;
        pace.see(self.end() > self.durable(), now);
        Ok(())
    }

    /// Writes the footers of segments that are durable as a whole.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`: they are tried again. `SyncFailed`.
    pub(crate) fn seal_durable(&self) -> Result<()> {
        let mut left = Vec::new();
        let mut result = Ok(());
        loop {
            // One at a time, so that a deletion need not wait for all. Whoever comes second finds
            // that what the first one took is sealed.
            let _one = self.maintenance.sealing.lock();
            let Some(segment) = self.maintenance.next_sealable() else {
                break;
            };
            if !self.segments.is_current(&segment) {
                // It was deleted.
                continue;
            }
            let was_sealed = segment.is_sealed();
            let sealed = self.latch_on_failure(segment.seal(&*self.site.host, self.sync_kind()));
            // Once, however long its cut has to wait.
            if !was_sealed && segment.is_sealed() {
                self.note_sealed();
            }
            if !matches!(sealed, Ok(true)) {
                left.push(segment);
            }
            result = result.and(sealed.map(drop));
        }
        self.maintenance.add_sealable(left);
        result
    }

    fn next_settle(&self, pace: &mut SettlePace, now: Duration) -> Option<Duration> {
        // From here on whoever changes something wakes this thread, so look again.
        self.maintenance
            .settle_unaware
            .store(true, Ordering::SeqCst);
        self.maintenance.settle_rests.store(true, Ordering::SeqCst);
        pace.see(self.end() > self.durable(), now);
        let flush_at = pace.flush_at(self.site.config.flush.interval);
        let retry_at = Some(pace.retry_at).filter(|at| *at > now);
        let waiting = !self.maintenance.sealable.lock().is_empty();
        let seal_at = waiting.then(|| now + SEAL_AGAIN);
        let checkpoint_at = self.is_checkpoint_stale().then_some(pace.checkpoint_at);
        let next = [flush_at, retry_at, seal_at, checkpoint_at]
            .into_iter()
            .flatten()
            .min();
        if pace.unsynced_since.is_some() {
            self.maintenance
                .settle_unaware
                .store(false, Ordering::SeqCst);
        }
        if next.is_some() {
            self.maintenance.settle_rests.store(false, Ordering::SeqCst);
        }
        next
    }

    fn is_checkpoint_stale(&self) -> bool {
        self.checkpoint.is_stale(self.syncer.mark())
    }
}

impl SettlePace {
    fn see(&mut self, unsynced: bool, now: Duration) {
        match (unsynced, self.unsynced_since) {
            (true, None) => self.unsynced_since = Some(now),
            (true, Some(_)) => {}
            (false, _) => self.unsynced_since = None,
        }
    }

    fn flush_at(&self, interval: Option<Duration>) -> Option<Duration> {
        self.unsynced_since?.checked_add(interval?)
    }
}
