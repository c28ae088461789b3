//! A compaction under way: passes over the log, in steps of bounded size.
//!
//! A pass learns keys of all records from the first one that may supersede others: all of them, or
//! those with hashes in a range, if the memory holds no more. Then it looks through all segments,
//! oldest first, and writes those anew of which something goes. The next pass is for the hashes
//! behind the range. So there are as many passes as the keys need, however often each of them was
//! sent. Only the last pass leaves segments clean: then all keys were dealt with.
//!
//! A segment that can't be read is skipped, in this pass and in all later ones. Its keys are not
//! learned, so nothing goes because of them; and tombstones behind it stay, as it may hold what they
//! are to remove.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use super::{
    keys::Keys,
    plan::{self, Plan, Times},
    rewrite::{self, Output, Rules, Tally},
    walk::{self, Pause, Unreadable, Walk},
};
use crate::{
    error::Result,
    format::{checkpoint::Cleaned, segment::Compacted},
    log::{
        Shared,
        report::{CompactionReport, SkippedSegment},
        segments::Segment,
        unpacked::Unpacked,
    },
    offset::Offset,
};

/// A compaction.
#[derive(Debug)]
pub(super) struct Job {
    targets: Vec<Target>,
    times: Times,
    /// Keys of records from here...
    from: Offset,
    /// ...to here are learned.
    until: Offset,
    cleaned: Cleaned,
    keys: Keys,
    /// Some pass has learned keys.
    has_learned: bool,
    unpacked: Unpacked,
    pass: Pass,
    /// The lowest segment that this pass has skipped so far.
    skipped: Option<Offset>,
    pub(super) report: CompactionReport,
    began: Duration,
}

/// A segment to be compacted.
#[derive(Debug)]
struct Target {
    segment: Arc<Segment>,
    end: Offset,
    /// Why it can't be; that stays so for the whole compaction.
    unreadable: Option<Unreadable>,
    is_reported: bool,
    is_counted: bool,
}

/// Where a pass is.
#[derive(Debug)]
struct Pass {
    phase: Phase,
    /// The segment that it is at, by number.
    at: usize,
    walk: Option<Walk>,
    /// What is known of that segment, ...
    tally: Tally,
    /// ...and what it is written to, if something of it goes.
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Learn,
    Clean,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many bytes were read and written.
    Going(usize),
    Done,
}

/// What holds for the segment that a pass is at.
#[derive(Clone, Copy, Debug)]
struct Terms {
    old: Option<Compacted>,
    /// With this pass, the last one, all of it is clean, and all before it.
    all_clean: bool,
    drop_tombstones: bool,
}

impl Terms {
    fn rules(self, keys: &Keys, until: Offset) -> Rules<'_> {
        Rules {
            keys,
            until,
            drop_tombstones: self.drop_tombstones,
        }
    }

    /// When all of it was clean first; 0 if that is still to come.
    fn cleaned(self) -> u64 {
        self.old.map_or(0, |old| old.cleaned)
    }

    /// Whether it has to say from now on since when its tombstones are kept: from when nothing is left
    /// before them that they are to remove.
    fn wants_stamp(self, tombstones: u32) -> bool {
        self.all_clean && tombstones > 0 && self.cleaned() == 0
    }

    /// Whether nothing is to be done about it if no pass learned keys. (One that was never compacted
    /// and is clean has no tombstones.)
    fn is_idle(self) -> bool {
        let stamp = self.old.is_some_and(|old| self.wants_stamp(old.tombstones));
        !self.drop_tombstones && !stamp
    }
}

impl Pass {
    fn new(phase: Phase) -> Self {
        Self {
            phase,
            at: 0,
            walk: None,
            tally: Tally::default(),
            output: None,
        }
    }

    /// On to the next segment.
    fn next(&mut self) {
        self.at += 1;
        self.walk = None;
        self.tally = Tally::default();
        self.output = None;
    }
}

impl Job {
    /// A compaction of these segments, by the plan that was made for them.
    pub(super) fn new(
        segments: Vec<(Arc<Segment>, Offset)>,
        plan: &Plan,
        times: Times,
        cleaned: Cleaned,
        memory: usize,
        began: Duration,
    ) -> Self {
        let target = |(segment, end)| Target {
            segment,
            end,
            unreadable: None,
            is_reported: false,
            is_counted: false,
        };
        let targets: Vec<_> = segments.into_iter().map(target).collect();
        let report = CompactionReport {
            bytes_before: plan.bytes,
            bytes_after: plan.bytes,
            clean_below: cleaned.below,
            ..CompactionReport::default()
        };
        Self {
            targets,
            times,
            from: plan.dirty_from,
            until: plan.until,
            cleaned,
            keys: Keys::new(memory),
            has_learned: false,
            unpacked: Unpacked::default(),
            pass: Pass::new(Phase::Learn),
            skipped: None,
            report,
            began,
        }
    }

