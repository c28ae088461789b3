//! The content of one simulated file: as the page cache has it, as the device has it, and every
//! version between that a power cut may leave.
//!
//! The unit is the sector: a device writes one as a whole or not at all. Since the last sync each
//! sector may have got to the device in any version it has had, or in none, whatever others did.
//! Lengths get there in the order in which they were set, and what a cut took off can't come back
//! once the cut is there. In the page that a cut goes through, zeros are written over what is cut;
//! like any write they may be there before the shorter length is.

use std::{
    hash::{Hash, Hasher},
    ops::Range,
    sync::Arc,
};

use super::{Choices, Random};

/// What a device writes as a whole.
pub const SECTOR: usize = 512;
/// What a file system allocates as a whole.
pub const PAGE: usize = 4096;

/// The order in which things were changed.
pub(super) type Time = u64;

/// A sector's bytes; `None` is zeros.
type Bytes = Option<Arc<[u8; SECTOR]>>;

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    len: usize,
    durable_len: usize,
    /// Lengths it was given since the last sync.
    lens: Vec<(Time, usize)>,
    sectors: Vec<Sector>,
    /// Which pages have blocks.
    allocated: Vec<bool>,
}

#[derive(Clone, Debug, Default)]
struct Sector {
    durable: Bytes,
    /// What the page cache has and takes for durable, though the device has something else.
    lie: Option<Bytes>,
    /// Versions since the last sync, oldest first.
    pending: Vec<Version>,
}

#[derive(Clone, Debug)]
struct Version {
    time: Time,
    bytes: Bytes,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    Written,
    /// The file was cut in this page, which keeps its blocks: what is cut is zeros from now on.
    CutWithin,
    /// The file was cut before this page. What is written later is in other blocks, which are part
    /// of the file only once the cut is.
    CutOff,
}

impl Sector {
    fn current(&self) -> &Bytes {
        match (self.pending.last(), &self.lie) {
            (Some(version), _) => &version.bytes,
            (None, Some(lie)) => lie,
            (None, None) => &self.durable,
        }
    }

    fn is_blank(&self) -> bool {
        self.durable.is_none() && self.lie.is_none() && self.pending.is_empty()
    }

    fn put(&mut self, bytes: Bytes, time: Time, cause: Cause) {
        self.pending.push(Version { time, bytes, cause });
    }

    /// What the last cut up to `time` left of it.
    fn last_cut(&self, time: Time) -> Option<Bytes> {
        let mut versions = self.pending.iter().rev();
        let cut = versions.find(|v| v.cause != Cause::Written && v.time <= time)?;
        Some(cut.bytes.clone())
    }

    /// Takes out the versions up to `time`; returns the last of them.
    fn settle(&mut self, time: Time) -> Option<Bytes> {
        let settled = self.pending.partition_point(|version| version.time <= time);
        self.pending
            .drain(..settled)
            .next_back()
            .map(|last| last.bytes)
    }
}

fn unpack(bytes: &Bytes) -> [u8; SECTOR] {
    bytes.as_deref().copied().unwrap_or([0; SECTOR])
}

