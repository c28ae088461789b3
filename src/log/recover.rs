//! Carries out what [`plan`](super::plan) decided. May be interrupted anywhere and run again.
//!
//! What lies above the recorded durable point is read by `pread` into private memory, verified,
//! and those same bytes are written back before they are synced. A plain sync would not do: after
//! a failed one the kernel takes the pages for clean, the next sync returns success, and the old
//! bytes are still on the device.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    plan::{Content, Facts, Kept, Plan},
    report::RecoveryReport,
};
use crate::{
    error::{DecodeError, Error, ErrorKind, Result},
    format::{
        file_name, frame,
        segment::{FOOTER_LEN, Footer, SegmentHeader},
        wire::narrow,
    },
    fs::{self, Access, File, Host, SyncKind},
    offset::Offset,
    segment::{Bytes, FRAMES_START, FileBytes, Found, Scanner, Shape, Survey, last_nonzero},
    slot_file::{sync_dir, sync_failed},
};

/// Bytes copied in one go.
const COPY: usize = 256 << 10;

/// A segment's file as found in the directory.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) base: Offset,
    pub(crate) path: PathBuf,
    pub(crate) len: usize,
}

impl SegmentFile {
    /// Opens it to be recovered. (Not held since it was examined: there may be very many.)
    ///
    /// # Errors
    ///
    /// `Io`.
    pub(crate) fn open(&self, host: &dyn Host) -> Result<Arc<dyn File>> {
        host.open(&self.path, Access::Write)
            .map_err(|error| Error::io("open", &self.path, error))
    }
}

/// A segment's file, opened, and what its header says.
#[derive(Debug)]
pub(crate) struct OpenedSegment {
    pub(crate) file: Arc<dyn File>,
    pub(crate) len: usize,
    /// `None` if neither copy verifies, or if it is another segment's.
    pub(crate) header: Option<SegmentHeader>,
    /// Where a copy stands that does not verify.
    pub(crate) damaged_copy: Option<u64>,
}

/// Opens the file of the segment at `base` and reads its header.
///
/// # Errors
///
/// `UnsupportedVersion`, `Io`.
pub(crate) fn open_segment(
    host: &dyn Host,
    path: &Path,
    base: Offset,
    log_id: u64,
    access: Access,
) -> Result<OpenedSegment> {
    let file = host
        .open(path, access)
        .map_err(|error| Error::io("open", path, error))?;
    let len = file.len().map_err(|error| Error::io("read", path, error))?;
    let length = DecodeError::Length { length: len };
    let len = usize::try_from(len).map_err(|_| Error::decode(path, 0, length))?;
    let mut bytes = [0; FRAMES_START];
    let read =
        fs::read_full(&*file, &mut bytes, 0).map_err(|error| Error::io("read", path, error))?;
    let (header, damaged_copy) = match SegmentHeader::decode(bytes.get(..read).unwrap_or_default())
    {
        Ok((header, copies)) => (Some(header), copies.damaged_at()),
        Err(error @ DecodeError::Version { .. }) => return Err(Error::decode(path, 0, error)),
        Err(_) => (None, Some(0)),
    };
    // A file under another's name, or another log's, would put its records at wrong offsets.
    let header = header.filter(|header| header.base == base && header.log_id == log_id);
    Ok(OpenedSegment {
        file,
        len,
        header,
        damaged_copy,
    })
}

/// The footer at the end of a file of `len` bytes, if there is one.
///
/// # Errors
///
/// `Io`.
pub(crate) fn read_footer(
    file: &dyn File,
    path: &Path,
    len: usize,
    header: &SegmentHeader,
) -> Result<Option<(Footer, usize)>> {
    let Some(position) = len.checked_sub(FOOTER_LEN).filter(|&p| p >= FRAMES_START) else {
        return Ok(None);
    };
    let mut bytes = [0; FOOTER_LEN];
    let read = fs::read_full(file, &mut bytes, position as u64)
        .map_err(|error| Error::io("read", path, error))?;
    let seed = header.seed().at(narrow(position));
    let footer = frame::decode(bytes.get(..read).unwrap_or_default(), seed)
        .ok()
        .filter(frame::Frame::is_footer)
        .and_then(|frame| Footer::decode(&frame).ok());
    Ok(footer.map(|footer| (footer, position)))
}

