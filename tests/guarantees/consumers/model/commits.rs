//! What a group has committed.

use super::End;

/// The last commit that is known to be durable, and those since.
#[derive(Debug, Default)]
pub struct Commits {
    since: Vec<u64>,
    /// How many came before these.
    before: usize,
}

impl Commits {
    pub fn last(&self) -> u64 {
        self.since.last().copied().unwrap_or(0)
    }

    /// Compares what a group that was just opened has committed with what it may have, and goes on
    /// from there.
    pub fn judge(&mut self, committed: u64, end: End) {
        let possible = match end {
            End::PowerCut => &self.since[..],
            End::Closed | End::Killed => &self.since[self.since.len().saturating_sub(1)..],
        };
        assert!(
            possible.contains(&committed) || possible.is_empty() && committed == 0,
            "{committed} is none of {possible:?}, after {end:?}"
        );
        self.before += self.since.len();
        self.since = vec![committed];
    }

    /// Notes a commit; returns its number.
    pub fn add(&mut self, offset: u64) -> usize {
        self.since.push(offset);
        self.before + self.since.len() - 1
    }

    /// A commit is durable: none before it is there any more. Returns its offset, unless a later
    /// one was durable already.
    pub fn is_durable(&mut self, number: usize) -> Option<u64> {
        let superseded = number.checked_sub(self.before)?;
        self.since.drain(..superseded);
        self.before = number;
        self.since.first().copied()
    }
}
