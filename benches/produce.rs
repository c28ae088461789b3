//! `duralog produce` of a file of lines, as a whole command, beside a plain loop that copies the
//! same lines to another file. One JSON object a line; the two take turns.
//!
//! ```sh
//! cargo bench --features cli --bench produce -- --lines 10000000 --dir /some/disk
//! ```
//!
//! The log is closed in that time, which brings it all to the device; the copy is only written.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

#[path = "harness/arguments.rs"]
mod arguments;

use arguments::{Anyhow, argument};

const ROUNDS: usize = 3;
const LINE_BYTES: usize = 100;

fn main() -> Anyhow<()> {
    if let Some(path) = argument::<PathBuf>("--copy-to")? {
        return copy_lines(&path);
    }
    let lines = argument("--lines")?.unwrap_or(5_000_000);
    let dir = argument("--dir")?.unwrap_or_else(env::temp_dir);
    let scratch = tempfile::tempdir_in(dir)?;
    let input = scratch.path().join("lines");
    write_lines(&input, lines)?;
    for _ in 0..ROUNDS {
        let target = scratch.path().join("copy");
        let mut copy = Command::new(env::current_exe()?);
        copy.arg("--copy-to").arg(&target);
        report("line-copy loop", lines, time(copy, &input)?);
        fs::remove_file(target)?;

        let log = scratch.path().join("log");
        let mut produce = Command::new(env!("CARGO_BIN_EXE_duralog"));
        produce.arg("produce").arg(&log);
        produce.args(["--quiet", "--acks", "written"]);
        report("duralog produce", lines, time(produce, &input)?);
        fs::remove_dir_all(log)?;
    }
    Ok(())
}

fn write_lines(path: &Path, lines: u64) -> Anyhow<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let digits = LINE_BYTES - "\n".len();
    for number in 0..lines {
        writeln!(file, "{number:0digits$}")?;
    }
    let file = file.into_inner()?;
    // What it still takes to reach the device is not the time of whoever reads it.
    file.sync_all()?;
    Ok(())
}

/// What the loop is that most would write.
fn copy_lines(path: &Path) -> Anyhow<()> {
    let mut input = io::stdin().lock();
    let mut output = BufWriter::new(File::create(path)?);
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        output.write_all(&line)?;
        line.clear();
    }
    output.flush()?;
    Ok(())
}

/// Runs a command with the lines as its input; seconds until its end.
fn time(mut command: Command, input: &Path) -> Anyhow<f64> {
    command.stdin(File::open(input)?).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    let seconds = began.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(seconds)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of lines are far below 2^52"
)]
fn report(who: &str, lines: u64, seconds: f64) {
    println!(
        r#"{{"bench":"lines of 100 B","who":"{who}","lines":{lines},"seconds":{seconds:.2},"per_second":{:.0}}}"#,
        lines as f64 / seconds,
    );
}
