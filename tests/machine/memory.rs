//! Mapped memory of the simulated machine, as a log writes it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use duralog::{
    Acks, FlushPolicy, Log, Producer, Record, WriteMode,
    testing::{
        Access, File, FileSystem, MapCells, SyncKind,
        sim::{Call, Choices, Disk, Machine, PAGE},
    },
};

const DIR: &str = "/log";
const CELLS: &str = "/log/cells";

/// What a file holds just before a call.
type Image = (Call, Vec<u8>);

/// Runs `test` on a machine with a log that is written through mapped memory and never flushed by
/// itself; returns the machine.
fn with_log(seed: u64, test: impl FnOnce(&Machine, &Log, &Producer)) -> Machine {
    let options = Log::options()
        .write_mode(WriteMode::Mapped)
        .flush(FlushPolicy::never());
    let machine = Machine::new(seed);
    machine.run(|| {
        let log = duralog::testing::open(Arc::new(machine.clone()), &options, DIR).unwrap();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        test(&machine, &log, &producer);
    });
    machine
}

fn send(producer: &Producer, value: &[u8]) {
    producer.send(Record::new(value)).unwrap().wait().unwrap();
}

/// The file that is written.
fn segment(machine: &Machine) -> PathBuf {
    let files = machine.process_crash().files();
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "log");
    files.into_iter().find(is_segment).expect("it is there")
}

fn read(disk: &Disk, path: &Path) -> Vec<u8> {
    disk.read(path).unwrap()
}

#[test]
fn bytes_in_mapped_memory_outlive_the_process_and_are_durable_once_the_file_is_synced() {
    let value = [b'v'; 3 * PAGE];
    let machine = with_log(0, |machine, log, producer| {
        let path = segment(machine);
        let holds = |disk: &Disk| read(disk, &path).windows(value.len()).any(|at| at == value);
        let left = |choices: &mut Choices| machine.power_cut(choices);
        send(producer, &value);
        assert!(holds(&machine.process_crash()));
        assert!(holds(&left(&mut Choices::everything())));
        assert!(!holds(&left(&mut Choices::nothing())));
        log.sync().unwrap();
        assert!(holds(&left(&mut Choices::nothing())));
        for seed in 0..50 {
            assert!(holds(&left(&mut Choices::of(seed))), "seed {seed}");
        }
    });
    assert_eq!(machine.problems(), Vec::<String>::new());
}

#[test]
fn a_copy_into_mapped_memory_is_seen_from_either_end_by_half_before_it_is_published() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let images: Arc<Mutex<Vec<Image>>> = Arc::default();
        with_log(seed, |machine, _, producer| {
            let (noted, path) = (Arc::clone(&images), segment(machine));
            machine.observe(move |moment| {
                let copying = [
                    Call::BeforeCopy,
                    Call::HalfCopied,
                    Call::Copied,
                    Call::Published,
                ];
                if copying.contains(&moment.call) {
                    let image = read(&moment.process_crash(), &path);
                    noted.lock().unwrap().push((moment.call, image));
                }
            });
            send(producer, &[b'v'; 700]);
        });
        let mut images = images.lock().unwrap();
        // Meanwhile the file may have been extended.
        let longest = images.iter().map(|(_, image)| image.len()).max();
        for (_, image) in images.iter_mut() {
            image.resize(longest.unwrap_or(0), 0);
        }
        let calls: Vec<_> = images.iter().map(|(call, _)| *call).collect();
        let expected = [
            Call::BeforeCopy,
            Call::HalfCopied,
            Call::Copied,
            Call::Published,
        ];
        assert_eq!(calls, expected, "seed {seed}");
        let [before, half, copied, published] = [0, 1, 2, 3].map(|at| &*images[at].1);
        assert!(copied == published, "seed {seed}");
        // Of the bytes that the copy changes, whether each is there by half of it.
        let is_there: Vec<_> = (0..copied.len())
            .filter(|&at| before[at] != copied[at])
            .map(|at| half[at] == copied[at])
            .collect();
        assert!(is_there.len() > 700, "seed {seed}");
        let turns = is_there.windows(2).filter(|pair| pair[0] != pair[1]);
        assert!(turns.count() <= 1, "seed {seed}");
        seen.insert((is_there[0], is_there[is_there.len() - 1]));
    }
    assert!(seen.contains(&(true, false)), "the front first: {seen:?}");
    assert!(seen.contains(&(false, true)), "the back first: {seen:?}");
}

