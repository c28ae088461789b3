//! What recovery does about the segments it found: decided here, from facts alone, carried out in
//! [`recover`](super::recover).
//!
//! `durable` is the highest recorded durable point. Segments are looked at in order; `end` is
//! where the log has been accepted up to.
//!
//! | # | what is met at `end` | below `durable`? | verdict |
//! |---|---|---|---|
//! | A | an intact frame, a sealed segment | - | accept |
//! | B | zeros to the end of the last segment | no | the log ends here |
//! | C | bytes that are no frame, and no intact frame behind them, in the last segment | no | torn tail: cut; at worst one frame was being written |
//! | D | bytes that are no frame, then intact ones | no | torn tail with holes: cut all of it |
//! | E | a segment that does not follow on, or has no header | no | torn tail: take out this one and all behind it |
//! | F | bytes that are no frame, or a missing offset, then intact frames | yes | damage: keep all, report the offsets between |
//! | G | a segment that does not follow on, or has no header | yes | damage: report the offsets between |
//! | H | nothing more, though `durable` is beyond | yes | damage: report up to `durable`; never append behind it |
//!
//! An intact frame behind bad bytes does not turn D into F: what was never synced reaches the
//! device in any order, so a power cut can take an early frame and leave a later one.

use std::path::Path;

use super::report::Damage;
use crate::{
    error::DecodeError,
    format::segment::{Footer, SegmentHeader},
    offset::Offset,
    segment::{FRAMES_START, Survey},
};

/// What is known of a segment's file.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) base: Offset,
    /// `None` if neither copy verifies.
    pub(crate) header: Option<SegmentHeader>,
    /// Where a copy of the header stands that does not verify.
    pub(crate) damaged_copy: Option<u64>,
    pub(crate) content: Content,
}

/// How its content is known.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// The file ends with a footer.
    Sealed { footer: Footer, frames_end: usize },
    /// The log was closed in order with this as its active segment.
    Closed { end: Offset, frames_end: usize },
    /// It was read.
    Surveyed(Survey),
    /// Without a header it can't be read.
    Unreadable,
}

/// What to do with the segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The segments that stay, by index: all before the first one dropped.
    pub(crate) kept: Vec<Kept>,
    /// From this index on, segments are taken out.
    pub(crate) dropped_from: usize,
    pub(crate) damage: Vec<DamagedRange>,
    /// Where the log ends.
    pub(crate) end: Offset,
    /// The recorded durable point.
    pub(crate) durable: Offset,
    /// What is below is deleted, so it can't be damaged.
    pub(crate) log_start: Offset,
    /// What is taken out of the tail is at worst one frame that was being written.
    pub(crate) at_worst_one_frame: bool,
    /// The last segment kept can be appended to.
    pub(crate) can_append: bool,
    pub(crate) rows: Rows,
}

/// A row of the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    A,
    B,
    C,
    D,
    E,
    F,
    G,
    H,
}

/// The rows that a recovery met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows(u8);

impl Rows {
    fn meet(&mut self, row: Row) {
        self.0 |= 1 << row as u8;
    }

    #[cfg(feature = "testing")]
    pub(crate) fn names(self) -> String {
        let met = |place: &u8| self.0 & (1 << (place - b'A')) != 0;
        (b'A'..=b'H').filter(met).map(char::from).collect()
    }
}

/// A segment that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Its frames end here.
    pub(crate) frames_end: usize,
    /// It has a footer behind that.
    pub(crate) sealed: bool,
    /// What is behind was never durable, and is cut. Damaged bytes are not.
    pub(crate) trim: bool,
}

/// Records that were durable and can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DamagedRange {
    /// The segment, by index.
    pub(crate) segment: usize,
    pub(crate) position: usize,
    pub(crate) from: Offset,
    pub(crate) to: Offset,
    pub(crate) why: DecodeError,
}

/// Decides.
pub(crate) fn plan(log_start: Offset, recorded: Offset, facts: &[Facts]) -> Plan {
    let durable = facts
        .iter()
        .map(durable_evidence)
        .fold(recorded, Offset::max);
    let mut plan = Plan {
        kept: Vec::new(),
        dropped_from: facts.len(),
        damage: Vec::new(),
        end: log_start,
        durable,
        log_start,
        at_worst_one_frame: true,
        can_append: false,
        rows: Rows::default(),
    };
    for (index, segment) in facts.iter().enumerate() {
        let next = facts.get(index + 1);
        if !plan.follows_on(index, segment) || !plan.take_in(index, segment, next) {
            break;
        }
    }
    if plan.end < durable {
        plan.rows.meet(Row::H);
        let segment = plan.kept.len().saturating_sub(1);
        let position = plan.kept.last().map_or(0, |kept| kept.frames_end);
        plan.damaged(segment, position, durable, DecodeError::Missing);
        plan.can_append = false;
    }
    plan
}

fn durable_evidence(segment: &Facts) -> Offset {
    match &segment.content {
        Content::Sealed { footer, .. } => footer.end,
        Content::Closed { end, .. } => *end,
        Content::Surveyed(survey) => survey.durable,
        Content::Unreadable => Offset::ZERO,
    }
}

