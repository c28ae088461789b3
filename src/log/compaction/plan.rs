//! What is to be compacted: decided here, from values alone.
//!
//! The log is compacted up to the first segment that is not durable and sealed, that is younger than
//! the lag, or that is the active one. Up to there, keys are learned from `dirty_from` on, and all
//! segments are looked through, oldest first.

use std::time::Duration;

use crate::{
    format::{checkpoint::Cleaned, segment::Compacted},
    offset::Offset,
    options::Ratio,
};

/// What is known of a segment that is not the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) base: Offset,
    /// Where the log ended behind it.
    pub(super) end: Offset,
    /// Length of its file.
    pub(super) bytes: u64,
    /// The append time of its last frame, where that is known.
    pub(super) last_time: Option<u64>,
    pub(super) compacted: Option<Compacted>,
    /// It has its footer, so it is durable.
    pub(super) sealed: bool,
}

/// What there is, and how far it is compacted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    /// All but the active one, in order.
    pub(super) segments: &'a [Candidate],
    pub(super) durable: Offset,
    pub(super) cleaned: Cleaned,
    pub(super) times: Times,
}

/// What is old enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Milliseconds since the Unix epoch.
    pub(super) now: u64,
    pub(super) lag: Duration,
    pub(super) tombstones: Duration,
}

/// What to compact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// So many segments, from the first one on.
    pub(super) segments: usize,
    /// The records from here...
    pub(super) dirty_from: Offset,
    /// ...to here may have the keys of records before them.
    pub(super) until: Offset,
    pub(super) dirty_bytes: u64,
    pub(super) bytes: u64,
    /// There are tombstones that are kept no longer.
    pub(super) has_expired: bool,
}

impl Times {
    fn is_older(self, time: u64, than: Duration) -> bool {
        u128::from(self.now.saturating_sub(time)) >= than.as_millis()
    }

    /// Whether the tombstones of a segment need not be kept any more. Whoever asks has made sure
    /// that no record is left before them that they are to remove.
    pub(super) fn is_expired(self, compacted: Option<&Compacted>) -> bool {
        compacted.is_some_and(|compacted| {
            compacted.tombstones > 0
                && compacted.cleaned > 0
                && self.is_older(compacted.cleaned, self.tombstones)
        })
    }
}

/// Decides.
pub(super) fn plan(situation: &Situation<'_>) -> Plan {
    let Situation {
        segments,
        durable,
        cleaned,
        times,
    } = *situation;
    let start = segments.first().map_or(Offset::ZERO, |first| first.base);
    let mut plan = Plan {
        segments: 0,
        dirty_from: cleaned.below.min(cleaned.redo).max(start),
        until: start,
        dirty_bytes: 0,
        bytes: 0,
        has_expired: false,
    };
    for segment in segments {
        let is_young = !times.lag.is_zero()
            && segment.end > cleaned.below
            && segment
                .last_time
                .is_none_or(|time| !times.is_older(time, times.lag));
        if !segment.sealed || segment.end > durable || is_young {
            break;
        }
        plan.segments += 1;
        plan.until = segment.end;
        plan.bytes += segment.bytes;
        if segment.end > cleaned.below {
            plan.dirty_bytes += segment.bytes;
        }
        // Behind one that could not be read, they stay.
        let may_go = segment.base < cleaned.redo;
        plan.has_expired |= may_go && times.is_expired(segment.compacted.as_ref());
    }
    plan.dirty_from = plan.dirty_from.min(plan.until);
    plan
}

impl Plan {
    /// Whether it is worth while to begin by oneself.
    pub(super) fn is_due(&self, min_dirty: Ratio) -> bool {
        let is_dirty = self.dirty_bytes > 0 && min_dirty.is_reached(self.dirty_bytes, self.bytes);
        is_dirty || self.has_expired
    }
}

