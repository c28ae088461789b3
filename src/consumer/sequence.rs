//! Finding what is missing, repeated or out of order in what a reader was given.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    ops::Range,
    sync::Arc,
};

use super::Batch;
use crate::offset::Offset;

/// So many names are remembered by default; at least the half of them that was seen last.
const MAX_NAMES: usize = 32_768;
/// So many ranges of missing sequences are remembered of a name.
const MISSING_MAX: usize = 64;

/// Checks, from the outside, that each producer's records come once each and in order.
///
/// It is given sequences as they come, by the names of those who number them: the frames of a
/// [batch](SequenceCheck::observe_batch), where [named producers](crate::ProducerBuilder::name) have
/// their sequences; or [any](SequenceCheck::observe), such as a header that an application numbers
/// its records by. It trusts neither the log nor its [gaps](Batch::gaps): what is missing
/// here, and in no gap, is a defect, or was removed by compaction.
///
/// The first sequence of a name that it sees is taken for the name's first: what retention deleted
/// before is not missing. (To have it know better, [tell it](SequenceCheck::expect).)
///
/// ```
/// use std::time::Duration;
/// use duralog::{Log, Record, SequenceCheck, SequenceKind};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path())?;
/// let sensor = log.producer().name("sensor").build()?;
/// sensor.send_batch([Record::new("21.5"), Record::new("21.7")])?.wait()?;
///
/// let mut check = SequenceCheck::new();
/// let mut reader = log.reader().build()?;
/// let batch = reader.poll(Duration::ZERO)?;
/// assert_eq!(check.observe_batch(&batch), []);
/// assert_eq!(check.next_sequence("sensor"), Some(2));
///
/// // Whatever else is numbered:
/// assert_eq!(check.observe("meter", 7), None);
/// let finding = check.observe("meter", 9).unwrap();
/// assert_eq!(finding.kind, SequenceKind::Missing { from: 8, to: 9 });
/// # drop(reader);
/// # drop(sensor);
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory
///
/// Of a name, the next sequence and the last 64 ranges of missing ones are remembered. What comes
/// from below those is out of order: whether it came before is not known any more. Names are
/// bounded too, [by default](SequenceCheck::new) to 32,768, which is twice as many as a log takes:
/// one that was forgotten starts anew.
///
/// # Durability
///
/// Nothing is stored. To go on after a restart, store [`next_sequence`](SequenceCheck::next_sequence)
/// with what was done, and [tell](SequenceCheck::expect) it to the new one.
#[derive(Clone)]
pub struct SequenceCheck {
    /// Names seen since the last time that there were too many of them...
    recent: HashMap<Arc<str>, Line>,
    /// ...and in the time before that one.
    older: HashMap<Arc<str>, Line>,
    /// The most there are of each.
    half: usize,
    /// The records below were observed.
    observed_to: Offset,
    totals: SequenceTotals,
}

/// What a [`SequenceCheck`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SequenceFinding {
    /// The name. `#7` is the producer with the [id](crate::FrameProducer::id) 7, if nothing that is
    /// left of the log tells its name.
    pub producer: Arc<str>,
    /// What is wrong.
    pub kind: SequenceKind,
    /// The record that shows it, if it came with a batch.
    pub offset: Option<Offset>,
}

/// The cases of [`SequenceFinding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SequenceKind {
    /// Sequences were left out: a later one came in place of them. They may still come: out of
    /// order then.
    Missing {
        /// The first.
        from: u64,
        /// The one behind the last.
        to: u64,
    },
    /// A sequence came again.
    Repeated {
        /// Which.
        sequence: u64,
    },
    /// A sequence came after a later one: it was missing until now, or is from before all that is
    /// remembered.
    OutOfOrder {
        /// Which.
        sequence: u64,
        /// The one that was to come.
        expected: u64,
    },
}

/// What a [`SequenceCheck`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SequenceTotals {
    /// Sequences observed.
    pub observed: u64,
    /// Those found missing that have not come since.
    pub missing: u64,
    /// Those that came again.
    pub repeated: u64,
    /// Those that came too late.
    pub out_of_order: u64,
    /// Names forgotten, because there were too many.
    pub forgotten_names: u64,
}

