//! Opening a log for writing: find what is there, decide, recover, and only then serve.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use super::{
    Shared, Site,
    age::AgeClock,
    ahead::OFFSETS_MAX,
    append::{Appender, Counters, PreparedSegment, open_writer},
    checkpointer::{Checkpointer, RESERVED_AHEAD},
    compaction::Cleaner,
    delete::Leftovers,
    directory::{self, Listing},
    gather::Gathering,
    maintenance::Maintenance,
    members::Members,
    plan::{self, Content, Facts, Plan},
    recover::{self, Recovery, SegmentFile},
    report::{Damage, GapReason, RecoveryReport},
    segments::{Segment, Segments, segment_path},
    snapshots,
    sync::{Latch, Syncer, sync_kind},
};
use crate::{
    error::{DecodeError, Error, ErrorKind, Result},
    format::{
        checkpoint::{self, Checkpoint, Mark},
        file_name,
        meta::{self, Meta},
        segment::Footer,
    },
    fs::{Access, File, Host, Mutex, SyncKind},
    group::{self, GroupSite, Journal},
    offset::Offset,
    options::{Config, LogOptions, OnDamage, ReadMode, WriteMode},
    segment::SegmentWriter,
    slot_file::{self, SlotFile},
};

/// Opens the log at `dir`, making it if there is none.
///
/// # Errors
///
/// Those of [`LogOptions::open`](crate::LogOptions::open).
pub(crate) fn open(host: Arc<dyn Host>, dir: &Path, options: &LogOptions) -> Result<Arc<Shared>> {
    let ages = AgeClock::start(&*host);
    // What the path means must not change with the directory of the process.
    let dir = host
        .absolute(dir)
        .map_err(|error| Error::io("open", dir, error))?;
    let dir = &*dir;
    let mut report = RecoveryReport::default();
    let exists = match directory::list(&*host, dir)? {
        None => false,
        Some(listing) => listing.is_log(dir)?,
    };
    if !exists {
        // Before anything is touched.
        Config::resolve(&options.stored)?;
        host.create_dir_all(dir)
            .map_err(|error| Error::io("create", dir, error))?;
    }
    let lock = directory::lock(&*host, dir)?;
    // Again, now that nobody else changes it.
    let mut listing = directory::list(&*host, dir)?.unwrap_or_default();
    if !listing.is_log(dir)? {
        let given = Config::resolve(&options.stored)?;
        let (stored, created) = (options.stored.clone(), ages.opened());
        directory::make(&*host, dir, stored, created, sync_kind(given.fsync))?;
        report.created = true;
        listing = directory::list(&*host, dir)?.unwrap_or_default();
    }
    let (meta, config) = read_options(&*host, dir, options, &mut report)?;
    let mapped = AtomicBool::new(wants_mapping(&*host, dir, config.write_mode));
    let directory = host
        .open_dir(dir)
        .map_err(|error| Error::io("open", dir, error))?;
    let sync = sync_kind(config.fsync);
    let site = Site {
        host,
        dir: dir.to_path_buf(),
        log_id: meta.id,
        directory,
        config,
        mapped,
    };
    let opening = Opening { site, sync, ages };
    let recovered = opening.recover(listing, options.on_damage, &mut report)?;
    opening.serve(recovered, lock, options, report)
}

/// Whether files are to be written through mapped memory.
pub(crate) fn wants_mapping(host: &dyn Host, dir: &Path, mode: WriteMode) -> bool {
    match mode {
        WriteMode::Auto => host.is_mapping_safe(dir),
        WriteMode::Mapped => true,
        WriteMode::Buffered => false,
    }
}

/// Reads the stored options, puts the given ones over them, and stores the result if it is new.
fn read_options(
    host: &dyn Host,
    dir: &Path,
    options: &LogOptions,
    report: &mut RecoveryReport,
) -> Result<(Meta, Config)> {
    let (mut meta, content, path) = directory::read_meta(host, dir)?;
    if let Some(fallback) = content.fallback {
        report.damage.push(slot_damage(&path, fallback));
    }
    let merged = options.stored.clone().over(meta.options.clone());
    let config = Config::resolve(&merged)?;
    if merged != meta.options {
        meta.options = merged;
        let (mut file, _) = SlotFile::open(host, path, meta::KIND)?;
        file.write_both(&meta.encode(), sync_kind(config.fsync))?;
    }
    Ok((meta, config))
}

