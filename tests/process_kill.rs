//! `kill -9` at random moments, again and again on one log: what was acknowledged is there, what
//! follows it is what was sent, no offset is used twice, and no consumer skips a record.
//!
//! `DURALOG_KILLS` sets how many kills each test makes, `DURALOG_SEED` which ones.
#![cfg(feature = "cli")]

use std::{
    env,
    fmt::Write as _,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader, Read, Write as _},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use duralog::{Log, Offset, Start};

#[path = "common/cli.rs"]
#[expect(dead_code, reason = "these tests need a part of it")]
mod cli;

use cli::{Place, lines_of};

const SIGKILL: i32 = 9;
/// Long enough that a pipe holds few lines: what is printed is soon seen.
const PADDING: usize = 190;

fn kills(default: usize) -> usize {
    env::var("DURALOG_KILLS").map_or(default, |kills| kills.parse().unwrap())
}

/// Random numbers (the generator is splitmix64), the same ones for the same seed.
struct Random(u64);

impl Random {
    /// Tells its seed, so that a run that fails can be repeated.
    fn new() -> Self {
        let any = || RandomState::new().hash_one(0);
        let seed = env::var("DURALOG_SEED").map_or_else(|_| any(), |seed| seed.parse().unwrap());
        println!("repeat with DURALOG_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }

    fn moment(&mut self, most_lines: u64) -> Moment {
        if self.below(2) == 0 {
            Moment::Lines(1 + self.below(most_lines))
        } else {
            Moment::Delay(Duration::from_micros(self.below(25_000)))
        }
    }
}

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// When it has printed as many lines.
    Lines(u64),
    /// When it has run for as long.
    Delay(Duration),
}

/// What a process that was killed left.
struct Killed {
    /// The lines that it printed completely.
    lines: Vec<String>,
    status: ExitStatus,
}

impl Killed {
    fn was_killed(&self) -> bool {
        self.status.signal() == Some(SIGKILL)
    }
}

/// Kills a process at this moment, unless it ends before.
fn kill_at(mut child: Child, moment: Moment) -> Killed {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let printed = match moment {
        Moment::Lines(count) => {
            let mut printed = Vec::new();
            for _ in 0..count {
                stdout.read_until(b'\n', &mut printed).unwrap();
            }
            child.kill().unwrap();
            stdout.read_to_end(&mut printed).unwrap();
            printed
        }
        Moment::Delay(delay) => {
            let reader = thread::spawn(move || read_all(stdout));
            thread::sleep(delay);
            child.kill().unwrap();
            reader.join().unwrap()
        }
    };
    let printed = String::from_utf8(printed).unwrap();
    let complete = printed.rfind('\n').map_or(0, |last| last + 1);
    Killed {
        lines: printed[..complete].lines().map(str::to_owned).collect(),
        status: child.wait().unwrap(),
    }
}

fn read_all(mut stdout: BufReader<ChildStdout>) -> Vec<u8> {
    let mut printed = Vec::new();
    stdout.read_to_end(&mut printed).unwrap();
    printed
}

/// Line `index` of the input of run `run`; their lengths differ.
fn input_line(run: usize, index: usize) -> String {
    let len = (run * 31 + index * 17) % 120;
    format!("run {run} line {index} {}", "x".repeat(len))
}

/// Writes lines of this run, some at a time, until nobody reads them any more.
fn feed(mut stdin: ChildStdin, run: usize, at_once: usize) {
    let mut next = 0;
    loop {
        let mut text = String::new();
        for index in next..next + at_once {
            writeln!(text, "{}", input_line(run, index)).unwrap();
        }
        next += at_once;
        if stdin.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// The log as it must be: how many lines of each run are in it.
#[derive(Default)]
struct Model {
    runs: Vec<usize>,
    end: u64,
}

impl Model {
    /// Looks which lines of a run are in the log.
    fn add_run(&mut self, place: &Place, printed: &[String]) {
        let run = self.runs.len();
        for (offset, printed) in (self.end..).zip(printed) {
            assert_eq!(
                *printed,
                offset.to_string(),
                "offsets are dense, in run {run}"
            );
        }
        let found = values_from(place, self.end);
        let (acknowledged, found_count) = (printed.len(), found.len());
        assert!(
            found_count >= acknowledged,
            "run {run}: {acknowledged} lines were acknowledged, {found_count} are there"
        );
        for (index, value) in found.iter().enumerate() {
            assert_eq!(*value, input_line(run, index), "run {run}");
        }
        self.end += found_count as u64;
        self.runs.push(found_count);
    }

    /// Every line, in order.
    fn lines(&self) -> String {
        let lines_of_run = |(run, &count)| (0..count).map(move |index| input_line(run, index));
        lines_of(self.runs.iter().enumerate().flat_map(lines_of_run))
    }
}

/// The values of a log from an offset on.
fn values_from(place: &Place, start: u64) -> Vec<String> {
    let Ok(log) = Log::open_read_only(place.log()) else {
        assert_eq!(start, 0, "a log that was there can be opened");
        return Vec::new();
    };
    let start = Start::At(Offset::new(start));
    let mut reader = log.reader().start(start).build().unwrap();
    let mut values = Vec::new();
    loop {
        let batch = reader.poll(Duration::ZERO).unwrap();
        assert!(batch.gaps().is_empty(), "{:?}", batch.gaps());
        if batch.is_empty() {
            return values;
        }
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        values.extend(batch.iter().map(|record| text(record.value().unwrap())));
    }
}

fn produce_is_killed(acks: &str) {
    let mut random = Random::new();
    let place = Place::new();
    let mut model = Model::default();
    let mut acknowledged = 0;
    for run in 0..kills(100) {
        let segment_bytes = random.pick(&["8192", "65536", "1048576"]);
        let batch = random.pick(&["1", "10", "1000"]);
        let mut command = place.command("produce", ["--acks", acks, "--batch", batch]);
        command.args(["--segment-bytes", segment_bytes]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let at_once = random.pick(&[1, 20, 300]);
        let feeder = thread::spawn(move || feed(stdin, run, at_once));

        let killed = kill_at(child, random.moment(1_000));
        assert!(killed.was_killed(), "run {run}: {}", killed.status);
        feeder.join().unwrap();
        acknowledged += killed.lines.len();
        model.add_run(&place, &killed.lines);
    }
    assert!(acknowledged > 0, "the kills came while lines were sent");
    // Not silent: it may tell of the tail that the last kill cut.
    let last = place.feed("produce", [], "last\n").done();
    assert_eq!(last.text(), format!("{}\n", model.end));
    assert!(place.segments().len() > 1, "segments were rolled");
    place.run("verify", []).done();
    let everything = place.run("consume", ["--group", "all"]).done().silent();
    assert!(everything.text() == model.lines() + "last\n");
}

#[test]
fn durable_lines_survive_the_kills_of_their_producer() {
    produce_is_killed("durable");
}

#[test]
fn written_lines_survive_the_kills_of_their_producer() {
    produce_is_killed("written");
}

#[test]
fn a_named_producer_that_is_killed_and_run_again_over_its_input_imports_each_line_once() {
    let mut random = Random::new();
    let place = Place::new();
    let mut printed = 0;
    for run in 0..kills(100) {
        let segment_bytes = random.pick(&["8192", "65536", "1048576"]);
        let batch = random.pick(&["1", "10", "1000"]);
        let acks = random.pick(&["written", "durable"]);
        let mut command = place.command("produce", ["--acks", acks, "--batch", batch]);
        command.args(["--segment-bytes", segment_bytes, "--producer", "importer"]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.stderr(Stdio::null()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let at_once = random.pick(&[20, 300]);
        let feeder = thread::spawn(move || feed(stdin, 0, at_once));

        let killed = kill_at(child, random.moment(300));
        assert!(killed.was_killed(), "run {run}: {}", killed.status);
        feeder.join().unwrap();
        printed += killed.lines.len();
    }
    assert!(printed > 0, "the kills came while lines were sent");
    let values = values_from(&place, 0);
    assert!(values.len() >= printed, "{} of {printed}", values.len());
    let expected: Vec<_> = (0..values.len())
        .map(|index| input_line(0, index))
        .collect();
    assert_eq!(values, expected);
    let input = lines_of(&expected);
    let again = place
        .feed("produce", ["--producer", "importer"], input)
        .done();
    assert_eq!(again.text(), "", "nothing is missing");
    place.run("verify", []).done();
}

fn padded_line(number: u64) -> String {
    format!("{number:08} {}", "x".repeat(PADDING))
}

/// What a group has seen over all the runs of its consumer.
#[derive(Default)]
struct Seen {
    next: u64,
    /// Runs that went on behind the start.
    resumed: u64,
}

impl Seen {
    /// Lines may be seen again, but none is skipped.
    fn add(&mut self, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let number: u64 = line[..8].parse().unwrap();
            assert_eq!(*line, padded_line(number));
            if index == 0 {
                assert!(number <= self.next, "from {} to {number}", self.next);
                self.resumed += u64::from(number > 0);
                self.next = number.max(self.next);
            } else {
                let before: u64 = lines[index - 1][..8].parse().unwrap();
                assert_eq!(number, before + 1, "in order");
            }
            self.next = self.next.max(number + 1);
        }
    }
}

fn start_consumer(place: &Place, group: &str, commit_every: &str, follow: bool) -> Child {
    let mut command = place.command("consume", ["--group", group]);
    if commit_every != "0" {
        command.args(["--commit-every", commit_every]);
    }
    if follow {
        command.arg("--follow");
    }
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped());
    piped.spawn().unwrap()
}

#[test]
fn a_consumer_that_is_killed_sees_every_line_at_least_once() {
    const LINES: u64 = 40_000;
    let mut random = Random::new();
    let place = Place::new();
    let input = lines_of((0..LINES).map(padded_line));
    let args = ["--batch", "50", "--segment-bytes", "1048576", "--quiet"];
    place.feed("produce", args, input).done();

    let (mut groups, mut fired, mut resumed) = (0, 0, 0);
    let mut seen = Seen::default();
    while fired < kills(200) {
        let group = format!("group-{groups}");
        let commit_every = random.pick(&["0", "1", "7", "100"]);
        let child = start_consumer(&place, &group, commit_every, false);
        let run = kill_at(child, random.moment(500));
        seen.add(&run.lines);
        if run.was_killed() {
            fired += 1;
        } else {
            assert!(run.status.success(), "{}", run.status);
            assert_eq!(seen.next, LINES);
            resumed += seen.resumed;
            (groups, seen) = (groups + 1, Seen::default());
        }
    }
    let rest = place
        .run("consume", ["--group", &format!("group-{groups}")])
        .done()
        .silent();
    let lines: Vec<_> = rest.lines().into_iter().map(str::to_owned).collect();
    seen.add(&lines);
    assert_eq!(seen.next, LINES);
    assert!(
        resumed + seen.resumed > 0,
        "commits were made between the kills"
    );
}

/// Writes as many more lines as it is told to, until it is told no more.
fn feed_on_credit(mut stdin: ChildStdin, credit: &Receiver<u64>) -> u64 {
    let mut next = 0;
    for count in credit {
        let text = lines_of((next..next + count).map(padded_line));
        stdin.write_all(text.as_bytes()).unwrap();
        next += count;
    }
    next
}

#[test]
fn a_consumer_that_is_killed_beside_a_live_producer_sees_every_line_at_least_once() {
    let mut random = Random::new();
    let place = Place::new();
    let args = ["--acks", "written", "--segment-bytes", "65536", "--quiet"];
    let mut command = place.command("produce", args);
    let mut producer = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = producer.stdin.take().unwrap();
    let (credit, credited) = mpsc::channel();
    let feeder = thread::spawn(move || feed_on_credit(stdin, &credited));
    credit.send(2_000).unwrap();
    cli::wait_until("there is a log", || {
        Log::open_read_only(place.log()).is_ok()
    });

    let mut seen = Seen::default();
    for _ in 0..kills(100) {
        let before = seen.next;
        let commit_every = random.pick(&["0", "1", "7", "100"]);
        let child = start_consumer(&place, "g", commit_every, true);
        let run = kill_at(child, random.moment(500));
        assert!(run.was_killed(), "{}", run.status);
        seen.add(&run.lines);
        // The producer stays ahead, but not by far.
        credit.send(seen.next - before).unwrap();
    }
    drop(credit);
    let sent = feeder.join().unwrap();
    assert!(producer.wait().unwrap().success());
    let rest = place.run("consume", ["--group", "g"]).done().silent();
    let lines: Vec<_> = rest.lines().into_iter().map(str::to_owned).collect();
    seen.add(&lines);
    assert_eq!(seen.next, sent);
    assert!(seen.resumed > 0, "commits were made between the kills");
}
