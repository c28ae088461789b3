//! What a run has seen.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Mutex,
};

/// Kinds of fault. Each has to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ProcessCrash,
    PowerCut,
    CrashInRecovery,
    FailsOnce,
    FailsForEver,
    ShortWrite,
    ShortRead,
    FullDisk,
    FailedSync,
    CacheDropped,
    FlippedBit,
    MisdirectedWrite,
    ReadError,
}

const KINDS: [Kind; 13] = [
    Kind::ProcessCrash,
    Kind::PowerCut,
    Kind::CrashInRecovery,
    Kind::FailsOnce,
    Kind::FailsForEver,
    Kind::ShortWrite,
    Kind::ShortRead,
    Kind::FullDisk,
    Kind::FailedSync,
    Kind::CacheDropped,
    Kind::FlippedBit,
    Kind::MisdirectedWrite,
    Kind::ReadError,
];

#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    runs: usize,
    /// Those before which nothing had changed are not crashed: that would be the same crash again.
    all_calls: u64,
    points: usize,
    recovery_points: usize,
    openings: usize,
    images: HashSet<u64>,
    kinds: BTreeMap<Kind, usize>,
    rows: BTreeMap<char, usize>,
    calls: BTreeMap<String, usize>,
}

impl Tally {
    fn add(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.0.lock().unwrap());
    }

    /// A workload is over, in which there were so many calls and hooks.
    pub fn ran(&self, calls: u64) {
        self.add(|counts| {
            counts.runs += 1;
            counts.all_calls += calls;
        });
    }

    /// A moment of a workload, or of a recovery, at which it was crashed.
    pub fn crashed_at(&self, call: &str, in_recovery: bool) {
        self.add(|counts| {
            *if in_recovery {
                &mut counts.recovery_points
            } else {
                &mut counts.points
            } += 1;
            *counts.calls.entry(call.to_owned()).or_default() += 1;
        });
    }

    /// Something happened so often.
    pub fn happened(&self, kind: Kind, times: usize) {
        self.add(|counts| *counts.kinds.entry(kind).or_default() += times);
    }

    /// A disk is about to be opened; whether it is another one than all before.
    pub fn is_new(&self, fingerprint: u64) -> bool {
        self.0.lock().unwrap().images.insert(fingerprint)
    }

    pub fn opened(&self, rows: &str) {
        self.add(|counts| {
            counts.openings += 1;
            for row in rows.chars() {
                *counts.rows.entry(row).or_default() += 1;
            }
        });
    }

    /// What this run should have seen, and did not.
    pub fn lacks(&self, enough: usize) -> Vec<String> {
        let counts = self.0.lock().unwrap();
        let mut lacks = Vec::new();
        if counts.images.len() < enough {
            let images = counts.images.len();
            lacks.push(format!("only {images} images, not {enough}"));
        }
        for kind in KINDS {
            if !counts.kinds.contains_key(&kind) {
                lacks.push(format!("{kind:?} never happened"));
            }
        }
        for row in 'A'..='H' {
            if !counts.rows.contains_key(&row) {
                lacks.push(format!("row {row} of the recovery table was never taken"));
            }
        }
        lacks
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock().unwrap();
        writeln!(f, "runs                      {:>8}", counts.runs)?;
        writeln!(f, "calls and hooks passed    {:>8}", counts.all_calls)?;
        writeln!(f, "crash points              {:>8}", counts.points)?;
        writeln!(f, "crash points in recovery  {:>8}", counts.recovery_points)?;
        writeln!(f, "distinct images           {:>8}", counts.images.len())?;
        writeln!(f, "openings                  {:>8}", counts.openings)?;
        writeln!(f, "happened:")?;
        for (kind, times) in &counts.kinds {
            writeln!(f, "  {kind:<24}{times:>8}", kind = format!("{kind:?}"))?;
        }
        writeln!(f, "crashed before:")?;
        for (call, times) in &counts.calls {
            writeln!(f, "  {call:<24}{times:>8}")?;
        }
        write!(f, "rows of the recovery table:")?;
        for (row, times) in &counts.rows {
            write!(f, " {row} {times}")?;
        }
        writeln!(f)
    }
}
