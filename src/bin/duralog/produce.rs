//! `duralog produce`: a record for each line of standard input.

use std::{
    io::{self, BufWriter, StdoutLock, Write},
    mem,
    num::NonZeroUsize,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use duralog::{
    FlushPolicy, Log, LogOptions, Offset, Producer, Receipt, RecordRef, RecoveryReport,
    SequencedReceipt,
};
use memchr::memmem::Finder;

use crate::{
    Outcome,
    failure::Failure,
    lines::{Batch, Limits, Lines, Next},
    output::{note, results},
};

/// Largest batch: what one frame should hold.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Most bytes sent ahead of what acknowledges them, while more input is there; and for how long.
const MAX_UNSETTLED_BYTES: usize = 1 << 20;
const MAX_UNSETTLED_TIME: Duration = Duration::from_millis(5);

/// Append a record for each line of standard input; print their offsets.
///
/// A record is a line without its newline, whatever its bytes; an empty line is an empty record,
/// and a last line without a newline is a record. Each offset is printed, on a line of its own,
/// once the record has reached its ack level. The directory and the log are made if there are
/// none. Lines of a batch are in the log after any crash all together or not at all.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// When a record counts as sent.
    #[arg(long, value_enum, default_value_t = Acks::Durable)]
    acks: Acks,
    /// Split each line at the first S into a key and a value; a line without S has no key.
    #[arg(long, value_name = "S", value_parser = parse_separator)]
    key_separator: Option<String>,
    /// From now on, have the log sync whenever N records are not durable.
    #[arg(long, value_name = "N")]
    flush_messages: Option<u64>,
    /// From now on, have the log sync when a record that is not durable is MS milliseconds old.
    #[arg(long, value_name = "MS")]
    flush_interval: Option<u64>,
    /// Close a batch at N lines. It also closes when the input pauses, and at 1 MiB or half a
    /// segment.
    #[arg(long, value_name = "N", default_value = "1000")]
    batch: NonZeroUsize,
    /// How records are compressed, a batch at a time; `lz4` needs a build with that feature.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    /// Let the lines of a batch wait for others for MS milliseconds when the input pauses; by default
    /// one.
    #[arg(long, value_name = "MS")]
    linger: Option<u64>,
    /// From now on, start a new segment at N bytes.
    #[arg(long, value_name = "N")]
    segment_bytes: Option<u64>,
    /// Append each line once, however often the same input is given: line number i, from 0, is the
    /// record with sequence i of the producer NAME, and what the log has of it already is left out.
    /// Lines are told by their numbers alone: another input under the same name is not noticed.
    #[arg(long, value_name = "NAME")]
    producer: Option<String>,
    /// Print no offsets, but a summary at the end.
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Acks {
    /// Once it is handed over; a crash may lose it.
    None,
    /// Once it is in the page cache; it survives the end of this process.
    Written,
    /// Once it is on the device; it survives a power cut.
    Durable,
}

impl From<Acks> for duralog::Acks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::None => Self::None,
            Acks::Written => Self::Written,
            Acks::Durable => Self::Durable,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compression {
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
}

impl From<Compression> for duralog::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
        }
    }
}

fn parse_separator(separator: &str) -> Result<String, &'static str> {
    if separator.is_empty() {
        Err("it is empty")
    } else if separator.contains('\n') {
        Err("no line has a newline in it")
    } else {
        Ok(separator.to_owned())
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let compression = duralog::Compression::from(args.compression);
    if !compression.is_available() {
        // Before a log is made that nothing is written to.
        return Err(Failure::NoCompression(compression.name()));
    }
    let log = args.options().open(&args.dir)?;
    tell_recovery(log.recovery());
    let produced = produce(&log, args);
    let closed = log.close();
    produced?;
    closed?;
    Ok(Outcome::Done)
}

impl Args {
    fn options(&self) -> LogOptions {
        let mut options = Log::options();
        if let Some(policy) = self.flush_policy() {
            options = options.flush(policy);
        }
        if let Some(bytes) = self.segment_bytes {
            options = options.segment_bytes(bytes);
        }
        options
    }

