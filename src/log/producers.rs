//! Named producers: how far each has come, and so what a duplicate is. The table is under the
//! append lock, so that a record and its sequence become known together.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{
    Shared,
    append::Appender,
    full::{Patience, Waiter},
};
use crate::{
    error::{ErrorKind, Result},
    format::{
        body::FrameBody,
        file_name,
        frame::HEADER_LEN,
        producer::{self, Sender, SentBody},
        producers::{Known, RECENT_MAX, Snapshot},
    },
    offset::Offset,
};

/// So many names a log takes: each of them has its last records remembered.
pub(crate) const NAMES_MAX: usize = 16_384;

/// All named producers of a log.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    entries: Vec<Entry>,
    /// By name in lower case: two that differ in case alone are refused.
    by_name: HashMap<String, usize>,
    by_id: HashMap<u32, usize>,
    next_id: u32,
    /// From this offset on there are frames that no snapshot has, ...
    pub(super) unsaved_from: Option<Offset>,
    /// ...or that the one does not have that was taken last.
    pub(super) newer_from: Option<Offset>,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    id: u32,
    epoch: u32,
    next_sequence: u64,
    /// The offsets of the last records; the last of them is that of `next_sequence - 1`.
    recent: VecDeque<Offset>,
    /// The segment that has the name, with the first frame there.
    named_in: Option<Offset>,
}

/// A name as it was opened once. Opening it again makes this one worthless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    slot: usize,
    epoch: u32,
}

/// What a send with these sequences is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// New, from this sequence on.
    New(u64),
    /// In the log already.
    Duplicate(Duplicate),
    /// Its first records are.
    Overlap { known: u64, offset: Option<Offset> },
}

/// Records that are in the log already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Duplicate {
    /// The offset of the first, if that is remembered.
    pub(crate) offset: Option<Offset>,
    /// All of them are below.
    pub(crate) below: Offset,
}

/// What came of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Appended from this offset on.
    New(Offset),
    Duplicate(Duplicate),
    /// Nothing was appended: its first records are in the log already, from this offset on.
    Overlap {
        known: u64,
        offset: Option<Offset>,
    },
}

impl Entry {
    fn new(name: &str, id: u32) -> Self {
        Self {
            name: name.into(),
            id,
            epoch: 0,
            next_sequence: 0,
            recent: VecDeque::new(),
            named_in: None,
        }
    }

    /// The offset of a record that is among the last.
    fn offset_of(&self, sequence: u64) -> Option<Offset> {
        let back = usize::try_from(self.next_sequence.checked_sub(sequence)?).ok()?;
        let place = self.recent.len().checked_sub(back)?;
        self.recent.get(place).copied()
    }

    fn duplicate(&self, first: u64, count: u64) -> Duplicate {
        let last = first.saturating_add(count.saturating_sub(1));
        // What is not remembered is older than all that is.
        let at = self.offset_of(last).or(self.recent.front().copied());
        Duplicate {
            offset: self.offset_of(first),
            below: at.map_or(Offset::ZERO, Offset::next),
        }
    }

    /// Takes in records that were appended in order.
    #[inline]
    fn advance(&mut self, first: Offset, count: u64) {
        self.next_sequence = self.next_sequence.saturating_add(count);
        let new = count.min(RECENT_MAX as u64);
        for number in count - new..count {
            if self.recent.len() == RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back(first.advance(number));
        }
    }
}

impl Producers {
    /// Opens a name: the one who had it before is fenced.
    ///
    /// # Errors
    ///
    /// `InvalidName`, `TooManyProducers`.
    fn open(&mut self, name: &str) -> Result<Identity> {
        let slot = match self.by_name.get(&name.to_ascii_lowercase()) {
            Some(&slot) => {
                let known = self.entries.get(slot).map(|entry| &*entry.name);
                file_name::check_case(name, known.into_iter())?;
                slot
            }
            None if self.entries.len() >= NAMES_MAX => {
                return Err(ErrorKind::TooManyProducers { limit: NAMES_MAX }.into());
            }
            None => self.add(Entry::new(name, self.next_id)),
        };
        let entry = self.entries.get_mut(slot);
        let epoch = entry.map_or(0, |entry| {
            entry.epoch = entry.epoch.saturating_add(1);
            entry.epoch
        });
        Ok(Identity { slot, epoch })
    }

