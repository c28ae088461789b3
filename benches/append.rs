//! Appending and reading back, each beside its floor: what a program would take that does nothing
//! but the part that can't be left out ([`floor`]).
//!
//! ```sh
//! cargo bench --bench append                       # all of it, about two minutes
//! cargo bench --bench append -- 'append 100 B'     # one group
//! TMPDIR=/mnt/disk cargo bench --bench append      # on another disk
//! ```
//!
//! Files are made in, and removed from, the directory for temporary files. That has to be on a
//! disk for the durable group to mean anything, and takes up to 1 GiB.
//!
//! In the `append` groups one iteration is [`VOLUME`] of values through [`Acks::Written`], so that
//! several rolls are in it; a record takes the time divided by the number of records, which is the
//! reciprocal of the throughput. Making, closing and deleting the log is not in it, nor is a
//! background sync: it is over before the flush interval is. Two floors stand beside it. `floor,
//! fresh` writes new memory, which a second thread prepares, and is what a log can come near to.
//! `floor, same memory` writes one file again and again, prepared before, which no log can do.
//! `duralog, named` sends by a named producer, which costs each frame 17 bytes and a look at what
//! it sent before.
//!
//! In the `durable` group an iteration is one record of 100 bytes, on the device before the next
//! one is sent. In the `read` group it is one pass over [`READ_VOLUME`] of 100-byte values, each
//! frame's checksum verified.

use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use duralog::{Acks, Log, Producer, RecordRef};
use tempfile::TempDir;

mod floor;

/// Bytes of values in one iteration of an append group: several segments.
const VOLUME: usize = 256 << 20;
/// Bytes of values that are read back.
const READ_VOLUME: usize = 64 << 20;
const SAMPLES: usize = 10;

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("make a directory for temporary files")
}

/// What is appended: values of one size, one or several to a frame.
#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    value_bytes: usize,
    batch: usize,
}

impl Workload {
    fn frames(&self) -> usize {
        VOLUME / (self.value_bytes * self.batch)
    }

    fn records(&self) -> usize {
        self.frames() * self.batch
    }
}

/// A value that is not all alike.
fn value(bytes: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(bytes).collect()
}

fn append(criterion: &mut Criterion) {
    for (name, value_bytes, batch) in [
        ("append 100 B", 100, 1),
        ("append 1 KiB", 1024, 1),
        ("append 100 x 100 B", 100, 100),
    ] {
        append_group(
            criterion,
            Workload {
                name,
                value_bytes,
                batch,
            },
        );
    }
}

fn append_group(criterion: &mut Criterion, workload: Workload) {
    let mut group = criterion.benchmark_group(workload.name);
    configure(&mut group, Duration::from_secs(7));
    group.throughput(Throughput::Elements(workload.records() as u64));
    let value = value(workload.value_bytes);
    let frame = floor::Frame {
        value: &value,
        values: workload.batch,
    };
    group.bench_function("duralog", |bencher| {
        bencher
            .iter_custom(|iterations| repeat(iterations, || append_to_log(&value, workload, None)));
    });
    group.bench_function("duralog, named", |bencher| {
        bencher.iter_custom(|iterations| {
            repeat(iterations, || {
                append_to_log(&value, workload, Some("importer"))
            })
        });
    });
    group.bench_function("floor, fresh", |bencher| {
        bencher.iter_custom(|iterations| {
            repeat(iterations, || {
                let dir = temp_dir();
                floor::append_fresh(dir.path(), frame, workload.frames())
            })
        });
    });
    let dir = temp_dir();
    let mut map = floor::prepared_map(&dir.path().join("floor"), floor::FILE_BYTES);
    group.bench_function("floor, same memory", |bencher| {
        bencher.iter_custom(|iterations| {
            repeat(iterations, || {
                floor::append_in_place(&mut map, frame, workload.frames())
            })
        });
    });
    group.finish();
}

fn configure(group: &mut BenchmarkGroup<'_, WallTime>, time: Duration) {
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(time);
}

