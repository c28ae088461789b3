//! The last offset of each key, in bounded memory.
//!
//! The keys themselves are kept, and compared: a hash only says where to look. Each key costs its
//! bytes, 9 or more for its length and offset, and 8 for a slot of a table that is half to 7/8 full.
//!
//! Only keys with hashes in a range are kept. Where they do not fit the memory, the range gets
//! smaller, and those outside of it are forgotten: they are the business of the ranges behind it, of
//! which each begins where the one before ended.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    ops::Range,
};

use crate::{
    format::wire::{Reader, Writer, varint_len, widen},
    offset::Offset,
};

/// Entries are put one behind the other into pieces of memory of this size; one that is larger has
/// a piece of its own.
const CHUNK: usize = 32 << 10;
const FEWEST_SLOTS: usize = 256;
const SLOT: usize = size_of::<Slot>();
/// The end of all hashes.
const HASHES: u64 = 1 << u32::BITS;
/// The part of a range that is left to later ones, if its keys do not fit: the smaller, the better
/// the memory is used, and the more often all entries are looked at.
const LEFT_TO_LATER: u64 = 8;

/// Where an entry is, and the part of its key's hash that decides where its slot is.
#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    /// The number of its chunk times [`CHUNK`], and its place in there.
    entry: u32,
}

impl Slot {
    const EMPTY: Self = Self {
        hash: 0,
        entry: u32::MAX,
    };

    fn is_empty(self) -> bool {
        self.entry == u32::MAX
    }
}

/// The last offset of each key that was noted and has its hash in the range.
#[derive(Debug)]
pub(super) struct Keys {
    /// Bytes that may be taken.
    budget: usize,
    /// Seeded at random: nobody can choose keys that all have one slot.
    hashing: RandomState,
    /// Hashes of the keys that are kept.
    range: Range<u64>,
    slots: Vec<Slot>,
    chunks: Vec<Vec<u8>>,
    /// The chunk that is filled.
    filling: usize,
    count: usize,
    /// Bytes that are taken, and that ever were.
    taken: usize,
    peak: usize,
}

impl Keys {
    /// None yet, and the range of all hashes.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            hashing: RandomState::new(),
            range: 0..HASHES,
            slots: Vec::new(),
            chunks: Vec::new(),
            filling: 0,
            count: 0,
            taken: 0,
            peak: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The most memory that was taken, in bytes.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    /// Whether no hash is behind the range.
    pub(super) fn is_last_range(&self) -> bool {
        self.range.end >= HASHES
    }

    /// Forgets all keys, and goes on to those behind the range. The memory is used again.
    ///
    /// The new range is all that is left, and gets as small as it has to: where one had to be tiny
    /// because of a large key, those behind it need not be.
    pub(super) fn next_range(&mut self) {
        self.range = self.range.end..HASHES;
        self.slots.fill(Slot::EMPTY);
        self.chunks.retain(|chunk| chunk.len() <= CHUNK);
        self.chunks.iter_mut().for_each(Vec::clear);
        (self.filling, self.count) = (0, 0);
        self.taken = self.slots.len() * SLOT + self.chunks.len() * CHUNK;
    }