fn pack(bytes: &[u8; SECTOR]) -> Bytes {
    bytes
        .iter()
        .any(|&byte| byte != 0)
        .then(|| Arc::new(*bytes))
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Reads some bytes; 0 at the end of the file.
    pub(super) fn read(&self, into: &mut [u8], position: usize) -> usize {
        let count = self.len.saturating_sub(position).min(into.len());
        let into = into.get_mut(..count).unwrap_or_default();
        for (index, within, target) in spans(position, into) {
            let bytes = self.sectors.get(index).map(Sector::current);
            match bytes.and_then(Option::as_ref) {
                Some(bytes) => {
                    let source = bytes.get(within..within + target.len());
                    target.copy_from_slice(source.unwrap_or_default());
                }
                None => target.fill(0),
            }
        }
        count
    }

    /// Writes; the blocks must be there.
    pub(super) fn write(&mut self, bytes: &[u8], position: usize, time: Time) {
        let end = position + bytes.len();
        if self.len < end {
            self.resize(end, time);
        }
        let mut bytes = bytes.to_vec();
        for (index, within, source) in spans(position, &mut bytes) {
            if let Some(sector) = self.sectors.get_mut(index) {
                let mut whole = unpack(sector.current());
                if let Some(target) = whole.get_mut(within..within + source.len()) {
                    target.copy_from_slice(source);
                }
                sector.put(pack(&whole), time, Cause::Written);
            }
        }
    }

    /// Cuts or extends.
    pub(super) fn set_len(&mut self, len: usize, time: Time) {
        if len < self.len {
            self.cut(len, time);
        }
        if len != self.len {
            self.resize(len, time);
        }
    }

    fn resize(&mut self, len: usize, time: Time) {
        self.len = len;
        self.lens.push((time, len));
        if self.sectors.len() < len.div_ceil(SECTOR) {
            self.sectors
                .resize_with(len.div_ceil(SECTOR), Sector::default);
        }
    }

    fn cut(&mut self, len: usize, time: Time) {
        self.allocated.truncate(len.div_ceil(PAGE));
        let kept_blocks_end = len.next_multiple_of(PAGE);
        for (index, sector) in self.sectors.iter_mut().enumerate().skip(len / SECTOR) {
            if !sector.is_blank() {
                let mut whole = unpack(sector.current());
                let kept = len.saturating_sub(index * SECTOR).min(SECTOR);
                whole
                    .get_mut(kept..)
                    .unwrap_or_default()
                    .iter_mut()
                    .for_each(|byte| *byte = 0);
                let cause = if index * SECTOR < kept_blocks_end {
                    Cause::CutWithin
                } else {
                    Cause::CutOff
                };
                sector.put(pack(&whole), time, cause);
            }
        }
    }

    /// How many pages of a range have no blocks yet.
    pub(super) fn missing_pages(&self, position: usize, len: usize) -> usize {
        pages(position, len)
            .filter(|&page| !self.has_page(page))
            .count()
    }

    fn has_page(&self, page: usize) -> bool {
        self.allocated.get(page).copied().unwrap_or(false)
    }

    /// Gives a range blocks.
    pub(super) fn allocate(&mut self, position: usize, len: usize) {
        for page in pages(position, len) {
            if self.allocated.len() <= page {
                self.allocated.resize(page + 1, false);
            }
            if let Some(allocated) = self.allocated.get_mut(page) {
                *allocated = true;
            }
        }
    }

    pub(super) fn allocated_pages(&self) -> usize {
        self.allocated
            .iter()
            .filter(|&&allocated| allocated)
            .count()
    }

    /// The device has everything up to `time`.
    pub(super) fn sync(&mut self, time: Time) {
        self.settle_len(time);
        for sector in &mut self.sectors {
            if let Some(bytes) = sector.settle(time) {
                sector.durable = bytes;
                sector.lie = None;
            }
        }
    }

    fn settle_len(&mut self, time: Time) {
        let settled = self.lens.partition_point(|(at, _)| *at <= time);
        if let Some((_, len)) = self.lens.drain(..settled).next_back() {
            self.durable_len = len;
        }
    }

    /// The device failed: it has some of the sectors, and from now on the page cache takes all of
    /// them for written. (Linux does so on ext4, XFS and btrfs.) Cuts are in the journal, and so is
    /// the length then: what they took off does not come back.
    pub(super) fn fail_sync(&mut self, time: Time, random: &mut Random) {
        let written = random.pick(&[0, 0, 64, 128]).unwrap_or(0);
        let mut was_cut = false;
        for sector in &mut self.sectors {
            if let Some(bytes) = sector.last_cut(time) {
                sector.durable = bytes;
                was_cut = true;
            }
            if let Some(bytes) = sector.settle(time) {
                if random.chance(written) {
                    sector.durable = bytes;
                    sector.lie = None;
                } else {
                    sector.lie = Some(bytes);
                }
            }
        }
        if random.chance(128) || was_cut {
            self.settle_len(time);
        }
    }

    /// The device wrote one of the sectors over another one; whether there was one to do it with.
    pub(super) fn misdirect(&mut self, time: Time, random: &mut Random) -> bool {
        let dirty: Vec<_> = self.dirty(time).collect();
        let others: Vec<_> = (0..self.sectors.len()).collect();
        let (Some(source), Some(target)) = (random.pick(&dirty), random.pick(&others)) else {
            return false;
        };
        let old = self.sectors.get(source).map(|s| s.durable.clone());
        self.sync(time);
        let new = self.sectors.get(source).map(|s| s.durable.clone());
        if source == target || old == new {
            return false;
        }
        self.lie_about(source, old);
        self.lie_about(target, new);
        true
    }

    fn dirty(&self, time: Time) -> impl Iterator<Item = usize> {
        let is_dirty = move |sector: &Sector| sector.pending.iter().any(|v| v.time <= time);
        let sectors = self.sectors.iter().enumerate();
        sectors.filter_map(move |(index, sector)| is_dirty(sector).then_some(index))
    }

    /// The device has these bytes, and the page cache does not know.
    fn lie_about(&mut self, index: usize, on_device: Option<Bytes>) {
        if let (Some(sector), Some(bytes)) = (self.sectors.get_mut(index), on_device) {
            if sector.lie.is_none() {
                sector.lie = Some(sector.durable.clone());
            }
            sector.durable = bytes;
        }
    }

    /// The page cache forgets what it takes for durable; how many sectors read differently now.
    pub(super) fn drop_cache(&mut self) -> usize {
        let mut changed = 0;
        for sector in &mut self.sectors {
            if sector.pending.is_empty() {
                let lie = sector.lie.take();
                changed += usize::from(lie.is_some_and(|bytes| bytes != sector.durable));
            }
        }
        changed
    }

    /// Flips a bit on the device, in a file that is all there. `false` if it is shorter.
    pub(super) fn flip(&mut self, position: usize, bit: u8) -> bool {
        if position >= self.len {
            return false;
        }
        let Some(sector) = self.sectors.get_mut(position / SECTOR) else {
            return false;
        };
        let mut whole = unpack(&sector.durable);
        if let Some(byte) = whole.get_mut(position % SECTOR) {
            *byte ^= 1 << (bit % 8);
        }
        sector.durable = pack(&whole);
        true
    }

    /// What a power cut leaves.
    pub(super) fn after_power_cut(&self, choices: &mut Choices) -> Self {
        let applied = choices.prefix(self.lens.len());
        let (len, cut_until) = match applied.checked_sub(1).and_then(|last| self.lens.get(last)) {
            Some(&(time, len)) => (len, time),
            None => (self.durable_len, 0),
        };
        let mut sectors: Vec<_> = self
            .sectors
            .iter()
            .take(len.div_ceil(SECTOR))
            .map(|sector| Sector {
                durable: sector.after_power_cut(cut_until, choices),
                ..Sector::default()
            })
            .collect();
        sectors.resize_with(len.div_ceil(SECTOR), Sector::default);
        if let Some(last) = sectors.last_mut().filter(|_| len % SECTOR > 0) {
            let mut whole = unpack(&last.durable);
            if let Some(behind) = whole.get_mut(len % SECTOR..) {
                behind.fill(0);
            }
            last.durable = pack(&whole);
        }
        let mut allocated = self.allocated.clone();
        allocated.truncate(len.div_ceil(PAGE));
        Self {
            len,
            durable_len: len,
            lens: Vec::new(),
            sectors,
            allocated,
        }
    }

    /// Everything that tells two files apart, what the device lacks included.
    pub(super) fn hash(&self, hasher: &mut impl Hasher) {
        (self.len, self.durable_len, self.lens.len()).hash(hasher);
        for (index, sector) in self.sectors.iter().enumerate() {
            if sector.is_blank() {
                continue;
            }
            (index, &sector.durable, &sector.lie).hash(hasher);
            for version in &sector.pending {
                (version.cause, &version.bytes).hash(hasher);
            }
        }
    }
}

