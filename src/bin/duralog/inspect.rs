//! `duralog inspect`: what a log is and how far it has come.

use std::{io::Write, path::PathBuf};

use duralog::{
    CleanupPolicy, FlushPolicy, Fsync, GroupInfo, GroupRetention, Log, Losses, Offset, OptionsInfo,
    ReadOnlyLog, SegmentInfo, Timestamp, WhenFull, WriteMode,
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    failure::Failure,
    groups::{self, group_json},
    output::results,
    text::{Utc, millis},
};

/// Print identity, options, offsets, segments, groups and losses of a log.
///
/// Changes nothing, and works while the log is being written: then what it prints is as of now.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory of the log.
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What there is to tell.
struct Overview {
    id: String,
    created: Timestamp,
    closed: bool,
    start: Offset,
    end: Offset,
    durable: Offset,
    options: OptionsInfo,
    segments: Vec<SegmentInfo>,
    groups: Vec<GroupInfo>,
    losses: Losses,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let overview = Overview::of(&Log::open_read_only(&args.dir)?)?;
    let mut out = results();
    if args.json {
        writeln!(out, "{}", overview.json())?;
    } else {
        overview.print(&mut out)?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

impl Overview {
    fn of(log: &ReadOnlyLog) -> Result<Self, Failure> {
        let losses = log.losses()?;
        // In this order, so that beside a live writer durable <= end, and no lag is negative.
        let groups = log.groups()?;
        let durable = log.durable_offset()?;
        let segments = log.segments()?;
        Ok(Self {
            id: format!("{:016x}", log.id()),
            created: log.created(),
            closed: log.is_closed()?,
            start: log.log_start_offset()?,
            end: log.log_end_offset()?,
            durable,
            options: log.options(),
            segments,
            groups,
            losses,
        })
    }

    fn json(&self) -> Value {
        let segments: Vec<_> = self.segments.iter().map(segment_json).collect();
        let groups: Vec<_> = self.groups.iter().map(group_json).collect();
        json!({
            "id": self.id,
            "created": self.created.as_millis(),
            "closed": self.closed,
            "log_start_offset": self.start.get(),
            "log_end_offset": self.end.get(),
            "durable_offset": self.durable.get(),
            "options": options_json(&self.options),
            "segments": segments,
            "groups": groups,
            "lost_to_retention": self.losses.to_retention,
            "lost_to_drop_oldest": self.losses.to_drop_oldest,
            "lost_to_damage": self.losses.to_damage,
            "lost_to_tails": self.losses.to_tails,
        })
    }

    fn print(&self, out: &mut impl Write) -> Result<(), Failure> {
        writeln!(out, "id:                {}", self.id)?;
        writeln!(out, "created:           {}", Utc(self.created))?;
        let closed = if self.closed {
            "yes"
        } else {
            "no (open, or not closed in order)"
        };
        writeln!(out, "closed:            {closed}")?;
        writeln!(out, "log start offset:  {}", self.start)?;
        writeln!(out, "log end offset:    {}", self.end)?;
        writeln!(out, "durable offset:    {}", self.durable)?;
        let losses = &self.losses;
        writeln!(out, "lost to retention: {}", losses.to_retention)?;
        writeln!(out, "dropped as oldest: {}", losses.to_drop_oldest)?;
        writeln!(out, "lost to damage:    {}", losses.to_damage)?;
        writeln!(out, "lost to tails:     {} at most", losses.to_tails)?;
        print_options(out, &self.options)?;
        writeln!(out, "segments:          {}", self.segments.len())?;
        for segment in &self.segments {
            print_segment(out, segment)?;
        }
        writeln!(out, "groups:            {}", self.groups.len())?;
        for group in &self.groups {
            groups::print(out, group)?;
        }
        Ok(())
    }
}

fn options_json(options: &OptionsInfo) -> Value {
    json!({
        "segment_bytes": options.segment_bytes,
        "segment_age_ms": millis(options.segment_age),
        "max_record_bytes": options.max_record_bytes,
        "flush_messages": options.flush.messages(),
        "flush_interval_ms": options.flush.interval().map(millis),
        "fsync": fsync(options.fsync),
        "write_mode": write_mode(options.write_mode),
        "cleanup_policy": cleanup_policy(options.cleanup_policy),
        "tombstone_retention_ms": millis(options.tombstone_retention),
        "min_compaction_lag_ms": millis(options.min_compaction_lag),
        "min_dirty_ratio": options.min_dirty_ratio,
        "compaction_memory": options.compaction_memory,
        "compaction_rate": options.compaction_rate,
        "retention_ms": options.retention.age().map(millis),
        "retention_bytes": options.retention.bytes(),
        "retention_segments": options.retention.segments(),
        "group_retention": group_retention(options.group_retention),
        "excluded_groups": options.excluded_groups,
        "groups_stale_after_ms": options.groups_stale_after.map(millis),
        "when_full": when_full(options.when_full),
        "min_free_bytes": options.min_free_bytes,
    })
}

fn print_options(out: &mut impl Write, options: &OptionsInfo) -> Result<(), Failure> {
    writeln!(out, "segment bytes:     {}", options.segment_bytes)?;
    writeln!(out, "segment age:       {:?}", options.segment_age)?;
    writeln!(out, "max record bytes:  {}", options.max_record_bytes)?;
    writeln!(out, "flush:             {}", flush(options.flush))?;
    writeln!(out, "fsync:             {}", fsync(options.fsync))?;
    writeln!(out, "write mode:        {}", write_mode(options.write_mode))?;
    let policy = cleanup_policy(options.cleanup_policy);
    writeln!(out, "cleanup policy:    {policy}")?;
    if options.cleanup_policy.compacts() {
        writeln!(out, "tombstones kept:   {:?}", options.tombstone_retention)?;
        writeln!(out, "compaction lag:    {:?}", options.min_compaction_lag)?;
        writeln!(out, "min dirty ratio:   {}", options.min_dirty_ratio)?;
        writeln!(out, "compaction memory: {}", options.compaction_memory)?;
        writeln!(out, "compaction rate:   {}", options.compaction_rate)?;
    }
    writeln!(out, "retention:         {}", retention(options))?;
    writeln!(out, "when full:         {}", when_full(options.when_full))?;
    Ok(())
}

fn retention(options: &OptionsInfo) -> String {
    let limits = options.retention;
    let limits = [
        limits.age().map(|age| format!("{age:?}")),
        limits.bytes().map(|bytes| format!("{bytes} bytes")),
        limits.segments().map(|count| format!("{count} segments")),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    if limits.is_empty() {
        return "none".to_owned();
    }
    let groups = group_retention(options.group_retention);
    format!("{}; groups: {groups}", limits.join(" or "))
}

fn group_retention(groups: GroupRetention) -> &'static str {
    match groups {
        GroupRetention::Drop => "drop",
        GroupRetention::KeepUnconsumed => "keep_unconsumed",
    }
}

fn when_full(when_full: WhenFull) -> &'static str {
    match when_full {
        WhenFull::Reject => "reject",
        WhenFull::Block(_) => "block",
        WhenFull::DropNewest => "drop_newest",
        WhenFull::DropOldest => "drop_oldest",
    }
}

fn segment_json(segment: &SegmentInfo) -> Value {
    json!({
        "base_offset": segment.base_offset.get(),
        "end_offset": segment.end_offset.get(),
        "bytes": segment.bytes,
        "sealed": segment.sealed,
        "path": segment.path.to_string_lossy(),
    })
}

fn print_segment(out: &mut impl Write, segment: &SegmentInfo) -> Result<(), Failure> {
    let (base, end) = (segment.base_offset, segment.end_offset);
    let state = if segment.sealed { "sealed" } else { "active" };
    let (bytes, path) = (segment.bytes, segment.path.display());
    Ok(writeln!(
        out,
        "  {base} to {end}, {bytes} bytes, {state}, {path}"
    )?)
}

fn flush(policy: FlushPolicy) -> String {
    match (policy.messages(), policy.interval()) {
        (None, None) => "never".to_owned(),
        (Some(messages), None) => format!("every {messages} messages"),
        (None, Some(interval)) => format!("every {interval:?}"),
        (Some(messages), Some(interval)) => {
            format!("every {messages} messages or {interval:?}")
        }
    }
}

fn fsync(fsync: Fsync) -> &'static str {
    match fsync {
        Fsync::Data => "data",
        Fsync::Full => "full",
        Fsync::Off => "off",
    }
}

fn write_mode(mode: WriteMode) -> &'static str {
    match mode {
        WriteMode::Auto => "auto",
        WriteMode::Mapped => "mapped",
        WriteMode::Buffered => "buffered",
    }
}

fn cleanup_policy(policy: CleanupPolicy) -> &'static str {
    match policy {
        CleanupPolicy::Delete => "delete",
        CleanupPolicy::Compact => "compact",
        CleanupPolicy::CompactAndDelete => "compact,delete",
    }
}
