//! One workload, crashed at every call.

use std::{
    collections::HashSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    str::FromStr,
};

use duralog::{
    LogOptions, WriteMode,
    testing::sim::{Choices, Disk, Machine, Random},
};

use crate::{
    hardware,
    sim::{
        examine::{Next, examine},
        oracle::{Crash, Oracle},
        world::{Point, World, options},
    },
    tally::{Kind, Tally},
    workloads::{self, Workload},
};

/// Disks drawn at random for each point, beside those that are the same for all.
const DRAWN: u64 = 2;
/// Recoveries of each job that are crashed themselves.
const RECOVERIES: usize = 5;

/// A workload in one write mode, with one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    name: &'static str,
    mode: WriteMode,
    seed: u64,
}

/// The names of all workloads and scenarios.
pub fn names() -> impl Iterator<Item = &'static str> {
    let workloads = workloads::ALL.iter().map(|(name, _)| *name);
    workloads.chain(hardware::ALL.iter().map(|(name, _)| *name))
}

/// All jobs, for this many seeds. The long ones come first, so that no thread has to wait for
/// another one at the end.
pub fn jobs(seeds: u64) -> Vec<Job> {
    let modes = [WriteMode::Mapped, WriteMode::Buffered];
    let jobs = (0..seeds)
        .flat_map(|seed| modes.map(|mode| (seed, mode)))
        .flat_map(|(seed, mode)| names().map(move |name| Job { name, mode, seed }));
    let mut jobs: Vec<_> = jobs.collect();
    jobs.reverse();
    jobs
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            WriteMode::Buffered => "buffered",
            _ => "mapped",
        };
        write!(f, "{}/{mode}/{}", self.name, self.seed)
    }
}

impl FromStr for Job {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("{text} is no job: it is NAME/mapped/SEED or NAME/buffered/SEED");
        let mut jobs = jobs(1).into_iter();
        let (job, seed) = text.rsplit_once('/').ok_or_else(unknown)?;
        let seed = seed.parse().map_err(|_| unknown())?;
        let found = jobs.find(|known| known.to_string() == format!("{job}/0"));
        Ok(Self {
            seed,
            ..found.ok_or_else(unknown)?
        })
    }
}

impl Job {
    /// Whether it is of the workload `name`.
    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// Does it.
    ///
    /// # Errors
    ///
    /// What went wrong, and how to see it again.
    pub fn run(&self, tally: &Tally) -> Result<(), String> {
        let run = || match workloads::ALL.iter().find(|(name, _)| *name == self.name) {
            Some(workload) => self.sweep(workload, tally),
            None => hardware::run(self.name, self.mode, self.seed, tally),
        };
        let result = catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|panic| Err(format!("panicked: {}", message(&*panic))));
        result.map_err(|why| {
            format!(
                "{self}: {why}\nto see it again:\n\
                 cargo test --features testing --test crash_sweep -- --replay {self}"
            )
        })
    }

    /// Whether another log shares the maintenance threads meanwhile.
    fn has_neighbour(&self) -> bool {
        self.seed % 2 == 1
    }

    fn sweep(&self, (_, workload): &Workload, tally: &Tally) -> Result<(), String> {
        let mut world = World::new(self.seed, self.mode);
        if self.has_neighbour() {
            world = world.with_neighbour();
        }
        let points = world.watch();
        let machine = world.machine.clone();
        machine.run(|| {
            workload(&mut world, self.seed);
            world.leave_neighbour();
        });
        tally.ran(machine.moments());
        if let [problem, ..] = world.machine.problems().as_slice() {
            return Err(problem.clone());
        }
        let points = std::mem::take(&mut *points.lock().unwrap());
        let mut sweep = Sweep {
            options: options(self.mode),
            tally,
            random: Random::new(self.seed),
            is_first: self.seed == 0,
            rows_seen: HashSet::new(),
            recoveries: 0,
        };
        for point in &points {
            tally.crashed_at(&format!("{:?}", point.call), false);
            sweep.crash_at(point)?;
        }
        Ok(())
    }
}

pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned()));
    text.unwrap_or_else(|| "without a message".to_owned())
}

