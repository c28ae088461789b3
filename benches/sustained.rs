//! One thread that appends records of 100 bytes with [`Acks::Written`] for as long as it takes to
//! roll many times, while the default flush policy syncs; beside a floor that goes through the same
//! in the background ([`Fresh`]). One JSON object a line; the two take turns, so that both see the
//! same machine.
//!
//! ```sh
//! cargo bench --bench sustained -- --dir /some/disk --gib 4 --seconds 10
//! ```
//!
//! First the time that `--gib` of values take as a whole; then how long each append takes, at full
//! speed with as many, and at a pace for `--seconds`. At full speed a disk that is slower than
//! memory falls behind, and in the end sets the pace for both. At a pace it keeps up, and what
//! shows is what holds up a single append: rolls, and syncs of pages that are being written.
//!
//! `rolls`, `syncs` and `late` (appends that met memory that was not prepared yet) are those of the
//! time measured, and so are `faults`: the page faults of the thread that appends, with those for
//! memory that it then prepares itself. `from_due` is the time from when an append was due at that
//! pace, which one that is held up lengthens for those behind it.

use std::{
    env, fmt, fs,
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use duralog::{Acks, Log, Producer, RecordRef};

#[path = "harness/arguments.rs"]
mod arguments;
#[path = "harness/background.rs"]
mod background;
#[path = "floor/frame.rs"]
mod frame;
#[path = "floor/fresh.rs"]
mod fresh;
#[path = "harness/histogram.rs"]
mod histogram;
#[path = "harness/scratch.rs"]
mod scratch;

use arguments::{Anyhow, argument};
use background::Background;
use frame::Frame;
use fresh::{Fresh, ROOM_MAX};
use histogram::Histogram;
use scratch::in_scratch;

const ROUNDS: usize = 3;
const VALUE: [u8; 100] = [b'x'; 100];
/// A run with fewer rolls shows little of what they cost.
const ROLLS_MIN: u64 = 20;
/// Appends a second, a usual load and one that rolls every half second; and the room that the floor
/// keeps ready then: as the log, for 12 ms, and 256 KiB at least.
const PACES: [(u64, usize); 2] = [(100_000, 256 << 10), (1_000_000, 2 << 20)];
const CLOCK_READINGS: u32 = 1_000_000;

/// What is measured.
trait Subject: Sized {
    const WHO: &'static str;

    fn create(dir: &Path, pace: Pace) -> Anyhow<Self>;
    fn append(&mut self);
    /// What went on meanwhile. Waits for what still goes on.
    fn close(self) -> Anyhow<Background>;
}

struct Duralog {
    log: Log,
    producer: Producer,
}

impl Subject for Duralog {
    const WHO: &'static str = "duralog";

    fn create(dir: &Path, _: Pace) -> Anyhow<Self> {
        let log = Log::open(dir.join("log"))?;
        let producer = log.producer().acks(Acks::Written).build()?;
        Ok(Self { log, producer })
    }

    #[inline]
    fn append(&mut self) {
        let receipt = self.producer.send(RecordRef::new(black_box(&VALUE)));
        black_box(receipt.expect("send").offset());
    }

    fn close(self) -> Anyhow<Background> {
        let stats = self.log.stats();
        self.log.close()?;
        Ok(stats.into())
    }
}

struct Floor(Fresh);

impl Subject for Floor {
    const WHO: &'static str = "floor";

    fn create(dir: &Path, pace: Pace) -> Anyhow<Self> {
        let room = match pace {
            Pace::AtOnce { .. } => ROOM_MAX,
            Pace::PerSecond { room, .. } => room,
        };
        Ok(Self(Fresh::create(dir, room)))
    }

    #[inline]
    fn append(&mut self) {
        self.0.append(Frame {
            value: &VALUE,
            values: 1,
        });
    }

    fn close(self) -> Anyhow<Background> {
        Ok(self.0.close())
    }
}

/// How appends follow one another.
#[derive(Clone, Copy)]
enum Pace {
    AtOnce {
        records: u64,
    },
    PerSecond {
        rate: u64,
        room: usize,
        seconds: u64,
    },
}

/// How long appends took.
struct Times {
    calls: Histogram,
    /// At a pace, also from when the call was due.
    from_due: Option<Histogram>,
}

fn main() -> Anyhow<()> {
    let dir: PathBuf = argument("--dir")?.unwrap_or_else(env::temp_dir);
    let gib: u64 = argument("--gib")?.unwrap_or(4);
    let seconds = argument("--seconds")?.unwrap_or(10);
    let records = (gib << 30) / VALUE.len() as u64;
    report_clock();
    compare_throughput(&dir, records)?;
    compare_times(&dir, Pace::AtOnce { records })?;
    for (rate, room) in PACES {
        let pace = Pace::PerSecond {
            rate,
            room,
            seconds,
        };
        compare_times(&dir, pace)?;
    }
    Ok(())
}

/// What each measured append pays to be measured.
fn report_clock() {
    let began = Instant::now();
    for _ in 0..CLOCK_READINGS {
        black_box(Instant::now());
    }
    let nanos = nanos_each(began.elapsed(), u64::from(CLOCK_READINGS));
    println!(r#"{{"bench":"clock","nanos":{nanos:.1}}}"#);
}

fn compare_throughput(dir: &Path, records: u64) -> Anyhow<()> {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let floor = throughput::<Floor>(dir, records)?;
        let ours = throughput::<Duralog>(dir, records)?;
        ratios.push(ours / floor);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        r#"{{"bench":"sustained 100 B","median_ratio":{:.2},"ratios":{ratios:.2?}}}"#,
        ratios[ROUNDS / 2]
    );
    Ok(())
}

/// Nanoseconds a record.
fn throughput<S: Subject>(dir: &Path, records: u64) -> Anyhow<f64> {
    in_scratch(dir, |path| {
        let mut subject = S::create(path, Pace::AtOnce { records })?;
        let before = minor_faults()?;
        let began = Instant::now();
        for _ in 0..records {
            subject.append();
        }
        let elapsed = began.elapsed();
        let faults = minor_faults()? - before;
        let background = subject.close()?;
        let nanos = nanos_each(elapsed, records);
        println!(
            r#"{{"bench":"sustained 100 B","who":"{}","records":{records},"per_second":{:.0},"nanos":{nanos:.1},{background},"faults":{faults}}}"#,
            S::WHO,
            1e9 / nanos,
        );
        assert!(background.rolls >= ROLLS_MIN, "give more --gib");
        Ok(nanos)
    })
}

fn compare_times(dir: &Path, pace: Pace) -> Anyhow<()> {
    let mut floor = Histogram::new();
    let mut ours = Histogram::new();
    for _ in 0..ROUNDS {
        floor.merge(&times::<Floor>(dir, pace)?);
        ours.merge(&times::<Duralog>(dir, pace)?);
    }
    println!(
        r#"{{"bench":"append 100 B","pace":"{pace}","p999_ratio":{:.2},"floor":{{{floor}}},"duralog":{{{ours}}}}}"#,
        ratio(ours.at(9_990), floor.at(9_990)),
    );
    Ok(())
}

/// How long each call took.
fn times<S: Subject>(dir: &Path, pace: Pace) -> Anyhow<Histogram> {
    in_scratch(dir, |path| {
        let mut subject = S::create(path, pace)?;
        let before = minor_faults()?;
        let Times { calls, from_due } = match pace {
            Pace::AtOnce { records } => append_at_once(&mut subject, records),
            Pace::PerSecond { rate, seconds, .. } => append_paced(&mut subject, rate, seconds),
        };
        let faults = minor_faults()? - before;
        let background = subject.close()?;
        let from_due =
            from_due.map_or_else(String::new, |times| format!(r#","from_due":{{{times}}}"#));
        println!(
            r#"{{"bench":"append 100 B","pace":"{pace}","who":"{}","records":{},{calls}{from_due},{background},"faults":{faults}}}"#,
            S::WHO,
            calls.count(),
        );
        Ok(calls)
    })
}

fn append_at_once(subject: &mut impl Subject, records: u64) -> Times {
    let mut calls = Histogram::new();
    let mut began = Instant::now();
    for _ in 0..records {
        subject.append();
        // Where one ends, the next begins: the clock is read once for each.
        let ended = Instant::now();
        calls.record(ended - began);
        began = ended;
    }
    Times {
        calls,
        from_due: None,
    }
}

fn append_paced(subject: &mut impl Subject, rate: u64, seconds: u64) -> Times {
    let mut calls = Histogram::new();
    let mut from_due = Histogram::new();
    let start = Instant::now();
    for number in 0..rate * seconds {
        let due = start + Duration::from_nanos(number * 1_000_000_000 / rate);
        let mut began = Instant::now();
        while began < due {
            began = Instant::now();
        }
        subject.append();
        let ended = Instant::now();
        calls.record(ended - began);
        from_due.record(ended - due);
    }
    Times {
        calls,
        from_due: Some(from_due),
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtOnce { .. } => f.write_str("at once"),
            Self::PerSecond { rate, .. } => write!(f, "{rate}/s"),
        }
    }
}

/// Page faults of this thread.
fn minor_faults() -> Anyhow<u64> {
    let stat = fs::read_to_string("/proc/thread-self/stat")?;
    // The name, which may have spaces, is in parentheses. Minor faults are the eighth behind it.
    let behind_name = stat.rsplit(')').next();
    let faults = behind_name.and_then(|fields| fields.split_whitespace().nth(7));
    Ok(faults.ok_or("no number of page faults")?.parse()?)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of records and of nanoseconds are far below 2^52"
)]
fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to as f64
}

fn nanos_each(elapsed: Duration, count: u64) -> f64 {
    elapsed.as_secs_f64() * 1e9 / ratio(count, 1)
}
