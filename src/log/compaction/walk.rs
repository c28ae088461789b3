//! Reading a segment from its start, a stretch at a time, by `pread`: a medium that fails is a
//! reason to skip the segment, and no end of the process.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use crate::{
    error::{DecodeError, Error},
    format::{
        body::Records,
        frame::{self, Frame},
        segment::{Footer, SegmentHeader},
        wire::widen,
    },
    fs::{Access, File},
    log::{
        Site, recover,
        segments::Segment,
        unpacked::{Refusal, Unpacked},
    },
    offset::Offset,
    segment::{Bytes, FileBytes, Found, FrameAt, Scanner},
};

/// Why a segment can't be compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable(pub(super) String);

impl Unreadable {
    fn because(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string())
    }

    fn of_error(error: &Error) -> Self {
        let source = std::error::Error::source(error);
        Self(source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}")))
    }
}

/// A way through a segment.
#[derive(Debug)]
pub(super) struct Walk {
    file: Arc<dyn File>,
    path: PathBuf,
    pub(super) header: SegmentHeader,
    pub(super) footer: Footer,
    frames_end: usize,
    scanner: Scanner,
}

/// How a stretch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// So much was read.
    Stretch,
    /// Who looked at the frames wanted no more.
    Stopped,
    /// All frames were read.
    Finished,
}

impl Walk {
    /// Opens a sealed segment.
    pub(super) fn open(site: &Site, segment: &Segment) -> Result<Self, Unreadable> {
        let (path, base) = (segment.path.clone(), segment.base);
        let unreadable = |error: Error| Unreadable::of_error(&error);
        let opened = recover::open_segment(&*site.host, &path, base, site.log_id, Access::Read)
            .map_err(unreadable)?;
        let header = opened
            .header
            .ok_or_else(|| Unreadable::because("its header is damaged"))?;
        // While somebody reads it, the file may be longer than that: the cut waits.
        let end = usize::try_from(segment.file_bytes()).unwrap_or(usize::MAX);
        let end = end.min(opened.len);
        let (footer, frames_end) = match header.compacted {
            Some(compacted) if opened.len >= widen(compacted.frames_end) => {
                (compacted.footer(), widen(compacted.frames_end))
            }
            _ => recover::read_footer(&*opened.file, &path, end, &header)
                .map_err(unreadable)?
                .ok_or_else(|| Unreadable::because("it does not end with a footer"))?,
        };
        Ok(Self {
            file: opened.file,
            path,
            header,
            footer,
            frames_end,
            scanner: Scanner::whole((&header).into(), footer.end),
        })
    }

    /// From its start again.
    pub(super) fn rewind(&mut self) {
        self.scanner = Scanner::whole((&self.header).into(), self.footer.end);
    }

    /// The position that was read up to.
    pub(super) fn position(&self) -> usize {
        self.scanner.position()
    }

    /// Reads on for about so many bytes, and shows each frame.
    pub(super) fn go(
        &mut self,
        stretch: usize,
        mut look: impl FnMut(&FrameAt, &[u8]) -> Result<ControlFlow<()>, Unreadable>,
    ) -> Result<Pause, Unreadable> {
        let io = |error| Unreadable::of_error(&Error::io("read", &self.path, error));
        let until = self.scanner.position().saturating_add(stretch);
        let mut bytes = FileBytes::new(&*self.file, self.frames_end);
        while self.scanner.position() < self.frames_end {
            if self.scanner.position() >= until {
                return Ok(Pause::Stretch);
            }
            let at = self.scanner.position();
            let frame = match self.scanner.step(&mut bytes).map_err(io)? {
                Found::Frame(frame) => frame,
                Found::Hole(hole) => return Err(damaged(at, hole.why)),
                Found::Footer(..) => return Err(damaged(at, DecodeError::Missing)),
                Found::Stop(stop) => {
                    return Err(damaged(at, stop.why.unwrap_or(DecodeError::Blank)));
                }
            };
            let here = bytes.at(frame.position, frame.len).map_err(io)?;
            let here = here.get(..frame.len).unwrap_or_default();
            if look(&frame, here)?.is_break() {
                return Ok(Pause::Stopped);
            }
        }
        let is_whole =
            self.header.compacted.is_some() || self.scanner.expected() == self.footer.end;
        if is_whole {
            Ok(Pause::Finished)
        } else {
            let (found, end) = (self.scanner.expected(), self.footer.end);
            Err(Unreadable::because(format_args!(
                "its records end at {found}, and its footer says {end}"
            )))
        }
    }
}

fn damaged(position: usize, why: DecodeError) -> Unreadable {
    Unreadable::because(format_args!("it is damaged at byte {position}: {why}"))
}

/// The frame that these bytes are, which verified before, and its records.
pub(super) fn records<'a>(
    at: &FrameAt,
    bytes: &'a [u8],
    unpacked: &'a mut Unpacked,
) -> Result<(Frame<'a>, Records<'a>), Unreadable> {
    let undecodable = || damaged(at.position, DecodeError::Field { field: "body" });
    let frame = frame::trusted(bytes).ok_or_else(undecodable)?;
    if at.unpacked.is_none() {
        return Ok((frame, Records::new(&frame, at.first, at.count)));
    }
    unpacked.clear();
    let number = unpacked.add(bytes).map_err(|refusal| match refusal {
        Refusal::Damaged => undecodable(),
        Refusal::Unsupported(codec) => Unreadable::because(format_args!(
            "it has records that are compressed with {0}; reading them needs the feature `{0}`",
            codec.name()
        )),
    })?;
    let records = unpacked.records(number, &frame, at.first, at.count);
    Ok((frame, records.ok_or_else(undecodable)?))
}

/// A record as compaction sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) offset: Offset,
    /// One without a key is from before the log was compacted.
    pub(super) key: Option<&'a [u8]>,
    pub(super) is_tombstone: bool,
}
