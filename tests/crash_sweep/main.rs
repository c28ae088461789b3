//! Crashes the library at every call it makes on a simulated machine, and at every call of the
//! recovery that follows; and looks at many of the disks that a crash there may leave. On each of
//! them the log is opened, and compared with what its users had been promised.
//!
//! ```sh
//! cargo test --features testing --test crash_sweep                       # as in CI
//! cargo test --features testing --test crash_sweep -- --seeds 1000       # for as long as you like
//! cargo test --features testing --test crash_sweep -- --seeds 1000 --only random
//! cargo test --features testing --test crash_sweep -- --replay rolls/mapped/3
//! ```
//!
//! What fails prints the command that replays it. A run also fails if a kind of fault never
//! happened, if a row of the recovery table was never taken, or if there were too few images.

#[path = "../common/sim/mod.rs"]
mod sim;

mod hardware;
mod sweep;
mod tally;
mod workloads;

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use sweep::Job;
use tally::Tally;

/// Seeds for each workload, as in CI, ...
const SEEDS: u64 = 2;
/// ...and images that this has to look at, at least.
const ENOUGH: usize = 50_000;
/// More than CI has cores: the threads of a simulated machine run one at a time, and it takes a while
/// for one to wake the next.
const THREADS: usize = 4;

#[derive(Debug)]
struct Arguments {
    /// Seeds for each workload.
    seeds: u64,
    replay: Option<Job>,
    /// A workload that alone is of interest.
    only: Option<String>,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let jobs: Vec<_> = match (&arguments.replay, &arguments.only) {
        (Some(job), _) => vec![job.clone()],
        (None, Some(name)) => {
            let jobs = sweep::jobs(arguments.seeds).into_iter();
            jobs.filter(|job| job.is(name)).collect()
        }
        (None, None) => sweep::jobs(arguments.seeds),
    };
    if jobs.is_empty() {
        let names: Vec<_> = sweep::names().collect();
        eprintln!(
            "there is no such workload, or no seed; names: {}",
            names.join(" ")
        );
        return ExitCode::from(2);
    }
    let tally = Tally::default();
    let failures = run(&jobs, &tally);
    print!("{tally}");
    for failure in &failures {
        eprintln!("\n{failure}");
    }
    let is_part = arguments.replay.is_some() || arguments.only.is_some();
    let is_whole = !is_part && arguments.seeds >= SEEDS;
    let lacks = if is_whole {
        tally.lacks(ENOUGH)
    } else {
        Vec::new()
    };
    for lack in &lacks {
        eprintln!("\n{lack}");
    }
    if failures.is_empty() && lacks.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Does the jobs side by side; after the first that fails, no other one is begun.
fn run(jobs: &[Job], tally: &Tally) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = job.run(tally) {
                        failures.lock().unwrap().push(failure);
                    }
                    if !failures.lock().unwrap().is_empty() {
                        return;
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

/// What the command line asks for; `None` if it asks for other tests.
fn arguments(given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        seeds: SEEDS,
        replay: None,
        only: None,
    };
    let mut given = given;
    while let Some(argument) = given.next() {
        let mut value = || {
            let missing = format!("{argument} needs a value");
            given.next().ok_or(missing)
        };
        match argument.as_str() {
            "--seeds" => {
                arguments.seeds = value()?.parse().map_err(|_| "--seeds needs a number")?;
            }
            "--only" => arguments.only = Some(value()?),
            "--replay" => arguments.replay = Some(value()?.parse()?),
            // What is meant for tests of the usual kind, all of which may be asked for at once.
            "--list" | "--ignored" => return Ok(None),
            "--nocapture" | "--quiet" | "-q" | "--show-output" | "--include-ignored" => {}
            filter if !filter.starts_with('-') => {
                if !"crash_sweep".contains(filter) {
                    println!("crash_sweep is not among the tests with {filter:?} in their names");
                    return Ok(None);
                }
            }
            unknown => {
                let known = "--seeds N, --only NAME, --replay NAME/mapped|buffered/SEED";
                let names: Vec<_> = sweep::names().collect();
                return Err(format!(
                    "{unknown} is none of {known}; names: {}",
                    names.join(" ")
                ));
            }
        }
    }
    Ok(Some(arguments))
}
