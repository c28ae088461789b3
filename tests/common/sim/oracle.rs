//! What must be true after a crash, from what the library had promised before it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use duralog::{Gap, GapReason};

use super::{
    examine::NAMED,
    kept::Kept,
    world::{is_gone, key_of},
};

/// What happened to a send, as its caller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// The call has not returned.
    UnderWay,
    /// It is in the log, from this offset on.
    Written(u64),
    /// And the log said that it is durable.
    Durable(u64),
    /// The call failed and handed the records back.
    Refused,
}

/// Records that were sent in one call.
#[derive(Clone, Debug)]
struct Sent {
    values: Vec<String>,
    fate: Fate,
}

impl Sent {
    fn first(&self) -> Option<u64> {
        match self.fate {
            Fate::Written(first) | Fate::Durable(first) => Some(first),
            Fate::UnderWay | Fate::Refused => None,
        }
    }

    fn end(&self) -> u64 {
        self.first().unwrap_or(0) + self.values.len() as u64
    }
}

/// What a consumer group knows of its commits.
#[derive(Clone, Debug, Default)]
struct Group {
    /// Where it began, and the offsets it committed or tried to.
    commits: Vec<u64>,
    /// The last of them that returned; `None` before the group was made.
    returned: Option<usize>,
    /// The last one that was said to be durable.
    durable: usize,
}

/// How the world ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Only the process did.
    Process,
    /// The power was cut, now or at some time before.
    Power,
}

/// Everything that the users of a log were told.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    sends: Vec<Sent>,
    /// The log called everything below durable.
    durable: u64,
    groups: BTreeMap<String, Group>,
    /// No record may get an offset below: somebody has seen it.
    floor: u64,
    /// The log was closed, and said so, and nothing was sent since.
    closed: bool,
    /// A sync failed: what was only written may be gone though the machine went on.
    doubt: bool,
    /// The log is compacted, and what may be gone by that.
    keys: Option<Keys>,
    /// What may be gone as it is old.
    kept: Kept,
    version: u64,
}

/// What may be gone of a log that is compacted.
#[derive(Clone, Debug, Default)]
struct Keys {
    /// Records that lie below.
    below: u64,
    /// Tombstones were kept for long enough.
    drops_tombstones: bool,
    /// These offsets were found to be gone, as they may be.
    gone: BTreeSet<u64>,
    /// The named producer has come so far at least, whether or not that record is there.
    sequence: Option<u64>,
}

/// What was found when the log was opened again.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub records: Vec<(u64, String)>,
    pub gaps: Vec<Gap>,
    pub start: u64,
    pub end: u64,
    pub durable: u64,
    /// Offset ranges reported as damaged.
    pub damage: Vec<Range<u64>>,
    pub lost_tail: Option<Range<u64>>,
    pub clean: bool,
    pub groups: BTreeMap<String, u64>,
}

/// A promise that was broken.
pub type Verdict = Result<(), String>;