/// What is assumed where no checkpoint is to be read.
fn unknown_checkpoint() -> Checkpoint {
    let mut unknown = Checkpoint::default();
    unknown.producers.named = true;
    unknown
}

/// A damaged slot, whose twin stood in.
pub(crate) fn slot_damage(path: &Path, (position, error): (u64, DecodeError)) -> Damage {
    Damage {
        path: path.to_path_buf(),
        position,
        from: Offset::ZERO,
        to: Offset::ZERO,
        reason: format!("a slot is damaged ({error})"),
    }
}

/// What opening needs all along.
struct Opening {
    site: Site,
    sync: Option<SyncKind>,
    ages: AgeClock,
}

/// What recovery hands over to the log that is to be served.
struct Recovered {
    checkpoint: Checkpoint,
    checkpoint_file: SlotFile,
    segments: Vec<Arc<Segment>>,
    /// The append time of the last record of each of them, where it is known.
    stamps: Vec<Option<u64>>,
    /// Durable segments without a footer.
    sealable: Vec<Arc<Segment>>,
    /// The last segment, if it is appended to.
    active: Option<(SegmentFile, usize)>,
    /// Where the log ended, and where it goes on.
    end: Offset,
    next: Offset,
    /// Where the log ended before the new active segment, if one is to be made.
    previous_end: Offset,
    /// A segment without frames that the new one takes the place of.
    obsolete: Option<PathBuf>,
    /// What is below the log start.
    leftovers: Leftovers,
}

impl Recovered {
    fn with(self, leftovers: Leftovers) -> Self {
        Self { leftovers, ..self }
    }
}

impl Opening {
    fn recover(
        &self,
        mut listing: Listing,
        on_damage: OnDamage,
        report: &mut RecoveryReport,
    ) -> Result<Recovered> {
        let checkpoint_path = self.site.dir.join(file_name::CHECKPOINT);
        let (read, fallback) = directory::read_checkpoint(&*self.site.host, &self.site.dir)?;
        let fallback = fallback.map(|fallback| slot_damage(&checkpoint_path, fallback));
        report.damage.extend(fallback);
        let checkpoint = read.clone().unwrap_or_else(unknown_checkpoint);
        let leftovers = listing.take_leftovers(checkpoint.log_start);
        let gathering = Gathering::new(&self.site, &listing, &checkpoint);
        let (found, facts) = gathering.run(report)?;
        let plan = plan::plan(checkpoint.log_start, checkpoint.durable.offset, &facts);
        let clean = gathering.is_clean() && plan.dropped_from == facts.len();
        report.clean = clean;
        report.rows = plan.rows;
        report.same_boot = self.is_same_boot(&checkpoint);
        self.report_damage(&found, &facts, &plan, report);
        if on_damage == OnDamage::Refuse {
            refuse_damage(&report.damage)?;
        }
        self.remove_leftovers(&listing)?;
        let groups_ahead = self.settle_groups(plan.end)?;
        let dense = clean
            || (report.same_boot
                && !checkpoint.unproven
                && read.is_some()
                && plan.at_worst_one_frame
                && groups_ahead.is_empty());
        let next = match &read {
            _ if dense || report.created => plan.end,
            Some(checkpoint) => checkpoint.reservation.max(plan.end),
            // Whatever was reserved is not known; it was at most this far ahead of some end, and
            // the end that survived may be as far behind that.
            None => plan.end.advance(2 * OFFSETS_MAX),
        };
        // If this is interrupted, the next attempt has to go on no lower.
        let unproven = Checkpoint {
            unproven: true,
            reservation: checkpoint.reservation.max(next),
            ..checkpoint.clone()
        };
        let mut checkpoint_file = match read {
            Some(_) => SlotFile::open(&*self.site.host, checkpoint_path, checkpoint::KIND)?.0,
            None => self.make_checkpoint(&checkpoint_path, &unproven)?,
        };
        if !clean {
            let mut note = || checkpoint_file.write(&unproven.encode(), self.sync);
            if !dense && !checkpoint.unproven {
                // If this is interrupted, the next attempt must not find a tail that looks whole.
                note()?;
            }
            let recovered = self.recovery(&found, &facts, &plan).run(report);
            recovered.inspect_err(|error| {
                if error.is_latched() {
                    // The page cache may forget what is read now. Best effort: the device fails.
                    drop(note());
                }
            })?;
        }
        if next > plan.end {
            report.lost_tail = Some(plan.end..next);
            report.groups_ahead = groups_ahead;
        }
        let recovered = self.hand_over(&found, &facts, &plan, next, checkpoint, checkpoint_file)?;
        Ok(recovered.with(leftovers))
    }

