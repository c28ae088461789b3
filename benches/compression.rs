//! Text that people wrote, a line a record, in batches of 1,000: how much smaller it gets, and how
//! many records a second are produced and read, beside the same without compression. One JSON
//! object a line; the two take turns.
//!
//! ```sh
//! cargo bench --features lz4 --bench compression -- --megabytes 100 --from /usr/include
//! ```
//!
//! What is produced is `Written`; the sync at the end is told apart.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use duralog::{Acks, Compression, FlushPolicy, Log, RecordRef};

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 5;
const BATCH: usize = 1_000;
/// Endings of files that hold text.
const TEXT: [&str; 8] = ["rs", "md", "toml", "txt", "h", "list", "pm", "py"];

struct Arguments {
    megabytes: usize,
    from: Vec<PathBuf>,
    dir: PathBuf,
}

fn main() -> Anyhow<()> {
    let arguments = arguments()?;
    let mut text = Vec::new();
    for place in &arguments.from {
        collect(place, arguments.megabytes * 1_000_000, &mut text);
    }
    let records: Vec<_> = text
        .split(|&byte| byte == b'\n')
        .map(RecordRef::new)
        .collect();
    println!(
        r#"{{"text_bytes":{},"records":{}}}"#,
        text.len(),
        records.len()
    );
    for _ in 0..ROUNDS {
        for compression in [Compression::None, Compression::Lz4] {
            round(&arguments.dir, compression, &records)?;
        }
    }
    Ok(())
}

fn arguments() -> Anyhow<Arguments> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut arguments = Arguments {
        megabytes: 100,
        from: Vec::new(),
        dir: env::temp_dir(),
    };
    let mut given = env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or("an argument needs a value");
        match argument.as_str() {
            "--megabytes" => arguments.megabytes = value()?.parse()?,
            "--from" => arguments.from.push(value()?.into()),
            "--dir" => arguments.dir = value()?.into(),
            // What cargo passes to all benchmarks.
            _ => {}
        }
    }
    if arguments.from.is_empty() {
        arguments
            .from
            .extend(home.map(|home| home.join("registry/src")));
        arguments
            .from
            .extend(["/usr/share", "/usr/include"].map(PathBuf::from));
    }
    Ok(arguments)
}

/// Adds the text files under a directory, in order, until there are as many bytes as wanted. What
/// can't be read is left out.
fn collect(place: &Path, want: usize, text: &mut Vec<u8>) {
    let Ok(entries) = fs::read_dir(place) else {
        return;
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        if text.len() >= want {
            text.truncate(want);
            return;
        }
        let path = entry.path();
        let is_text = path
            .extension()
            .is_some_and(|ending| TEXT.iter().any(|text| ending == *text));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, want, text),
            Ok(kind) if kind.is_file() && is_text => {
                text.extend(fs::read(&path).unwrap_or_default());
            }
            _ => {}
        }
    }
}

fn round(dir: &Path, compression: Compression, records: &[RecordRef<'_>]) -> Anyhow<()> {
    let scratch = tempfile::tempdir_in(dir)?;
    let options = Log::options().flush(FlushPolicy::never());
    let log = options.open(scratch.path().join("log"))?;
    let builder = log.producer().acks(Acks::Written);
    let producer = builder.compression(compression).build()?;
    let start = Instant::now();
    for batch in records.chunks(BATCH) {
        let receipt = producer.send_batch(batch).map_err(duralog::Error::from)?;
        // It is in the page cache: there is nothing to wait for.
        drop(receipt);
    }
    let written = start.elapsed();
    log.sync()?;
    let synced = start.elapsed();
    let stored = log.stats().appended_bytes;

    let start = Instant::now();
    let mut reader = log.reader().build()?;
    let mut bytes = 0;
    let mut read = 0;
    while read < records.len() {
        let batch = reader.poll(Duration::ZERO)?;
        read += batch.len();
        bytes += values(&batch);
    }
    let consumed = start.elapsed();
    print!(
        r#"{{"compression":"{}","stored_bytes":{stored},"value_bytes":{bytes},"ratio":{:.2},"#,
        compression.name(),
        ratio(bytes, stored),
    );
    println!(
        r#""produced_per_s":{:.0},"produced_and_synced_per_s":{:.0},"read_per_s":{:.0}}}"#,
        per_second(read, written),
        per_second(read, synced),
        per_second(read, consumed),
    );
    drop(reader);
    log.close()?;
    Ok(())
}

/// Looks at every record, as whoever reads them does.
fn values(batch: &duralog::Batch<'_>) -> u64 {
    let len = |record: RecordRef<'_>| record.value().map_or(0, <[u8]>::len) as u64;
    batch.iter().map(len).sum()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn ratio(bytes: u64, stored: u64) -> f64 {
    bytes as f64 / stored as f64
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn per_second(records: usize, time: Duration) -> f64 {
    records as f64 / time.as_secs_f64()
}