/// Scans a segment from `position` on, where `expected` should stand.
///
/// # Errors
///
/// `Io`; `UnsupportedVersion` if a newer release wrote frames of it.
pub(crate) fn survey(file: &dyn File, path: &Path, len: usize, scanner: Scanner) -> Result<Survey> {
    let mut bytes = FileBytes::new(file, len);
    let survey =
        Survey::run(scanner, &mut bytes).map_err(|error| Error::io("read", path, error))?;
    if let Some(error @ DecodeError::Version { .. }) = survey.stop.why {
        return Err(Error::decode(path, survey.stop.position as u64, error));
    }
    Ok(survey)
}

/// What carrying out the plan needs.
#[derive(Debug)]
pub(crate) struct Recovery<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) dir: &'a Path,
    pub(crate) sync: Option<SyncKind>,
    pub(crate) found: &'a [SegmentFile],
    pub(crate) facts: &'a [Facts],
    pub(crate) plan: &'a Plan,
}

impl Recovery<'_> {
    /// Quarantines, writes back, cuts, removes, syncs, in this order.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`; `Corrupt` if bytes changed since they were surveyed.
    pub(crate) fn run(&self, report: &mut RecoveryReport) -> Result<()> {
        let kept = self.found.iter().zip(self.facts).zip(&self.plan.kept);
        for ((found, facts), kept) in kept.clone() {
            self.take_out_tail(found, facts, kept, report)?;
        }
        for ((found, facts), kept) in kept {
            if let Content::Surveyed(survey) = &facts.content {
                let file = found.open(self.host)?;
                Self::write_back(&*file, found, facts, survey, kept.frames_end)?;
                if kept.trim {
                    let end = kept.frames_end + if kept.sealed { FOOTER_LEN } else { 0 };
                    file.set_len(end as u64)
                        .map_err(|error| Error::io("cut", &found.path, error))?;
                }
                self.sync_file(&*file, &found.path)?;
            }
        }
        for found in self.found.iter().skip(self.plan.dropped_from) {
            self.take_out(found, report)?;
        }
        self.sync_dir(self.dir)
    }

    /// Copies what is about to be cut, unless it is zeros, into the quarantine.
    fn take_out_tail(
        &self,
        found: &SegmentFile,
        facts: &Facts,
        kept: &Kept,
        report: &mut RecoveryReport,
    ) -> Result<()> {
        if !matches!(facts.content, Content::Surveyed(_)) || !kept.trim || kept.sealed {
            return Ok(());
        }
        let io = |error| Error::io("read", &found.path, error);
        let file = found.open(self.host)?;
        let mut bytes = FileBytes::new(&*file, found.len);
        let Some(end) = last_nonzero(&mut bytes, kept.frames_end).map_err(io)? else {
            return Ok(());
        };
        // Zeros first: on a full disk this makes the room for the copy.
        file.set_len(end as u64)
            .map_err(|error| Error::io("cut", &found.path, error))?;
        let target = self.quarantine_path(found.base, kept.frames_end)?;
        let copy = self
            .host
            .open(&target, Access::CreateNew)
            .map_err(|error| Error::io("create", &target, error))?;
        let mut position = kept.frames_end;
        while position < end {
            let chunk = bytes.at(position, COPY).map_err(io)?;
            let chunk = chunk.get(..(end - position).min(COPY)).unwrap_or(chunk);
            if chunk.is_empty() {
                break;
            }
            fs::write_full(&*copy, chunk, (position - kept.frames_end) as u64)
                .map_err(|error| Error::io("write", &target, error))?;
            position += chunk.len();
        }
        self.sync_file(&*copy, &target)?;
        self.note(&target, &found.path, kept.frames_end)?;
        report.cut_bytes += (end - kept.frames_end) as u64;
        report.quarantined.push(target);
        Ok(())
    }

    /// Moves a whole segment into the quarantine; one of zeros is removed.
    fn take_out(&self, found: &SegmentFile, report: &mut RecoveryReport) -> Result<()> {
        let io = |error| Error::io("read", &found.path, error);
        let file = found.open(self.host)?;
        let mut bytes = FileBytes::new(&*file, found.len);
        let Some(end) = last_nonzero(&mut bytes, FRAMES_START).map_err(io)? else {
            return self
                .host
                .remove_file(&found.path)
                .map_err(|error| Error::io("remove", &found.path, error));
        };
        // As what is kept: only what is written again is sure to be on the device.
        let mut position = 0;
        while position < end {
            let chunk = bytes.at(position, COPY).map_err(io)?;
            let chunk = chunk.get(..(end - position).min(COPY)).unwrap_or(chunk);
            if chunk.is_empty() {
                break;
            }
            fs::write_full(&*file, chunk, position as u64)
                .map_err(|error| Error::io("write", &found.path, error))?;
            position += chunk.len();
        }
        self.sync_file(&*file, &found.path)?;
        let target = self.quarantine_path(found.base, 0)?;
        self.note(&target, &found.path, 0)?;
        self.host
            .rename(&found.path, &target)
            .map_err(|error| Error::io("move", &found.path, error))?;
        report.cut_bytes += (end - FRAMES_START) as u64;
        report.quarantined.push(target);
        self.sync_dir(&self.dir.join(file_name::QUARANTINE))
    }

    /// A file name in the quarantine that is not taken.
    fn quarantine_path(&self, base: Offset, position: usize) -> Result<PathBuf> {
        let dir = self.dir.join(file_name::QUARANTINE);
        self.host
            .create_dir_all(&dir)
            .map_err(|error| Error::io("create", &dir, error))?;
        let taken = self
            .host
            .read_dir(&dir)
            .map_err(|error| Error::io("list", &dir, error))?;
        let mut copy = 0;
        loop {
            let name = file_name::quarantined(base, position as u64, copy);
            if !taken.iter().any(|entry| entry.name == *name) {
                return Ok(dir.join(name));
            }
            copy += 1;
        }
    }

    /// Writes beside the quarantined bytes where they are from.
    fn note(&self, target: &Path, source: &Path, position: usize) -> Result<()> {
        let name = target
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let path = target.with_file_name(file_name::quarantine_note(name));
        let source = source
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let text = format!(
            "unproven: taken out of {source}, from byte {position} on, when the log was opened\n\
             after a crash: these bytes were never durable, and do not verify or stand behind\n\
             bytes that do not\n"
        );
        let file = self
            .host
            .open(&path, Access::Create)
            .map_err(|error| Error::io("create", &path, error))?;
        fs::write_full(&*file, text.as_bytes(), 0)
            .map_err(|error| Error::io("write", &path, error))?;
        self.sync_file(&*file, &path)?;
        self.sync_dir(&self.dir.join(file_name::QUARANTINE))
    }

    /// Writes the accepted frames back in place, and the header with them.
    fn write_back(
        file: &dyn File,
        found: &SegmentFile,
        facts: &Facts,
        survey: &Survey,
        frames_end: usize,
    ) -> Result<()> {
        let Some(header) = facts.header else {
            return Ok(());
        };
        let write = |bytes: &[u8], position: usize| {
            fs::write_full(file, bytes, position as u64)
                .map_err(|error| Error::io("write", &found.path, error))
        };
        if survey.from == FRAMES_START {
            write(&header.encode(), 0)?;
        }
        // Offsets were checked by the survey; here it matters that the bytes are the same.
        let shape = Shape::from(&header);
        let mut scanner = Scanner::new(shape, Offset::MAX, survey.from, header.base);
        let mut bytes = FileBytes::new(file, found.len);
        let io = |error| Error::io("read", &found.path, error);
        let mut run = Run {
            start: survey.from,
            bytes: Vec::new(),
        };
        loop {
            match scanner.step(&mut bytes).map_err(io)? {
                Found::Frame(frame) if frame.position < frames_end => {
                    if run.end() != frame.position || run.bytes.len() >= COPY {
                        write(&run.bytes, run.start)?;
                        run = Run {
                            start: frame.position,
                            bytes: Vec::new(),
                        };
                    }
                    let chunk = bytes.at(frame.position, frame.len).map_err(io)?;
                    run.bytes
                        .extend_from_slice(chunk.get(..frame.len).unwrap_or_default());
                }
                Found::Hole(hole) if hole.resume < frames_end => {}
                _ => break,
            }
        }
        write(&run.bytes, run.start)?;
        if run.end() < frames_end && survey.holes.is_empty() {
            // The bytes were intact a moment ago.
            return Err(ErrorKind::Corrupt {
                path: found.path.clone(),
                position: run.end() as u64,
                offset: None,
                source: DecodeError::Checksum,
            }
            .into());
        }
        Ok(())
    }

    fn sync_file(&self, file: &dyn File, path: &Path) -> Result<()> {
        let Some(kind) = self.sync else { return Ok(()) };
        file.sync(kind).map_err(|error| sync_failed(path, error))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        if self.sync.is_none() {
            return Ok(());
        }
        sync_dir(self.host, dir)
    }
}

/// Verified bytes that are gathered to be written back at once.
struct Run {
    start: usize,
    bytes: Vec<u8>,
}

impl Run {
    fn end(&self) -> usize {
        self.start + self.bytes.len()
    }
}
