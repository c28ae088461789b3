//! Why a command failed.

use std::{error::Error, io, ops::RangeInclusive, path::PathBuf};

use duralog::ErrorKind;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] duralog::Error),
    /// The log refused these lines of the input, counted from 1.
    #[error("cannot append {}", name_lines(lines))]
    Append {
        lines: RangeInclusive<u64>,
        source: duralog::Error,
    },
    /// This build can't compress so.
    #[error("this build has no {0}: it needs the feature `{0}`")]
    NoCompression(&'static str),
    /// The log's options do not compact it.
    #[error("{} is not compacted: its cleanup policy is to delete", dir.display())]
    NotCompacted { dir: PathBuf },
    /// A line is no record of this log.
    #[error("line {line} is longer than the log's max_record_bytes, {limit}")]
    LineTooLong { line: u64, limit: usize },
    /// Standard input can't be read.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// Standard output can't be written.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

impl Failure {
    /// Whether the command line is to blame: it holds a name or an option that no log takes.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::NoCompression(_) => true,
            Self::Log(error) => matches!(
                error.kind(),
                ErrorKind::InvalidName { .. } | ErrorKind::InvalidOption { .. }
            ),
            _ => false,
        }
    }

    /// Whether nobody reads standard output any more.
    pub fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn name_lines(lines: &RangeInclusive<u64>) -> String {
    let (first, last) = (lines.start(), lines.end());
    if first == last {
        format!("line {first}")
    } else {
        format!("lines {first} to {last}")
    }
}

/// An error with all its causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