/// What is remembered of a name.
#[derive(Clone, Debug)]
struct Line {
    name: Arc<str>,
    /// What is to come.
    next: u64,
    /// From here on all has come that is not missing.
    floor: u64,
    /// In order.
    missing: VecDeque<Range<u64>>,
}

impl Default for SequenceCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SequenceCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SequenceCheck")
            .field("names", &(self.recent.len() + self.older.len()))
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}

impl SequenceCheck {
    /// One that knows nothing yet.
    pub fn new() -> Self {
        Self::with_max_names(MAX_NAMES)
    }

    /// One that remembers at most `names`, and 2 at least. When they are too many, those go that
    /// were seen last before `names / 2` others.
    pub fn with_max_names(names: usize) -> Self {
        Self {
            recent: HashMap::new(),
            older: HashMap::new(),
            half: (names / 2).max(1),
            observed_to: Offset::ZERO,
            totals: SequenceTotals::default(),
        }
    }

    /// Takes in the next sequence of a name; what is wrong with it, if anything is. (Sequences are
    /// below `u64::MAX`, which is none, and is not observed.)
    pub fn observe(&mut self, name: &str, sequence: u64) -> Option<SequenceFinding> {
        let mut findings = Vec::new();
        self.observe_run(
            name,
            sequence..sequence.saturating_add(1),
            None,
            &mut findings,
        );
        findings.pop()
    }

    /// Takes in what [named producers](crate::ProducerBuilder::name) sent in a batch; what is wrong
    /// with it. Frames of producers without a name have no sequences.
    ///
    /// Records that are read again, after a [`seek`](crate::Reader::seek), are not observed again.
    /// So a check is for one log, read forward.
    pub fn observe_batch(&mut self, batch: &Batch<'_>) -> Vec<SequenceFinding> {
        let mut findings = Vec::new();
        for frame in batch.frames() {
            let from = frame.from.max(batch.from()).max(self.observed_to);
            self.observed_to = self.observed_to.max(frame.to);
            let Some(producer) = frame.producer.filter(|_| from < frame.to) else {
                continue;
            };
            let sequence = |offset: Offset| {
                let farther = offset.since(frame.from);
                producer.first_sequence.saturating_add(farther)
            };
            let unknown = || format!("#{}", producer.id).into();
            let name = producer.name.clone().unwrap_or_else(unknown);
            let run = sequence(from)..sequence(frame.to);
            self.observe_run(&name, run, Some(from), &mut findings);
        }
        findings
    }

    /// Has it believe that all sequences of a name below `next` have come.
    pub fn expect(&mut self, name: &str, next: u64) {
        if let Some(line) = self.line(name, next) {
            line.next = next;
            line.floor = 0;
            line.missing.clear();
        }
    }

    /// The sequence that is to come next of a name; `None` if none has come yet.
    pub fn next_sequence(&self, name: &str) -> Option<u64> {
        let line = self.recent.get(name).or_else(|| self.older.get(name));
        line.map(|line| line.next)
    }

    /// What was seen so far.
    pub fn totals(&self) -> SequenceTotals {
        self.totals
    }

    /// Takes in sequences that come one after the other; the first of them is that of the record at
    /// `offset`.
    fn observe_run(
        &mut self,
        name: &str,
        run: Range<u64>,
        offset: Option<Offset>,
        findings: &mut Vec<SequenceFinding>,
    ) {
        let mut totals = self.totals;
        let Some(line) = self.line(name, run.start) else {
            return;
        };
        let mut sequence = run.start;
        while sequence < run.end {
            if let Some(kind) = line.observe(sequence, &mut totals) {
                findings.push(SequenceFinding {
                    producer: Arc::clone(&line.name),
                    kind,
                    offset: offset.map(|offset| offset.advance(sequence - run.start)),
                });
            }
            sequence += 1;
            if sequence == line.next {
                // All the others are what is to come.
                sequence = run.end;
                line.next = run.end;
            }
        }
        totals.observed += run.end - run.start;
        totals.forgotten_names = self.totals.forgotten_names;
        self.totals = totals;
    }