impl Oracle {
    /// Another number after each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn change(&mut self) -> &mut Self {
        self.version += 1;
        self
    }

    /// Something is about to be sent; returns its number.
    pub fn begin(&mut self, values: Vec<String>) -> usize {
        self.change().closed = false;
        let fate = Fate::UnderWay;
        self.sends.push(Sent { values, fate });
        self.sends.len() - 1
    }

    pub fn written(&mut self, send: usize, first: u64) {
        self.change().sends[send].fate = Fate::Written(first);
        self.floor = self.floor.max(self.sends[send].end());
    }

    pub fn durable(&mut self, send: usize) {
        if let Some(first) = self.sends[send].first() {
            self.change().sends[send].fate = Fate::Durable(first);
        }
    }

    pub fn refused(&mut self, send: usize) {
        self.change().sends[send].fate = Fate::Refused;
    }

    /// The log said that everything below is durable.
    pub fn durable_below(&mut self, offset: u64) {
        if offset > self.durable {
            self.change().durable = offset;
        }
    }

    /// A sync failed.
    pub fn doubts(&mut self) {
        self.change().doubt = true;
    }

    pub fn closed(&mut self) {
        self.change().closed = true;
    }

    /// Records have keys, and the log is compacted.
    pub fn compacts(&mut self) {
        self.change().keys.get_or_insert_default();
    }

    pub fn is_keyed(&self) -> bool {
        self.keys.is_some()
    }

    /// Of records below, a compaction may remove those that are not needed.
    pub fn may_remove_below(&mut self, offset: u64) {
        let durable = self.sends.iter().filter(|send| {
            let is_known = send.first().is_some() && send.end() <= self.durable;
            is_known || matches!(send.fate, Fate::Durable(_))
        });
        let sequences = durable.filter_map(|send| sequence_of(send.values.last()?));
        let last = sequences.max();
        if let Some(keys) = &mut self.change().keys {
            keys.below = keys.below.max(offset);
            keys.sequence = keys.sequence.max(last);
        }
    }

    /// What is known of the named producer, though its records may be gone.
    pub fn sequence(&self, found: &Found) -> Option<u64> {
        let compacted = self.keys.as_ref().and_then(|keys| keys.sequence);
        // What is deleted was durable before.
        let below = self.known().filter(|(offset, _)| *offset < found.start);
        let deleted = below.filter_map(|(_, value)| sequence_of(value)).max();
        compacted.max(deleted).max(self.kept.sequence())
    }

    /// Whatever was told of deletions.
    pub fn kept(&mut self) -> &mut Kept {
        &mut self.change().kept
    }

    /// Somebody has seen the log start there: what is below is gone for good.
    pub fn deleted_below(&mut self, offset: u64) {
        if self.kept.deleted_below(offset) {
            self.change();
        }
    }

    /// Records of which it is known where they were.
    fn known(&self) -> impl Iterator<Item = (u64, &String)> {
        let known = self.sends.iter().filter_map(|send| {
            let first = send.first()?;
            Some((first..).zip(&send.values))
        });
        known.flatten()
    }

    /// The log starts where it may, and no group has missed what waited for it.
    fn judge_start(&self, found: &Found) -> Verdict {
        let here = found.records.iter().map(|(offset, _)| *offset);
        let all: BTreeSet<_> = self.known().map(|(offset, _)| offset).chain(here).collect();
        let under_way = self.sends.iter().filter(|send| send.fate == Fate::UnderWay);
        let coming = under_way.map(|send| send.values.len()).sum();
        self.kept.judge(found, &all, coming)?;
        for (name, group) in &self.groups {
            let committed = found.groups.get(name).filter(|_| group.returned.is_some());
            if committed.is_some_and(|at| !self.kept.judge_group(found.start, *at)) {
                return Err(format!(
                    "the log starts at {}, and group {name} is at {committed:?}",
                    found.start
                ));
            }
        }
        Ok(())
    }

    /// From now on tombstones may be gone that have nothing to remove.
    pub fn may_drop_tombstones(&mut self) {
        if let Some(keys) = &mut self.change().keys {
            keys.drops_tombstones = true;
        }
    }

    /// Whether a compaction may have removed a record, as what was found has a later one of its key;
    /// or nothing that it is to remove, if it is a tombstone.
    fn may_be_gone(&self, offset: u64, value: &str, found: &Found) -> bool {
        let Some(keys) = self.keys.as_ref().filter(|keys| offset < keys.below) else {
            return false;
        };
        let of_key = |(_, other): &&(u64, String)| key_of(other) == key_of(value);
        let mut others = found.records.iter().filter(of_key);
        let is_superseded = others.clone().any(|(at, _)| *at > offset);
        let has_nothing_to_do = others.all(|(at, _)| *at > offset);
        let drops = keys.drops_tombstones && has_nothing_to_do;
        is_superseded || drops && (is_gone(value) || self.was_removed(offset, value, keys))
    }

    /// Whether a tombstone stood behind a record, and may be gone as well.
    fn was_removed(&self, offset: u64, value: &str, keys: &Keys) -> bool {
        let sends = self.sends.iter();
        let known = sends.filter_map(|send| Some((send.first()?..).zip(&send.values)));
        known.flatten().any(|(at, other)| {
            offset < at && at < keys.below && is_gone(other) && key_of(other) == key_of(value)
        })
    }

    /// Offsets that may be gone, and are.
    fn gone(&self, found: &Found) -> BTreeSet<u64> {
        let there: BTreeSet<_> = found.records.iter().map(|(offset, _)| *offset).collect();
        let missing = self.known().filter(|(offset, value)| {
            !there.contains(offset) && self.may_be_gone(*offset, value, found)
        });
        let before = self.keys.iter().flat_map(|keys| keys.gone.iter().copied());
        let gone = missing.map(|(offset, _)| offset).chain(before);
        gone.filter(|offset| *offset >= found.start).collect()
    }

    /// The log is about to be opened again.
    pub fn opened(&mut self) {
        self.change().closed = false;
    }

    /// A group begins at `offset`, if it is new.
    pub fn group_begins(&mut self, name: &str, offset: u64) {
        let group = self.change().groups.entry(name.to_owned()).or_default();
        if group.commits.is_empty() {
            group.commits.push(offset);
        }
    }

    /// The group is there, and will not be gone again.
    pub fn group_made(&mut self, name: &str) {
        let group = self.change().groups.entry(name.to_owned()).or_default();
        group.returned.get_or_insert(0);
    }

    pub fn commit_begins(&mut self, name: &str, offset: u64) {
        let group = self.change().groups.entry(name.to_owned()).or_default();
        group.commits.push(offset);
    }

    /// The last commit returned.
    pub fn commit_returned(&mut self, name: &str) {
        let group = self.change().groups.entry(name.to_owned()).or_default();
        group.returned = group.commits.len().checked_sub(1);
    }

    /// The last commit returned, and was said to be durable, with all that it is of.
    pub fn commit_is_durable(&mut self, name: &str) {
        self.commit_returned(name);
        let group = self.change().groups.entry(name.to_owned()).or_default();
        group.durable = group.returned.unwrap_or(0);
        let committed = group.commits[group.durable];
        self.durable_below(committed);
    }

    /// The next oracle: what was served counts from now on, and nothing else.
    pub fn after(&self, found: &Found) -> Self {
        let sends = found
            .records
            .iter()
            .map(|(offset, value)| Sent {
                values: vec![value.clone()],
                fate: Fate::Durable(*offset),
            })
            .collect();
        let groups = found
            .groups
            .iter()
            .map(|(name, offset)| {
                let group = Group {
                    commits: vec![*offset],
                    returned: Some(0),
                    durable: 0,
                };
                (name.clone(), group)
            })
            .collect();
        Self {
            sends,
            durable: found.durable,
            groups,
            floor: self.floor.max(found.end),
            closed: false,
            doubt: false,
            keys: self.keys.clone().map(|keys| Keys {
                gone: self.gone(found),
                ..keys
            }),
            kept: self.kept.after(found, self.sequence(found)),
            version: 0,
        }
    }

    /// Whether a promise was broken by what was found after a crash of sound hardware.
    pub fn judge(&self, found: &Found, crash: Crash) -> Verdict {
        if let Some(range) = found.damage.iter().find(|range| !range.is_empty()) {
            return Err(format!(
                "offsets {range:?} are reported as damaged, and nothing was"
            ));
        }
        self.judge_start(found)?;
        self.judge_records(found)?;
        judge_coverage(found, &self.gone(found), &[GapReason::LostTail])?;
        self.judge_promises(found, crash)?;
        self.judge_groups(found, crash)?;
        if found.durable != found.end {
            return Err(format!(
                "served up to {} but durable only below {}",
                found.end, found.durable
            ));
        }
        let dense = crash == Crash::Process && !self.doubt || self.closed;
        match &found.lost_tail {
            Some(lost) if dense => Err(format!("a lost tail {lost:?}, and nothing was lost")),
            _ if self.closed && !found.clean => Err("closed in order, and not clean".to_owned()),
            _ => Ok(()),
        }
    }

    /// The same, where something was damaged: what is missing has to be told, and what is there has
    /// to be right. (Of a log that was not closed, what was synced last may be taken for a torn
    /// tail.)
    pub fn judge_damaged(&self, found: &Found) -> Verdict {
        self.judge_records(found)?;
        judge_coverage(
            found,
            &self.gone(found),
            &[GapReason::LostTail, GapReason::Damage],
        )?;
        if self.closed && found.end < self.floor {
            return Err(format!(
                "it ends at {}, and was closed at {}",
                found.end, self.floor
            ));
        }
        Ok(())
    }

    /// Offsets of the records that were in the log and were not found.
    pub fn missing(&self, found: &Found) -> Vec<u64> {
        let there: Vec<_> = found.records.iter().map(|(offset, _)| *offset).collect();
        let sends = self.sends.iter();
        let written = sends.filter_map(|send| Some(send.first()?..send.end()));
        written
            .flatten()
            .filter(|offset| !there.contains(offset))
            .collect()
    }

    /// How many sends failed.
    pub fn refused_count(&self) -> usize {
        let refused = self.sends.iter().filter(|send| send.fate == Fate::Refused);
        refused.count()
    }

    /// What is there was sent, where it says, whole, and once.
    fn judge_records(&self, found: &Found) -> Verdict {
        let mut sent_at = BTreeMap::new();
        for (number, send) in self.sends.iter().enumerate() {
            for (index, value) in send.values.iter().enumerate() {
                sent_at.insert(value.as_str(), (number, index as u64));
            }
        }
        let mut firsts: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
        for (offset, value) in &found.records {
            let Some(&(number, index)) = sent_at.get(value.as_str()) else {
                return Err(format!(
                    "{value:?} at {offset} is from before, or from nowhere"
                ));
            };
            let send = &self.sends[number];
            if send.fate == Fate::Refused {
                return Err(format!(
                    "{value:?} at {offset} was handed back to its sender"
                ));
            }
            let first = offset.wrapping_sub(index);
            if send.first().is_some_and(|known| known != first) {
                return Err(format!(
                    "{value:?} is at {offset}, and was at another offset"
                ));
            }
            let seen = firsts.entry(number).or_insert((first, 0));
            if seen.0 != first {
                return Err(format!("{value:?} at {offset} is torn from its batch"));
            }
            seen.1 += 1;
        }
        for (number, (first, count)) in firsts {
            let whole = self.sends[number].values.len();
            let is_known = self.sends[number].first().is_some();
            let may_lack = self.is_keyed() && is_known || first < found.start;
            if count != whole && !may_lack {
                return Err(format!(
                    "of the batch at {first}, {count} of {whole} records"
                ));
            }
        }
        Ok(())
    }

    fn judge_promises(&self, found: &Found, crash: Crash) -> Verdict {
        let there: BTreeMap<_, _> = found
            .records
            .iter()
            .map(|(offset, value)| (*offset, value.as_str()))
            .collect();
        for send in &self.sends {
            let survives = match send.fate {
                Fate::Durable(_) => true,
                Fate::Written(_) if send.end() <= self.durable || self.closed => true,
                Fate::Written(_) => crash == Crash::Process && !self.doubt,
                Fate::UnderWay | Fate::Refused => false,
            };
            let Some(first) = send.first().filter(|_| survives) else {
                continue;
            };
            for (offset, value) in (first..).zip(&send.values) {
                let is_there = there.get(&offset) == Some(&value.as_str());
                let is_deleted = offset < found.start;
                if !is_there && !is_deleted && !self.may_be_gone(offset, value, found) {
                    return Err(format!("{value:?} at {offset} is lost: {:?}", send.fate));
                }
            }
        }
        Ok(())
    }

    fn judge_groups(&self, found: &Found, crash: Crash) -> Verdict {
        for (name, group) in &self.groups {
            let Some(&committed) = found.groups.get(name) else {
                continue;
            };
            let since = match (crash, group.returned) {
                (Crash::Process, Some(returned)) => returned,
                _ => group.durable,
            };
            let possible = &group.commits[since..];
            if group.returned.is_some() && !possible.contains(&committed) {
                return Err(format!(
                    "group {name} is at {committed}, after commits {possible:?}"
                ));
            }
        }
        Ok(())
    }

    /// Whether an offset that somebody has seen was given to another record.
    pub fn judge_append(&self, found: &Found, appended: u64, crash: Crash) -> Verdict {
        let floor = self.floor.max(found.end);
        if appended < floor {
            return Err(format!(
                "offset {appended} again: {floor} is the first unseen"
            ));
        }
        let dense = crash == Crash::Process && !self.doubt;
        if dense && appended != found.end {
            return Err(format!("offset {appended} behind the end {}", found.end));
        }
        Ok(())
    }

    /// The groups that are to be looked at.
    pub fn group_names(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }
}

