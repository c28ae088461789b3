//! Reading everything, checking every checksum, changing nothing.

use std::{io, path::Path};

use super::{
    directory,
    open::slot_damage,
    plan::{self, Content, Facts},
    read_only::ReadOnly,
    recover::{self, OpenedSegment},
    report::Damage,
    segments::{INDEX_MAX, segment_path},
    snapshots,
    unpacked::{Refusal, Unpacked},
};
use crate::{
    error::{Error, Result},
    format::{
        checkpoint::Mark,
        file_name, index,
        segment::{FOOTER_LEN, SegmentHeader},
    },
    fs::{self, Access, File},
    group,
    offset::Offset,
    segment::{Bytes, FRAMES_START, FileBytes, Found, Scanner, last_nonzero},
};

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Frames that verified.
    pub frames: u64,
    /// Those of them whose records are compressed.
    pub compressed_frames: u64,
    /// Those of the compressed ones that were not decompressed, because this build lacks the cargo
    /// feature for it: their checksums match, no more is known.
    pub undecoded_frames: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The first offset, and the one behind the last that is intact.
    pub log_start_offset: Offset,
    /// The offset behind the last intact record.
    pub log_end_offset: Offset,
    /// Everything below was recorded as durable.
    pub durable_offset: Offset,
    /// What is damaged: records, or something beside them that has a twin.
    pub damage: Vec<Damage>,
    /// Bytes behind the last intact frame that were never recorded as durable: a record that is
    /// being written, or what a crash left. The next opening for writing cuts them.
    pub unproven_bytes: u64,
}

/// A segment, as [`ReadOnlyLog::segments`](crate::ReadOnlyLog::segments) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Its first offset.
    pub base_offset: Offset,
    /// The offset behind its last record; of the active segment, as of the call.
    pub end_offset: Offset,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// It has a footer: it is complete and durable.
    pub sealed: bool,
    /// Its file.
    pub path: std::path::PathBuf,
}

impl ReadOnly {
    /// Reads everything.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`. Damage is no error.
    pub(crate) fn verify(&self) -> Result<VerifyReport> {
        self.beside_deletions(|| self.verify_once())
    }

    fn verify_once(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let (checkpoint, fallback) = directory::read_checkpoint(&**self.host(), &self.dir)?;
        if let Some(fallback) = fallback {
            let path = self.dir.join(file_name::CHECKPOINT);
            report.damage.push(slot_damage(&path, fallback));
        }
        let checkpoint = checkpoint.unwrap_or_default();
        self.verify_slots(&mut report)?;
        let (host, id) = (&**self.host(), self.meta.id);
        let known = snapshots::find(host, &self.dir, id, checkpoint.producers)?;
        report.damage.extend(known.damage);
        let mut facts = Vec::new();
        let mut paths = Vec::new();
        let mut lens = Vec::new();
        let (bases, log_start) = self.live_segments()?;
        for (index, &base) in bases.iter().enumerate() {
            let limit = bases.get(index + 1).copied().unwrap_or(Offset::MAX);
            paths.push(segment_path(&self.dir, base));
            let (fact, len) = self.examine(base, limit, checkpoint.durable, &mut report)?;
            facts.push(fact);
            lens.push(len);
        }
        let plan = plan::plan(log_start, checkpoint.durable.offset, &facts);
        for (fact, path) in facts.iter().zip(&paths) {
            report.damage.extend(fact.header_damage(path, plan.durable));
            if let Some(header) = fact.header.filter(|_| fact.has_footer()) {
                report.damage.extend(self.index_damage(&header)?);
            }
        }
        for damaged in &plan.damage {
            report.damage.push(Damage {
                path: paths
                    .get(damaged.segment)
                    .cloned()
                    .unwrap_or_else(|| self.dir.clone()),
                position: damaged.position as u64,
                from: damaged.from,
                to: damaged.to,
                reason: damaged.why.to_string(),
            });
        }
        report.log_start_offset = log_start;
        report.log_end_offset = plan.end;
        report.durable_offset = plan.durable;
        for (index, (base, len)) in bases.iter().zip(lens).enumerate() {
            let kept = plan.kept.get(index);
            // Behind damage, or before another segment, bytes are not unproven: they were durable.
            let followed = index + 1 < plan.kept.len();
            if followed || kept.is_some_and(|kept| !kept.trim || kept.sealed) {
                continue;
            }
            let from = kept.map_or(FRAMES_START, |kept| kept.frames_end);
            report.unproven_bytes += self.written_behind(*base, from, len)?;
        }
        Ok(report)
    }

    /// Checks `meta` and the groups' files.
    fn verify_slots(&self, report: &mut VerifyReport) -> Result<()> {
        let (_, content, path) = directory::read_meta(&**self.host(), &self.dir)?;
        if let Some(fallback) = content.fallback {
            report.damage.push(slot_damage(&path, fallback));
        }
        for group in group::list(&**self.host(), &self.dir)? {
            match (&group.state, group.fallback) {
                (_, Some(fallback)) => report.damage.push(slot_damage(&group.path, fallback)),
                (Err(error), None) => report.damage.push(Damage {
                    path: group.path.clone(),
                    position: 0,
                    from: Offset::ZERO,
                    to: Offset::ZERO,
                    reason: error.to_string(),
                }),
                (Ok(_), None) => {}
            }
        }
        Ok(())
    }

