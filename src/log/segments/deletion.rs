//! What deleting needs of segments, and the taking out of them.

use std::{
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, atomic::Ordering},
};

use super::{FOOTER_LEN, IndexState, Segment, Segments};
use crate::{log::retention::SegmentFacts, offset::Offset};

impl Segment {
    /// Notes when its newest record was appended, at the latest.
    pub(crate) fn set_newest(&self, newest: u64) {
        self.state.lock().newest = newest;
    }

    pub(super) fn newest(&self) -> u64 {
        self.state.lock().newest
    }

    /// Its length once it is sealed; 0 of the active one.
    pub(super) fn bytes(&self) -> u64 {
        let end = self.state.lock().frames_end;
        end.map_or(0, |end| (end + FOOTER_LEN) as u64)
    }

    /// When it was begun, as the wall clock said then.
    pub(crate) fn created(&self) -> Option<u64> {
        self.header.map(|header| header.created)
    }

    /// Lets go of everything but what others hold: it is deleted.
    fn forget(&self) {
        let mut state = self.state.lock();
        (state.view, state.file) = (None, None);
        drop(state);
        *self.index.lock() = IndexState::default();
    }
}

impl Segments {
    /// What retention has to know of all; of the last one only that it is there.
    pub(crate) fn facts(&self) -> Vec<SegmentFacts> {
        let table = self.table.read();
        let ends = table.values().skip(1).map(|next| next.previous_end);
        let facts = |(segment, end): (&Arc<Segment>, Offset)| SegmentFacts {
            base: segment.base,
            end: end.max(segment.base),
            bytes: segment.bytes(),
            newest: segment.newest(),
        };
        table
            .values()
            .zip(ends.chain([Offset::ZERO]))
            .map(facts)
            .collect()
    }

    /// The base offset of the segment behind the one at `base`, or behind where it was.
    pub(crate) fn base_behind(&self, base: Offset) -> Option<Offset> {
        let behind = (Excluded(base), Unbounded);
        self.table
            .read()
            .range(behind)
            .next()
            .map(|(base, _)| *base)
    }

    /// Bytes of all but the active segment.
    pub(crate) fn rolled_bytes(&self) -> u64 {
        self.rolled_bytes.load(Ordering::Relaxed)
    }

    /// All but the last one whose records are all below `start`.
    pub(crate) fn below(&self, start: Offset) -> Vec<Arc<Segment>> {
        let table = self.table.read();
        let followed = table.values().zip(table.keys().skip(1));
        followed
            .take_while(|(_, next)| **next <= start)
            .map(|(segment, _)| Arc::clone(segment))
            .collect()
    }

    /// Takes them out: they are not found any more. Whoever reads one of them goes on.
    pub(crate) fn remove(&self, gone: &[Arc<Segment>]) {
        let bytes = gone.iter().map(|segment| segment.bytes()).sum();
        self.rolled_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut table = self.table.write();
        for segment in gone {
            table.remove(&segment.base);
        }
        let first = table.keys().next().copied().unwrap_or_default();
        drop(table);
        self.cached.lock().retain(|segment| segment.base >= first);
        for segment in gone {
            segment.forget();
        }
    }
}