impl Plan {
    fn damaged(&mut self, segment: usize, position: usize, to: Offset, why: DecodeError) {
        if self.end < to {
            if let Some(kept) = self
                .kept
                .get_mut(segment)
                .filter(|k| position >= k.frames_end)
            {
                kept.trim = false;
            }
            let from = self.end.max(self.log_start);
            if from < to {
                self.damage.push(DamagedRange {
                    segment,
                    position,
                    from,
                    to,
                    why,
                });
            }
            self.end = to;
        }
    }

    fn drop_from(&mut self, index: usize) {
        self.dropped_from = index;
        self.at_worst_one_frame = false;
    }

    /// Whether the segment goes on where the log has got to; rows E and G.
    fn follows_on(&mut self, index: usize, segment: &Facts) -> bool {
        let from = segment
            .header
            .map_or(segment.base, |header| header.previous_end);
        let is_first = index == 0 && segment.base <= self.end;
        if is_first {
            self.end = segment.base;
        }
        let unproven = self.end >= self.durable;
        if unproven && (!is_first && self.end < from || segment.header.is_none()) {
            self.rows.meet(Row::E);
            self.drop_from(index);
            return false;
        }
        if is_first {
            return true;
        }
        if self.end < from {
            self.rows.meet(Row::G);
        }
        let position = self.kept.last().map_or(0, |kept| kept.frames_end);
        self.damaged(
            index.saturating_sub(1),
            position,
            from,
            DecodeError::Missing,
        );
        true
    }

    /// Accepts what the segment has; whether to go on behind it.
    fn take_in(&mut self, index: usize, segment: &Facts, next: Option<&Facts>) -> bool {
        let is_last = next.is_none();
        self.end = self.end.max(segment.base);
        match &segment.content {
            Content::Sealed { footer, frames_end } => {
                self.rows.meet(Row::A);
                self.keep(*frames_end, true);
                self.end = self.end.max(footer.end);
            }
            Content::Closed { end, frames_end } => {
                self.rows.meet(Row::A);
                self.keep(*frames_end, false);
                self.end = self.end.max(*end);
                self.can_append = true;
            }
            Content::Unreadable => {
                self.rows.meet(Row::G);
                self.keep(0, false);
                let until = next.map_or(self.durable, |next| {
                    next.header.map_or(next.base, |header| header.previous_end)
                });
                self.damaged(index, 0, until.max(segment.base), DecodeError::Checksum);
            }
            Content::Surveyed(survey) => return self.take_in_survey(index, survey, is_last),
        }
        true
    }

    fn take_in_survey(&mut self, index: usize, survey: &Survey, is_last: bool) -> bool {
        if survey.frames > 0 {
            self.rows.meet(Row::A);
        }
        for hole in &survey.holes {
            if hole.from >= self.durable {
                self.rows.meet(Row::D);
                self.end = self.end.max(hole.from);
                self.keep(hole.position, false);
                self.can_append = true;
                self.drop_from(index + 1);
                return false;
            }
            self.rows.meet(Row::F);
            self.end = self.end.max(hole.from);
            self.damaged(index, hole.position, hole.to, hole.why);
        }
        self.end = self.end.max(survey.stop.offset);
        let sealed = survey.footer.is_some();
        if is_last && !sealed && self.end >= self.durable {
            let torn = survey.stop.why.is_some();
            self.rows.meet(if torn { Row::C } else { Row::B });
        }
        self.keep(survey.stop.position, sealed);
        self.can_append = is_last && !sealed;
        if let (Some(why), true) = (survey.stop.why, self.end < self.durable && is_last) {
            self.damaged(index, survey.stop.position, self.durable, why);
            self.can_append = false;
        }
        true
    }

    fn keep(&mut self, frames_end: usize, sealed: bool) {
        self.kept.push(Kept {
            frames_end,
            sealed,
            trim: true,
        });
        self.can_append = false;
    }
}

impl Facts {
    /// A damaged copy of the header, for which the other one stands in. Where nothing was durable
    /// yet, a power cut leaves that too.
    pub(crate) fn header_damage(&self, path: &Path, durable: Offset) -> Option<Damage> {
        let position = self.damaged_copy?;
        (self.header.is_some() && self.base < durable).then(|| Damage {
            path: path.to_path_buf(),
            position,
            from: self.base,
            to: self.base,
            reason: "a copy of the header is damaged".to_owned(),
        })
    }

    /// Whether its footer was read.
    pub(crate) fn has_footer(&self) -> bool {
        match &self.content {
            Content::Sealed { .. } => true,
            Content::Surveyed(survey) => survey.footer.is_some(),
            Content::Closed { .. } | Content::Unreadable => false,
        }
    }

    /// Whether it holds no frame.
    pub(crate) fn is_empty(&self, kept: &Kept) -> bool {
        self.header.is_some() && kept.frames_end == FRAMES_START && !kept.sealed
    }
}