    /// Notes that `key` is at `offset`, which is above all that were noted. If it is in the range,
    /// and there is no room for it, the range gets smaller, until there is or it is outside.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) {
        let hash = self.hash(key);
        if !self.covers(hash) {
            return;
        }
        if let Some(entry) = self.find(key, hash) {
            self.set_offset(entry, offset);
            return;
        }
        while self.covers(hash) {
            if let Some(entry) = self.add(key, offset) {
                self.put_counted(hash, entry);
                return;
            }
            if !self.free_spare() && !self.shrink(hash, key.len()) {
                return;
            }
        }
    }

    /// The last offset that was noted of `key`; `None` if it is outside of the range.
    pub(super) fn last(&self, key: &[u8]) -> Option<Offset> {
        let hash = self.hash(key);
        if !self.covers(hash) {
            return None;
        }
        let entry = self.find(key, hash)?;
        Reader::new(self.entry(entry)).u64().ok().map(Offset::new)
    }

    fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.hashing.build_hasher();
        hasher.write(key);
        let [.., a, b, c, d] = hasher.finish().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn covers(&self, hash: u32) -> bool {
        self.range.contains(&u64::from(hash))
    }

    /// The places to look at for a hash, in order.
    fn places(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let slots = self.slots.len();
        // Spreads the hashes of any range over all slots.
        let spread = hash.wrapping_mul(0x9e37_79b9);
        let first = widen_u64((u64::from(spread) * slots as u64) >> u32::BITS);
        (first..slots).chain(0..first)
    }

    fn find(&self, key: &[u8], hash: u32) -> Option<u32> {
        for place in self.places(hash) {
            let slot = self.slots.get(place).filter(|slot| !slot.is_empty())?;
            if slot.hash == hash && self.key(slot.entry) == Some(key) {
                return Some(slot.entry);
            }
        }
        None
    }

    fn entry(&self, entry: u32) -> &[u8] {
        let at = widen(entry);
        let chunk = self.chunks.get(at / CHUNK);
        chunk
            .and_then(|chunk| chunk.get(at % CHUNK..))
            .unwrap_or_default()
    }

    fn key(&self, entry: u32) -> Option<&[u8]> {
        key_of(self.entry(entry))
    }

    fn set_offset(&mut self, entry: u32, offset: Offset) {
        let at = widen(entry);
        let chunk = self.chunks.get_mut(at / CHUNK);
        if let Some(bytes) = chunk.and_then(|chunk| chunk.get_mut(at % CHUNK..)) {
            Writer::new(bytes).u64(offset.get());
        }
    }

    fn has_free_slot(&self) -> bool {
        self.count < self.slots.len() / 8 * 7
    }

    /// Twice as many slots, if that may be.
    fn grow(&mut self) -> bool {
        let slots = FEWEST_SLOTS.max(2 * self.slots.len());
        // Until the old ones are gone, both are there.
        if !self.may_take(slots * SLOT) {
            return false;
        }
        let old = std::mem::replace(&mut self.slots, vec![Slot::EMPTY; slots]);
        for slot in old.iter().filter(|slot| !slot.is_empty()) {
            self.put(*slot);
        }
        self.taken -= old.len() * SLOT;
        true
    }

    /// Puts a slot into the first free place.
    fn put(&mut self, slot: Slot) {
        let free = |place: &usize| self.slots.get(*place).is_some_and(|slot| slot.is_empty());
        let place = self.places(slot.hash).find(free);
        if let Some(place) = place.and_then(|place| self.slots.get_mut(place)) {
            *place = slot;
        }
    }

    /// Takes memory, if the budget has it, or it can't be helped: a range has one key at least, and
    /// all of one hash.
    fn may_take(&mut self, bytes: usize) -> bool {
        let is_first = self.chunks.is_empty() && self.slots.len() <= FEWEST_SLOTS;
        let must_be = is_first || self.range.end - self.range.start <= 1;
        if !must_be && self.taken + bytes > self.budget {
            return false;
        }
        self.taken += bytes;
        self.peak = self.peak.max(self.taken);
        true
    }

    /// Gives back memory that nothing is in; `false` if there is none.
    fn free_spare(&mut self) -> bool {
        let before = self.taken;
        while self.chunks.pop_if(|chunk| chunk.is_empty()).is_some() {
            self.taken -= CHUNK;
        }
        if self.count == 0 && self.slots.len() > FEWEST_SLOTS {
            self.taken -= self.slots.len() * SLOT;
            self.slots = Vec::new();
        }
        self.taken < before
    }

    /// Adds an entry; returns its place, or `None` if there is no room for it and its slot.
    fn add(&mut self, key: &[u8], offset: Offset) -> Option<u32> {
        if !self.has_free_slot() && !self.grow() {
            return None;
        }
        let len = entry_len(key);
        let number = self.chunk_for(len)?;
        let chunk = self.chunks.get_mut(number)?;
        let at = chunk.len();
        chunk.resize(at + len, 0);
        let mut writer = Writer::new(chunk.get_mut(at..)?);
        writer.u64(offset.get());
        writer.counted(key);
        u32::try_from(number * CHUNK + at).ok()
    }

    /// The number of a chunk that has room for so many bytes.
    fn chunk_for(&mut self, len: usize) -> Option<usize> {
        if len <= CHUNK {
            while let Some(chunk) = self.chunks.get(self.filling) {
                if chunk.len() + len <= CHUNK {
                    return Some(self.filling);
                }
                self.filling += 1;
            }
        }
        let size = len.max(CHUNK);
        // The last number stands for "none".
        let numbers = widen(u32::MAX) / CHUNK;
        if self.chunks.len() >= numbers || !self.may_take(size) {
            return None;
        }
        Some(self.put_chunk(Vec::with_capacity(size)))
    }

    /// Puts a chunk in front of all that are empty: those stay the last ones.
    fn put_chunk(&mut self, chunk: Vec<u8>) -> usize {
        let behind = self.chunks.iter().skip(self.filling);
        let used = behind.take_while(|chunk| !chunk.is_empty()).count();
        let (number, last) = (self.filling + used, self.chunks.len());
        self.chunks.push(chunk);
        self.chunks.swap(number, last);
        number
    }

    /// Leaves the end of the range to later ones, for a key of this hash and length to fit or to be
    /// outside; `false` if it is a single hash.
    fn shrink(&mut self, hash: u32, len: usize) -> bool {
        let width = self.range.end - self.range.start;
        if width <= 1 {
            return false;
        }
        self.range.end -= (width / LEFT_TO_LATER).max(1);
        if len as u64 > self.budget as u64 / LEFT_TO_LATER {
            // What would go is hardly enough, so no more goes than is behind it: or else many ranges,
            // each shorter than the last, would end in front of a key that has to be alone.
            self.range.end = self.range.end.max(u64::from(hash));
        }
        let mut slots = self.slots.iter().filter(|slot| !slot.is_empty());
        if slots.any(|slot| !self.covers(slot.hash)) {
            self.evict();
        }
        true
    }

    /// Forgets the keys outside of the range. Those that stay close the gaps, within the memory that
    /// is there.
    fn evict(&mut self) {
        self.slots.fill(Slot::EMPTY);
        (self.filling, self.count) = (0, 0);
        let chunks = std::mem::take(&mut self.chunks);
        let (large, small) = chunks.into_iter().partition(|chunk| chunk.len() > CHUNK);
        self.chunks = small;
        for number in 0..self.chunks.len() {
            self.evict_from(number);
        }
        let large: Vec<Vec<u8>> = large;
        for chunk in large {
            let hash = key_of(&chunk).map(|key| self.hash(key));
            match hash.filter(|hash| self.covers(*hash)) {
                Some(hash) => {
                    let entry = u32::try_from(self.put_chunk(chunk) * CHUNK);
                    self.put_counted(hash, entry.unwrap_or(u32::MAX));
                }
                None => self.taken -= chunk.len(),
            }
        }
    }

    /// Moves what stays of a chunk to the front: into those before it, or within.
    fn evict_from(&mut self, number: usize) {
        let Some(chunk) = self.chunks.get_mut(number) else {
            return;
        };
        let mut chunk = std::mem::take(chunk);
        let (mut at, mut end) = (0, 0);
        while let Some(key) = chunk.get(at..).and_then(key_of) {
            let (hash, len) = (self.hash(key), entry_len(key));
            let from = at..at + len;
            at += len;
            if !self.covers(hash) {
                continue;
            }
            let place = if let Some(into) = self.room_before(number, len) {
                let place = into.len();
                into.extend_from_slice(chunk.get(from).unwrap_or_default());
                place
            } else {
                chunk.copy_within(from, end);
                end += len;
                end - len
            };
            let entry = u32::try_from(self.filling * CHUNK + place);
            self.put_counted(hash, entry.unwrap_or(u32::MAX));
        }
        chunk.truncate(end);
        if let Some(place) = self.chunks.get_mut(number) {
            *place = chunk;
        }
    }

    /// The chunk to fill, if there is one with so much room before this one.
    fn room_before(&mut self, number: usize, len: usize) -> Option<&mut Vec<u8>> {
        let has_room = |chunk: &Vec<u8>| chunk.len() + len <= CHUNK;
        while self.filling < number && !self.chunks.get(self.filling).is_some_and(has_room) {
            self.filling += 1;
        }
        let filling = self.filling;
        self.chunks.get_mut(filling).filter(|_| filling < number)
    }

    fn put_counted(&mut self, hash: u32, entry: u32) {
        self.put(Slot { hash, entry });
        self.count += 1;
    }
}