    fn flush_policy(&self) -> Option<FlushPolicy> {
        let interval = self.flush_interval.map(Duration::from_millis);
        match (self.flush_messages, interval) {
            (None, None) => None,
            (Some(messages), None) => Some(FlushPolicy::every_messages(messages)),
            (None, Some(interval)) => Some(FlushPolicy::every(interval)),
            (Some(messages), Some(interval)) => {
                Some(FlushPolicy::every_messages(messages).or_every(interval))
            }
        }
    }
}

fn tell_recovery(found: &RecoveryReport) {
    for damage in &found.damage {
        note(format_args!("damage: {damage}"));
    }
    if found.cut_bytes > 0 {
        let bytes = found.cut_bytes;
        note(format_args!(
            "recovery cut {bytes} bytes of an incomplete tail"
        ));
    }
    for path in &found.quarantined {
        note(format_args!("they are kept in {}", path.display()));
    }
    if let Some(lost) = &found.lost_tail {
        let (from, to, most) = (lost.start, lost.end, lost.end.since(lost.start));
        note(format_args!(
            "lost tail: offsets {from} to {to} are skipped; at most {most} records were lost"
        ));
    }
    for (group, committed) in &found.groups_ahead {
        note(format_args!(
            "group {group} had committed {committed}, which did not survive; it goes on behind the gap"
        ));
    }
}

fn produce(log: &Log, args: &Args) -> Result<(), Failure> {
    let mut producer = log.producer().acks(args.acks.into());
    producer = producer.compression(args.compression.into());
    if let Some(name) = &args.producer {
        producer = producer.name(name);
    }
    let producer = producer.build()?;
    let mut lines = Lines::read(io::stdin(), limits(args)?);
    let mut sender = Sender {
        sequence: producer.name().map(|_| 0),
        producer,
        separator: args.key_separator.as_deref().map(Finder::new),
        records: Vec::new(),
        unsettled: Vec::new(),
        unsettled_bytes: 0,
        unsettled_since: Instant::now(),
        report: Report::new(args.quiet),
    };
    let sent = sender.send_all(&mut lines);
    // Whatever went wrong, what was acknowledged before is told.
    let settled = sender.settle();
    let finished = sender.report.finish();
    sent.and(settled).and(finished)
}

fn limits(args: &Args) -> Result<Limits, Failure> {
    let options = Log::open_read_only(&args.dir)?.options();
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(Limits {
        lines: args.batch.get(),
        // A frame must fit a segment; half of one wastes little of its end.
        batch_bytes: MAX_BATCH_BYTES.min(size(options.segment_bytes / 2)),
        line_bytes: size(options.max_record_bytes),
        linger: args.linger.map(Duration::from_millis),
    })
}

/// Sends batches, and waits for what they are acknowledged by.
struct Sender<'s> {
    producer: Producer,
    /// Of the next line, if lines have sequences.
    sequence: Option<u64>,
    separator: Option<Finder<'s>>,
    /// Empty between batches, kept for its memory.
    records: Vec<RecordRef<'static>>,
    /// What was sent and not acknowledged yet.
    unsettled: Vec<Sent>,
    unsettled_bytes: usize,
    unsettled_since: Instant,
    report: Report,
}

/// A batch that was sent.
struct Sent {
    receipt: Sending,
    records: u64,
}

/// What tells when it is acknowledged.
enum Sending {
    Plain(Receipt),
    Sequenced(SequencedReceipt),
}

impl Sending {
    /// Waits for it; the first offset of what was appended, and how many of `records` that is.
    fn wait(self, records: u64) -> duralog::Result<(Offset, u64)> {
        match self {
            Self::Plain(receipt) => Ok((receipt.wait()?, records)),
            Self::Sequenced(receipt) => {
                let (first, known) = (receipt.appended().start, receipt.duplicates());
                receipt.wait()?;
                Ok((first, records - known))
            }
        }
    }
}

