//! Running the `duralog` command, to its end or beside the test.
use std::{
    ffi::OsStr,
    fmt::{Display, Write as _},
    fs::{self, File},
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A directory with a log to be made in it.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

/// What a command left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Where the log is.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A command about the log: its name, the log, then `args`.
    pub fn command<A: AsRef<OsStr>>(
        &self,
        name: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duralog"));
        command.arg(name).arg(self.log()).args(args);
        command
    }

    /// Runs a command that reads nothing.
    pub fn run<'a>(&self, name: &str, args: impl AsRef<[&'a str]>) -> Ran {
        finish(self.command(name, args.as_ref()).stdin(Stdio::null()))
    }

    /// Runs a command that reads `input` from a file.
    pub fn feed<'a>(
        &self,
        name: &str,
        args: impl AsRef<[&'a str]>,
        input: impl AsRef<[u8]>,
    ) -> Ran {
        let input = self.file("input", input);
        finish(self.command(name, args.as_ref()).stdin(input))
    }

    /// A file beside the log, with this content, to be read.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> File {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        File::open(path).unwrap()
    }

    /// Makes a log of these lines.
    pub fn with_lines(lines: &[&str]) -> Self {
        let place = Self::new();
        place.feed("produce", [], lines_of(lines)).done();
        place
    }

    /// What `inspect --json` says.
    pub fn inspect(&self) -> Value {
        self.run("inspect", ["--json"]).done().json()
    }

    /// The group, as `inspect --json` shows it.
    pub fn group(&self, name: &str) -> Option<Value> {
        let groups = self.inspect()["groups"].as_array().unwrap().clone();
        groups.into_iter().find(|group| group["name"] == name)
    }

    /// The committed offset of the group.
    pub fn committed(&self, name: &str) -> u64 {
        self.group(name).unwrap()["committed"].as_u64().unwrap()
    }

    /// The files of the segments, in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.log()).unwrap();
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "log");
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(is_segment).collect();
        paths.sort();
        paths
    }

    /// Starts a command that goes on beside the test.
    pub fn start<'a>(&self, name: &str, args: impl AsRef<[&'a str]>) -> Live {
        Live::start(&mut self.command(name, args.as_ref()))
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Ran {
        code: status.code(),
        stdout,
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

impl Ran {
    /// Asserts how it ended.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, Some(expected), "{self:?}");
        self
    }

    /// Asserts that it did what it was asked to.
    #[track_caller]
    pub fn done(self) -> Self {
        self.code(0)
    }

    /// Asserts that it failed, and told why in these words.
    #[track_caller]
    pub fn failed(self, code: i32, words: &str) -> Self {
        self.code(code).complained(words)
    }

    /// Asserts that these words are on standard error.
    #[track_caller]
    pub fn complained(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{self:?}");
        self
    }

    /// Asserts that nothing is on standard error.
    #[track_caller]
    pub fn silent(self) -> Self {
        assert!(self.stderr.is_empty(), "{self:?}");
        self
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    /// Standard output as one JSON object.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap()
    }

    /// Standard output as JSON objects, one a line.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &&str| serde_json::from_str(line).unwrap();
        self.lines().iter().map(parse).collect()
    }
}

/// A command that goes on; killed when dropped.
#[derive(Debug)]
pub struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Live {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                if sender.send(line.unwrap()).is_err() {
                    break;
                }
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
        }
    }

    /// Writes to its standard input, as it stands.
    pub fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Its next line of standard output.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).unwrap()
    }

    /// As many more lines.
    #[track_caller]
    pub fn take_lines(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// Ends its standard input, and waits for its end; what it printed that was not taken yet.
    pub fn end(mut self) -> (ExitStatus, Vec<String>) {
        drop(self.stdin.take());
        let rest = self.lines.iter().collect();
        (self.child.wait().unwrap(), rest)
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Each of these on a line of its own.
pub fn lines_of<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for item in items {
        writeln!(text, "{item}").unwrap();
    }
    text
}

/// Looks again and again until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "never: {what}");
        thread::yield_now();
    }
}

/// Flips a bit of the first place where `bytes` stand in a file.
#[track_caller]
pub fn damage(path: &Path, bytes: &[u8]) {
    let mut content = fs::read(path).unwrap();
    let found = content.windows(bytes.len()).position(|at| at == bytes);
    content[found.unwrap()] ^= 1;
    fs::write(path, content).unwrap();
}