    fn add(&mut self, entry: Entry) -> usize {
        let slot = self.entries.len();
        self.next_id = self.next_id.max(entry.id.saturating_add(1));
        self.by_id.insert(entry.id, slot);
        if !entry.name.is_empty() {
            self.by_name.insert(entry.name.to_ascii_lowercase(), slot);
        }
        self.entries.push(entry);
        slot
    }

    /// # Errors
    ///
    /// `Fenced`.
    fn entry(&self, who: Identity) -> Result<&Entry> {
        let entry = self.entries.get(who.slot);
        if let Some(entry) = entry.filter(|entry| entry.epoch == who.epoch) {
            return Ok(entry);
        }
        let name = entry.map_or_else(String::new, |entry| entry.name.to_string());
        Err(ErrorKind::Fenced { name }.into())
    }

    /// What a send is; without a sequence of its own it follows what was sent before.
    ///
    /// # Errors
    ///
    /// `Fenced`, `OutOfSequence`.
    fn admit(&self, who: Identity, first: Option<u64>, count: u64) -> Result<Admission> {
        let entry = self.entry(who)?;
        let expected = entry.next_sequence;
        let first = first.unwrap_or(expected);
        if first > expected {
            return Err(ErrorKind::OutOfSequence {
                name: entry.name.to_string(),
                expected,
                found: first,
            }
            .into());
        }
        let known = expected - first;
        Ok(if known == 0 {
            Admission::New(expected)
        } else if known >= count {
            Admission::Duplicate(entry.duplicate(first, count))
        } else {
            let offset = entry.offset_of(first);
            Admission::Overlap { known, offset }
        })
    }

    /// Bytes that a frame takes at most beside its own, to say who sent it.
    fn overhead(&self, who: Identity) -> usize {
        let entry = self.entries.get(who.slot);
        entry.map_or(0, |entry| producer::longest(&entry.name))
    }

    /// Takes in a frame that was read, in the order of the log.
    pub(super) fn replay(&mut self, sender: &Sender<'_>, first: Offset, count: u64) {
        let slot = match self.by_id.get(&sender.id) {
            Some(slot) => *slot,
            None => self.add(Entry::new(sender.name, sender.id)),
        };
        self.unsaved_from.get_or_insert(first);
        let Some(entry) = self.entries.get_mut(slot) else {
            return;
        };
        if entry.name.is_empty() && !sender.name.is_empty() {
            entry.name = sender.name.into();
            self.by_name.insert(entry.name.to_ascii_lowercase(), slot);
        }
        entry.epoch = entry.epoch.max(sender.epoch);
        if sender.sequence.saturating_add(count) <= entry.next_sequence {
            return;
        }
        if sender.sequence != entry.next_sequence {
            // Frames between are damaged, or part of this one is known.
            entry.recent.clear();
            entry.next_sequence = sender.sequence;
        }
        entry.advance(first, count);
    }

