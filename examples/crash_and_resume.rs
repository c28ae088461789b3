//! Kills a process in the middle of its work, opens its log again, and checks that nothing it was
//! told to be safe is missing.
//!
//! ```sh
//! cargo run --release --example crash_and_resume
//! ```
//!
//! It runs itself as the process to be killed. That one prints what was acknowledged, line by
//! line: offsets of records, and what its consumer committed.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use duralog::{Acks, Consumer, Log, Offset, Record, RecoveryReport};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// The process is killed once it has told of so many records, and up to twice as many.
const KILL_AFTER: u64 = 10_000;
/// Every one of so many records is durable before the next is sent; the others are only written.
const DURABLE_EVERY: u64 = 500;
/// The consumer of the process to be killed processes and commits after so many records.
const CONSUME_EVERY: u64 = 1_000;
const GROUP: &str = "billing";

fn main() -> Result<()> {
    if let Some(dir) = env::args_os().nth(1) {
        return work_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("orders");

    let told = run_and_kill(&path)?;
    println!(
        "killed it with SIGKILL; by then it had told of {} records (the last at offset {}) and of {} \
         as committed",
        told.records.len(),
        told.records.keys().next_back().ok_or("no record")?,
        told.committed
    );

    let log = Log::open(&path)?;
    describe(log.recovery());
    check_records(&log, &told)?;
    let seen = resume(&log, &told)?;
    log.close()?;
    println!(
        "OK: every record that was acknowledged is there, and {GROUP} went on to the end ({seen})"
    );
    Ok(())
}

/// What the process to be killed does: sends, consumes, and says what is safe.
fn work_until_killed(path: &Path) -> Result<()> {
    let log = Log::open(path)?;
    let producer = log.producer().acks(Acks::Written).build()?;
    let mut consumer = log.consumer(GROUP).build()?;
    for number in 0_u64.. {
        let is_durable = number.is_multiple_of(DURABLE_EVERY);
        let acks = if is_durable {
            Acks::Durable
        } else {
            Acks::Written
        };
        let record = Record::new(format!("order {number}"));
        let offset = producer.send_with(record, acks)?.wait()?;
        println!("acknowledged {offset} order {number}");
        if number % CONSUME_EVERY == 0 {
            process_all(&mut consumer)?;
            println!("committed {}", consumer.committed());
        }
    }
    Ok(())
}

/// Processes what there is by now, and commits after that. Returns how many records that were.
fn process_all(consumer: &mut Consumer) -> Result<usize> {
    let mut processed = 0;
    loop {
        let batch = consumer.poll(Duration::ZERO)?;
        if batch.is_empty() {
            return Ok(processed);
        }
        processed += batch.len();
        consumer.commit()?;
    }
}

/// What the process said before it died.
#[derive(Default)]
struct Told {
    /// Values of the records that were acknowledged, by offset.
    records: BTreeMap<u64, String>,
    /// The last offset that was committed.
    committed: u64,
}

impl Told {
    fn note(&mut self, line: &str) -> Result<()> {
        if let Some(offset) = line.strip_prefix("committed ") {
            self.committed = offset.parse()?;
        } else if let Some(record) = line.strip_prefix("acknowledged ") {
            let (offset, value) = record.split_once(' ').ok_or("a line without a value")?;
            self.records.insert(offset.parse()?, value.to_owned());
        } else {
            return Err(format!("the process said: {line}").into());
        }
        Ok(())
    }
}

fn run_and_kill(path: &Path) -> Result<Told> {
    let mut process = Command::new(env::current_exe()?)
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()?;
    let told = listen_and_kill(&mut process);
    if told.is_err() {
        // It may not have been killed yet; that it can't be is no news beside the error.
        drop(process.kill());
    }
    let status = process.wait()?;
    if status.code().is_some() {
        return Err(format!("the process ended by itself: {status}").into());
    }
    told
}

/// Kills the process at whatever it is doing, and hears it out: what it said before is in the pipe.
fn listen_and_kill(process: &mut Child) -> Result<Told> {
    let output = process.stdout.take().ok_or("no output to listen to")?;
    let mut output = BufReader::new(output);
    let mut told = Told::default();
    let mut line = String::new();
    let kill_at = KILL_AFTER + RandomState::new().hash_one(KILL_AFTER) % KILL_AFTER;
    let mut killed = false;
    while output.read_line(&mut line)? > 0 {
        // The last line may be cut: what it would have said was not told.
        if let Some(whole) = line.strip_suffix('\n') {
            told.note(whole)?;
        }
        line.clear();
        if told.records.len() as u64 >= kill_at && !killed {
            process.kill()?;
            killed = true;
        }
    }
    Ok(told)
}

/// Says in words what opening found and did.
fn describe(report: &RecoveryReport) {
    println!("opened it again in {:?}:", report.elapsed);
    if report.clean {
        println!("  it had been closed in order, there was nothing to recover");
    } else if report.same_boot {
        println!("  only the process had ended, so the page cache still had what was written");
    } else {
        println!("  the machine had been started again since");
    }
    println!(
        "  verified {} frames ({} bytes) that were not known to be durable, and made them so",
        report.scanned_frames, report.scanned_bytes
    );
    if report.cut_bytes > 0 {
        let places = &report.quarantined;
        println!(
            "  cut {} bytes of an unfinished append, kept in {places:?}",
            report.cut_bytes
        );
    }
    for damage in &report.damage {
        println!("  damage: {damage}");
    }
    if let Some(lost) = &report.lost_tail {
        println!(
            "  offsets {} to {} may have been lost",
            lost.start, lost.end
        );
    }
    for (group, committed) in &report.groups_ahead {
        println!("  group {group} had committed {committed}, beyond the end");
    }
}

/// Checks that each acknowledged record is there, with its value.
fn check_records(log: &Log, told: &Told) -> Result<()> {
    let mut missing = told.records.clone();
    let mut unacknowledged = 0;
    let mut reader = log.reader().build()?;
    loop {
        let batch = reader.poll(Duration::ZERO)?;
        if let Some(gap) = batch.gaps().first() {
            return Err(format!("records are missing: {gap:?}").into());
        }
        if batch.is_empty() {
            break;
        }
        for record in &batch {
            let offset = record.offset().ok_or("a record without offset")?.get();
            let value = record.value().ok_or("a record without value")?;
            match missing.remove(&offset) {
                Some(told) if told.as_bytes() == value => {}
                Some(told) => return Err(format!("{told} at {offset} is another now").into()),
                None => unacknowledged += 1,
            }
        }
    }
    if let Some((offset, value)) = missing.first_key_value() {
        let count = missing.len();
        return Err(format!("{count} records are gone, first {value} at {offset}").into());
    }
    println!(
        "all {} acknowledged records are there; {unacknowledged} more had been written, but it could \
         not tell of them any more",
        told.records.len()
    );
    Ok(())
}

/// Goes on where the process was killed; returns how much its group saw.
fn resume(log: &Log, told: &Told) -> Result<String> {
    let producer = log.producer().build()?;
    let offset = producer.send(Record::new("sent after the crash"))?.wait()?;
    println!("sent one more record, durably: offset {offset}");
    let mut consumer = log.consumer(GROUP).build()?;
    let committed = consumer.committed();
    if committed < Offset::new(told.committed) {
        return Err(format!("{GROUP} had committed {}, not {committed}", told.committed).into());
    }
    println!("{GROUP} goes on at offset {committed}, which it had committed");
    let processed = process_all(&mut consumer)?;
    if consumer.position() != log.log_end_offset() {
        return Err("the consumer did not reach the end".into());
    }
    Ok(format!("{processed} records"))
}