/// A disk to be looked at.
struct Image {
    what: String,
    disk: Disk,
    crash: Crash,
}

struct Sweep<'a> {
    options: LogOptions,
    tally: &'a Tally,
    random: Random,
    /// Each disk that is the same for all is looked at. Of later seeds, which run the same calls in
    /// another order, the one with the least on it, and those that are drawn.
    is_first: bool,
    rows_seen: HashSet<String>,
    recoveries: usize,
}

impl Sweep<'_> {
    /// Looks at what a crash at this point may leave.
    fn crash_at(&mut self, point: &Point) -> Result<(), String> {
        let at = |why: String| {
            format!(
                "at moment {} ({:?} {}): {why}",
                point.number, point.call, point.path
            )
        };
        for image in self.images(&point.disk, DRAWN) {
            let (rows, next) = self.look(&image, &point.oracle).map_err(at)?;
            for next in next {
                let what = format!("{}, then {}", image.what, next.what);
                let Next {
                    disk,
                    crash,
                    oracle,
                    ..
                } = next;
                self.look(&Image { what, disk, crash }, &oracle)
                    .map_err(at)?;
            }
            let is_new = self.rows_seen.insert(rows);
            if is_new || self.recoveries < RECOVERIES && self.random.chance(8) {
                self.recoveries += 1;
                self.crash_recovery(&image, &point.oracle).map_err(at)?;
            }
        }
        Ok(())
    }

    /// Different disks that a crash may leave.
    fn images(&mut self, disk: &Disk, drawn: u64) -> Vec<Image> {
        let mut images = vec![Image {
            what: "the process ends".to_owned(),
            disk: disk.clone(),
            crash: Crash::Process,
        }];
        let mut known = HashSet::new();
        let mut cut = |what: &str, mut choices: Choices| {
            let disk = disk.power_cut(&mut choices);
            if known.insert(disk.fingerprint()) {
                let (what, crash) = (format!("the power is cut, {what}"), Crash::Power);
                images.push(Image { what, disk, crash });
            }
        };
        cut("nothing more is there", Choices::nothing());
        if self.is_first {
            cut("everything is there", Choices::everything());
            cut("names are there and no bytes", Choices::names_only());
            cut("bytes are there and no names", Choices::no_names());
        }
        for _ in 0..drawn {
            let seed = self.random.number();
            cut(&format!("image {seed:#x}"), Choices::of(seed));
        }
        images
    }

    fn look(&mut self, image: &Image, oracle: &Oracle) -> Result<(String, Vec<Next>), String> {
        let fingerprint = image.disk.fingerprint();
        self.tally.is_new(fingerprint);
        self.tally.happened(
            match image.crash {
                Crash::Process => Kind::ProcessCrash,
                Crash::Power => Kind::PowerCut,
            },
            1,
        );
        let looked = catch_unwind(AssertUnwindSafe(|| {
            examine(&image.disk, &self.options, image.crash, oracle, fingerprint)
        }));
        let examined = looked
            .unwrap_or_else(|panic| Err(format!("panicked: {}", message(&*panic))))
            .map_err(|why| format!("{}: {why}", image.what))?;
        self.tally.opened(&examined.rows);
        Ok((examined.rows, examined.next))
    }

    /// Opens a disk, and crashes that at every call.
    fn crash_recovery(&mut self, image: &Image, oracle: &Oracle) -> Result<(), String> {
        let machine = Machine::boot(image.disk.clone(), self.random.number());
        let world = World::on(machine, self.options.clone(), oracle.clone());
        let points = world.watch();
        let points = world.machine.run(|| {
            let log = world.open();
            let points = std::mem::take(&mut *points.lock().unwrap());
            drop(log);
            points
        });
        for point in points {
            self.tally.crashed_at(&format!("{:?}", point.call), true);
            self.tally.happened(Kind::CrashInRecovery, 1);
            for mut again in self.images(&point.disk, 1) {
                again.what = format!(
                    "{}, and while that is recovered, at {:?} {}, {}",
                    image.what, point.call, point.path, again.what
                );
                if image.crash == Crash::Power {
                    again.crash = Crash::Power;
                }
                self.look(&again, oracle)?;
            }
        }
        Ok(())
    }
}