/// The sum of the times that the iterations say they took.
fn repeat(iterations: u64, mut iteration: impl FnMut() -> Duration) -> Duration {
    (0..iterations).map(|_| iteration()).sum()
}

/// Appends to a new log; returns how long the appends took.
fn append_to_log(value: &[u8], workload: Workload, name: Option<&str>) -> Duration {
    let dir = temp_dir();
    let log = Log::open(dir.path()).expect("open");
    let mut producer = log.producer().acks(Acks::Written);
    if let Some(name) = name {
        producer = producer.name(name);
    }
    let producer = producer.build().expect("a producer");
    let start = Instant::now();
    match workload.batch {
        1 => send_one_by_one(&producer, value, workload.frames()),
        batch => send_in_batches(&producer, &vec![RecordRef::new(value); batch], workload),
    }
    let elapsed = start.elapsed();
    assert_eq!(log.log_end_offset(), workload.records() as u64);
    log.close().expect("close");
    elapsed
}

fn send_one_by_one(producer: &Producer, value: &[u8], count: usize) {
    for _ in 0..count {
        let receipt = producer.send(RecordRef::new(black_box(value)));
        black_box(receipt.expect("send").offset());
    }
}

fn send_in_batches(producer: &Producer, batch: &[RecordRef<'_>], workload: Workload) {
    for _ in 0..workload.frames() {
        let receipt = producer.send_batch(black_box(batch));
        black_box(receipt.expect("send").offset());
    }
}

fn durable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable 100 B");
    configure(&mut group, Duration::from_secs(3));
    group.throughput(Throughput::Elements(1));
    let value = value(100);
    let dir = temp_dir();
    let log = Log::open(dir.path().join("log")).expect("open");
    let producer = log.producer().acks(Acks::Durable).build();
    let producer = producer.expect("a producer");
    group.bench_function("duralog", |bencher| {
        bencher.iter(|| {
            let receipt = producer.send(RecordRef::new(&value)).expect("send");
            receipt.wait().expect("sync")
        });
    });
    let mut file = floor::DurableFile::create(&dir.path().join("floor"));
    let frame = floor::Frame {
        value: &value,
        values: 1,
    };
    group.bench_function("floor", |bencher| bencher.iter(|| file.append(frame)));
    group.finish();
    log.close().expect("close");
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read 100 B");
    configure(&mut group, Duration::from_secs(3));
    let value = value(100);
    let records = READ_VOLUME / value.len();
    group.throughput(Throughput::Elements(records as u64));
    let dir = temp_dir();
    let log = log_of(&dir.path().join("log"), &value, records);
    group.bench_function("duralog", |bencher| {
        bencher.iter(|| assert_eq!(read_all(&log), records));
    });
    let frame = floor::Frame {
        value: &value,
        values: 1,
    };
    let mut map = floor::prepared_map(&dir.path().join("floor"), records * frame.len());
    floor::append_in_place(&mut map, frame, records);
    group.bench_function("floor", |bencher| {
        bencher.iter(|| assert_eq!(floor::scan(&map), records));
    });
    group.finish();
    log.close().expect("close");
}

/// A log with records of this value.
fn log_of(path: &Path, value: &[u8], records: usize) -> Log {
    let log = Log::open(path).expect("open");
    let producer = log.producer().acks(Acks::Written).build();
    send_one_by_one(&producer.expect("a producer"), value, records);
    log.sync().expect("sync");
    log
}

/// Reads a log from start to end; returns how many records it has.
fn read_all(log: &Log) -> usize {
    let mut reader = log.reader().build().expect("a reader");
    let mut records = 0;
    loop {
        let batch = reader.poll(Duration::ZERO).expect("poll");
        if batch.is_empty() {
            return records;
        }
        for record in &batch {
            black_box(record.value());
            records += 1;
        }
    }
}

criterion_group!(benches, append, durable, read);
criterion_main!(benches);
