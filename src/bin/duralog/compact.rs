//! `duralog compact`: keeps the last record of each key, now.

use std::{io::Write, path::PathBuf};

use duralog::{CompactionReport, Log, SkippedSegment};
use serde_json::{Value, json};

use crate::{Outcome, failure::Failure, output::results, text::millis};

/// Compact the log now, and print what went.
///
/// Of each key the last record is kept, with its offset; the active segment is left alone. The
/// log's own options say how long tombstones are kept, and what is too young. Nobody else may have
/// the log open for writing. Exit status 3 if a segment could not be read, and so was skipped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    // Before anything is touched: opening would make a log, and recover one.
    let options = Log::open_read_only(&args.dir)?.options();
    if !options.cleanup_policy.compacts() {
        let dir = args.dir.clone();
        return Err(Failure::NotCompacted { dir });
    }
    let log = Log::options().clean_in_background(false).open(&args.dir)?;
    let report = log.compact()?;
    log.close()?;
    let outcome = if report.skipped.is_empty() {
        Outcome::Done
    } else {
        Outcome::Damaged
    };
    match print(&report, args.json) {
        // It is done, even if nobody reads what went.
        Err(failure) if failure.is_closed_output() => Ok(outcome),
        result => result.map(|()| outcome),
    }
}

fn print(report: &CompactionReport, as_json: bool) -> Result<(), Failure> {
    let mut out = results();
    if as_json {
        writeln!(out, "{}", json_of(report))?;
    } else {
        for skipped in &report.skipped {
            writeln!(out, "skipped: {skipped}")?;
        }
        print_summary(&mut out, report)?;
    }
    Ok(out.flush()?)
}

fn print_summary(out: &mut impl Write, report: &CompactionReport) -> Result<(), Failure> {
    let (segments, replaced) = (report.segments, report.replaced);
    writeln!(
        out,
        "segments: {segments} looked through, {replaced} replaced"
    )?;
    if segments == 0 {
        let left = "the active segment, and what is too young, or compacted already, is left alone";
        writeln!(out, "{left}")?;
    }
    let (before, after) = (report.records_before, report.records_after);
    let gone = before - after;
    writeln!(out, "records: {before} to {after}, {gone} removed")?;
    if report.tombstones_removed > 0 {
        writeln!(out, "tombstones: {} of them", report.tombstones_removed)?;
    }
    let (before, after) = (report.bytes_before, report.bytes_after);
    writeln!(out, "bytes: {before} to {after}")?;
    let (passes, memory) = (report.passes, report.peak_memory);
    writeln!(
        out,
        "passes: {passes}, with {memory} bytes of memory for keys"
    )?;
    writeln!(out, "compacted below: {}", report.clean_below)?;
    Ok(())
}

fn json_of(report: &CompactionReport) -> Value {
    let skipped: Vec<_> = report.skipped.iter().map(skipped_json).collect();
    json!({
        "segments": report.segments,
        "replaced": report.replaced,
        "skipped": skipped,
        "records_before": report.records_before,
        "records_after": report.records_after,
        "tombstones_removed": report.tombstones_removed,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "passes": report.passes,
        "peak_memory": report.peak_memory,
        "clean_below": report.clean_below.get(),
        "elapsed_ms": millis(report.elapsed),
    })
}

fn skipped_json(skipped: &SkippedSegment) -> Value {
    json!({
        "base_offset": skipped.base_offset.get(),
        "path": skipped.path.to_string_lossy(),
        "reason": skipped.reason,
    })
}
