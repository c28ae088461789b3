//! Does with a log what one does with a log. Errors are fine; panics, hangs and wrong records are
//! what is looked for.

use std::{ops::Range, path::Path, time::Duration};

use duralog::{
    Gap, Log, LogOptions, Offset, ReadMode, ReadOnlyLog, Reader, Record, RecordRef, Result,
};

/// More polls than this are a loop: each returns records or a gap, of which there are few.
const POLLS_MAX: usize = 10_000;

/// What one read of a log met.
#[derive(Debug, Default)]
pub struct Reading {
    pub records: Vec<(u64, Record)>,
    pub gaps: Vec<Gap>,
    /// Where it began and ended.
    pub range: Range<u64>,
    /// It ended with an error.
    pub failed: bool,
}

/// Looks at a log without changing it.
pub fn look(dir: &Path) -> Result<Reading> {
    let log = Log::open_read_only(dir)?;
    inspect(&log);
    Ok(read_all(log.reader().build()?))
}

/// Calls everything that only looks.
fn inspect(log: &ReadOnlyLog) {
    drop(log.verify());
    drop(log.groups());
    drop(log.segments());
    drop(log.losses());
    drop(log.is_closed());
    drop(log.durable_offset());
}

/// What opening a log for writing, and appending to it, came to.
#[derive(Debug)]
pub struct Use {
    /// It was made anew.
    pub created: bool,
    pub before: Reading,
    /// The record that was appended, if that worked.
    pub appended: Option<(Offset, Record)>,
}

/// Opens a log, reads it, appends to it, consumes and closes it.
pub fn use_it(dir: &Path, copied: bool) -> Result<Use> {
    let read_mode = if copied {
        ReadMode::Copied
    } else {
        ReadMode::Mapped
    };
    let log = LogOptions::new().read_mode(read_mode).open(dir)?;
    let before = read_all(log.reader().build()?);
    let record = Record::new("appended").key("new");
    let sent = log.producer().build()?.send(record.clone());
    let appended = match sent {
        Ok(receipt) => Some((receipt.wait()?, record)),
        Err(_) => None,
    };
    for group in ["audit", "fresh"] {
        if let Ok(mut consumer) = log.consumer(group).build() {
            drop(consumer.poll(Duration::ZERO));
            drop(consumer.commit());
        }
    }
    let created = log.recovery().created;
    log.close()?;
    Ok(Use {
        created,
        before,
        appended,
    })
}

/// Reads to the end. What holds for every log is asserted here: offsets rise, and what is not
/// read is in a gap.
pub fn read_all(mut reader: Reader) -> Reading {
    let start = reader.position().get();
    let mut reading = Reading {
        range: start..start,
        ..Reading::default()
    };
    for _ in 0..POLLS_MAX {
        let end = reading.range.end;
        let Ok(batch) = reader.poll(Duration::ZERO) else {
            reading.failed = true;
            return reading;
        };
        if batch.is_empty() && batch.gaps().is_empty() {
            return reading;
        }
        let mut next = end;
        let mut gaps = batch.gaps().iter();
        for record in &batch {
            let offset = offset_of(&record);
            while next < offset {
                let gap = gaps.next().expect("missing offsets are in a gap");
                assert_eq!(gap.from, next);
                next = gap.to.get();
            }
            assert_eq!(offset, next, "offsets rise one by one");
            reading.records.push((offset, record.to_record()));
            next = offset.saturating_add(1);
        }
        for gap in gaps {
            assert_eq!(gap.from, next);
            next = gap.to.get();
        }
        reading.gaps.extend(batch.gaps());
        reading.range.end = next;
        assert_eq!(reader.position(), next);
    }
    panic!("no end after {POLLS_MAX} polls: {:?}", reading.range);
}

fn offset_of(record: &RecordRef<'_>) -> u64 {
    record.offset().expect("it was read from a log").get()
}
