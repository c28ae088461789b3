//! What a power cut leaves, where it could leave many things.

use std::ops::Range;

use super::{Random, content::SECTOR};

/// Draws one of the images that a power cut may leave.
#[derive(Clone, Debug)]
pub struct Choices {
    random: Random,
    /// Odds, of 256, that a sector is on the device in a newer version than the synced one...
    data: u16,
    /// ...that a length is, and...
    lengths: u16,
    /// ...that a change of a directory is.
    entries: u16,
    /// Odds that a sector was being copied when it was written.
    torn: u16,
}

/// All of 256 cases.
const ALWAYS: u16 = 256;

impl Choices {
    /// Nothing that was not synced got to the device.
    pub fn nothing() -> Self {
        Self::with(Random::new(0), 0, 0, 0, 0)
    }

    /// Everything did.
    pub fn everything() -> Self {
        Self::with(Random::new(0), ALWAYS, ALWAYS, ALWAYS, 0)
    }

    /// Names and lengths did, and no byte of what is in the files.
    pub fn names_only() -> Self {
        Self::with(Random::new(0), 0, ALWAYS, ALWAYS, 0)
    }

    /// Everything in the files did, and no change of a directory.
    pub fn no_names() -> Self {
        Self::with(Random::new(0), ALWAYS, ALWAYS, 0, 0)
    }

    /// Some did: which, and how many, follows from the seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let odds = [0, 16, 64, 128, 192, 240, ALWAYS];
        let mut draw = || random.pick(&odds).unwrap_or(128);
        let (data, lengths, entries) = (draw(), draw(), draw());
        let torn = if random.chance(64) { 64 } else { 0 };
        Self::with(random, data, lengths, entries, torn)
    }

    fn with(random: Random, data: u16, lengths: u16, entries: u16, torn: u16) -> Self {
        Self {
            random,
            data,
            lengths,
            entries,
            torn,
        }
    }

    /// How many of `versions` a sector has seen.
    pub(super) fn version(&mut self, versions: usize) -> usize {
        if versions == 0 || !self.random.chance(self.data) {
            0
        } else if self.data == ALWAYS || self.random.chance(128) {
            versions
        } else {
            self.random.below(versions + 1)
        }
    }

    /// How many of `changes` that get there in order did.
    pub(super) fn prefix(&mut self, changes: usize) -> usize {
        if changes == 0 || !self.random.chance(self.lengths) {
            0
        } else if self.lengths == ALWAYS {
            changes
        } else {
            self.random.below(changes + 1)
        }
    }

    /// Which bytes of a sector a copy had done, if it is `possible` that one was under way. It may
    /// begin at either end.
    pub(super) fn copied(&mut self, possible: bool) -> Option<Range<usize>> {
        if !possible || !self.random.chance(self.torn) {
            return None;
        }
        let split = self.random.below(SECTOR);
        Some(if self.random.chance(128) {
            0..split
        } else {
            split..SECTOR
        })
    }

    /// Whether a change of a directory got there.
    pub(super) fn entry(&mut self) -> bool {
        self.random.chance(self.entries)
    }

    /// Whether one that did got there by half: a file under both its names.
    pub(super) fn half_renamed(&mut self) -> bool {
        self.entries < ALWAYS && self.random.chance(64)
    }

    /// Puts changes that get there in any order into one.
    pub(super) fn order<T>(&mut self, changes: &mut [T]) {
        if self.entries < ALWAYS && self.random.chance(128) {
            for last in (1..changes.len()).rev() {
                changes.swap(last, self.random.below(last + 1));
            }
        }
    }
}
