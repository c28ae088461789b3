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

use duralog::{
    Acks, CommitOptions, Consumer, ConsumerBuilder, Durability, Log, Record, RetryPolicy,
};

/// Tells the test binary that it is a consumer, and of which mode.
const MODE: &str = "DURALOG_CONSUMER_MODE";
const DIR: &str = "DURALOG_CONSUMER_DIR";
const RECORDS: u64 = 2_000;
const SIGKILL: i32 = 9;

/// Notes that a record was processed.
type Done<'a> = &'a (dyn Fn(&[u8]) + Sync);

/// A way to consume: its name, how the consumer is built, and what it does until everything was
/// seen.
struct Way {
    name: &'static str,
    build: fn(ConsumerBuilder, &Path) -> ConsumerBuilder,
    consume: fn(ConsumerBuilder, Done<'_>),
    at_most_once: bool,
}

const WAYS: &[Way] = &[
    Way {
        name: "manual",
        build: |builder, _| builder,
        consume: |builder, done| poll_and(builder, done, Consumer::commit),
        at_most_once: false,
    },
    Way {
        name: "durable",
        build: |builder, _| builder.commit_durability(Durability::Durable),
        consume: |builder, done| {
            poll_and(builder, done, |consumer| {
                drop(consumer.commit_async(&CommitOptions::new())?);
                Ok(())
            });
        },
        at_most_once: false,
    },
    Way {
        name: "auto",
        build: |builder, _| builder.auto_commit_after(Duration::from_millis(1)),
        consume: |builder, done| poll_and(builder, done, |_| Ok(())),
        at_most_once: false,
    },
    Way {
        name: "before",
        build: |builder, _| builder.commit_before_processing(),
        consume: |builder, done| poll_and(builder, done, |_| Ok(())),
        at_most_once: true,
    },
    Way {
        name: "process",
        build: |builder, dir| {
            let dead = Log::open(dir.join("dead")).unwrap();
            let twice = RetryPolicy::new()
                .attempts(2)
                .backoff(Duration::from_micros(20));
            builder.retry(twice).dead_letters(&dead)
        },
        consume: |builder, done| {
            let mut consumer = builder.build().unwrap();
            let processed = consumer.process_pending(|record| {
                let value = record.value().unwrap();
                // One in ten is for the dead letters.
                if value.ends_with(b"7") {
                    return Err("unlucky");
                }
                done(value);
                Ok(())
            });
            processed.unwrap();
        },
        at_most_once: false,
    },
    Way {
        name: "parallel",
        build: |builder, _| builder,
        consume: |builder, done| {
            let consumer = builder.build_parallel(16).unwrap();
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while let Some(record) = consumer.take(Duration::ZERO).unwrap() {
                            done(record.value().unwrap());
                            record.ack().unwrap();
                        }
                    });
                }
            });
        },
        at_most_once: false,
    },
];

/// Polls for ever, or until everything was seen.
fn poll_and(
    builder: ConsumerBuilder,
    done: Done<'_>,
    then: fn(&mut Consumer) -> duralog::Result<()>,
) {
    let mut consumer = builder.build().unwrap();
    while consumer.position() < RECORDS.into() {
        let batch = consumer.poll(Duration::from_secs(1)).unwrap();
        for record in &batch {
            done(record.value().unwrap());
        }
        then(&mut consumer).unwrap();
    }
    // The last batch of a consumer that commits by itself is committed by the next poll.
    consumer.poll(Duration::from_millis(5)).unwrap();
}

/// The child: does nothing when it runs among the tests.
#[test]
fn consumer() {
    let (Ok(mode), Ok(dir)) = (env::var(MODE), env::var(DIR)) else {
        return;
    };
    let way = WAYS.iter().find(|way| way.name == mode).unwrap();
    let dir = Path::new(&dir);
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("done"))
        .unwrap();
    let log = Log::open(dir.join("log")).unwrap();
    let builder = log.consumer("billing").max_poll_records(7);
    (way.consume)((way.build)(builder, dir), &|value| {
        // In one call, so that a kill leaves the whole line or nothing of it.
        (&file).write_all(&[value, b"\n"].concat()).unwrap();
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
    let letters = dead_letters(&dir.join("dead"));
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    for line in text.lines().chain(letters.iter().map(String::as_str)) {
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

/// What is in the log for dead letters, if there is one.
fn dead_letters(dir: &Path) -> Vec<String> {
    if !dir.exists() {
        return Vec::new();
    }
    let log = Log::open(dir).unwrap();
    let mut reader = log.reader().build().unwrap();
    let mut letters = Vec::new();
    loop {
        let batch = reader.try_poll().unwrap();
        if batch.is_empty() {
            return letters;
        }
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        letters.extend(batch.iter().filter_map(|record| record.value().map(text)));
    }
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

#[test]
fn processing_and_its_dead_letters_skip_nothing_when_the_process_is_killed() {
    kill_often("process");
}

#[test]
fn acknowledged_work_skips_nothing_when_the_process_is_killed() {
    kill_often("parallel");
}