#[test]
fn a_store_into_mapped_memory_without_blocks_or_behind_the_end_is_noted() {
    for (keeps_len, seed) in [(true, 0), (false, 1)] {
        let machine = with_log(seed, |machine, _, producer| {
            send(producer, b"fits");
            assert_eq!(machine.problems(), Vec::<String>::new());
            let file = machine.open(&segment(machine), Access::Write).unwrap();
            let len = file.len().unwrap();
            file.set_len(0).unwrap();
            if keeps_len {
                file.set_len(len).unwrap();
            }
            send(producer, b"does not");
        });
        let problems = machine.problems();
        let found = problems.first().expect("it is a problem");
        assert!(found.contains("SIGBUS"), "{problems:?}");
    }
}

#[test]
fn a_crash_between_two_stores_keeps_the_first() {
    let machine = with_log(0, |machine, log, producer| {
        let path = segment(machine);
        send(producer, b"the first value");
        log.sync().unwrap();
        let synced = read(&machine.process_crash(), &path);
        send(producer, b"the second value");
        for seed in 0..50 {
            let left = read(&machine.power_cut(&mut Choices::of(seed)), &path);
            let end = synced.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            assert!(left[..end] == synced[..end], "seed {seed}");
        }
    });
    assert_eq!(machine.problems(), Vec::<String>::new());
}

/// Runs `test` on a machine with a file of two pages of 'x', all of it durable.
fn with_cells(seed: u64, test: impl FnOnce(&Machine, &dyn File, MapCells)) -> Machine {
    let machine = Machine::new(seed);
    machine.run(|| {
        machine.create_dir_all(Path::new(DIR)).unwrap();
        let directory = machine.open_dir(Path::new(DIR)).unwrap();
        let file = machine.open(Path::new(CELLS), Access::CreateNew).unwrap();
        assert_eq!(file.write_at(&[b'x'; 2 * PAGE], 0).unwrap(), 2 * PAGE);
        file.sync(SyncKind::Full).unwrap();
        directory.sync().unwrap();
        let cells = file.map_cells(2 * PAGE).unwrap();
        test(&machine, &*file, cells);
    });
    machine
}

#[test]
fn of_a_piece_stored_in_place_the_first_word_is_zero_as_long_as_the_rest_is_not_whole() {
    const PIECE: std::ops::Range<usize> = 512..1024;
    let (old, new) = ([b'x'; 512], [b'n'; 512]);
    let mut halves = BTreeSet::new();
    for seed in 0..40 {
        let images: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let machine = with_cells(seed, |machine, _, mut cells| {
            let noted = Arc::clone(&images);
            machine.observe(move |moment| {
                let file = read(&moment.process_crash(), Path::new(CELLS));
                noted.lock().unwrap().push(file[PIECE].to_vec());
            });
            cells.store(PIECE.start, &new);
        });
        assert_eq!(machine.problems(), Vec::<String>::new());
        let images = images.lock().unwrap();
        let [before, zeroed, half, copied, last] = &images[..5] else {
            panic!("{} moments", images.len());
        };
        assert!(*before == old && *last == new, "seed {seed}");
        for image in [zeroed, half, copied] {
            assert_eq!(image[..8], [0; 8], "seed {seed}");
        }
        assert_eq!((&zeroed[8..], &copied[8..]), (&old[8..], &new[8..]));
        halves.insert((half[8], half[511]));
    }
    assert!(halves.contains(&(b'n', b'x')) && halves.contains(&(b'x', b'n')));
}

#[test]
fn what_is_stored_in_place_is_durable_once_the_file_is_synced_and_a_power_cut_may_tear_it_before() {
    let machine = with_cells(0, |machine, file, mut cells| {
        let after_cut = |seed| {
            let left = machine.power_cut(&mut Choices::of(seed));
            read(&left, Path::new(CELLS))[PAGE..PAGE + 512].to_vec()
        };
        cells.store(PAGE, &[b'a'; 512]);
        let left: BTreeSet<_> = (0..200).map(after_cut).collect();
        assert!(left.contains(&vec![b'x'; 512]) && left.contains(&vec![b'a'; 512]));
        assert!(left.len() > 2, "it may be torn");
        file.sync(SyncKind::Data).unwrap();
        assert!((0..50).all(|seed| after_cut(seed) == [b'a'; 512]));
    });
    assert_eq!(machine.problems(), Vec::<String>::new());
}

#[test]
fn a_piece_stored_in_place_without_blocks_or_behind_the_end_is_noted() {
    for keeps_len in [true, false] {
        let machine = with_cells(0, |machine, file, mut cells| {
            cells.store(0, &[b'a'; 512]);
            assert_eq!(machine.problems(), Vec::<String>::new());
            file.set_len(0).unwrap();
            if keeps_len {
                file.set_len(2 * PAGE as u64).unwrap();
            }
            cells.store(0, &[b'b'; 512]);
        });
        let problems = machine.problems();
        let stored = |problem: &String| problem.contains("SIGBUS: 512 bytes at 0");
        assert!(problems.iter().any(stored), "{problems:?}");
    }
}
