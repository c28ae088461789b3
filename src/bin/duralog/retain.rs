//! `duralog retain`: deletes what is to go, now.

use std::{io::Write, path::PathBuf, time::Duration};

use duralog::{Log, Retention, RetentionReport};
use serde_json::{Value, json};

use crate::{Outcome, failure::Failure, output::results, text::millis};

/// Delete old segments now, and print what went.
///
/// By the log's own limits, or by those given here instead of them, which are not stored. Whole
/// segments go, the oldest first. Groups hold back what they do by the log's options. Nobody else
/// may have the log open for writing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Delete segments whose newest record was appended this long ago or longer, in milliseconds.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    max_age: Option<u64>,
    /// Delete segments until the rest has at most this many bytes; the active one stays.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_bytes: Option<u64>,
    /// Delete segments until there are at most this many; the active one stays.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_segments: Option<u64>,
    /// Print what would go, and delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    // Before anything is touched: opening would make a log.
    drop(Log::open_read_only(&args.dir)?);
    let log = Log::options().clean_in_background(false).open(&args.dir)?;
    let report = match (args.limits(), args.dry_run) {
        (None, true) => log.plan_retention(),
        (None, false) => log.enforce_retention(),
        (Some(limits), true) => log.plan_retention_of(limits),
        (Some(limits), false) => log.enforce_retention_of(limits),
    }?;
    log.close()?;
    let mut out = results();
    if args.json {
        writeln!(out, "{}", json_of(&report))?;
    } else {
        print(&mut out, &report, args.dry_run)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

impl Args {
    /// The limits given here, if any.
    fn limits(&self) -> Option<Retention> {
        let mut limits = Retention::new();
        if let Some(age) = self.max_age {
            limits = limits.max_age(Duration::from_millis(age));
        }
        if let Some(bytes) = self.max_bytes {
            limits = limits.max_bytes(bytes);
        }
        if let Some(segments) = self.max_segments {
            limits = limits.max_segments(segments);
        }
        (limits != Retention::new()).then_some(limits)
    }
}

fn print(out: &mut impl Write, report: &RetentionReport, is_dry: bool) -> Result<(), Failure> {
    let went = if is_dry { "would go" } else { "deleted" };
    for deleted in &report.deleted {
        let (base, end) = (deleted.base_offset, deleted.end_offset);
        let (records, bytes, reason) = (deleted.records, deleted.bytes, deleted.reason);
        writeln!(
            out,
            "{went}: {base} to {end}, {records} records, {bytes} bytes, by {reason}"
        )?;
    }
    for held in &report.held_back {
        let (group, at) = (&held.group, held.committed);
        let (segments, bytes) = (held.segments, held.bytes);
        writeln!(
            out,
            "held back: by group {group} at {at}, {segments} segments, {bytes} bytes"
        )?;
    }
    for loss in &report.losses {
        let (group, records) = (&loss.group, loss.records);
        writeln!(out, "not committed: group {group}, {records} records")?;
    }
    for warning in &report.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for group in &report.stale_groups {
        writeln!(out, "stale: group {group}")?;
    }
    let (segments, records) = (report.deleted.len(), report.records());
    let bytes = report.bytes();
    writeln!(
        out,
        "{went}: {segments} segments, {records} records, {bytes} bytes"
    )?;
    writeln!(out, "log start:  {}", report.log_start_offset)?;
    Ok(())
}

fn json_of(report: &RetentionReport) -> Value {
    let deleted = report.deleted.iter().map(|deleted| {
        json!({
            "base_offset": deleted.base_offset.get(),
            "end_offset": deleted.end_offset.get(),
            "records": deleted.records,
            "bytes": deleted.bytes,
            "reason": deleted.reason.to_string(),
        })
    });
    let held_back = report.held_back.iter().map(|held| {
        json!({
            "group": held.group,
            "committed": held.committed.get(),
            "segments": held.segments,
            "bytes": held.bytes,
        })
    });
    let losses = report.losses.iter();
    let losses = losses.map(|loss| json!({ "group": loss.group, "records": loss.records }));
    let warnings = report.warnings.iter().map(|warning| {
        json!({
            "group": warning.group,
            "records": warning.records,
            "within_ms": millis(warning.within),
        })
    });
    json!({
        "deleted": deleted.collect::<Vec<_>>(),
        "held_back": held_back.collect::<Vec<_>>(),
        "losses": losses.collect::<Vec<_>>(),
        "warnings": warnings.collect::<Vec<_>>(),
        "stale_groups": report.stale_groups,
        "records": report.records(),
        "bytes": report.bytes(),
        "log_start_offset": report.log_start_offset.get(),
    })
}
