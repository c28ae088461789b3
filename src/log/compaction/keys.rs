//! The last offset of each key, in bounded memory.
//!
//! The keys themselves are kept, and compared: a hash only says where to look. Each key costs its
//! bytes, 9 or more for its length and offset, and 8 for a slot of a table that is half to 7/8 full.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
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

/// The last offset of each key that was noted.
#[derive(Debug)]
pub(super) struct Keys {
    /// Bytes that may be taken.
    budget: usize,
    /// Seeded at random: nobody can choose keys that all have one slot.
    hashing: RandomState,
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
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            hashing: RandomState::new(),
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

    /// Forgets all keys. The memory is used again.
    pub(super) fn clear(&mut self) {
        self.slots.fill(Slot::EMPTY);
        self.chunks.iter_mut().for_each(Vec::clear);
        (self.filling, self.count) = (0, 0);
    }

    /// Notes that `key` is at `offset`, which is above all that were noted. Returns `false`, and
    /// changes nothing, if there is no room for a new key. (There always is for the first one.)
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        if let Some(entry) = self.find(key, hash) {
            self.set_offset(entry, offset);
            return true;
        }
        if !self.has_free_slot() && !self.grow() {
            return false;
        }
        let Some(entry) = self.add(key, offset) else {
            return false;
        };
        self.put(Slot { hash, entry });
        self.count += 1;
        true
    }

    /// The last offset that was noted of `key`.
    pub(super) fn last(&self, key: &[u8]) -> Option<Offset> {
        let entry = self.find(key, self.hash(key))?;
        Reader::new(self.entry(entry)).u64().ok().map(Offset::new)
    }

    fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.hashing.build_hasher();
        hasher.write(key);
        let [.., a, b, c, d] = hasher.finish().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// The places to look at for a hash, in order.
    fn places(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let slots = self.slots.len();
        let first = widen_u64((u64::from(hash) * slots as u64) >> u32::BITS);
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
        let mut reader = Reader::new(self.entry(entry));
        reader.u64().ok()?;
        reader.counted().ok()
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

    /// Takes memory, if the budget has it.
    fn may_take(&mut self, bytes: usize) -> bool {
        if self.count > 0 && self.taken + bytes > self.budget {
            return false;
        }
        self.taken += bytes;
        self.peak = self.peak.max(self.taken);
        true
    }

    /// Adds an entry; returns its place, or `None` if there is no room.
    fn add(&mut self, key: &[u8], offset: Offset) -> Option<u32> {
        let len = size_of::<u64>() + varint_len(key.len() as u64) + key.len();
        loop {
            let Some(chunk) = self.chunks.get_mut(self.filling) else {
                let size = len.max(CHUNK);
                // The last number stands for "none".
                let numbers = widen(u32::MAX) / CHUNK;
                if self.chunks.len() >= numbers || !self.may_take(size) {
                    return None;
                }
                self.chunks.push(Vec::with_capacity(size));
                continue;
            };
            let at = chunk.len();
            if chunk.capacity() - at < len || at >= CHUNK {
                self.filling += 1;
                continue;
            }
            chunk.resize(at + len, 0);
            let mut writer = Writer::new(chunk.get_mut(at..)?);
            writer.u64(offset.get());
            writer.counted(key);
            return u32::try_from(self.filling * CHUNK + at).ok();
        }
    }
}

/// The number of a slot: there are fewer than 2^32.
fn widen_u64(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn offset(number: usize) -> Offset {
        Offset::new(number as u64)
    }

    #[test]
    fn each_key_has_the_last_offset_that_was_noted() {
        let mut keys = Keys::new(1 << 20);
        let mut known = HashMap::new();
        for number in 0..20_000_usize {
            let key = (number * 7919 % 6007).to_string();
            assert!(keys.note(key.as_bytes(), offset(number)));
            known.insert(key, offset(number));
        }
        for (key, last) in &known {
            assert_eq!(keys.last(key.as_bytes()), Some(*last), "{key}");
        }
        assert_eq!(keys.last(b"none"), None);
        assert_eq!(keys.last(b""), None);
    }

    #[test]
    fn keys_with_one_hash_are_told_apart() {
        let mut keys = Keys::new(1 << 20);
        assert!(keys.note(b"first", offset(1)));
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
    fn no_more_memory_is_taken_than_allowed_and_what_was_noted_stays() {
        for budget in [64 << 10, 1 << 20, 3 << 20] {
            let mut keys = Keys::new(budget);
            let mut count = 0;
            while keys.note(
                format!("a key, number {count:09}").as_bytes(),
                offset(count),
            ) {
                count += 1;
            }
            assert!(keys.peak() <= budget, "{} of {budget}", keys.peak());
            // 24 bytes, 9 beside them, a slot, and what is spare.
            assert!(count * 80 > budget, "{count} keys in {budget}");
            for number in 0..count {
                let key = format!("a key, number {number:09}");
                assert!(keys.note(key.as_bytes(), offset(count + number)));
                assert_eq!(keys.last(key.as_bytes()), Some(offset(count + number)));
            }
        }
    }

    #[test]
    fn a_key_larger_than_all_memory_is_taken_alone() {
        let mut keys = Keys::new(64 << 10);
        let large = vec![7; 200 << 10];
        assert!(keys.note(&large, offset(3)));
        assert!(!keys.note(b"another", offset(4)));
        assert_eq!(keys.last(&large), Some(offset(3)));
        assert_eq!(keys.last(b"another"), None);
    }

    #[test]
    fn memory_is_used_again_once_all_is_forgotten() {
        let mut keys = Keys::new(64 << 10);
        let mut counts = Vec::new();
        for round in 0..3 {
            let mut count = 0;
            while keys.note(format!("{round}-{count:010}").as_bytes(), offset(count)) {
                count += 1;
            }
            counts.push(count);
            assert!(keys.peak() <= 64 << 10);
            keys.clear();
            assert!(keys.is_empty());
            assert_eq!(keys.last(format!("{round}-{:010}", 0).as_bytes()), None);
        }
        assert_eq!(counts[1], counts[2]);
    }
}
