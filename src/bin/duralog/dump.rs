//! `duralog dump`: records as they are stored, for people.

use std::{io::Write, num::NonZeroU64, path::PathBuf, time::Duration};

use duralog::{Batch, Gap, Log, Offset, RecordRef, Start};

use crate::{
    Outcome,
    failure::Failure,
    json,
    output::results,
    text::{Quoted, Utc},
};

/// Print records with all that is stored about them.
///
/// A record a line: its offset, when it was appended, its own time if it has one, its key, value
/// and headers, with escapes for what is not printable. Gaps are printed where they are met.
/// Changes nothing, and works while the log is being written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// The offset to start at [default: the first there is].
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// End after N records.
    #[arg(long, value_name = "N")]
    max: Option<NonZeroU64>,
    /// Print a JSON object a line: what `consume --format json` prints, and `append_time` and
    /// `own_timestamp`.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let log = Log::open_read_only(&args.dir)?;
    let end = log.log_end_offset()?;
    let start = args
        .from
        .map_or(Start::Earliest, |from| Start::At(Offset::new(from)));
    let mut reader = log.reader().start(start).build()?;
    let mut out = results();
    let mut left = args.max.map_or(u64::MAX, NonZeroU64::get);
    while left > 0 && reader.position() < end {
        let batch = reader.poll(Duration::ZERO)?;
        if batch.is_empty() && batch.gaps().is_empty() {
            break;
        }
        print(&mut out, &batch, args.json, &mut left)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// Prints records and gaps in the order of their offsets, as many records as are `left`.
fn print(
    out: &mut impl Write,
    batch: &Batch<'_>,
    as_json: bool,
    left: &mut u64,
) -> Result<(), Failure> {
    let mut gaps = batch.gaps().iter().peekable();
    for record in batch {
        let offset = record.offset().unwrap_or_default();
        if *left == 0 {
            return Ok(());
        }
        while let Some(gap) = gaps.next_if(|gap| gap.from < offset) {
            print_gap(out, gap, as_json)?;
        }
        print_record(out, &record, as_json)?;
        *left -= 1;
    }
    for gap in gaps {
        print_gap(out, gap, as_json)?;
    }
    Ok(())
}

fn print_gap(out: &mut impl Write, gap: &Gap, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return Ok(json::write_gap(out, gap)?);
    }
    let Gap {
        from, to, reason, ..
    } = gap;
    Ok(writeln!(
        out,
        "gap: offsets {from} to {to} are missing ({reason})"
    )?)
}

fn print_record(
    out: &mut impl Write,
    record: &RecordRef<'_>,
    as_json: bool,
) -> Result<(), Failure> {
    if as_json {
        return Ok(json::write_stored_record(out, record)?);
    }
    let offset = record.offset().unwrap_or_default();
    write!(out, "{offset}  {}", Utc(record.append_time()))?;
    if let Some(time) = record.own_timestamp() {
        write!(out, "  time {}", Utc(time))?;
    }
    if let Some(key) = record.key() {
        write!(out, "  key {}", Quoted(key))?;
    }
    match record.value() {
        Some(value) => write!(out, "  value {}", Quoted(value))?,
        None => write!(out, "  tombstone")?,
    }
    for (name, value) in record.headers() {
        write!(
            out,
            "  header {}={}",
            Quoted(name.as_bytes()),
            Quoted(value)
        )?;
    }
    Ok(writeln!(out)?)
}