    /// Puts durable commits that stand in the journal into the groups' files; returns the groups
    /// that have committed more than survived.
    fn settle_groups(&self, end: Offset) -> Result<Vec<(String, Offset)>> {
        group::settle(&GroupSite {
            host: &*self.site.host,
            dir: &self.site.dir,
            log_id: self.site.log_id,
            sync: self.sync,
            mapped: false,
            is_settled: false,
        })?;
        Ok(group::list(&*self.site.host, &self.site.dir)?
            .into_iter()
            .filter_map(|group| Some((group.name, group.state.ok()?.committed)))
            .filter(|(_, committed)| *committed > end)
            .collect())
    }

    fn recovery<'a>(
        &'a self,
        found: &'a [SegmentFile],
        facts: &'a [Facts],
        plan: &'a Plan,
    ) -> Recovery<'a> {
        Recovery {
            host: &*self.site.host,
            dir: &self.site.dir,
            sync: self.sync,
            found,
            facts,
            plan,
        }
    }

    fn is_same_boot(&self, checkpoint: &Checkpoint) -> bool {
        self.site
            .host
            .boot_id()
            .is_some_and(|id| id == checkpoint.boot_id)
    }

    /// Makes anew a checkpoint that does not verify.
    fn make_checkpoint(&self, path: &Path, content: &Checkpoint) -> Result<SlotFile> {
        let file = self
            .site
            .host
            .open(path, Access::Create)
            .map_err(|error| Error::io("create", path, error))?;
        let payload = content.encode();
        SlotFile::fill(
            file,
            path.to_path_buf(),
            checkpoint::KIND,
            &payload,
            self.sync,
        )
    }

    fn report_damage(
        &self,
        found: &[SegmentFile],
        facts: &[Facts],
        plan: &Plan,
        report: &mut RecoveryReport,
    ) {
        for (file, facts) in found.iter().zip(facts) {
            let damage = facts.header_damage(&file.path, plan.durable);
            report.damage.extend(damage);
        }
        for damaged in &plan.damage {
            let path = found.get(damaged.segment).map_or_else(
                || segment_path(&self.site.dir, damaged.from),
                |f| f.path.clone(),
            );
            report.damage.push(Damage {
                path,
                position: damaged.position as u64,
                from: damaged.from,
                to: damaged.to,
                reason: damaged.why.to_string(),
            });
        }
    }

    /// Removes segments that were prepared for an earlier writer, and what a compaction was writing:
    /// what it replaced was durable before.
    fn remove_leftovers(&self, listing: &Listing) -> Result<()> {
        for name in listing.prepared.iter().chain(&listing.cleaned) {
            let path = self.site.dir.join(name);
            self.site
                .host
                .remove_file(&path)
                .map_err(|error| Error::io("remove", &path, error))?;
        }
        Ok(())
    }

    fn hand_over(
        &self,
        found: &[SegmentFile],
        facts: &[Facts],
        plan: &Plan,
        next: Offset,
        checkpoint: Checkpoint,
        checkpoint_file: SlotFile,
    ) -> Result<Recovered> {
        let appends = plan.can_append && next == plan.end;
        let last = plan.kept.len().checked_sub(1);
        let mut recovered = Recovered {
            checkpoint,
            checkpoint_file,
            segments: Vec::new(),
            stamps: Vec::new(),
            sealable: Vec::new(),
            active: None,
            end: plan.end,
            next,
            previous_end: plan.end,
            obsolete: None,
            leftovers: Leftovers::default(),
        };
        let all = found.iter().zip(facts).zip(&plan.kept).enumerate();
        for (index, ((file, facts), kept)) in all {
            let is_last = Some(index) == last;
            if is_last && appends {
                recovered.active = Some((file.clone(), kept.frames_end));
                continue;
            }
            let previous_end = facts
                .header
                .map_or(facts.base, |header| header.previous_end);
            if is_last && facts.is_empty(kept) && kept.trim {
                // Skipped offsets before and after it are one gap.
                recovered.previous_end = previous_end;
                recovered.obsolete = Some(file.path.clone());
                continue;
            }
            let (base, header, end) = (facts.base, facts.header, kept.frames_end);
            let segment = Segment::at_rest(file.path.clone(), base, previous_end, header, end);
            recovered.stamps.push(last_time(facts));
            if let (Content::Surveyed(survey), true, false) =
                (&facts.content, kept.trim, kept.sealed)
            {
                let last_time = survey
                    .last_time
                    .unwrap_or(recovered.checkpoint.durable.time);
                // What stood behind a hole in the tail is cut, and not to be counted.
                let mut holes = survey.holes.iter();
                let cut = holes.find(|hole| hole.position == kept.frames_end);
                let footer = Footer {
                    end: cut.map_or(survey.stop.offset, |hole| hole.from),
                    last_time,
                };
                segment.set_rolled(file.open(&*self.site.host)?, end, footer);
                recovered.sealable.push(Arc::clone(&segment));
            }
            recovered.segments.push(segment);
        }
        recovered.checkpoint.durable.time = facts
            .iter()
            .filter_map(last_time)
            .fold(recovered.checkpoint.durable.time, u64::max);
        Ok(recovered)
    }

    /// Makes the log that is served, with its first checkpoint written: from then on the log is
    /// not closed in order until it is again.
    fn serve(
        self,
        recovered: Recovered,
        lock: Arc<dyn File>,
        options: &LogOptions,
        mut report: RecoveryReport,
    ) -> Result<Arc<Shared>> {
        let copy = options.read_mode == ReadMode::Copied;
        let (active, writer) = self.active(&recovered, copy)?;
        if let Some(obsolete) = &recovered.obsolete {
            let removed = self.site.host.remove_file(obsolete);
            removed.map_err(|error| Error::io("remove", obsolete, error))?;
        }
        let Recovered {
            mut checkpoint,
            checkpoint_file,
            mut segments,
            stamps,
            sealable,
            leftovers,
            ..
        } = recovered;
        let mark = Mark {
            offset: recovered.next,
            segment: active.base,
            position: writer.position() as u64,
            time: checkpoint.durable.time,
        };
        segments.push(active);
        self.set_ages(&segments, &stamps);
        let mut appender = Appender::new(writer, recovered.next, mark.time);
        appender.seen.1 = self.ages.past(Some(mark.time), None);
        self.note_open(&mut checkpoint, recovered.next.since(recovered.end));
        let site = &self.site;
        let known = snapshots::find(&*site.host, &site.dir, site.log_id, checkpoint.producers)?;
        report.damage.extend(known.damage.clone());
        report.elapsed = self.ages.since(self.site.host.monotonic());
        let shared = Arc::new(Shared {
            read_mode: options.read_mode,
            end: AtomicU64::new(recovered.next.get()),
            log_start: AtomicU64::new(checkpoint.log_start.get()),
            latch: Latch::default(),
            counters: Counters::default(),
            members: Members::default(),
            append: Mutex::new(appender),
            segments: Segments::new(segments, copy),
            syncer: Syncer::new(mark),
            checkpoint: Checkpointer::new(checkpoint_file, checkpoint),
            snapshots: snapshots::Snapshots::default(),
            commits: Journal::new(&self.site.host, &self.site.dir, self.sync),
            prepared: Mutex::new(None),
            maintenance: Maintenance::default(),
            cleaner: Cleaner::default(),
            ages: self.ages,
            on_warning: options.on_warning.clone(),
            on_demand_only: options.on_demand_only,
            recovery: report,
            lock: Mutex::new(Some(lock)),
            site: self.site,
        });
        for damage in &shared.recovery.damage {
            shared.count_loss(damage.from, damage.to, GapReason::Damage);
        }
        shared.load_producers(&known)?;
        shared.begin(sealable, &leftovers)?;
        Ok(shared)
    }

    /// The log is not closed in order any more, until it is again.
    fn note_open(&self, checkpoint: &mut Checkpoint, lost_tail: u64) {
        checkpoint.clean = false;
        checkpoint.unproven = false;
        checkpoint.boot_id = self.site.host.boot_id().unwrap_or_default();
        let lost = &mut checkpoint.losses.lost_tail;
        *lost = lost.saturating_add(lost_tail);
    }

    /// Tells each segment how old its newest record is, from that one's stamp, or when the segment
    /// behind it was begun; and no segment is younger than one behind it.
    fn set_ages(&self, segments: &[Arc<Segment>], stamps: &[Option<u64>]) {
        let followed = segments.iter().zip(segments.iter().skip(1));
        let mut floor = 0;
        let newest: Vec<_> = followed
            .zip(stamps)
            .map(|((segment, next), stamp)| {
                let begun = self.ages.believed(segment.created(), 0);
                floor = floor.max(begun);
                // A clock that was set back in between says nothing.
                let rolled = next.created().filter(|time| begun > 0 && *time >= floor);
                floor = self.ages.believed(*stamp, floor);
                self.ages.past(*stamp, rolled)
            })
            .collect();
        let mut youngest = u64::MAX;
        for (segment, newest) in segments.iter().zip(newest).rev() {
            youngest = youngest.min(newest);
            segment.set_newest(youngest);
        }
    }

    /// The active segment: the last one, or a new one whose name is durable.
    fn active(&self, recovered: &Recovered, copy: bool) -> Result<(Arc<Segment>, SegmentWriter)> {
        let Some((found, frames_end)) = &recovered.active else {
            let mut new = PreparedSegment::create(&self.site)?;
            let path = segment_path(&self.site.dir, recovered.next);
            let io = |error| Error::io("create", &path, error);
            new.begin(recovered.next, recovered.previous_end, &self.site)
                .map_err(io)?;
            if let Some(kind) = self.sync {
                let failed = |error| slot_file::sync_failed(&path, error);
                new.writer.file().sync(kind).map_err(failed)?;
                slot_file::sync_dir(&*self.site.host, &self.site.dir)?;
            }
            return Ok((Segment::active(path, &new.writer, copy), new.writer));
        };
        let path = &found.path;
        let io = |error| Error::io("open", path, error);
        let opened = recover::open_segment(
            &*self.site.host,
            path,
            found.base,
            self.site.log_id,
            Access::Write,
        )?;
        let header = opened
            .header
            .ok_or_else(|| Error::decode(path, 0, DecodeError::Checksum))?;
        opened.file.set_len(*frames_end as u64).map_err(io)?;
        let writer = open_writer(&opened.file, header, *frames_end, &self.site).map_err(io)?;
        Ok((Segment::active(path.clone(), &writer, copy), writer))
    }
}