    /// What is known of a name; if nothing is, it begins at `start`.
    fn line(&mut self, name: &str, start: u64) -> Option<&mut Line> {
        if !self.recent.contains_key(name) {
            let line = self.older.remove(name).unwrap_or_else(|| Line {
                name: name.into(),
                next: start,
                floor: start,
                missing: VecDeque::new(),
            });
            if self.recent.len() >= self.half {
                self.totals.forgotten_names += self.older.len() as u64;
                self.older = std::mem::take(&mut self.recent);
            }
            self.recent.insert(Arc::clone(&line.name), line);
        }
        self.recent.get_mut(name)
    }
}

impl Line {
    fn observe(&mut self, sequence: u64, totals: &mut SequenceTotals) -> Option<SequenceKind> {
        let expected = self.next;
        if sequence >= expected {
            self.next = sequence.saturating_add(1);
            if sequence == expected {
                return None;
            }
            totals.missing += sequence - expected;
            self.missing.push_back(expected..sequence);
            self.forget();
            return Some(SequenceKind::Missing {
                from: expected,
                to: sequence,
            });
        }
        let is_late = self.find(sequence);
        if is_late {
            totals.missing = totals.missing.saturating_sub(1);
        }
        if is_late || sequence < self.floor {
            totals.out_of_order += 1;
            return Some(SequenceKind::OutOfOrder { sequence, expected });
        }
        totals.repeated += 1;
        Some(SequenceKind::Repeated { sequence })
    }

    /// Whether a sequence was missing. It is not any more.
    fn find(&mut self, sequence: u64) -> bool {
        let at = self.missing.partition_point(|range| range.end <= sequence);
        let Some(range) = self
            .missing
            .get_mut(at)
            .filter(|range| range.start <= sequence)
        else {
            return false;
        };
        let behind = sequence + 1..range.end;
        range.end = sequence;
        if range.is_empty() {
            self.missing.remove(at);
        }
        if !behind.is_empty() {
            let at = self.missing.partition_point(|range| range.end <= sequence);
            self.missing.insert(at, behind);
        }
        self.forget();
        true
    }

