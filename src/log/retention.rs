//! What may go: decided here, from facts alone, carried out in [`delete`](super::delete).
//!
//! Segments are looked at from the oldest on; the first that is to stay ends it.
//!
//! | what | why it is to go |
//! |---|---|
//! | its newest record is as old as the limit | age (the active one too, which is rolled first) |
//! | the segments have more bytes than the limit, or would once the active one is full | bytes |
//! | there are more segments than the limit | segments |
//! | the disk has less free than is wanted | free space |
//!
//! It stays all the same while a group holds it back: one whose floor is below its end. Of groups
//! this knows nothing else.

use std::time::Duration;

use super::retained::{DeletedSegment, HeldBack, RetentionLoss, RetentionReason};
use crate::{
    offset::Offset,
    options::{Retention, RetentionWarning},
};

/// A group is warned of what happens within this part of a limit.
pub(super) const WARN_PART: u32 = 4;

/// A segment, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFacts {
    pub(super) base: Offset,
    /// The offset behind its last record.
    pub(super) end: Offset,
    pub(super) bytes: u64,
    /// When its newest record was appended, at the latest.
    pub(super) newest: u64,
}

/// A group, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupFacts {
    pub(super) name: String,
    /// It has no use any more for what is below.
    pub(super) floor: Offset,
    /// Nothing above its floor may go.
    pub(super) holds: bool,
}

/// All that is decided from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// From the oldest on; the last one is the active one.
    pub(super) segments: &'a [SegmentFacts],
    pub(super) log_start: Offset,
    pub(super) groups: &'a [GroupFacts],
    pub(super) limits: Retention,
    /// Bytes that are to come to the active segment, and to one that follows soon.
    pub(super) to_come: u64,
    /// So many bytes have to be freed.
    pub(super) shortage: u64,
    pub(super) now: u64,
    /// Bytes appended a second, lately.
    pub(super) rate: u64,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) goes: Vec<DeletedSegment>,
    /// The active segment is among them: it is rolled first.
    pub(super) rolls: bool,
    /// Who keeps what from going, the lowest floor first.
    pub(super) held_back: Vec<HeldBack>,
    /// Records that groups had not committed among those that go.
    pub(super) losses: Vec<RetentionLoss>,
    /// How many records that is, each counted once.
    pub(super) lost: u64,
    pub(super) warnings: Vec<RetentionWarning>,
}

/// What is left of the limits while segments go.
struct Left {
    bytes: u64,
    segments: u64,
    shortage: u64,
}

/// Decides.
pub(super) fn plan(facts: &Facts<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut left = Left {
        bytes: facts.segments.iter().map(|segment| segment.bytes).sum(),
        segments: facts.segments.len() as u64,
        shortage: facts.shortage,
    };
    left.bytes = left.bytes.saturating_add(facts.to_come);
    let mut is_held = false;
    for (index, segment) in facts.segments.iter().enumerate() {
        let is_active = index + 1 == facts.segments.len();
        let Some(reason) = facts.reason(segment, &left, is_active) else {
            break;
        };
        is_held |= facts.hold_back(segment, &mut plan.held_back);
        if !is_held {
            plan.rolls |= is_active;
            plan.goes.push(facts.deleted(segment, reason));
        }
        left.lose(segment);
    }
    plan.held_back.sort_by_key(|held| held.committed);
    facts.count_losses(&mut plan);
    facts.warn(&mut plan);
    plan
}

impl Left {
    fn lose(&mut self, segment: &SegmentFacts) {
        self.bytes = self.bytes.saturating_sub(segment.bytes);
        self.segments = self.segments.saturating_sub(1);
        self.shortage = self.shortage.saturating_sub(segment.bytes);
    }
}