impl Shared {
    /// Makes sure of offsets to use, and starts the maintenance.
    fn begin(self: &Arc<Self>, sealable: Vec<Arc<Segment>>, leftovers: &Leftovers) -> Result<()> {
        // With this the log start is durable, too.
        self.reserve_at_once(self.end().advance(RESERVED_AHEAD))?;
        self.finish_deletion(leftovers)?;
        self.maintenance.add_sealable(sealable);
        self.start_maintenance()
            .map_err(|error| Error::io("start a thread for", &self.site.dir, error))
    }
}

/// The append time of the last frame, as far as the facts tell.
fn last_time(facts: &Facts) -> Option<u64> {
    match &facts.content {
        Content::Sealed { footer, .. } => Some(footer.last_time),
        Content::Surveyed(survey) => survey.last_time,
        Content::Closed { .. } | Content::Unreadable => None,
    }
}

/// Where a twin stands in, no record is lost; and a power cut tears slots and headers too.
fn refuse_damage(damage: &[Damage]) -> Result<()> {
    let mut lost = damage.iter().filter(|damage| damage.from < damage.to);
    match lost.next() {
        None => Ok(()),
        Some(first) => Err(ErrorKind::Damaged {
            path: first.path.clone(),
            from: first.from,
            to: first.to,
            more: lost.count(),
        }
        .into()),
    }
}
