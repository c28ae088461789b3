//! States in one file, written in turn and in place, so that one of them is whole at any moment.
//! `meta`, `checkpoint` and the groups' files are such files. The layout is in the [text](super).

use super::{
    checksum::Seed,
    wire::{Reader, Writer, narrow, widen},
};
use crate::error::DecodeError;

/// There are two pages: writing one can't tear the other.
pub(crate) const PAGE_LEN: usize = 4096;
/// Length of such a file.
pub(crate) const FILE_LEN: usize = 2 * PAGE_LEN;
const MAGIC_LEN: usize = 8;
/// Magic and checksum, which the checksum does not cover.
const UNCOVERED: usize = MAGIC_LEN + 4;
pub(crate) const HEADER_LEN: usize = UNCOVERED + 2 + 2 + 8 + 4;
/// What a device writes as a whole or not at all.
pub(crate) const SECTOR: usize = 512;
/// Longest payload where a page has one slot.
pub(crate) const PAYLOAD_MAX: usize = PAGE_LEN - HEADER_LEN;

const _: () = assert!(HEADER_LEN == 28);

/// What kind of file the slots are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotKind {
    pub(crate) magic: [u8; MAGIC_LEN],
    pub(crate) version: u16,
    /// A page has two slots, of a sector each; else one.
    ///
    /// With one, a state that is not synced is written over by the next: what was synced last is in
    /// the other page. That takes a write that a kill can't stop half way. With two, the newest
    /// state is never written over, so it may be stored through mapped memory: the magic is zero
    /// until all the rest is there.
    pub(crate) paired: bool,
}

/// Where a state stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    page: Half,
    within: Half,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

impl Half {
    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    fn times(self, len: usize) -> usize {
        match self {
            Self::First => 0,
            Self::Second => len,
        }
    }
}

impl Slot {
    /// The first of the first page.
    pub(crate) const FIRST: Self = Self {
        page: Half::First,
        within: Half::First,
    };

    pub(crate) fn position(self) -> usize {
        self.page.times(PAGE_LEN) + self.within.times(SECTOR)
    }

    /// The first of this page.
    pub(crate) fn first_of_page(self) -> Self {
        Self {
            within: Half::First,
            ..self
        }
    }

    /// The first of the other page.
    pub(crate) fn other_page(self) -> Self {
        Self {
            page: self.page.other(),
            within: Half::First,
        }
    }

    /// The other one of this page.
    pub(crate) fn neighbour(self) -> Self {
        Self {
            within: self.within.other(),
            ..self
        }
    }
}

impl SlotKind {
    fn seed(self, slot: Slot) -> Seed {
        Seed::of(u64::from_le_bytes(self.magic)).at(narrow(slot.position()))
    }

    /// Where the state behind the one in `current` goes: never where it could tear the one that was
    /// synced last.
    pub(crate) fn next(self, current: Slot, is_synced: bool) -> Slot {
        if is_synced {
            current.other_page()
        } else if self.paired {
            current.neighbour()
        } else {
            current
        }
    }

    /// Puts the bytes of a slot into `bytes`: whole words, where they may be stored.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Length`] if the payload is too long.
    pub(crate) fn encode(
        self,
        slot: Slot,
        generation: u64,
        payload: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let used = HEADER_LEN + payload.len();
        if used > self.slot_len() {
            let length = payload.len() as u64;
            return Err(DecodeError::Length { length });
        }
        bytes.clear();
        let whole = used.next_multiple_of(MAGIC_LEN);
        bytes.resize(if self.paired { whole } else { used }, 0);
        let in_use = bytes.get_mut(..used).unwrap_or_default();
        let (uncovered, covered) = in_use.split_at_mut(UNCOVERED);
        let mut writer = Writer::new(covered);
        writer.u16(self.version);
        writer.u16(0);
        writer.u64(generation);
        writer.u32(narrow(payload.len()));
        writer.bytes(payload);
        let checksum = self.seed(slot).checksum(covered);
        let mut writer = Writer::new(uncovered);
        writer.bytes(&self.magic);
        writer.u32(checksum);
        Ok(())
    }

    fn slot_len(self) -> usize {
        if self.paired { SECTOR } else { PAGE_LEN }
    }