impl Facts<'_> {
    fn reason(
        &self,
        segment: &SegmentFacts,
        left: &Left,
        is_active: bool,
    ) -> Option<RetentionReason> {
        let has_records = segment.base < segment.end;
        let age = Duration::from_millis(self.now.saturating_sub(segment.newest));
        if has_records && self.limits.age.is_some_and(|limit| age >= limit) {
            Some(RetentionReason::Age)
        } else if is_active {
            None
        } else if self.limits.bytes.is_some_and(|limit| left.bytes > limit) {
            Some(RetentionReason::Bytes)
        } else if self
            .limits
            .segments
            .is_some_and(|limit| left.segments > limit)
        {
            Some(RetentionReason::Segments)
        } else if left.shortage > 0 {
            Some(RetentionReason::FreeSpace)
        } else {
            None
        }
    }

    fn deleted(&self, segment: &SegmentFacts, reason: RetentionReason) -> DeletedSegment {
        DeletedSegment {
            base_offset: segment.base,
            end_offset: segment.end,
            records: self.records_above(segment, self.log_start),
            bytes: segment.bytes,
            reason,
        }
    }

    /// The records of a segment at or above an offset that are there still.
    fn records_above(&self, segment: &SegmentFacts, floor: Offset) -> u64 {
        let from = segment.base.max(self.log_start).max(floor);
        segment.end.since(from)
    }

    /// Notes who holds a segment back; whether anybody does.
    fn hold_back(&self, segment: &SegmentFacts, held_back: &mut Vec<HeldBack>) -> bool {
        let holding = |group: &&GroupFacts| group.holds && group.floor < segment.end;
        let mut is_held = false;
        for group in self.groups.iter().filter(holding) {
            is_held = true;
            let known = held_back.iter_mut().find(|held| held.group == group.name);
            if let Some(held) = known {
                held.segments += 1;
                held.bytes += segment.bytes;
            } else {
                held_back.push(HeldBack {
                    group: group.name.clone(),
                    committed: group.floor,
                    segments: 1,
                    bytes: segment.bytes,
                });
            }
        }
        is_held
    }

    fn count_losses(&self, plan: &mut Plan) {
        let gone = self.segments.iter().take(plan.goes.len());
        let unread = |floor: Offset| -> u64 {
            let segments = gone.clone();
            segments
                .map(|segment| self.records_above(segment, floor))
                .sum()
        };
        for group in self.groups {
            let records = unread(group.floor);
            if records > 0 {
                let group = group.name.clone();
                plan.losses.push(RetentionLoss { group, records });
            }
        }
        let lowest = self.groups.iter().map(|group| group.floor).min();
        plan.lost = lowest.map_or(0, unread);
    }

    /// Warns groups of what they will lose next.
    fn warn(&self, plan: &mut Plan) {
        let stays = self.segments.get(plan.goes.len()..).unwrap_or_default();
        let bytes: u64 = stays.iter().map(|segment| segment.bytes).sum();
        for group in self.groups.iter().filter(|group| !group.holds) {
            let next = stays
                .iter()
                .enumerate()
                .find(|(_, segment)| self.records_above(segment, group.floor) > 0);
            let Some((before, segment)) = next else {
                continue;
            };
            let by_size = (before + 1 < stays.len())
                .then(|| self.until_too_large(stays, before, bytes))
                .flatten();
            let within = self.until_too_old(segment).into_iter().chain(by_size).min();
            if let Some(within) = within {
                plan.warnings.push(RetentionWarning {
                    group: group.name.clone(),
                    records: self.records_above(segment, group.floor),
                    within,
                });
            }
        }
    }

    /// The time until a segment is too old, if that is soon.
    fn until_too_old(&self, segment: &SegmentFacts) -> Option<Duration> {
        let limit = self.limits.age?;
        let age = Duration::from_millis(self.now.saturating_sub(segment.newest));
        let left = limit.saturating_sub(age);
        (left <= limit / WARN_PART).then_some(left)
    }

    /// The time until the segment behind so many others has to make room, if that is soon.
    fn until_too_large(
        &self,
        stays: &[SegmentFacts],
        before: usize,
        bytes: u64,
    ) -> Option<Duration> {
        let older: u64 = stays.iter().take(before).map(|segment| segment.bytes).sum();
        let by_bytes = self.limits.bytes.and_then(|limit| {
            let left = limit.saturating_sub(bytes.saturating_add(self.to_come)) + older;
            (left <= limit / u64::from(WARN_PART)).then_some(left)
        });
        let by_segments = self.limits.segments.and_then(|limit| {
            let slots = limit.saturating_sub(stays.len() as u64) + before as u64;
            let average = bytes / (stays.len() as u64).max(1);
            (slots <= limit / u64::from(WARN_PART)).then(|| slots.saturating_mul(average))
        });
        let left = by_bytes.into_iter().chain(by_segments).min()?;
        let millis = left.saturating_mul(1_000).checked_div(self.rate)?;
        Some(Duration::from_millis(millis))
    }
}
