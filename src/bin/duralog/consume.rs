//! `duralog consume`: the records of a group, to standard output.

use std::{
    io::{BufWriter, StdoutLock, Write},
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use duralog::{
    Batch, Consumer, Gap, Log, Offset, ReadOnlyLog, Reader, RecordRef, Reset, ResetReason, Start,
};

use crate::{
    Outcome,
    failure::{Failure, chain},
    json,
    output::{note, results},
    text,
};

/// Most records polled at once; bytes are what limits a poll.
const POLL_RECORDS: usize = 10_000;
/// How long one look for news takes with `--follow`.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);

/// Print the records that a group has not seen; commit what was printed.
///
/// Reads what is there, and ends; with --follow it goes on. A `produce` may be writing meanwhile.
/// Records are committed once they were written out and flushed: whatever ends this command, the
/// next one prints the same records again rather than skip any. Into a pipe, that is what the pipe
/// has taken, not what its reader has done; --max bounds it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// The group; it is made if there is none of this name.
    #[arg(long, value_name = "G")]
    group: String,
    /// Where a new group starts: "earliest" (the default), "latest", an offset, or @ and a time
    /// in milliseconds since 1970. A group that exists goes on from its commit.
    #[arg(long, value_name = "WHERE", value_parser = text::parse_start)]
    from: Option<Start>,
    /// End after N records.
    #[arg(long, value_name = "N")]
    max: Option<NonZeroUsize>,
    /// Commit after every N records, and at the end [default: after each batch that was read].
    #[arg(long, value_name = "N")]
    commit_every: Option<NonZeroU64>,
    /// Commit nothing, and neither make nor hold the group: only look.
    #[arg(long)]
    no_commit: bool,
    /// At the end of the log, wait for more.
    #[arg(long)]
    follow: bool,
    /// Leave out what a power cut could still take back.
    #[arg(long)]
    durable_only: bool,
    /// How records are printed.
    #[arg(long, value_enum, default_value_t = Format::Value)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The bytes of each value and a newline; a record without a value (a tombstone) is an empty
    /// line. Gaps are told on standard error.
    Value,
    /// An object a line: {"offset","timestamp","key","value","headers"}, the headers as
    /// [{"name","value"}]. Key, value and headers' values are strings; if one of them is not
    /// UTF-8, all of them are base64, and the object has "encoding":"base64". A gap is
    /// {"gap":{"from","to","reason"}}.
    Json,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let log = Log::open_read_only(&args.dir)?;
    let end = args.end(&log)?;
    let mut feed = Feed {
        source: args.source(&log)?,
        args,
        out: results(),
        page: Page::default(),
        left: args.max.map(NonZeroUsize::get),
    };
    feed.run(end)?;
    Ok(Outcome::Done)
}

impl Args {
    /// Where the log ends now, unless more is to be waited for.
    fn end(&self, log: &ReadOnlyLog) -> Result<Option<Offset>, Failure> {
        Ok(if self.follow {
            None
        } else if self.durable_only {
            Some(log.durable_offset()?)
        } else {
            Some(log.log_end_offset()?)
        })
    }

    fn source(&self, log: &ReadOnlyLog) -> Result<Source, Failure> {
        let start = self.from.unwrap_or_default();
        let records = POLL_RECORDS.min(self.max.map_or(usize::MAX, NonZeroUsize::get));
        if self.no_commit {
            let committed = self.committed(log)?;
            let builder = log
                .reader()
                .start(committed.map_or(start, Start::At))
                .max_poll_records(records)
                .durable_only(self.durable_only);
            return Ok(Source::Look(Box::new(builder.build()?)));
        }
        if self.from.is_some() {
            self.committed(log)?;
        }
        let builder = log
            .consumer(&self.group)
            .start(start)
            .max_poll_records(records)
            .durable_only(self.durable_only);
        let consumer = builder.build()?;
        if let Some(reset) = consumer.reset() {
            tell_reset(consumer.group(), reset);
        }
        Ok(Source::Group(Box::new(consumer)))
    }

    /// The committed offset of the group, if there is the group; says so if `--from` is in vain.
    fn committed(&self, log: &ReadOnlyLog) -> Result<Option<Offset>, Failure> {
        let groups = log.groups()?;
        let Some(found) = groups.into_iter().find(|group| group.name == self.group) else {
            return Ok(None);
        };
        let committed = match found.committed {
            // Whoever holds it starts it anew, and says so.
            Err(error) if error.is_corruption() && !self.no_commit => return Ok(None),
            committed => committed?,
        };
        if self.from.is_some() {
            let group = &self.group;
            note(format_args!(
                "group {group} exists and goes on from its commit, {committed}; --from is for new groups"
            ));
        }
        Ok(Some(committed))
    }
}

/// A group goes on elsewhere than at its commit.
fn tell_reset(group: &str, Reset { reason, to, .. }: &Reset) {
    match reason {
        ResetReason::AheadOfEnd { committed } => note(format_args!(
            "group {group} had committed {committed}, beyond the end of the log; it goes on at {to}"
        )),
        ResetReason::Damaged { error } => note(format_args!(
            "what group {group} had committed is damaged ({}); it goes on at {to}",
            chain(error)
        )),
        _ => note(format_args!("group {group} goes on at {to}: {reason:?}")),
    }
}