impl Sector {
    /// One of the versions that may be on the device, where cuts up to `cut_until` are.
    fn after_power_cut(&self, cut_until: Time, choices: &mut Choices) -> Bytes {
        let applied = |version: &Version| version.time <= cut_until;
        let mut versions = self.pending.iter().collect::<Vec<_>>();
        let is_ahead = |v: &&Version| v.cause == Cause::CutOff && !applied(v);
        if let Some(cut) = versions.iter().position(is_ahead) {
            versions.truncate(cut);
        }
        let is_there = |v: &&Version| v.cause != Cause::Written && applied(v);
        let oldest = match versions.iter().rposition(is_there) {
            Some(cut) => {
                let cut = versions.drain(..=cut).next_back();
                cut.map_or(&self.durable, |version| &version.bytes)
            }
            None => &self.durable,
        };
        let taken = choices.version(versions.len());
        let at = |count: usize| match count.checked_sub(1).and_then(|at| versions.get(at)) {
            Some(version) => &version.bytes,
            None => oldest,
        };
        match choices.copied(taken < versions.len()) {
            Some(copied) => blend(at(taken + 1), at(taken), copied),
            None => at(taken).clone(),
        }
    }
}

/// What a copy of `new` over `old` leaves that has done the bytes `copied`.
fn blend(new: &Bytes, old: &Bytes, copied: Range<usize>) -> Bytes {
    let (new, mut whole) = (unpack(new), unpack(old));
    if let (Some(target), Some(source)) = (whole.get_mut(copied.clone()), new.get(copied)) {
        target.copy_from_slice(source);
    }
    pack(&whole)
}

/// The pages of a range.
fn pages(position: usize, len: usize) -> impl Iterator<Item = usize> {
    position / PAGE..(position + len).div_ceil(PAGE)
}

/// The parts of `bytes`, which stand at `position`, by sector: index, position within, bytes.
fn spans(position: usize, bytes: &mut [u8]) -> impl Iterator<Item = (usize, usize, &mut [u8])> {
    let first = (SECTOR - position % SECTOR).min(bytes.len());
    let (head, rest) = bytes.split_at_mut(first);
    let rest = rest.chunks_mut(SECTOR).enumerate();
    let behind = position / SECTOR + 1;
    let rest = rest.map(move |(index, part)| (behind + index, 0, part));
    std::iter::once((position / SECTOR, position % SECTOR, head)).chain(rest)
}
