//! A directory of files that say anything at all, most of them with checksums that hold.

use std::path::PathBuf;

use arbitrary::Arbitrary;

use crate::{
    exercise,
    forge::{self, Checkpoint, Number, Segment},
    specimen::{self, CLOSED, Files},
};

/// What the files say.
#[derive(Arbitrary, Debug)]
pub struct Input {
    meta: Slots,
    checkpoint: Slots,
    known_checkpoint: Option<Checkpoint>,
    group: Slots,
    segments: Vec<Named>,
    copied: bool,
}

/// A file of two slots.
#[derive(Arbitrary, Debug)]
enum Slots {
    Missing,
    /// As in a log that was closed in order.
    Proper,
    /// Any payload, in slots that are intact.
    Forged {
        generations: [u64; 2],
        payload: Vec<u8>,
    },
    Bytes(Vec<u8>),
}

/// A segment's file.
#[derive(Arbitrary, Debug)]
enum Named {
    /// Named as its header says.
    Proper(Segment),
    /// Named otherwise.
    Misplaced(Number, Segment),
    Bytes(Number, Vec<u8>),
}

impl Slots {
    fn bytes(&self, magic: [u8; 8], name: &str) -> Option<Vec<u8>> {
        match self {
            Self::Missing => None,
            Self::Proper => CLOSED.files.get(&PathBuf::from(name)).cloned(),
            Self::Forged {
                generations,
                payload,
            } => Some(forge::slots(magic, *generations, payload)),
            Self::Bytes(bytes) => Some(bytes.clone()),
        }
    }
}

fn files(input: &Input) -> Files {
    let mut files = Files::new();
    for (name, magic, slots) in [
        ("meta", forge::META, &input.meta),
        ("checkpoint", forge::CHECKPOINT, &input.checkpoint),
        ("groups/audit.offset", forge::GROUP, &input.group),
    ] {
        if let Some(bytes) = slots.bytes(magic, name) {
            files.insert(name.into(), bytes);
        }
    }
    if let Some(checkpoint) = &input.known_checkpoint {
        let payload = checkpoint.payload();
        let bytes = forge::slots(forge::CHECKPOINT, [1, 1], &payload);
        files.insert("checkpoint".into(), bytes);
    }
    for named in input.segments.iter().take(4) {
        let (base, bytes) = match named {
            Named::Proper(segment) => (segment.base, segment.bytes()),
            Named::Misplaced(base, segment) => (*base, segment.bytes()),
            Named::Bytes(base, bytes) => (*base, bytes.clone()),
        };
        files.insert(format!("{:020}.log", base.get()).into(), bytes);
    }
    files
}

/// Makes the directory, opens it and uses it.
///
/// # Panics
///
/// If the log does.
pub fn run(input: &Input) {
    let dir = crate::scratch();
    specimen::lay_out(&files(input), dir.path());
    drop(exercise::look(dir.path()));
    drop(exercise::use_it(dir.path(), input.copied));
    drop(exercise::look(dir.path()));
}
