//! A log of known content, damaged.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use arbitrary::Arbitrary;

use crate::{
    exercise::{self, Reading},
    specimen::{self, CLOSED, CRASHED, Files, Frame, Specimen},
};

/// Up to this many changed bytes, every intact frame must be found behind them. (More could look
/// like so many frames that the search is given up.)
const FEW: usize = 8;
/// More edits than this only make runs slow.
const EDITS_MAX: usize = 16;

/// What to do to which log.
#[derive(Arbitrary, Debug)]
pub struct Input {
    crashed: bool,
    edits: Vec<Edit>,
    copied: bool,
}

#[derive(Arbitrary, Debug)]
struct Edit {
    /// Files and positions are taken modulo what there is.
    file: u8,
    position: u16,
    what: What,
}

#[derive(Arbitrary, Debug)]
enum What {
    Xor(u8),
    Write(Vec<u8>),
    Zeros(u16),
    /// Ends the file there.
    Cut,
    Extend(Vec<u8>),
    Remove,
    /// Writes bytes that stand elsewhere.
    Copy {
        file: u8,
        position: u16,
        len: u16,
    },
    /// Puts another file in its place.
    Replace {
        file: u8,
    },
}

/// The log, as damaged so far.
struct Damaged {
    specimen: &'static Specimen,
    files: Files,
    /// Bytes that were changed in place.
    changed: BTreeSet<(PathBuf, usize)>,
    /// Files that were cut, extended, removed or replaced.
    reshaped: BTreeSet<PathBuf>,
}

impl Damaged {
    fn new(specimen: &'static Specimen) -> Self {
        Self {
            specimen,
            files: specimen.files.clone(),
            changed: BTreeSet::new(),
            reshaped: BTreeSet::new(),
        }
    }

    fn name(&self, number: u8) -> PathBuf {
        let index = usize::from(number) % self.specimen.files.len();
        let name = self.specimen.files.keys().nth(index);
        name.expect("the index is below the length").clone()
    }

    fn bytes(&self, path: &Path) -> &[u8] {
        self.files.get(path).map_or(&[], Vec::as_slice)
    }

    fn apply(&mut self, edit: &Edit) {
        let path = self.name(edit.file);
        let bytes = self.bytes(&path);
        let at = usize::from(edit.position) % (bytes.len() + 1);
        match &edit.what {
            What::Xor(mask) => {
                let new = bytes.get(at).map(|byte| byte ^ mask);
                self.overwrite(&path, at, new.as_slice());
            }
            What::Write(bytes) => self.overwrite(&path, at, bytes),
            What::Zeros(count) => self.overwrite(&path, at, &vec![0; usize::from(*count)]),
            What::Copy {
                file,
                position,
                len,
            } => {
                let from = self.bytes(&self.name(*file));
                let start = usize::from(*position) % (from.len() + 1);
                let end = (start + usize::from(*len)).min(from.len());
                self.overwrite(&path, at, &from[start..end].to_vec());
            }
            What::Cut => self.replace(&path, Some(bytes[..at].to_vec())),
            What::Extend(more) => self.replace(&path, Some([bytes, more].concat())),
            What::Remove => self.replace(&path, None),
            What::Replace { file } => {
                let from = self.bytes(&self.name(*file)).to_vec();
                self.replace(&path, Some(from));
            }
        }
    }

    fn overwrite(&mut self, path: &Path, position: usize, with: &[u8]) {
        let Some(bytes) = self.files.get_mut(path) else {
            return;
        };
        let places = bytes.iter_mut().enumerate().skip(position);
        for ((at, old), new) in places.zip(with) {
            if old != new {
                *old = *new;
                self.changed.insert((path.to_owned(), at));
            }
        }
    }

    fn replace(&mut self, path: &Path, with: Option<Vec<u8>>) {
        self.reshaped.insert(path.to_owned());
        match with {
            Some(bytes) => self.files.insert(path.to_owned(), bytes),
            None => self.files.remove(path),
        };
    }

    fn is_intact(&self, path: &str) -> bool {
        self.specimen.files.get(Path::new(path)) == self.files.get(Path::new(path))
    }

