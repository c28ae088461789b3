//! `duralog groups`: the groups of a log, listed, reset, deleted.

use std::{io::Write, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Subcommand;
use duralog::{GroupInfo, Log, ReadOnlyLog, Start};
use serde_json::json;

use crate::{
    Outcome,
    failure::{Failure, chain},
    output::{note, results},
    text::{self, Utc},
};

/// List the groups of a log, or reset or delete one.
///
/// Works beside a live writer. A group with a live consumer is neither reset nor deleted.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: Option<ListArgs>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The directory of the log.
    dir: PathBuf,
    #[arg(
        long,
        help = "Print an object a line: {\"name\",\"committed\",\"lag\",\"lag_bytes\",\"lag_age_ms\",\
                \"commit_time\",\"metadata\",\"lost\"}; metadata that is not UTF-8 is base64, and the \
                object has \"encoding\":\"base64\""
    )]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    Reset(ResetArgs),
    Delete(DeleteArgs),
}

/// Have a group go on elsewhere; prints the offset. What is skipped thereby is not told as a gap.
#[derive(Debug, clap::Args)]
struct ResetArgs {
    /// The directory of the log.
    dir: PathBuf,
    /// The group.
    #[arg(long, value_name = "G")]
    group: String,
    /// Where it goes on: "earliest", "latest", an offset, or @ and a time in milliseconds since
    /// 1970.
    #[arg(long, value_name = "WHERE", value_parser = text::parse_start)]
    to: Start,
}

/// Delete a group: a consumer of the name begins anew.
#[derive(Debug, clap::Args)]
struct DeleteArgs {
    /// The directory of the log.
    dir: PathBuf,
    /// The group.
    #[arg(long, value_name = "G")]
    group: String,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    match (&args.action, &args.list) {
        (Some(Action::Reset(args)), _) => reset(args),
        (Some(Action::Delete(args)), _) => delete(args),
        (None, Some(args)) => list(args),
        // The directory is required, where there is no other command.
        (None, None) => Ok(Outcome::Done),
    }
}

fn list(args: &ListArgs) -> Result<Outcome, Failure> {
    let mut out = results();
    for group in open(&args.dir)?.groups()? {
        if args.json {
            writeln!(out, "{}", group_json(&group))?;
        } else {
            print(&mut out, &group)?;
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn reset(args: &ResetArgs) -> Result<Outcome, Failure> {
    let to = open(&args.dir)?.reset_group(&args.group, args.to)?;
    let mut out = results();
    writeln!(out, "{to}")?;
    out.flush()?;
    Ok(Outcome::Done)
}

fn delete(args: &DeleteArgs) -> Result<Outcome, Failure> {
    open(&args.dir)?.delete_group(&args.group)?;
    note(format_args!("group {} is deleted", args.group));
    Ok(Outcome::Done)
}

fn open(dir: &PathBuf) -> Result<ReadOnlyLog, Failure> {
    Ok(Log::open_read_only(dir)?)
}

/// A group as `groups` and `inspect` tell it.
pub fn group_json(group: &GroupInfo) -> serde_json::Value {
    let committed = group.committed.as_ref();
    let mut object = json!({
        "name": group.name,
        "committed": committed.ok().map(|offset| offset.get()),
        "lag": group.lag.map(|lag| lag.records),
        "lag_bytes": group.lag.map(|lag| lag.bytes),
        "lag_age_ms": group.lag.and_then(|lag| lag.age).map(text::millis),
        "commit_time": group.commit_time.map(duralog::Timestamp::as_millis),
        "metadata": std::str::from_utf8(&group.metadata).ok(),
        "lost": {
            "retention": group.losses.retention,
            "drop_oldest": group.losses.drop_oldest,
            "damage": group.losses.damage,
            "lost_tail": group.losses.lost_tail,
            "offset_reset": group.losses.offset_reset,
        },
    });
    if let Some(object) = object.as_object_mut() {
        if let Err(error) = committed {
            object.insert("error".to_owned(), chain(error).into());
        }
        if std::str::from_utf8(&group.metadata).is_err() {
            let encoded = STANDARD.encode(&group.metadata);
            object.insert("metadata".to_owned(), encoded.into());
            object.insert("encoding".to_owned(), "base64".into());
        }
    }
    object
}

/// The same for people.
pub fn print(out: &mut impl Write, group: &GroupInfo) -> Result<(), Failure> {
    let name = &group.name;
    match &group.committed {
        Ok(committed) => write!(out, "  {name}: committed {committed}")?,
        Err(error) => write!(out, "  {name}: {}", chain(error))?,
    }
    if let Some(lag) = group.lag {
        write!(out, ", lag {}", lag.records)?;
        if let Some(age) = lag.age {
            write!(out, " ({} bytes, {age:?} old)", lag.bytes)?;
        }
    }
    if let Some(time) = group.commit_time {
        write!(out, ", at {}", Utc(time))?;
    }
    if group.losses.total() > 0 {
        write!(out, ", did not get {}", group.losses.total())?;
    }
    if !group.metadata.is_empty() {
        write!(out, ", {:?}", String::from_utf8_lossy(&group.metadata))?;
    }
    Ok(writeln!(out)?)
}