impl Sender<'_> {
    fn send_all(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        loop {
            match lines.next()? {
                Next::Batch(batch) => self.send(&batch)?,
                Next::Waiting => self.settle()?,
                Next::End => return Ok(()),
            }
        }
    }

    /// Sends a batch. One sync acknowledges everything sent before it, and one write tells all of
    /// their offsets: so while more input is there, batches are sent ahead, up to a limit.
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), Failure> {
        let receipt = self.append(batch).map_err(|source| Failure::Append {
            lines: batch.numbers(),
            source,
        })?;
        let records = batch.len() as u64;
        if self.unsettled.is_empty() {
            self.unsettled_since = Instant::now();
        }
        self.unsettled.push(Sent { receipt, records });
        self.unsettled_bytes += batch.bytes() + size_of::<Sent>();
        let enough = self.unsettled_bytes >= MAX_UNSETTLED_BYTES
            || self.unsettled_since.elapsed() >= MAX_UNSETTLED_TIME;
        if enough { self.settle() } else { Ok(()) }
    }

    fn append(&mut self, batch: &Batch<'_>) -> duralog::Result<Sending> {
        let mut records: Vec<RecordRef<'_>> = mem::take(&mut self.records);
        match &self.separator {
            None => records.extend(batch.lines().map(RecordRef::new)),
            Some(separator) => records.extend(batch.lines().map(|line| split(line, separator))),
        }
        let receipt = match (self.sequence, records.as_slice()) {
            (Some(first), records) => {
                let receipt = self.producer.send_batch_sequenced(first, records)?;
                self.sequence = Some(first + records.len() as u64);
                Sending::Sequenced(receipt)
            }
            // Alone, a record has a shorter form.
            (None, &[record]) => Sending::Plain(self.producer.send(record)?),
            (None, records) => Sending::Plain(self.producer.send_batch(records)?),
        };
        self.records = recycled(records);
        Ok(receipt)
    }

    /// Waits until everything sent is acknowledged, and tells the offsets.
    fn settle(&mut self) -> Result<(), Failure> {
        self.unsettled_bytes = 0;
        let settled = self.unsettled.drain(..).try_for_each(|sent| {
            let (first, records) = sent.receipt.wait(sent.records)?;
            self.report.known += sent.records - records;
            self.report.add(first, records)
        });
        let told = self.report.flush();
        settled.and(told)
    }
}

/// Splits a line into key and value.
fn split<'l>(line: &'l [u8], separator: &Finder<'_>) -> RecordRef<'l> {
    let Some(at) = separator.find(line) else {
        return RecordRef::new(line);
    };
    let (key, rest) = line.split_at(at);
    let value = rest.get(separator.needle().len()..).unwrap_or_default();
    RecordRef::new(value).with_key(key)
}

/// An empty vector in the memory of another one, for records that borrow from something else.
fn recycled<'a>(mut records: Vec<RecordRef<'_>>) -> Vec<RecordRef<'a>> {
    records.clear();
    records.into_iter().map_while(|_| None).collect()
}

/// Tells which offsets were acknowledged.
struct Report {
    out: BufWriter<StdoutLock<'static>>,
    quiet: bool,
    records: u64,
    /// Lines that were in the log before.
    known: u64,
    first: Option<Offset>,
    end: Offset,
}

impl Report {
    fn new(quiet: bool) -> Self {
        Self {
            out: results(),
            quiet,
            records: 0,
            known: 0,
            first: None,
            end: Offset::ZERO,
        }
    }

    fn add(&mut self, first: Offset, records: u64) -> Result<(), Failure> {
        if records == 0 {
            return Ok(());
        }
        self.records += records;
        self.first.get_or_insert(first);
        self.end = first.advance(records);
        if self.quiet {
            return Ok(());
        }
        for offset in first.get()..self.end.get() {
            writeln!(self.out, "{offset}")?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// The summary, if that is what is to be told.
    fn finish(&mut self) -> Result<(), Failure> {
        if self.quiet {
            write!(self.out, "records: {}", self.records)?;
            if let Some(first) = self.first {
                let last = self.end.get().saturating_sub(1);
                write!(self.out, ", first offset: {first}, last offset: {last}")?;
            }
            writeln!(self.out)?;
        }
        if self.known > 0 {
            note(format_args!("{} lines were in the log before", self.known));
        }
        self.flush()
    }
}