    fn is_touched(&self, frame: &Frame) -> bool {
        let mut bytes = frame.bytes.clone();
        bytes.any(|at| self.changed.contains(&(frame.file.clone(), at)))
    }

    /// Whether every frame that was not touched must still be served: little was changed, in
    /// frames alone, and it is known that they were durable.
    fn is_confined(&self) -> bool {
        let frames = &self.specimen.frames;
        let is_in_frame = |(path, at): &(PathBuf, usize)| {
            let holds = |frame: &Frame| frame.file == *path && frame.bytes.contains(at);
            frames.iter().any(holds)
        };
        let is_known = self.specimen.closed || frames.last().is_some_and(|f| !self.is_touched(f));
        is_known
            && self.reshaped.is_empty()
            && self.changed.len() <= FEW
            && self.changed.iter().all(is_in_frame)
    }

    /// No record that was not written.
    fn check_records(&self, reading: &Reading, appended: Option<u64>) {
        for (offset, record) in &reading.records {
            if appended == Some(*offset) {
                continue;
            }
            let at = usize::try_from(*offset).unwrap_or(usize::MAX);
            let written = self.specimen.records.get(at);
            assert_eq!(Some(record), written, "at offset {offset}");
        }
    }

    /// Nothing missing unsaid, and nothing made up behind the end.
    fn check_look(&self, reading: &Reading) {
        self.check_records(reading, None);
        let end = self.specimen.records.len() as u64;
        assert!(reading.range.end <= end, "there was never more than {end}");
        if self.is_whole_known() && !reading.failed {
            assert_eq!(reading.range, 0..end);
        }
        // In a log that was not closed, what follows a hole may be cut by the next writer, and is
        // not served before.
        if self.specimen.closed && self.is_confined() {
            self.check_untouched(reading);
        }
    }

    fn check_use(&self, reading: &Reading) {
        self.check_records(reading, None);
        if self.is_whole_known() && !reading.failed {
            let end = self.specimen.records.len() as u64;
            assert!(reading.range.start == 0 && reading.range.end >= end);
        }
        if self.is_confined() {
            self.check_untouched(reading);
        }
    }

    /// Whether it is on record that all of the log was durable.
    fn is_whole_known(&self) -> bool {
        self.specimen.closed && self.is_intact("checkpoint")
    }

    /// Every frame that was not touched is served.
    fn check_untouched(&self, reading: &Reading) {
        let served: BTreeSet<_> = reading.records.iter().map(|(offset, _)| *offset).collect();
        let mut untouched = self.specimen.frames.iter().filter(|f| !self.is_touched(f));
        let is_served = |frame: &Frame| frame.offsets.clone().all(|at| served.contains(&at));
        let missing = untouched.find(|frame| !is_served(frame));
        assert!(missing.is_none(), "intact, and not served: {missing:?}");
    }
}

/// Damages a log, and looks at what is left.
///
/// # Panics
///
/// If the log breaks a promise.
pub fn run(input: &Input) {
    let mut damaged = Damaged::new(if input.crashed { &CRASHED } else { &CLOSED });
    for edit in input.edits.iter().take(EDITS_MAX) {
        damaged.apply(edit);
    }
    let dir = crate::scratch();
    specimen::lay_out(&damaged.files, dir.path());

    if let Ok(reading) = exercise::look(dir.path()) {
        damaged.check_look(&reading);
    }
    let used = match exercise::use_it(dir.path(), input.copied) {
        Ok(used) => used,
        Err(error) => {
            assert!(!damaged.is_confined(), "{error}");
            return;
        }
    };
    if used.created {
        return;
    }
    damaged.check_use(&used.before);
    let (offset, record) = used.appended.expect("there is room");
    let offset = offset.get();
    let end = damaged.specimen.records.len() as u64;
    let is_new = offset >= end || !damaged.specimen.closed;
    assert!(is_new, "offset {offset} is used again");

    let after = exercise::look(dir.path()).expect("it was just closed in order");
    damaged.check_records(&after, Some(offset));
    let mut expected = used.before.records;
    expected.push((offset, record));
    assert_eq!(after.records, expected, "reading did not change the log");
}