/// The sequence of a value that the named producer sent.
pub fn sequence_of(value: &str) -> Option<u64> {
    let number = value.strip_prefix(NAMED)?.split('-').nth(1)?;
    number.parse().ok()
}

/// Records and gaps, and what may be gone, together are all offsets from the start to the end, once
/// each.
fn judge_coverage(found: &Found, gone: &BTreeSet<u64>, reasons: &[GapReason]) -> Verdict {
    let mut covered: Vec<Range<u64>> = found
        .records
        .iter()
        .map(|(offset, _)| *offset)
        .chain(gone.iter().copied())
        .map(|offset| offset..offset + 1)
        .collect();
    for gap in &found.gaps {
        if !reasons.contains(&gap.reason) {
            return Err(format!("an unexpected {gap:?}"));
        }
        covered.push(gap.from.get()..gap.to.get());
    }
    covered.sort_by_key(|range| range.start);
    let mut end = found.start;
    for range in covered {
        if range.start != end {
            return Err(format!("nothing was said of {end} to {}", range.start));
        }
        end = range.end;
    }
    // A gap at the end is told together with the first record behind it.
    let told = found
        .lost_tail
        .as_ref()
        .is_some_and(|lost| lost.end == found.end)
        || found.damage.iter().any(|lost| lost.end == found.end);
    if end != found.end && !told {
        return Err(format!(
            "the log ends at {}, told is up to {end}",
            found.end
        ));
    }
    Ok(())
}
