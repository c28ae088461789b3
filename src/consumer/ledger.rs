//! Gaps that a consumer was told of and has not passed by a commit yet.

use crate::{
    format::group::GroupLosses,
    log::{Gap, GapReason},
    offset::Offset,
};

/// The gaps, in order, without overlaps: a gap that is told again is in here once.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    told: Vec<Gap>,
}

impl Ledger {
    /// Notes a gap, as far as none that covers it was noted before.
    pub(super) fn note(&mut self, gap: &Gap) {
        let mut from = gap.from;
        let mut new = Vec::new();
        for known in &self.told {
            if known.from >= gap.to {
                break;
            }
            if known.from > from {
                new.push(part(gap, from, known.from));
            }
            from = from.max(known.to);
        }
        if from < gap.to {
            new.push(part(gap, from, gap.to));
        }
        self.told.extend(new);
        self.told.sort_unstable_by_key(|gap| gap.from);
    }

    /// What was lost of the offsets from `from` up to `to`.
    pub(super) fn losses(&self, from: Offset, to: Offset) -> GroupLosses {
        let mut losses = GroupLosses::default();
        for gap in &self.told {
            let lost = gap.to.min(to).since(gap.from.max(from));
            let total = match gap.reason {
                GapReason::Retention => &mut losses.retention,
                GapReason::DropOldest => &mut losses.drop_oldest,
                GapReason::Damage => &mut losses.damage,
                GapReason::LostTail => &mut losses.lost_tail,
                GapReason::OffsetReset => &mut losses.offset_reset,
            };
            *total = total.saturating_add(lost);
        }
        losses
    }

    /// Forgets what lies below `offset`.
    pub(super) fn forget_below(&mut self, offset: Offset) {
        self.told.retain(|gap| gap.to > offset);
    }
}

fn part(of: &Gap, from: Offset, to: Offset) -> Gap {
    let reason = of.reason;
    Gap { from, to, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(from: u64, to: u64, reason: GapReason) -> Gap {
        let (from, to) = (Offset::new(from), Offset::new(to));
        Gap { from, to, reason }
    }

    fn lost(ledger: &Ledger, from: u64, to: u64) -> (u64, u64) {
        let losses = ledger.losses(Offset::new(from), Offset::new(to));
        (losses.retention, losses.damage)
    }

    #[test]
    fn a_gap_that_is_told_again_is_counted_once_however_it_is_cut() {
        let mut ledger = Ledger::default();
        ledger.note(&gap(10, 20, GapReason::Damage));
        ledger.note(&gap(30, 40, GapReason::Damage));
        ledger.note(&gap(10, 20, GapReason::Damage));
        ledger.note(&gap(0, 50, GapReason::Retention));
        assert_eq!(lost(&ledger, 0, 100), (30, 20));
        ledger.note(&gap(0, 50, GapReason::Retention));
        assert_eq!(lost(&ledger, 0, 100), (30, 20));
    }

    #[test]
    fn only_what_a_commit_passes_is_counted() {
        let mut ledger = Ledger::default();
        ledger.note(&gap(10, 20, GapReason::Damage));
        assert_eq!(lost(&ledger, 0, 15), (0, 5));
        ledger.forget_below(Offset::new(15));
        assert_eq!(lost(&ledger, 15, 100), (0, 5));
        ledger.forget_below(Offset::new(20));
        assert_eq!(lost(&ledger, 0, 100), (0, 0));
    }
}