    /// Reads one slot from the bytes of the file: its generation and its payload.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Blank`] if it was never written, or not to the end; what is wrong with it else.
    fn decode(self, file: &[u8], slot: Slot) -> Result<(u64, &[u8]), DecodeError> {
        let bytes = self.bytes_of(file, slot);
        let is_spare = self.paired && slot.within == Half::Second;
        if is_spare && bytes.is_empty() {
            return Err(DecodeError::Blank);
        }
        let mut reader = Reader::new(bytes);
        let magic = reader.array()?;
        let checksum = reader.u32()?;
        let covered = reader.rest();
        let version = reader.u16()?;
        let reserved = reader.u16()?;
        let generation = reader.u64()?;
        let len = widen(reader.u32()?);
        let is_unfinished = self.paired && magic == [0; MAGIC_LEN];
        if is_unfinished || is_zero(bytes) {
            return Err(DecodeError::Blank);
        }
        if magic != self.magic {
            return Err(DecodeError::Magic);
        }
        // Before the checksum: where a newer format keeps that is not for us to know.
        if version > self.version {
            return Err(DecodeError::Version {
                found: version.into(),
                supported: self.version.into(),
            });
        }
        let payload = reader.bytes(len)?;
        let covered_len = HEADER_LEN - UNCOVERED + len;
        let covered = covered.get(..covered_len).unwrap_or_default();
        if self.seed(slot).checksum(covered) != checksum {
            return Err(DecodeError::Checksum);
        }
        if version != self.version || reserved != 0 {
            return Err(DecodeError::Field {
                field: "slot version",
            });
        }
        Ok((generation, payload))
    }

    fn bytes_of(self, file: &[u8], slot: Slot) -> &[u8] {
        let from = file.get(slot.position()..).unwrap_or_default();
        from.get(..self.slot_len()).unwrap_or(from)
    }

    /// Reads all slots and picks the newest.
    ///
    /// # Errors
    ///
    /// What is wrong with the first slot, if none is whole; [`DecodeError::Version`] and
    /// [`DecodeError::Magic`] only where all slots that are written agree on them.
    pub(crate) fn pick(self, file: &[u8]) -> Result<Picked<'_>, DecodeError> {
        let mut picked: Option<Picked<'_>> = None;
        let mut fallback = None;
        let mut is_settled = true;
        let mut why = None;
        for slot in self.slots() {
            match self.decode(file, slot) {
                Ok((generation, payload)) => {
                    if picked.is_none_or(|best| generation > best.generation) {
                        picked = Some(Picked {
                            slot,
                            generation,
                            payload,
                            fallback: None,
                            is_settled,
                        });
                    }
                }
                Err(DecodeError::Blank) if self.paired => {
                    is_settled &= is_zero(self.bytes_of(file, slot));
                }
                Err(error) => {
                    is_settled = false;
                    fallback = fallback.or(Some((slot.position() as u64, error)));
                    why = Some(match why {
                        Some(first) if first != error => of_two(first, error),
                        _ => error,
                    });
                }
            }
        }
        match picked {
            Some(picked) => Ok(Picked {
                fallback,
                is_settled,
                ..picked
            }),
            None => Err(why.unwrap_or(DecodeError::Blank)),
        }
    }

    fn slots(self) -> impl Iterator<Item = Slot> {
        let pages = [Slot::FIRST, Slot::FIRST.other_page()];
        let of_page = move |slot: Slot| {
            let spare = self.paired.then_some(slot.neighbour());
            std::iter::once(slot).chain(spare)
        };
        pages.into_iter().flat_map(of_page)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Of what is wrong with two slots, what to tell of the file.
fn of_two(first: DecodeError, second: DecodeError) -> DecodeError {
    match first {
        DecodeError::Version { .. } | DecodeError::Magic => second,
        _ => first,
    }
}

/// The newest slot of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked<'a> {
    pub(crate) slot: Slot,
    pub(crate) generation: u64,
    pub(crate) payload: &'a [u8],
    /// A slot that is damaged, so that this one stands in: where, and what is wrong. It may have
    /// been older. Where a page has two, one that is blank is none: it waits for its use, or a kill
    /// came before that was over.
    pub(crate) fallback: Option<(u64, DecodeError)>,
    /// All slots are whole or empty: none was read while somebody wrote it.
    pub(crate) is_settled: bool,
}