    /// Takes over what a snapshot says, as far as the log has it: what is at `end` or behind is
    /// gone.
    pub(super) fn restore(&mut self, snapshot: &Snapshot, end: Offset) {
        for known in &snapshot.producers {
            let kept = known.recent.partition_point(|offset| *offset < end);
            let lost = known.recent.len() - kept;
            let entry = Entry {
                name: known.name.as_str().into(),
                id: known.id,
                epoch: known.epoch,
                next_sequence: known.next_sequence.saturating_sub(lost as u64),
                recent: known.recent.iter().take(kept).copied().collect(),
                named_in: None,
            };
            self.add(entry);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The name behind an id, if it is known.
    pub(super) fn name_of(&self, id: u32) -> Option<Arc<str>> {
        let entry = self.entries.get(*self.by_id.get(&id)?)?;
        (!entry.name.is_empty()).then(|| Arc::clone(&entry.name))
    }

    /// What a snapshot says of the producer in this slot; `None` for one that has sent nothing.
    pub(super) fn known(&self, slot: usize) -> Option<Known> {
        let entry = self
            .entries
            .get(slot)
            .filter(|entry| entry.next_sequence > 0)?;
        Some(Known {
            name: entry.name.to_string(),
            id: entry.id,
            epoch: entry.epoch,
            next_sequence: entry.next_sequence,
            recent: entry.recent.iter().copied().collect(),
        })
    }
}

impl Appender {
    /// Appends a frame of a named producer; there is room for it.
    fn write_sent(
        &mut self,
        log: &Shared,
        who: Identity,
        sequence: u64,
        body: &impl FrameBody,
    ) -> Result<Offset> {
        let segment = self.writer.header.base;
        let entry = self.producers.entries.get(who.slot);
        let (id, name) = entry.map_or((0, None), |entry| {
            let is_first = entry.named_in != Some(segment);
            (entry.id, is_first.then(|| Arc::clone(&entry.name)))
        });
        let sender = Sender {
            id,
            epoch: who.epoch,
            sequence,
            name: name.as_deref().unwrap_or_default(),
        };
        let count = body.count();
        let first = self.write_frame(log, &SentBody { sender, body })?;
        self.producers.unsaved_from.get_or_insert(first);
        self.producers.newer_from.get_or_insert(first);
        if let Some(entry) = self.producers.entries.get_mut(who.slot) {
            entry.named_in = Some(segment);
            entry.advance(first, count);
        }
        Ok(first)
    }
}

impl Shared {
    /// Opens a producer's name.
    ///
    /// # Errors
    ///
    /// `InvalidName`, `TooManyProducers`; `Io`, `StorageFull`, `SyncFailed` if it is the log's
    /// first.
    pub(crate) fn open_producer(&self, name: &str) -> Result<Identity> {
        file_name::check_name(name)?;
        self.note_named()?;
        self.append.lock().producers.open(name)
    }

    /// The sequence that is expected next.
    ///
    /// # Errors
    ///
    /// `Fenced`.
    pub(crate) fn next_sequence(&self, who: Identity) -> Result<u64> {
        let appender = self.append.lock();
        Ok(appender.producers.entry(who)?.next_sequence)
    }

    /// Appends a frame of a named producer, unless its records are in the log already. With a
    /// sequence of its own it must be the next, or a known one.
    ///
    /// # Errors
    ///
    /// `Fenced`, `OutOfSequence`, and those of [`append`](Shared::append).
    pub(crate) fn append_sent(
        &self,
        who: Identity,
        sequence: Option<u64>,
        body: &impl FrameBody,
        waiter: Waiter,
    ) -> Result<Sent> {
        let count = body.count();
        let mut patience = Patience::new(waiter, true);
        let mut appender = self.append.lock();
        loop {
            self.check_writable()?;
            let sequence = match appender.producers.admit(who, sequence, count)? {
                Admission::New(sequence) => sequence,
                Admission::Duplicate(known) => return Ok(Sent::Duplicate(known)),
                Admission::Overlap { known, offset } => {
                    return Ok(Sent::Overlap { known, offset });
                }
            };
            let len = HEADER_LEN + appender.producers.overhead(who) + body.len();
            let obstacle = appender.obstacle(len, count, self.checkpoint.reserved());
            let Some(obstacle) = obstacle else {
                match appender.write_sent(self, who, sequence, body) {
                    Ok(first) => {
                        self.publish(appender)?;
                        return Ok(Sent::New(first));
                    }
                    Err(error) => {
                        appender = self.handle_full(appender, error, &mut patience, count)?;
                        continue;
                    }
                }
            };
            // Others may have the lock meanwhile, so what this is is asked again.
            appender = self.overcome(appender, &obstacle, &mut patience, count)?;
        }
    }
}
