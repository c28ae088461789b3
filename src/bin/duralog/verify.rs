//! `duralog verify`: reads everything, and tells what is damaged.

use std::{io::Write, path::PathBuf};

use duralog::{Damage, Log, VerifyReport};
use serde_json::{Value, json};

use crate::{Outcome, failure::Failure, output::results};

/// Read everything, check every checksum, and list what is damaged.
///
/// Changes nothing, and works while the log is being written. Exit status 3 if something is
/// damaged. Unproven bytes, behind the last record, are no damage: nobody was told that they are
/// stored.
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
    let report = Log::open_read_only(&args.dir)?.verify()?;
    let outcome = if report.damage.is_empty() {
        Outcome::Done
    } else {
        Outcome::Damaged
    };
    match print(&report, args.json) {
        // The exit status tells it, even if nobody reads the rest.
        Err(failure) if failure.is_closed_output() => Ok(outcome),
        result => result.map(|()| outcome),
    }
}

fn print(report: &VerifyReport, as_json: bool) -> Result<(), Failure> {
    let mut out = results();
    if as_json {
        writeln!(out, "{}", json_of(report))?;
    } else {
        for damage in &report.damage {
            writeln!(out, "damage: {damage}")?;
        }
        print_summary(&mut out, report)?;
    }
    Ok(out.flush()?)
}

fn print_summary(out: &mut impl Write, report: &VerifyReport) -> Result<(), Failure> {
    let (segments, frames, bytes) = (report.segments, report.frames, report.bytes);
    writeln!(
        out,
        "read: {segments} segments, {frames} frames, {bytes} bytes"
    )?;
    if report.compressed_frames > 0 {
        let (frames, undecoded) = (report.compressed_frames, report.undecoded_frames);
        write!(out, "compressed: {frames} frames")?;
        if undecoded > 0 {
            let why = "this build lacks the feature to decompress them";
            write!(
                out,
                ", of {undecoded} only the checksum was checked ({why})"
            )?;
        }
        writeln!(out)?;
    }
    let (start, end) = (report.log_start_offset, report.log_end_offset);
    let durable = report.durable_offset;
    writeln!(out, "offsets: {start} to {end}, durable below {durable}")?;
    if report.unproven_bytes > 0 {
        let bytes = report.unproven_bytes;
        writeln!(out, "unproven: {bytes} bytes behind the last record")?;
    }
    writeln!(out, "damaged places: {}", report.damage.len())?;
    Ok(())
}

fn json_of(report: &VerifyReport) -> Value {
    let damage: Vec<_> = report.damage.iter().map(damage_json).collect();
    json!({
        "segments": report.segments,
        "frames": report.frames,
        "compressed_frames": report.compressed_frames,
        "undecoded_frames": report.undecoded_frames,
        "bytes": report.bytes,
        "log_start_offset": report.log_start_offset.get(),
        "log_end_offset": report.log_end_offset.get(),
        "durable_offset": report.durable_offset.get(),
        "damage": damage,
        "unproven_bytes": report.unproven_bytes,
    })
}

fn damage_json(damage: &Damage) -> Value {
    json!({
        "path": damage.path.to_string_lossy(),
        "position": damage.position,
        "from": damage.from.get(),
        "to": damage.to.get(),
        "reason": damage.reason,
    })
}
