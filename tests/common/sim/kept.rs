//! What may be gone of a log whose oldest records are deleted, and what may not come back.

use std::collections::BTreeSet;

use duralog::Log;

use super::oracle::Found;

/// How far deletions may have come.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Deletions that were asked for go no farther.
    may: u64,
    /// The log start was seen to be here.
    must: u64,
    /// In the background the log deletes all but so many of the newest records, at most.
    newest: Option<usize>,
    /// Nothing goes that a group has not committed, but for what is below this.
    unless_committed: Option<u64>,
    /// The last sequence of the named producer among what is gone.
    sequence: Option<u64>,
    /// The log takes nothing more where that would have to go.
    may_refuse: bool,
}

impl Kept {
    pub fn may_delete_below(&mut self, offset: u64) {
        self.may = self.may.max(offset);
    }

    /// As [`may_delete_below`](Self::may_delete_below), whoever has read it.
    pub fn may_delete_unread_below(&mut self, offset: u64) {
        self.may_delete_below(offset);
        if let Some(floor) = &mut self.unless_committed {
            *floor = offset.max(*floor);
        }
    }

    pub fn deleted_below(&mut self, offset: u64) -> bool {
        let is_news = offset > self.must;
        self.must = self.must.max(offset);
        is_news
    }

    pub fn keeps_newest(&mut self, records: usize) {
        self.newest = Some(records);
    }

    /// From now on, by the options with which the log was opened.
    pub fn keeps_unconsumed(&mut self) {
        self.unless_committed.get_or_insert(self.must);
    }

    pub fn may_refuse(&mut self) {
        self.may_refuse = true;
    }

    pub fn is_refusal(&self, log: &Log) -> bool {
        self.may_refuse && log.stats().rejected_sends > 0
    }

    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// The same, once the log has been opened again.
    pub fn after(&self, found: &Found, sequence: Option<u64>) -> Self {
        Self {
            must: self.must.max(found.start),
            sequence: self.sequence.max(sequence),
            ..self.clone()
        }
    }

    /// Whether the log starts where it may. `all` are the offsets of all records that were ever
    /// there, and so many more may have been.
    pub fn judge(&self, found: &Found, all: &BTreeSet<u64>, coming: usize) -> Result<(), String> {
        let oldest_kept = self.newest.and_then(|newest| {
            let stay = newest.saturating_sub(coming);
            let last = all.last().map_or(0, |last| last + 1);
            stay.checked_sub(1)
                .map_or(Some(last), |stay| all.iter().rev().nth(stay).copied())
        });
        let may = self.may.max(oldest_kept.unwrap_or(0)).max(self.must);
        let (must, start) = (self.must, found.start);
        if start < must {
            return Err(format!("the log starts at {start}, and started at {must}"));
        }
        if start > may {
            return Err(format!(
                "the log starts at {start}, and was to keep all from {may} on"
            ));
        }
        Ok(())
    }

    /// Whether a group that has committed so far has nothing to miss.
    pub fn judge_group(&self, start: u64, committed: u64) -> bool {
        self.unless_committed
            .is_none_or(|floor| start <= committed.max(floor))
    }
}
