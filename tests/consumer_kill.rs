//! Consumers in processes of their own that are killed (`kill -9`) again and again, in each mode:
//! what was processed is written to a file as it is, and nothing may be missing there, or, at most
//! once, be there twice.
//!
//! `DURALOG_KILLS` sets how many kills each test makes.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use duralog::{Acks, CommitOptions, Consumer, ConsumerBuilder, Durability, Log, Record};

/// Tells the test binary that it is a consumer, and of which mode.
const MODE: &str = "DURALOG_CONSUMER_MODE";
const DIR: &str = "DURALOG_CONSUMER_DIR";
const RECORDS: u64 = 2_000;
const SIGKILL: i32 = 9;

/// A way to consume: its name, how the consumer is built, and what it does with each batch.
struct Way {
    name: &'static str,
    build: fn(ConsumerBuilder) -> ConsumerBuilder,
    consume: fn(Consumer, &mut dyn FnMut(&[u8])),
    at_most_once: bool,
}

const WAYS: &[Way] = &[
    Way {
        name: "manual",
        build: |builder| builder,
        consume: |consumer, done| poll_and(consumer, done, |consumer| consumer.commit()),
        at_most_once: false,
    },
    Way {
        name: "durable",
        build: |builder| builder.commit_durability(Durability::Durable),
        consume: |consumer, done| {
            poll_and(consumer, done, |consumer| {
                drop(consumer.commit_async(&CommitOptions::new())?);
                Ok(())
            });
        },
        at_most_once: false,
    },
    Way {
        name: "auto",
        build: |builder| builder.auto_commit_after(Duration::from_millis(1)),
        consume: |consumer, done| poll_and(consumer, done, |_| Ok(())),
        at_most_once: false,
    },
    Way {
        name: "before",
        build: ConsumerBuilder::commit_before_processing,
        consume: |consumer, done| poll_and(consumer, done, |_| Ok(())),
        at_most_once: true,
    },
];

/// Polls for ever, or until everything was seen.
fn poll_and(
    mut consumer: Consumer,
    done: &mut dyn FnMut(&[u8]),
    then: fn(&mut Consumer) -> duralog::Result<()>,
) {
    while consumer.position() < RECORDS.into() {
        let batch = consumer.poll(Duration::from_secs(1)).unwrap();
        for record in &batch {
            done(record.value().unwrap());
        }
        then(&mut consumer).unwrap();
    }
    // The last batch of a consumer that commits by itself is committed by the next poll.
    drop(consumer.poll(Duration::from_millis(5)).unwrap());
}

/// The child: does nothing when it runs among the tests.
#[test]
fn consumer() {
    let (Ok(mode), Ok(dir)) = (env::var(MODE), env::var(DIR)) else {
        return;
    };
    let way = WAYS.iter().find(|way| way.name == mode).unwrap();
    let dir = Path::new(&dir);
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("done"))
        .unwrap();
    let log = Log::open(dir.join("log")).unwrap();
    let builder = log.consumer("billing").max_poll_records(7);
    let consumer = (way.build)(builder).build().unwrap();
    (way.consume)(consumer, &mut |value| {
        // In one call, so that a kill leaves the whole line or nothing of it.
        file.write_all(&[value, b"\n"].concat()).unwrap();
    });
}

fn start(way: &Way, dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["consumer", "--exact"])
        .env(MODE, way.name)
        .env(DIR, dir)
        .stdout(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn make_log(dir: &Path) {
    let log = Log::open(dir.join("log")).unwrap();
    let producer = log.producer().acks(Acks::Written).build().unwrap();
    for number in 0..RECORDS {
        drop(producer.send(Record::new(number.to_string())).unwrap());
    }
    log.close().unwrap();
}

/// Kills consumers of one log until they have seen all of it; how many were.
fn kill_until_all_is_seen(way: &Way, dir: &Path, seed: &mut u64) -> usize {
    make_log(dir);
    let mut killed = 0;
    let began = Instant::now();
    loop {
        assert!(
            began.elapsed() < Duration::from_secs(300),
            "it gets nowhere"
        );
        let mut child = start(way, dir);
        *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        thread::sleep(Duration::from_micros(2_000 + (*seed >> 33) % 14_000));
        drop(child.kill());
        let status = child.wait().unwrap();
        if status.success() {
            return killed;
        }
        assert_eq!(status.signal(), Some(SIGKILL), "{status}");
        killed += 1;
    }
}

fn check(way: &Way, dir: &Path) -> usize {
    let text = fs::read_to_string(dir.join("done")).unwrap();
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    for line in text.lines() {
        *times.entry(line.parse().unwrap()).or_default() += 1;
    }
    for number in 0..RECORDS {
        let times = times.get(&number).copied().unwrap_or(0);
        if way.at_most_once {
            assert!(times <= 1, "{number} was processed {times} times");
        } else {
            assert!(times >= 1, "{number} was skipped");
        }
    }
    times.values().filter(|times| **times > 1).count()
}

fn kill_often(name: &str) {
    let kills = env::var("DURALOG_KILLS").map_or(100, |kills| kills.parse().unwrap());
    let way = WAYS.iter().find(|way| way.name == name).unwrap();
    let (mut killed, mut repeated, mut seed) = (0, 0, u64::from(std::process::id()));
    println!("seed {seed}");
    while killed < kills {
        let dir = tempfile::tempdir().unwrap();
        killed += kill_until_all_is_seen(way, dir.path(), &mut seed);
        repeated += check(way, dir.path());
    }
    println!("{killed} kills, {repeated} records repeated");
}

#[test]
fn manual_commits_skip_nothing_when_the_process_is_killed() {
    kill_often("manual");
}

#[test]
fn durable_commits_that_are_not_waited_for_skip_nothing_when_the_process_is_killed() {
    kill_often("durable");
}

#[test]
fn automatic_commits_skip_nothing_when_the_process_is_killed() {
    kill_often("auto");
}

#[test]
fn commits_before_processing_repeat_nothing_when_the_process_is_killed() {
    kill_often("before");
}
