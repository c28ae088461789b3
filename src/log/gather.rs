//! Reads of each segment what recovery decides from. Changes nothing.

use std::path::Path;

use super::{
    Site,
    directory::Listing,
    plan::{Content, Facts},
    recover::{self, OpenedSegment, SegmentFile},
    report::RecoveryReport,
    segments::segment_path,
};
use crate::{
    error::Result,
    format::{
        checkpoint::{Checkpoint, Mark},
        segment::SegmentHeader,
        wire::widen,
    },
    fs::{Access, File},
    offset::Offset,
    segment::{FRAMES_START, Scanner},
};

/// What is to be read, and what is known before.
#[derive(Debug)]
pub(crate) struct Gathering<'a> {
    site: &'a Site,
    listing: &'a Listing,
    checkpoint: &'a Checkpoint,
    clean: bool,
}

impl<'a> Gathering<'a> {
    pub(crate) fn new(site: &'a Site, listing: &'a Listing, checkpoint: &'a Checkpoint) -> Self {
        let clean = is_clean(listing, checkpoint);
        Self {
            site,
            listing,
            checkpoint,
            clean,
        }
    }

    /// Whether the log was closed in order, and the files agree.
    pub(crate) fn is_clean(&self) -> bool {
        self.clean
    }

    /// Reads the header and the footer of each segment, and what was not known to be durable.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`.
    pub(crate) fn run(
        &self,
        report: &mut RecoveryReport,
    ) -> Result<(Vec<SegmentFile>, Vec<Facts>)> {
        let mut found = Vec::new();
        let mut facts = Vec::new();
        let segments = &self.listing.segments;
        for (index, &(base, _)) in segments.iter().enumerate() {
            let next = segments.get(index + 1).map(|next| next.0);
            let (file, fact) = self.examine(base, next, report)?;
            found.push(file);
            facts.push(fact);
        }
        Ok((found, facts))
    }

    fn examine(
        &self,
        base: Offset,
        next: Option<Offset>,
        report: &mut RecoveryReport,
    ) -> Result<(SegmentFile, Facts)> {
        let path = segment_path(&self.site.dir, base);
        let opened = recover::open_segment(
            &*self.site.host,
            &path,
            base,
            self.site.log_id,
            Access::Read,
        )?;
        let OpenedSegment {
            file,
            len,
            header,
            damaged_copy,
        } = opened;
        let content = match header {
            None => Content::Unreadable,
            Some(header) => self.content(&*file, &path, len, &header, next, report)?,
        };
        Ok((
            SegmentFile { base, path, len },
            Facts {
                base,
                header,
                damaged_copy,
                content,
            },
        ))
    }

    fn content(
        &self,
        file: &dyn File,
        path: &Path,
        len: usize,
        header: &SegmentHeader,
        next: Option<Offset>,
        report: &mut RecoveryReport,
    ) -> Result<Content> {
        if let Some((footer, frames_end)) = recover::read_footer(file, path, len, header)? {
            return Ok(Content::Sealed { footer, frames_end });
        }
        let Mark {
            offset, position, ..
        } = self.checkpoint.durable;
        if self.clean && next.is_none() {
            let frames_end = usize::try_from(position).unwrap_or(len).min(len);
            return Ok(Content::Closed {
                end: offset,
                frames_end,
            });
        }
        if let Some(compacted) = &header.compacted
            && len >= widen(compacted.frames_end)
        {
            // It was durable as a whole before it had its name; the header stands in for the footer.
            return Ok(Content::Sealed {
                footer: compacted.footer(),
                frames_end: widen(compacted.frames_end),
            });
        }
        let limit = next.unwrap_or(Offset::MAX);
        let (position, expected) = self.scan_start(header, len);
        let scanner = Scanner::new(header.into(), limit, position, expected);
        let survey = recover::survey(file, path, len, scanner)?;
        report.scanned_bytes += (survey.stop.position - position) as u64;
        report.scanned_frames += survey.frames;
        Ok(Content::Surveyed(survey))
    }

    /// Where a scan of the segment at `base` starts, and the offset that should stand there: at
    /// the recorded durable point if that is in the segment.
    fn scan_start(&self, header: &SegmentHeader, len: usize) -> (usize, Offset) {
        let base = header.base;
        let Mark {
            offset,
            segment,
            position,
            ..
        } = self.checkpoint.durable;
        match usize::try_from(position) {
            // Recorded before it was compacted, it is a position in another file.
            Ok(position)
                if segment == base
                    && header.compacted.is_none()
                    && (FRAMES_START..=len).contains(&position) =>
            {
                (position, offset)
            }
            _ => (FRAMES_START, base),
        }
    }
}

fn is_clean(listing: &Listing, checkpoint: &Checkpoint) -> bool {
    let Mark {
        segment, position, ..
    } = checkpoint.durable;
    let last = listing.segments.last();
    checkpoint.clean && last.is_some_and(|&(base, len)| base == segment && len >= position)
}
