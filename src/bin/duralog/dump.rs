//! `duralog dump`: records as they are stored, for people.

use std::{io::Write, num::NonZeroU64, path::PathBuf, time::Duration};

use duralog::{Batch, Compression, Error, ErrorKind, Gap, Log, Offset, RecordRef, Start};

use crate::{
    Outcome,
    failure::Failure,
    json,
    output::results,
    text::{Quoted, Utc},
};

/// Print records with all that is stored about them.
///
/// A record a line: its offset, when it was appended, its own time if it has one, how it is
/// compressed if it is, its key, value and headers, with escapes for what is not printable. Gaps
/// are printed where they are met; so are offsets that are compressed in a way that this build
/// does not read. Changes nothing, and works while the log is being written.
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
    /// Print a JSON object a line: what `consume --format json` prints, and `append_time`,
    /// `own_timestamp` and `compression`.
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
        let behind = match reader.poll(Duration::ZERO) {
            Ok(batch) if batch.is_empty() && batch.gaps().is_empty() => break,
            Ok(batch) => {
                print(&mut out, &batch, args.json, &mut left)?;
                continue;
            }
            Err(error) => print_undecoded(&mut out, error, args.json)?,
        };
        reader.seek(behind)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// Prints which offsets this build can't decompress; returns the one behind them.
fn print_undecoded(out: &mut impl Write, error: Error, as_json: bool) -> Result<Offset, Failure> {
    let ErrorKind::CompressionUnsupported {
        codec, from, to, ..
    } = *error.kind()
    else {
        return Err(error.into());
    };
    if as_json {
        json::write_undecoded(out, from, to, codec)?;
    } else {
        let lacking = "their checksum matches, but this build lacks the feature to decompress them";
        writeln!(out, "{codec}: offsets {from} to {to}; {lacking}")?;
    }
    Ok(to)
}

/// Prints records and gaps in the order of their offsets, as many records as are `left`.
fn print(
    out: &mut impl Write,
    batch: &Batch<'_>,
    as_json: bool,
    left: &mut u64,
) -> Result<(), Failure> {
    let mut gaps = batch.gaps().iter().peekable();
    let mut frames = batch.frames().peekable();
    for record in batch {
        let offset = record.offset().unwrap_or_default();
        if *left == 0 {
            return Ok(());
        }
        while let Some(gap) = gaps.next_if(|gap| gap.from < offset) {
            print_gap(out, gap, as_json)?;
        }
        while frames.next_if(|frame| frame.to <= offset).is_some() {}
        let compression = frames.peek().map_or(Compression::None, |f| f.compression);
        print_record(out, &record, compression, as_json)?;
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
    compression: Compression,
    as_json: bool,
) -> Result<(), Failure> {
    if as_json {
        return Ok(json::write_stored_record(out, record, compression)?);
    }
    let offset = record.offset().unwrap_or_default();
    write!(out, "{offset}  {}", Utc(record.append_time()))?;
    if let Some(time) = record.own_timestamp() {
        write!(out, "  time {}", Utc(time))?;
    }
    if compression != Compression::None {
        write!(out, "  {}", compression.name())?;
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