    /// Goes on for about so many bytes.
    ///
    /// # Errors
    ///
    /// `Io`, `StorageFull`, `SyncFailed`: what was done stays done.
    pub(super) fn step(&mut self, log: &Shared, stretch: usize) -> Result<Progress> {
        match self.pass.phase {
            Phase::Learn => Ok(self.learn(log, stretch)),
            Phase::Clean => self.clean(log, stretch),
        }
    }

    /// Removes what was being written. Best effort: opening the log removes what is left.
    pub(super) fn abandon(&mut self, log: &Shared) {
        if let Some(output) = self.pass.output.take() {
            drop(log.site.host.remove_file(&output.path));
        }
    }

    fn learn(&mut self, log: &Shared, stretch: usize) -> Progress {
        let pass = &mut self.pass;
        let Some(target) = self.targets.get_mut(pass.at) else {
            self.begin_to_clean();
            return Progress::Going(0);
        };
        if target.end <= self.from || target.unreadable.is_some() {
            pass.next();
            return Progress::Going(0);
        }
        let opened = match pass.walk.take() {
            Some(walk) => Ok(walk),
            None => Walk::open(&log.site, &target.segment),
        };
        let (keys, unpacked, from) = (&mut self.keys, &mut self.unpacked, self.from);
        let gone = opened.and_then(|mut walk| {
            let before = walk.position();
            let pause = walk.go(stretch, |at, bytes| {
                if at.end() <= from {
                    return Ok(ControlFlow::Continue(()));
                }
                for record in walk::records(at, bytes, unpacked)?.1 {
                    let offset = record.offset.unwrap_or_default();
                    if let Some(key) = record.key.filter(|_| offset >= from) {
                        keys.note(key, offset);
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            Ok((pause, walk.position() - before, walk))
        });
        match gone {
            Ok((Pause::Stretch, read, walk)) => {
                pass.walk = Some(walk);
                Progress::Going(read)
            }
            Ok((_, read, _)) => {
                pass.next();
                Progress::Going(read)
            }
            Err(unreadable) => {
                target.unreadable = Some(unreadable);
                pass.next();
                Progress::Going(0)
            }
        }
    }

    fn begin_to_clean(&mut self) {
        self.pass = Pass::new(Phase::Clean);
        self.has_learned |= !self.keys.is_empty();
        self.skipped = None;
        self.report.passes += 1;
        self.report.peak_memory = self.report.peak_memory.max(self.keys.peak() as u64);
    }

    fn clean(&mut self, log: &Shared, stretch: usize) -> Result<Progress> {
        let Some(target) = self.targets.get(self.pass.at) else {
            return self.end_pass(log);
        };
        if target.unreadable.is_none() {
            match self.clean_some(log, stretch)? {
                Ok(progress) => return Ok(progress),
                Err(unreadable) => {
                    self.abandon(log);
                    if let Some(target) = self.targets.get_mut(self.pass.at) {
                        target.unreadable = Some(unreadable);
                    }
                }
            }
        }
        self.skip(log);
        Ok(Progress::Going(0))
    }

    /// Leaves the segment as it is, as it can't be read. (One that was deleted meanwhile is none of
    /// those.)
    fn skip(&mut self, log: &Shared) {
        let target = self.targets.get_mut(self.pass.at);
        let is_there = |target: &&mut Target| log.segments.is_current(&target.segment);
        if let Some(target) = target.filter(is_there) {
            let base = target.segment.base;
            self.skipped = Some(self.skipped.map_or(base, |lowest| lowest.min(base)));
            if !std::mem::replace(&mut target.is_reported, true) {
                self.report.segments += 1;
                self.report.skipped.push(SkippedSegment {
                    base_offset: base,
                    path: target.segment.path.clone(),
                    reason: target
                        .unreadable
                        .clone()
                        .map_or_else(String::new, |why| why.0),
                });
            }
        }
        self.pass.next();
    }

    /// Looks on through the segment, or goes on writing it anew.
    fn clean_some(&mut self, log: &Shared, stretch: usize) -> Result<Result<Progress, Unreadable>> {
        let Some(target) = self.targets.get(self.pass.at) else {
            return Ok(Ok(Progress::Going(0)));
        };
        let old = target.segment.compacted();
        let terms = Terms {
            old,
            all_clean: self.skipped.is_none() && self.keys.is_last_range(),
            drop_tombstones: self.skipped.is_none() && self.times.is_expired(old.as_ref()),
        };
        // With keys in other ranges only, the last pass has to look for tombstones.
        if !self.has_learned && terms.is_idle() {
            self.pass.next();
            return Ok(Ok(Progress::Going(0)));
        }
        if self.pass.walk.is_none() {
            match Walk::open(&log.site, &target.segment) {
                Ok(walk) => self.pass.walk = Some(walk),
                Err(unreadable) => return Ok(Err(unreadable)),
            }
        }
        if self.pass.output.is_none() {
            self.look(log, stretch, terms)
        } else {
            self.write_on(log, stretch, terms)
        }
    }

    /// Looks whether anything of the segment goes.
    fn look(
        &mut self,
        log: &Shared,
        stretch: usize,
        terms: Terms,
    ) -> Result<Result<Progress, Unreadable>> {
        let Some(walk) = &mut self.pass.walk else {
            return Ok(Ok(Progress::Going(0)));
        };
        let rules = terms.rules(&self.keys, self.until);
        let (tally, unpacked) = (&mut self.pass.tally, &mut self.unpacked);
        let before = walk.position();
        let looked = walk.go(stretch, |at, bytes| {
            rewrite::judge(at, bytes, &rules, unpacked, tally)?;
            Ok(if tally.removed > 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        });
        let read = walk.position() - before;
        let is_to_be_written = match looked {
            Err(unreadable) => return Ok(Err(unreadable)),
            Ok(Pause::Stretch) => return Ok(Ok(Progress::Going(read))),
            Ok(Pause::Stopped) => true,
            Ok(Pause::Finished) => terms.wants_stamp(tally.tombstones),
        };
        if is_to_be_written {
            walk.rewind();
            self.pass.output = Some(Output::begin(&log.site, walk)?);
        } else {
            self.end_segment(None);
        }
        Ok(Ok(Progress::Going(read)))
    }

    /// Goes on writing the segment anew.
    fn write_on(
        &mut self,
        log: &Shared,
        stretch: usize,
        terms: Terms,
    ) -> Result<Result<Progress, Unreadable>> {
        let (Some(walk), Some(output)) = (&mut self.pass.walk, &mut self.pass.output) else {
            return Ok(Ok(Progress::Going(0)));
        };
        let rules = terms.rules(&self.keys, self.until);
        let (before, start) = (walk.position(), output.position());
        let looked = walk.go(stretch, |at, bytes| {
            output.take(at, bytes, &rules)?;
            Ok(ControlFlow::Continue(()))
        });
        let done = walk.position() - before + (output.position() - start);
        match looked {
            Err(unreadable) => return Ok(Err(unreadable)),
            Ok(Pause::Finished) => {
                let cleaned = match terms.cleaned() {
                    // No sooner than the last record, where the clock is behind by now.
                    0 if terms.all_clean => self.times.now.max(walk.footer.last_time).max(1),
                    since => since,
                };
                self.replace(log, cleaned)?;
            }
            Ok(_) => output.write_some()?,
        }
        Ok(Ok(Progress::Going(done)))
    }

    /// Completes what was written, and puts it in the place of the segment.
    fn replace(&mut self, log: &Shared, cleaned: u64) -> Result<()> {
        let target = self.targets.get_mut(self.pass.at);
        let (Some(target), Some(walk), Some(output)) =
            (target, self.pass.walk.take(), self.pass.output.take())
        else {
            return Ok(());
        };
        let (path, tally) = (output.path.clone(), output.tally);
        let removed = |_: &_| drop(log.site.host.remove_file(&path));
        if output.lost_sender {
            // What its frames said of producers must be known without them.
            let known = log.snapshot_beyond(target.end);
            known.inspect_err(removed)?;
        }
        let finished = output.finish(&walk, cleaned, log.sync_kind());
        let finished = log.latch_on_failure(finished).inspect_err(removed)?;
        let old_bytes = target.segment.file_bytes();
        let swapped = log.swap_segment(&target.segment, &finished);
        if !swapped.inspect_err(removed)? {
            self.pass.next();
            return Ok(());
        }
        if let Some(new) = log.segments.at(target.segment.base) {
            target.segment = new;
        }
        let new_bytes = target.segment.file_bytes();
        self.report.replaced += 1;
        self.report.bytes_after = (self.report.bytes_after + new_bytes).saturating_sub(old_bytes);
        self.pass.tally = tally;
        self.end_segment(Some(tally));
        Ok(())
    }

    /// Counts what was found in the segment, and goes on to the next.
    fn end_segment(&mut self, replaced: Option<Tally>) {
        let tally = self.pass.tally;
        if let Some(target) = self.targets.get_mut(self.pass.at)
            && !std::mem::replace(&mut target.is_counted, true)
        {
            self.report.segments += u64::from(!target.is_reported);
            self.report.records_before += tally.records;
            self.report.records_after += tally.records;
        }
        if let Some(tally) = replaced {
            self.report.records_after = self.report.records_after.saturating_sub(tally.removed);
            self.report.tombstones_removed += tally.removed_tombstones;
        }
        self.pass.next();
    }

    /// All segments that this pass is about are done.
    fn end_pass(&mut self, log: &Shared) -> Result<Progress> {
        if !self.keys.is_last_range() {
            self.keys.next_range();
            self.pass = Pass::new(Phase::Learn);
            return Ok(Progress::Going(0));
        }
        let cleaned = plan::after_passes(self.cleaned, self.until, self.skipped);
        if cleaned != self.cleaned {
            log.note_cleaned(cleaned)?;
            self.cleaned = cleaned;
        }
        self.report.clean_below = cleaned.below;
        let now = log.site.host.monotonic();
        self.report.elapsed = now.saturating_sub(self.began);
        Ok(Progress::Done)
    }
}
