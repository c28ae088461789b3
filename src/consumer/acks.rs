//! Which records of a log that were handed out one by one are acknowledged, and so how far a group
//! may commit: below the first that is not. Knows no files and no threads.

use std::collections::VecDeque;

use crate::offset::Offset;

/// Records that were handed out, in the order of their offsets. One that is acknowledged is kept
/// until all before it are, so what is kept is bounded by what is handed out at most.
#[derive(Debug)]
pub(super) struct AckTracker {
    /// From the first record that is not acknowledged on.
    kept: VecDeque<Kept>,
    /// The ticket of the first.
    first: u64,
    /// Everything below is acknowledged, or has no record.
    prefix: Offset,
}

#[derive(Debug)]
struct Kept {
    offset: Offset,
    is_acknowledged: bool,
}

/// What a record is acknowledged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl AckTracker {
    /// Everything below `start` is done with.
    pub(super) fn new(start: Offset) -> Self {
        Self {
            kept: VecDeque::new(),
            first: 0,
            prefix: start,
        }
    }

    /// Notes that the record at `offset` is handed out. It is behind all that were before; offsets
    /// between have no record.
    pub(super) fn hand_out(&mut self, offset: Offset) -> Ticket {
        debug_assert!(
            offset
                >= self
                    .kept
                    .back()
                    .map_or(self.prefix, |last| last.offset.next())
        );
        self.kept.push_back(Kept {
            offset,
            is_acknowledged: false,
        });
        Ticket(self.first + self.kept.len() as u64 - 1)
    }

    /// Notes that a record is acknowledged; whether the prefix is longer now, and less is kept.
    pub(super) fn acknowledge(&mut self, Ticket(ticket): Ticket) -> bool {
        let at = ticket.checked_sub(self.first);
        let at = at.and_then(|at| usize::try_from(at).ok());
        if let Some(record) = at.and_then(|at| self.kept.get_mut(at)) {
            record.is_acknowledged = true;
        }
        let before = self.prefix;
        while let Some(done) = self.kept.front().filter(|record| record.is_acknowledged) {
            // Not farther: a gap in front of the next record is told until that one is done with.
            self.prefix = done.offset.next();
            self.kept.pop_front();
            self.first += 1;
        }
        self.prefix > before
    }

    /// Everything below is acknowledged, or has no record: it may be committed. Offsets without
    /// a record are below it once the record behind them is acknowledged.
    pub(super) fn prefix(&self) -> Offset {
        self.prefix
    }

    /// How many records are kept: those that are not acknowledged, and those behind one that is
    /// not.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands out these offsets.
    fn handed_out(start: u64, offsets: &[u64]) -> (AckTracker, Vec<Ticket>) {
        let mut tracker = AckTracker::new(start.into());
        let tickets = offsets
            .iter()
            .map(|&offset| tracker.hand_out(offset.into()))
            .collect();
        (tracker, tickets)
    }

    #[test]
    fn the_prefix_ends_before_the_first_that_is_not_acknowledged() {
        let (mut tracker, tickets) = handed_out(5, &[5, 6, 7, 8]);
        for (ticket, moved, prefix, kept) in [
            (1, false, 5, 4),
            (3, false, 5, 4),
            (0, true, 7, 2),
            (2, true, 9, 0),
        ] {
            assert_eq!(tracker.acknowledge(tickets[ticket]), moved, "{ticket}");
            assert_eq!(tracker.prefix(), prefix);
            assert_eq!(tracker.len(), kept);
        }
    }

    #[test]
    fn offsets_without_a_record_are_passed_with_the_record_behind_them() {
        let (mut tracker, tickets) = handed_out(0, &[3, 4, 1 << 20]);
        assert_eq!(tracker.prefix(), 0, "a gap at the front is not passed yet");
        tracker.acknowledge(tickets[0]);
        tracker.acknowledge(tickets[1]);
        assert_eq!(tracker.prefix(), 5, "nor is one in the middle");
        tracker.acknowledge(tickets[2]);
        assert_eq!(tracker.prefix(), (1 << 20) + 1);
    }

    #[test]
    fn a_record_that_is_acknowledged_twice_counts_once() {
        let (mut tracker, tickets) = handed_out(0, &[0, 1]);
        assert!(tracker.acknowledge(tickets[0]));
        assert!(!tracker.acknowledge(tickets[0]));
        assert_eq!((tracker.prefix(), tracker.len()), (1.into(), 1));
    }

    /// The offsets that were handed out, and whether each is acknowledged.
    #[derive(Debug, Default)]
    struct Model(Vec<(u64, bool)>);

    impl Model {
        fn done(&self) -> &[(u64, bool)] {
            let end = self.0.iter().position(|(_, acknowledged)| !acknowledged);
            &self.0[..end.unwrap_or(self.0.len())]
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// So many offsets are left out before the record.
        HandOut(u64),
        /// The one of those not acknowledged.
        Acknowledge(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::HandOut(0)),
            1 => (1_u64..2_000_000).prop_map(Step::HandOut),
            5 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
        ]
    }

    proptest! {
        #[test]
        fn it_does_as_a_list_of_all_records_does(
            start in 0_u64..100,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut tracker = AckTracker::new(start.into());
            let (mut model, mut tickets, mut end) = (Model::default(), Vec::new(), start);
            for step in steps {
                let before = tracker.prefix();
                match step {
                    Step::HandOut(left_out) => {
                        tickets.push(tracker.hand_out((end + left_out).into()));
                        model.0.push((end + left_out, false));
                        end += left_out + 1;
                    }
                    Step::Acknowledge(index) => {
                        let open: Vec<_> = (0..tickets.len()).filter(|&at| !model.0[at].1).collect();
                        if open.is_empty() {
                            continue;
                        }
                        let at = open[index.index(open.len())];
                        model.0[at].1 = true;
                        let moved = tracker.acknowledge(tickets[at]);
                        prop_assert_eq!(moved, tracker.prefix() > before);
                    }
                }
                let done = model.done();
                let prefix = done.last().map_or(start, |(last, _)| last + 1);
                prop_assert_eq!(tracker.prefix(), prefix);
                prop_assert_eq!(tracker.len(), model.0.len() - done.len());
            }
        }
    }
}
