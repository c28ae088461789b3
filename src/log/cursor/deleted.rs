//! Reading on where records were deleted.

use super::{Cursor, Gap, GapReason, Offset, Place};

impl Cursor {
    /// Records below the log start are gone; but a segment that is being read is read to its end,
    /// if all of it was deleted meanwhile.
    pub(super) fn skip_deleted(&mut self) {
        let start = self.source.start();
        if self.position >= start {
            return;
        }
        if let Some(place) = &self.place
            && place.at < place.view.published()
            && self.is_deleted(place, start)
        {
            return;
        }
        self.place = None;
        self.tell_deleted(start);
    }

    /// Whether all of a segment is below the log start.
    fn is_deleted(&self, place: &Place, start: Offset) -> bool {
        let next = place.spot.next.map(|(base, _)| base);
        // Where the next one is not known, it was the last when it was looked at; then what is the
        // first one now tells, unless somebody else deletes.
        let first = || {
            let bases = if self.source.is_foreign() {
                None
            } else {
                self.source.bases().ok()
            };
            bases?.first().copied()
        };
        next.or_else(first)
            .is_some_and(|next| place.spot.base < next && next <= start)
    }

    /// Reports the offsets from here to the log start, each with its reason.
    pub(super) fn tell_deleted(&mut self, start: Offset) {
        while self.position < start {
            let (reason, to) = self.source.why_gone(self.position);
            let to = to.min(start);
            self.gaps.push(Gap {
                from: self.position,
                to,
                reason,
            });
            self.position = to;
        }
    }

    /// Nothing more is there, in a log that another process may write: what was durable before
    /// this reading began, and was not found, is lost.
    pub(super) fn miss_known(&mut self) {
        if !self.source.is_foreign() || !self.spans.is_empty() {
            return;
        }
        let start = self.source.start();
        if self.position < start {
            // It was deleted since this reading began: what is behind is there.
            self.place = None;
            self.tell_deleted(start);
        } else {
            self.gap(self.known, GapReason::Damage);
        }
    }
}