/// The key of the entry that is first there.
fn key_of(entries: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(entries);
    reader.u64().ok()?;
    reader.counted().ok()
}

fn entry_len(key: &[u8]) -> usize {
    size_of::<u64>() + varint_len(key.len() as u64) + key.len()
}

/// The number of a slot: there are fewer than 2^32.
fn widen_u64(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn offset(number: usize) -> Offset {
        Offset::new(number as u64)
    }

    fn numbered(number: usize) -> String {
        format!("a key, number {number:09}")
    }

    #[test]
    fn each_key_has_the_last_offset_that_was_noted() {
        let mut keys = Keys::new(1 << 20);
        let mut known = HashMap::new();
        for number in 0..20_000_usize {
            let key = (number * 7919 % 6007).to_string();
            keys.note(key.as_bytes(), offset(number));
            known.insert(key, offset(number));
        }
        for (key, last) in &known {
            assert_eq!(keys.last(key.as_bytes()), Some(*last), "{key}");
        }
        assert_eq!(keys.last(b"none"), None);
        assert_eq!(keys.last(b""), None);
        assert!(keys.is_last_range());
    }

    #[test]
    fn keys_with_one_hash_are_told_apart() {
        let mut keys = Keys::new(1 << 20);
        keys.note(b"first", offset(1));
        // As if the other one had the same hash.
        let hash = keys.hash(b"first");
        assert_eq!(keys.find(b"other", hash), None);
        let entry = keys.add(b"other", offset(2)).unwrap();
        keys.put(Slot { hash, entry });
        let offset_of = |keys: &Keys, key: &[u8]| {
            let entry = keys.find(key, hash).unwrap();
            Reader::new(keys.entry(entry)).u64().unwrap()
        };
        assert_eq!(offset_of(&keys, b"first"), 1);
        assert_eq!(offset_of(&keys, b"other"), 2);
    }

    #[test]
    fn a_range_gets_smaller_until_its_keys_fit_and_those_keep_their_last_offsets() {
        for budget in [64 << 10, 1 << 20, 3 << 20] {
            let many = budget / 10;
            let mut keys = Keys::new(budget);
            for round in 0..2 {
                for number in 0..many {
                    keys.note(numbered(number).as_bytes(), offset(round * many + number));
                    assert!(keys.taken <= budget, "{} of {budget}", keys.taken);
                }
            }
            assert!(keys.peak() <= budget, "{} of {budget}", keys.peak());
            assert!(!keys.is_last_range());
            let mut count = 0;
            for number in 0..many {
                let key = numbered(number);
                let last = keys.last(key.as_bytes());
                let is_covered = keys.covers(keys.hash(key.as_bytes()));
                assert_eq!(last, is_covered.then(|| offset(many + number)), "{key}");
                count += usize::from(is_covered);
            }
            assert_eq!(count, keys.count);
            // 24 bytes, 9 beside them, a slot, and what is spare.
            assert!(count * 90 > budget, "{count} keys in {budget}");
        }
    }

    /// Goes through all ranges; how many there are, and the most keys of one.
    fn go_through(keys: &mut Keys, sent: &[Vec<u8>]) -> (usize, usize) {
        let mut known = HashMap::new();
        for (number, key) in sent.iter().enumerate() {
            known.insert(key, offset(number));
        }
        let (mut found, mut most) = (HashMap::new(), 0);
        for passes in 1.. {
            for (number, key) in sent.iter().enumerate() {
                keys.note(key, offset(number));
            }
            let before = found.len();
            for key in known.keys() {
                if let Some(last) = keys.last(key) {
                    assert_eq!(found.insert(*key, last), None, "it is in two ranges");
                }
            }
            assert_eq!(found.len() - before, keys.count);
            most = most.max(keys.count);
            if keys.is_last_range() {
                assert_eq!(found, known);
                return (passes, most);
            }
            keys.next_range();
            assert!(keys.is_empty());
        }
        unreachable!("there is a last range");
    }

    #[test]
    fn there_are_as_many_ranges_as_the_keys_need_however_often_they_are_noted() {
        for rounds in [1, 10] {
            let keys = (0..rounds * 20_000).map(|number| numbered(number % 20_000).into());
            let sent: Vec<Vec<u8>> = keys.collect();
            let mut keys = Keys::new(128 << 10);
            let (passes, most) = go_through(&mut keys, &sent);
            assert!(keys.peak() <= 128 << 10);
            // Some eighth of each range is left to the next one, or less.
            let least = 20_000_usize.div_ceil(most);
            let good = least..=least + least / 4 + 1;
            assert!(good.contains(&passes), "{passes} with up to {most}");
        }
    }

    #[test]
    fn a_key_larger_than_all_memory_is_taken_alone_and_those_behind_it_are_not() {
        let large = [1, 2].map(|number| vec![number; 200 << 10]);
        let small = (0..3000).map(|number| numbered(number).into());
        let mut sent: Vec<Vec<u8>> = small.collect();
        sent.splice(1000..1000, large);
        let mut keys = Keys::new(64 << 10);
        let (passes, most) = go_through(&mut keys, &sent);
        assert!(most > 600 && passes < 10, "{passes} with up to {most}");
        assert!(keys.peak() < 210 << 10, "{}", keys.peak());
        // All that was large is given back.
        assert!(keys.taken <= 64 << 10, "{}", keys.taken);
    }

    #[test]
    fn what_has_one_hash_is_taken_in_any_case() {
        let mut keys = Keys::new(4 << 10);
        let hash = keys.hash(b"first");
        keys.range = u64::from(hash)..u64::from(hash) + 1;
        keys.note(b"first", offset(1));
        // As if they had the same hash.
        for number in 0..5000 {
            let entry = keys.add(numbered(number).as_bytes(), offset(number));
            keys.put_counted(hash, entry.unwrap());
        }
        assert!(keys.peak() > 4 << 10 && !keys.shrink(hash, 1));
        keys.note(b"first", offset(6000));
        assert_eq!(keys.last(b"first"), Some(offset(6000)));
        keys.next_range();
        assert_eq!(keys.last(b"first"), None);
    }

    /// Keys of all sizes: what they are, and how much is behind that.
    fn some_keys() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let len = prop_oneof![
            20 => 0..40_usize,
            4 => 0..3000_usize,
            1 => 30_000..70_000_usize,
        ];
        let key = (0..400_u32, len).prop_map(|(number, len)| {
            let mut key = number.to_le_bytes().to_vec();
            key.resize(4 + len, 7);
            key
        });
        proptest::collection::vec(key, 0..600)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn each_key_is_in_one_range_with_its_last_offset(
            sent in some_keys(),
            budget in prop_oneof![Just(1_usize), 64_usize << 10..400 << 10],
        ) {
            let mut keys = Keys::new(budget);
            go_through(&mut keys, &sent);
            let largest = sent.iter().map(Vec::len).max().unwrap_or(0).max(CHUNK);
            let alone = largest + 16 + FEWEST_SLOTS * SLOT;
            prop_assert!(keys.peak() <= budget.max(alone), "{}", keys.peak());
        }
    }
}