    fn examine(
        &self,
        base: Offset,
        limit: Offset,
        durable: Mark,
        report: &mut VerifyReport,
    ) -> Result<(Facts, usize)> {
        let path = segment_path(&self.dir, base);
        let host = &**self.host();
        let opened = recover::open_segment(host, &path, base, self.meta.id, Access::Read)?;
        let OpenedSegment {
            file,
            len,
            header,
            damaged_copy,
        } = opened;
        report.segments += 1;
        report.bytes += len as u64;
        let Some(header) = header else {
            return Ok((
                Facts {
                    base,
                    header,
                    damaged_copy,
                    content: Content::Unreadable,
                },
                len,
            ));
        };
        let scanner = Scanner::whole((&header).into(), limit);
        let survey = recover::survey(&*file, &path, len, scanner.clone())?;
        report.frames += survey.frames;
        if survey.packed > 0 {
            report.compressed_frames += survey.packed;
            decompress_all(&*file, &path, len, scanner, report)?;
        }
        let rolled_and_durable = limit != Offset::MAX && durable.segment > base;
        if rolled_and_durable && survey.footer.is_none() && survey.stop.why.is_some() {
            let at = len.saturating_sub(FOOTER_LEN).min(survey.stop.position) as u64;
            let path = path.clone();
            let (from, to) = (survey.stop.offset, survey.stop.offset);
            let reason = "the footer is damaged".to_owned();
            report.damage.push(Damage {
                path,
                position: at,
                from,
                to,
                reason,
            });
        }
        Ok((
            Facts {
                base,
                header: Some(header),
                damaged_copy,
                content: Content::Surveyed(survey),
            },
            len,
        ))
    }

    /// What is wrong with the index of a sealed segment. That it is not there is no damage.
    fn index_damage(&self, header: &SegmentHeader) -> Result<Option<Damage>> {
        let path = self.dir.join(file_name::index(header.base));
        let file = match self.host().open(&path, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let io = |error| Error::io("read", &path, error);
        let len = usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(INDEX_MAX)];
        let read = fs::read_full(&*file, &mut bytes, 0).map_err(io)?;
        let whole = bytes.get(..read).unwrap_or_default();
        let Err(error) = index::verify(whole, header.id, header.base) else {
            return Ok(None);
        };
        if self.is_replaced(header)? {
            return Ok(None);
        }
        Ok(Some(Damage {
            path,
            position: 0,
            from: header.base,
            to: header.base,
            reason: format!("the index is damaged ({error})"),
        }))
    }

    /// Whether the segment was compacted since its header was read: its index is another one then.
    fn is_replaced(&self, header: &SegmentHeader) -> Result<bool> {
        let (host, path) = (&**self.host(), segment_path(&self.dir, header.base));
        let opened = recover::open_segment(host, &path, header.base, self.meta.id, Access::Read)?;
        Ok(opened.header.is_some_and(|now| now.id != header.id))
    }

    /// How many bytes lie from `from` to the last one that is not zero.
    fn written_behind(&self, base: Offset, from: usize, len: usize) -> Result<u64> {
        let path = segment_path(&self.dir, base);
        let io = |error| Error::io("read", &path, error);
        let file = self.host().open(&path, Access::Read).map_err(io)?;
        let mut bytes = FileBytes::new(&*file, len);
        let end = last_nonzero(&mut bytes, from).map_err(io)?;
        Ok(end.map_or(0, |end| (end - from) as u64))
    }

    /// Lists the segments.
    ///
    /// # Errors
    ///
    /// `Io`, `UnsupportedVersion`.
    pub(crate) fn segments(&self) -> Result<Vec<SegmentInfo>> {
        self.beside_deletions(|| self.segments_once())
    }

    fn segments_once(&self) -> Result<Vec<SegmentInfo>> {
        let end = self.find_end()?;
        let (bases, _) = self.live_segments()?;
        let mut infos = Vec::new();
        for (index, &base) in bases.iter().enumerate() {
            let path = segment_path(&self.dir, base);
            let opened =
                recover::open_segment(&**self.host(), &path, base, self.meta.id, Access::Read)?;
            let OpenedSegment {
                file, len, header, ..
            } = opened;
            let footer = match header {
                Some(header) => recover::read_footer(&*file, &path, len, &header)?,
                None => None,
            };
            // The last one may have been begun since.
            let next = bases.get(index + 1).copied().unwrap_or(end.max(base));
            infos.push(SegmentInfo {
                base_offset: base,
                end_offset: footer.map_or(next, |(footer, _)| footer.end),
                bytes: file
                    .len()
                    .map_err(|error| Error::io("read", &path, error))?,
                sealed: footer.is_some(),
                path,
            });
        }
        Ok(infos)
    }
}

/// Decompresses what is compressed in a segment, and tells what does not decompress to records.
fn decompress_all(
    file: &dyn File,
    path: &Path,
    len: usize,
    mut scanner: Scanner,
    report: &mut VerifyReport,
) -> Result<()> {
    let io = |error| Error::io("read", path, error);
    let mut bytes = FileBytes::new(file, len);
    let mut unpacked = Unpacked::default();
    loop {
        let frame = match scanner.step(&mut bytes).map_err(io)? {
            Found::Frame(frame) => frame,
            Found::Hole(_) => continue,
            Found::Footer(..) | Found::Stop(_) => return Ok(()),
        };
        if frame.unpacked.is_none() {
            continue;
        }
        let here = bytes.at(frame.position, frame.len).map_err(io)?;
        unpacked.clear();
        match unpacked.add(here.get(..frame.len).unwrap_or_default()) {
            Ok(_) => {}
            Err(Refusal::Unsupported(_)) => report.undecoded_frames += 1,
            Err(Refusal::Damaged) => report.damage.push(Damage {
                path: path.to_path_buf(),
                position: frame.position as u64,
                from: frame.first,
                to: frame.end(),
                reason: "the records do not decompress".to_owned(),
            }),
        }
    }
}