/// How far the log is compacted once all keys up to `until` were dealt with, in one pass or in
/// several, and the segments from `skipped` on were skipped.
pub(super) fn after_passes(before: Cleaned, until: Offset, skipped: Option<Offset>) -> Cleaned {
    let skipped = skipped.unwrap_or(Offset::MAX);
    if until >= before.below {
        return Cleaned {
            below: until,
            redo: skipped,
        };
    }
    // What could not be read before has been compared with the records up to here alone.
    let left = if before.redo < until {
        until
    } else {
        before.redo
    };
    Cleaned {
        below: before.below,
        redo: skipped.min(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Cleaned = Cleaned {
        below: Offset::ZERO,
        redo: Offset::MAX,
    };
    const NOW: u64 = 1_000_000;

    /// Segments of ten offsets and a hundred bytes, each of which was appended a second after the
    /// one before; the last one now.
    fn segments(count: u64) -> Vec<Candidate> {
        let segment = |number| Candidate {
            base: Offset::new(10 * number),
            end: Offset::new(10 * number + 10),
            bytes: 100,
            last_time: Some(NOW - 1000 * (count - 1 - number)),
            compacted: None,
            sealed: true,
        };
        (0..count).map(segment).collect()
    }

    fn planned(segments: &[Candidate], cleaned: Cleaned) -> Plan {
        plan_at(segments, cleaned, 1000, Duration::ZERO)
    }

    fn plan_at(segments: &[Candidate], cleaned: Cleaned, durable: u64, lag: Duration) -> Plan {
        plan(&Situation {
            segments,
            durable: Offset::new(durable),
            cleaned,
            times: Times {
                now: NOW,
                lag,
                tombstones: Duration::from_secs(60),
            },
        })
    }

    #[test]
    fn a_log_that_was_never_compacted_is_dirty_as_a_whole() {
        let plan = planned(&segments(4), NEVER);
        assert_eq!((plan.segments, plan.bytes, plan.dirty_bytes), (4, 400, 400));
        assert_eq!(
            (plan.dirty_from, plan.until),
            (Offset::ZERO, Offset::new(40))
        );
        assert!(plan.is_due(Ratio(1_000_000)));
    }

    #[test]
    fn what_is_not_durable_or_not_sealed_and_all_behind_it_is_left_alone() {
        assert_eq!(plan_at(&segments(4), NEVER, 29, Duration::ZERO).segments, 2);
        let mut unsealed = segments(4);
        unsealed[1].sealed = false;
        assert_eq!(planned(&unsealed, NEVER).segments, 1);
        assert_eq!(planned(&[], NEVER).segments, 0);
    }

    #[test]
    fn what_is_younger_than_the_lag_and_all_behind_it_is_left_alone() {
        let with_lag = |millis| {
            let lag = Duration::from_millis(millis);
            plan_at(&segments(4), NEVER, 1000, lag).segments
        };
        assert_eq!(with_lag(1), 3);
        assert_eq!(with_lag(2000), 2);
        assert_eq!(with_lag(2001), 1);
        let mut unknown = segments(4);
        unknown[1].last_time = None;
        let lag = Duration::from_millis(1);
        assert_eq!(plan_at(&unknown, NEVER, 1000, lag).segments, 1);
    }

    #[test]
    fn the_part_that_is_dirty_decides_whether_to_begin() {
        let cleaned = Cleaned {
            below: Offset::new(25),
            ..NEVER
        };
        let plan = planned(&segments(4), cleaned);
        assert_eq!((plan.bytes, plan.dirty_bytes), (400, 200));
        assert_eq!(plan.dirty_from, Offset::new(25));
        assert!(plan.is_due(Ratio(500_000)));
        assert!(!plan.is_due(Ratio(500_001)));
        let all = Cleaned {
            below: Offset::new(40),
            ..NEVER
        };
        assert!(!planned(&segments(4), all).is_due(Ratio(0)));
    }

    #[test]
    fn from_a_segment_that_could_not_be_read_on_keys_are_learned_again() {
        let cleaned = Cleaned {
            below: Offset::new(40),
            redo: Offset::new(10),
        };
        let plan = planned(&segments(4), cleaned);
        assert_eq!(plan.dirty_from, Offset::new(10));
        assert_eq!(plan.dirty_bytes, 0);
    }

    #[test]
    fn a_compaction_that_stops_before_what_was_clean_leaves_the_rest_to_be_done_again() {
        let cleaned = Cleaned {
            below: Offset::new(40),
            redo: Offset::new(10),
        };
        let part = after_passes(cleaned, Offset::new(25), None);
        assert_eq!((part.below, part.redo), (Offset::new(40), Offset::new(25)));
        let skipped = after_passes(cleaned, Offset::new(25), Some(Offset::new(10)));
        assert_eq!(skipped, cleaned);
        let early = after_passes(cleaned, Offset::new(5), None);
        assert_eq!(early, cleaned);
        let whole = after_passes(part, Offset::new(50), None);
        assert_eq!((whole.below, whole.redo), (Offset::new(50), Offset::MAX));
    }

    #[test]
    fn tombstones_that_are_kept_no_longer_are_a_reason_to_begin_unless_something_before_was_unread()
    {
        let mut segments = segments(4);
        segments[2].compacted = Some(Compacted {
            end: Offset::new(30),
            last_time: NOW,
            cleaned: NOW - 60_000,
            frames_end: 1024,
            tombstones: 1,
        });
        let clean = |redo| Cleaned {
            below: Offset::new(40),
            redo,
        };
        assert!(planned(&segments, clean(Offset::MAX)).is_due(Ratio(500_000)));
        let unread = clean(Offset::new(10));
        assert!(!planned(&segments, unread).is_due(Ratio(500_000)));
        for (cleaned, tombstones) in [(NOW - 59_999, 1), (0, 1), (NOW - 60_000, 0)] {
            let compacted = segments[2].compacted.as_mut().unwrap();
            (compacted.cleaned, compacted.tombstones) = (cleaned, tombstones);
            let plan = planned(&segments, clean(Offset::MAX));
            assert!(!plan.is_due(Ratio(500_000)), "{cleaned}, {tombstones}");
        }
    }
}