    /// Remembers no more than a bounded number of ranges.
    fn forget(&mut self) {
        while self.missing.len() > MISSING_MAX {
            let oldest = self.missing.pop_front();
            self.floor = oldest.map_or(self.floor, |oldest| oldest.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn kinds(check: &mut SequenceCheck, sequences: &[u64]) -> Vec<SequenceKind> {
        let found = |&sequence| Some(check.observe("meter", sequence)?.kind);
        sequences.iter().filter_map(found).collect()
    }

    const fn late(sequence: u64, expected: u64) -> SequenceKind {
        SequenceKind::OutOfOrder { sequence, expected }
    }

    #[test]
    fn sequences_that_follow_each_other_are_as_they_should_be() {
        let mut check = SequenceCheck::new();
        assert_eq!(kinds(&mut check, &[5, 6, 7, 8]), []);
        assert_eq!(check.observe("other", 100), None, "names have their own");
        assert_eq!(check.next_sequence("meter"), Some(9));
        assert_eq!(check.next_sequence("third"), None);
        assert_eq!(check.totals().observed, 5);
    }

    #[test]
    fn what_is_left_out_is_missing_and_out_of_order_when_it_comes() {
        let mut check = SequenceCheck::new();
        let found = kinds(&mut check, &[0, 1, 5, 3, 6, 2, 4]);
        assert_eq!(
            found,
            [
                SequenceKind::Missing { from: 2, to: 5 },
                late(3, 6),
                late(2, 7),
                late(4, 7),
            ]
        );
        let totals = check.totals();
        assert_eq!((totals.missing, totals.out_of_order), (0, 3));
    }

    #[test]
    fn what_comes_again_is_repeated() {
        let mut check = SequenceCheck::new();
        let repeated = |sequence| SequenceKind::Repeated { sequence };
        let found = kinds(&mut check, &[3, 4, 4, 3, 5, 7, 6, 6]);
        let expected = [
            repeated(4),
            repeated(3),
            SequenceKind::Missing { from: 6, to: 7 },
            late(6, 8),
            repeated(6),
        ];
        assert_eq!(found, expected);
        assert_eq!(check.totals().repeated, 3);
    }

    #[test]
    fn what_is_from_before_the_first_that_was_seen_is_out_of_order_unless_that_was_told() {
        let mut check = SequenceCheck::new();
        assert_eq!(kinds(&mut check, &[10, 4]), [late(4, 11)]);
        let mut check = SequenceCheck::new();
        check.expect("meter", 10);
        let expected = [
            SequenceKind::Repeated { sequence: 4 },
            SequenceKind::Missing { from: 10, to: 12 },
        ];
        assert_eq!(kinds(&mut check, &[4, 12]), expected);
    }

    #[test]
    fn of_missing_ranges_the_oldest_are_forgotten_and_then_nothing_is_said_to_be_repeated() {
        let mut check = SequenceCheck::new();
        // Every other one is missing: 0, 2, 4, ... come.
        let ranges = MISSING_MAX as u64 + 2;
        for sequence in 0..=ranges {
            drop(check.observe("meter", sequence * 2));
        }
        let expected = ranges * 2 + 1;
        // The ranges of 1 and of 3 are forgotten, that of 5 is not.
        let found = kinds(&mut check, &[1, 2, 4, 5]);
        let repeated = SequenceKind::Repeated { sequence: 4 };
        let late = |sequence| late(sequence, expected);
        assert_eq!(found, [late(1), late(2), repeated, late(5)]);
    }

    #[test]
    fn of_names_those_are_forgotten_that_were_not_seen_for_long() {
        let mut check = SequenceCheck::with_max_names(8);
        for round in 0..100 {
            drop(check.observe("steady", round));
            drop(check.observe(&format!("name {round}"), 7));
            assert!(check.recent.len() + check.older.len() <= 8);
        }
        assert_eq!(check.next_sequence("steady"), Some(100));
        assert_eq!(check.next_sequence("name 99"), Some(8));
        assert_eq!(check.next_sequence("name 1"), None);
        let totals = check.totals();
        assert_eq!((totals.missing, totals.repeated), (0, 0));
        let held = check.recent.len() + check.older.len();
        assert_eq!(totals.forgotten_names, 101 - held as u64);
    }

    #[test]
    fn a_run_is_as_its_sequences_one_by_one() {
        let runs = [0..5, 5..9, 12..20, 8..14, 18..25, 30..31, 9..40];
        let (mut by_run, mut by_one) = (SequenceCheck::new(), SequenceCheck::new());
        for run in runs {
            let mut found = Vec::new();
            by_run.observe_run("meter", run.clone(), Some(Offset::new(100)), &mut found);
            let one_by_one: Vec<_> = run
                .clone()
                .filter_map(|sequence| Some((sequence, by_one.observe("meter", sequence)?.kind)))
                .collect();
            let placed: Vec<_> = found
                .iter()
                .map(|found| {
                    let farther = found.offset.unwrap().get() - 100;
                    (run.start + farther, found.kind)
                })
                .collect();
            assert_eq!(placed, one_by_one, "{run:?}");
            assert_eq!(by_run.totals(), by_one.totals());
        }
    }

    proptest! {
        #[test]
        fn it_does_as_a_set_of_all_that_came_does(
            sequences in prop::collection::vec(20_u64..60, 1..120),
        ) {
            let mut check = SequenceCheck::new();
            let (mut seen, start) = (BTreeSet::new(), sequences[0]);
            let mut missing_in_all = 0;
            for sequence in sequences {
                let next = seen.last().map_or(start, |last| last + 1);
                let expected = if sequence > next {
                    Some(SequenceKind::Missing { from: next, to: sequence })
                } else if sequence == next {
                    None
                } else if seen.contains(&sequence) && sequence >= start {
                    Some(SequenceKind::Repeated { sequence })
                } else {
                    Some(late(sequence, next))
                };
                let found = check.observe("meter", sequence).map(|found| found.kind);
                prop_assert_eq!(found, expected);
                if sequence >= start {
                    seen.insert(sequence);
                }
                let last = seen.last().copied().unwrap_or(start);
                missing_in_all = (start..last).filter(|s| !seen.contains(s)).count() as u64;
            }
            prop_assert_eq!(check.totals().missing, missing_in_all);
        }
    }
}