/// Where records come from.
enum Source {
    Group(Box<Consumer>),
    Look(Box<Reader>),
}

impl Source {
    fn poll(&mut self, timeout: Duration) -> duralog::Result<Batch<'_>> {
        match self {
            Self::Group(consumer) => consumer.poll(timeout),
            Self::Look(reader) => reader.poll(timeout),
        }
    }

    fn position(&self) -> Offset {
        match self {
            Self::Group(consumer) => consumer.position(),
            Self::Look(reader) => reader.position(),
        }
    }

    fn commit(&mut self, offset: Offset) -> duralog::Result<()> {
        match self {
            Self::Group(consumer) => consumer.commit_offset(offset),
            Self::Look(_) => Ok(()),
        }
    }
}

/// From the log to standard output, and back as commits.
struct Feed<'a> {
    source: Source,
    args: &'a Args,
    out: BufWriter<StdoutLock<'static>>,
    page: Page,
    /// How many records may still be printed, if there is a limit.
    left: Option<usize>,
}

impl Feed<'_> {
    fn run(&mut self, end: Option<Offset>) -> Result<(), Failure> {
        let wait = end.map_or(FOLLOW_WAIT, |_| Duration::ZERO);
        while self.left != Some(0) && end.is_none_or(|end| self.source.position() < end) {
            let batch = self.source.poll(wait)?;
            if !batch.is_empty() || !batch.gaps().is_empty() {
                let is_whole = self.page.fill(&batch, self.args, &mut self.left)?;
                self.deliver(is_whole)?;
            } else if !self.args.follow {
                break;
            }
        }
        self.commit_rest()
    }

    /// Writes the page out, and commits on the way what was flushed.
    fn deliver(&mut self, is_whole: bool) -> Result<(), Failure> {
        if is_whole {
            // Gaps behind the last record are passed as well.
            self.page.end = Some(self.source.position());
        }
        let mut written = 0;
        for &(until, offset) in &self.page.commits {
            let part = self.page.bytes.get(written..until).unwrap_or_default();
            self.out.write_all(part)?;
            self.out.flush()?;
            self.source.commit(offset)?;
            written = until;
        }
        let rest = self.page.bytes.get(written..).unwrap_or_default();
        self.out.write_all(rest)?;
        self.out.flush()?;
        if self.args.commit_every.is_none() {
            self.commit_rest()?;
        }
        Ok(())
    }

    fn commit_rest(&mut self) -> Result<(), Failure> {
        if let Some(end) = self.page.end.take() {
            self.source.commit(end)?;
        }
        Ok(())
    }
}

/// The printed form of one poll: a batch can't be held while a part of it is committed.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    /// Where to commit: after how many bytes, and which offset.
    commits: Vec<(usize, Offset)>,
    /// The offset behind everything printed so far, if it is not committed.
    end: Option<Offset>,
    /// Records printed since the last commit.
    uncommitted: u64,
}

impl Page {
    /// Replaces the page by the records and gaps of a batch; whether all of them are on it.
    fn fill(
        &mut self,
        batch: &Batch<'_>,
        args: &Args,
        left: &mut Option<usize>,
    ) -> Result<bool, Failure> {
        self.bytes.clear();
        self.commits.clear();
        let mut gaps = batch.gaps().iter().peekable();
        for record in batch {
            let offset = record.offset().unwrap_or_default();
            if *left == Some(0) {
                return Ok(false);
            }
            while let Some(gap) = gaps.next_if(|gap| gap.from < offset) {
                self.gap(gap, args.format)?;
            }
            self.record(&record, args.format)?;
            *left = left.map(|left| left - 1);
            self.end = Some(offset.next());
            self.uncommitted += 1;
            if args
                .commit_every
                .is_some_and(|every| self.uncommitted >= every.get())
            {
                self.commits.push((self.bytes.len(), offset.next()));
                self.uncommitted = 0;
            }
        }
        for gap in gaps {
            self.gap(gap, args.format)?;
        }
        Ok(true)
    }

    fn record(&mut self, record: &RecordRef<'_>, format: Format) -> Result<(), Failure> {
        match format {
            Format::Value => {
                self.bytes
                    .extend_from_slice(record.value().unwrap_or_default());
                self.bytes.push(b'\n');
            }
            Format::Json => json::write_record(&mut self.bytes, record)?,
        }
        Ok(())
    }

    fn gap(&mut self, gap: &Gap, format: Format) -> Result<(), Failure> {
        match format {
            Format::Value => {
                let Gap {
                    from, to, reason, ..
                } = gap;
                note(format_args!(
                    "gap: offsets {from} to {to} are missing ({reason})"
                ));
            }
            Format::Json => json::write_gap(&mut self.bytes, gap)?,
        }
        Ok(())
    }
}
