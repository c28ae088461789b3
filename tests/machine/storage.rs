//! What the simulated machine keeps, and what a power cut may leave of the rest.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
};

use duralog::testing::{
    Access, File, FileSystem, SyncKind, Threads,
    sim::{Call, Choices, Disk, Machine, PAGE, SECTOR},
};

/// So many power cuts show everything that is likely enough.
pub const CUTS: u64 = 600;
pub const FILE: &str = "/data/file";

/// Runs `test` on a machine with a durable file that holds `content`.
pub fn on_machine(seed: u64, content: &[u8], test: impl FnOnce(&Machine, &dyn File)) {
    let machine = Machine::new(seed);
    machine.run(|| {
        machine.create_dir_all(Path::new("/data")).unwrap();
        let file = make(&machine, FILE, content);
        file.sync(SyncKind::Data).unwrap();
        sync_dir(&machine, "/data");
        test(&machine, &*file);
    });
    assert_eq!(machine.problems(), Vec::<String>::new(), "seed {seed}");
}

pub fn make(machine: &Machine, path: &str, content: &[u8]) -> Arc<dyn File> {
    let file = machine.open(Path::new(path), Access::CreateNew).unwrap();
    put(&*file, content, 0);
    file
}

pub fn put(file: &dyn File, bytes: &[u8], position: usize) {
    let written = file.write_at(bytes, position as u64).unwrap();
    assert_eq!(written, bytes.len());
}

pub fn content(file: &dyn File) -> Vec<u8> {
    let len = usize::try_from(file.len().unwrap()).unwrap();
    let mut bytes = vec![0; len];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), len);
    bytes
}

pub fn sync_dir(machine: &Machine, path: &str) {
    let dir = machine.open_dir(Path::new(path)).unwrap();
    dir.sync().unwrap();
}

fn rename(machine: &Machine, from: &str, to: &str) {
    machine.rename(Path::new(from), Path::new(to)).unwrap();
}

/// What power cuts leave now, and the seeds of their choices.
pub fn cuts(machine: &Machine) -> impl Iterator<Item = (u64, Disk)> {
    (0..CUTS).map(|seed| (seed, machine.power_cut(&mut Choices::of(seed))))
}

pub fn read(disk: &Disk, path: &str) -> Option<Vec<u8>> {
    disk.read(Path::new(path))
}

fn names(disk: &Disk) -> Vec<String> {
    let paths = disk.files().into_iter();
    paths.map(|path| path.display().to_string()).collect()
}

/// A file of sectors that are each filled with one byte.
pub fn sectors(fill: &[u8]) -> Vec<u8> {
    fill.iter().flat_map(|&byte| [byte; SECTOR]).collect()
}

/// The bytes that sectors are filled with; `None` if one holds two.
pub fn fills(bytes: &[u8]) -> Option<Vec<u8>> {
    let fill = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
    let sectors = bytes.chunks(SECTOR);
    let found = sectors.map(|sector| fill(sector).then_some(sector[0]));
    found.collect()
}

#[test]
fn synced_bytes_survive_every_power_cut() {
    let synced: Vec<_> = (0..3000u32).flat_map(u32::to_le_bytes).collect();
    on_machine(0, &synced, |machine, file| {
        let (dirty, end) = (5000, synced.len());
        // In a sector with synced bytes, over synced bytes, and behind them.
        put(file, &[1; 3000], dirty);
        put(file, &[2; 3000], end);
        make(machine, "/data/other", &[3; 9000]);
        let check = |disk: &Disk, cut: &str| {
            let found = read(disk, FILE).expect("its name is durable");
            assert!(found[..dirty] == synced[..dirty], "{cut}");
            assert!(found[dirty + 3000..end] == synced[dirty + 3000..], "{cut}");
        };
        for (seed, disk) in cuts(machine) {
            check(&disk, &format!("seed {seed}"));
        }
        check(&machine.power_cut(&mut Choices::nothing()), "nothing");
        check(&machine.power_cut(&mut Choices::everything()), "everything");
        check(&machine.power_cut(&mut Choices::names_only()), "names");
        check(&machine.power_cut(&mut Choices::no_names()), "no names");
    });
}

#[test]
fn the_end_of_a_process_loses_nothing_and_a_power_cut_behind_it_may() {
    on_machine(0, &[b'o'; 3000], |machine, file| {
        put(file, b"new", 1000);
        make(machine, "/data/other", b"other");
        rename(machine, "/data/other", "/data/renamed");
        let now = content(file);
        let left = machine.process_crash();
        let next = Machine::boot(left, 1);
        next.run(|| {
            let file = next.open(Path::new(FILE), Access::Read).unwrap();
            assert!(content(&*file) == now);
        });
        let left = next.process_crash();
        assert_eq!(names(&left), [FILE, "/data/renamed"]);
        assert_eq!(read(&left, "/data/renamed").unwrap(), b"other");

        let cut = left.power_cut(&mut Choices::nothing());
        assert_eq!(names(&cut), [FILE]);
        assert_eq!(read(&cut, FILE).unwrap(), [b'o'; 3000]);
        let cut = left.power_cut(&mut Choices::everything());
        assert_eq!(names(&cut), [FILE, "/data/renamed"]);
        assert!(read(&cut, FILE).unwrap() == now);
        let cut = left.power_cut(&mut Choices::names_only());
        assert_eq!(names(&cut), [FILE, "/data/renamed"]);
        assert_eq!(read(&cut, FILE).unwrap(), [b'o'; 3000]);
        assert_eq!(read(&cut, "/data/renamed").unwrap(), [0; 5]);
        let cut = left.power_cut(&mut Choices::no_names());
        assert_eq!(names(&cut), [FILE]);
        assert!(read(&cut, FILE).unwrap() == now);
    });
}

#[test]
fn each_sector_gets_there_or_not_whatever_the_others_do() {
    on_machine(0, &sectors(b"ooo"), |machine, file| {
        put(file, &sectors(b"nnn"), 0);
        let found = cuts(machine).filter_map(|(_, disk)| fills(&read(&disk, FILE).unwrap()));
        let found: BTreeSet<_> = found.collect();
        assert_eq!(found.len(), 8, "{found:?}");
    });
}

#[test]
fn each_sector_gets_there_in_any_version() {
    on_machine(0, &sectors(b"aa"), |machine, file| {
        for version in b"bc" {
            put(file, &sectors(&[*version; 2]), 0);
        }
        let found = cuts(machine).filter_map(|(_, disk)| fills(&read(&disk, FILE).unwrap()));
        let found: BTreeSet<_> = found.collect();
        assert_eq!(found.len(), 9, "{found:?}");
    });
}

#[test]
fn a_sector_is_a_version_or_one_half_copied_over_the_one_before() {
    on_machine(0, &sectors(b"aaaa"), |machine, file| {
        for version in b"bcd" {
            put(file, &sectors(&[*version; 4]), 0);
        }
        let mut halves = BTreeSet::new();
        for (seed, disk) in cuts(machine) {
            let found = read(&disk, FILE).unwrap();
            assert_eq!(found.len(), 4 * SECTOR, "seed {seed}");
            for sector in found.chunks(SECTOR) {
                let (front, back) = (sector[0], sector[SECTOR - 1]);
                let split = sector.iter().position(|byte| *byte != front);
                let behind = &sector[split.unwrap_or(SECTOR)..];
                assert!(behind.iter().all(|byte| *byte == back), "seed {seed}");
                assert!(b"abcd".contains(&front), "seed {seed}");
                assert!(front.abs_diff(back) <= 1, "seed {seed}: {front} {back}");
                halves.extend(split.map(|_| (front, back)));
            }
        }
        assert_eq!(halves.len(), 6, "both ends of each copy: {halves:?}");
    });
}

#[test]
fn a_file_is_longer_or_not_whether_its_bytes_are_there_or_not() {
    on_machine(0, &sectors(b"o"), |machine, file| {
        put(file, &sectors(b"nn"), 0);
        let found = cuts(machine).filter_map(|(_, disk)| fills(&read(&disk, FILE).unwrap()));
        let found: BTreeSet<_> = found.collect();
        let expected: [&[u8]; 6] = [b"n", b"n\0", b"nn", b"o", b"o\0", b"on"];
        assert!(found.iter().eq(&expected), "{found:?}");
    });
}

#[test]
fn a_length_is_durable_once_it_is_synced() {
    on_machine(0, &[b'o'; 3000], |machine, file| {
        for len in [9000, 700, 0, 5000] {
            file.set_len(len).unwrap();
            let may_be: BTreeSet<_> = cuts(machine)
                .map(|(_, disk)| read(&disk, FILE).unwrap().len() as u64)
                .collect();
            assert!(may_be.contains(&len) && may_be.len() == 2, "{may_be:?}");
            file.sync(SyncKind::Data).unwrap();
            let now = content(file);
            assert_eq!(now.len() as u64, len);
            for (seed, disk) in cuts(machine) {
                assert!(read(&disk, FILE).unwrap() == now, "seed {seed}");
            }
        }
        file.allocate(4000, 4000).unwrap();
        file.sync(SyncKind::Full).unwrap();
        for (seed, disk) in cuts(machine) {
            assert!(read(&disk, FILE).unwrap() == [0; 8000], "seed {seed}");
        }
    });
}

#[test]
fn bytes_that_a_cut_took_off_do_not_come_back_once_the_cut_is_there() {
    on_machine(0, &[b'o'; 10_000], |machine, file| {
        file.set_len(700).unwrap();
        put(file, &[b'n'; 100], 9000);
        file.set_len(12_000).unwrap();
        let mut seen = BTreeSet::new();
        for (seed, disk) in cuts(machine) {
            let found = read(&disk, FILE).unwrap();
            assert_eq!(found[..700], [b'o'; 700], "seed {seed}");
            if found.len() == 10_000 {
                // Zeros are written in the page that is cut; what is behind is as it was.
                let page = &found[700..PAGE];
                assert!(page.iter().all(|byte| b"o\0".contains(byte)), "seed {seed}");
                assert_eq!(found[PAGE..], [b'o'; 10_000 - PAGE], "seed {seed}");
                seen.insert((found.len(), page.contains(&0)));
            } else {
                assert!(!found[700..].contains(&b'o'), "seed {seed}");
                seen.insert((found.len(), found.contains(&b'n')));
            }
        }
        let expected = [
            (700, false),
            (9100, false),
            (9100, true),
            (10_000, false),
            (10_000, true),
            (12_000, false),
            (12_000, true),
        ];
        assert!(seen.iter().eq(&expected), "{seen:?}");
    });
}

#[test]
fn bytes_written_in_the_page_of_a_cut_may_be_there_before_the_cut() {
    on_machine(0, &[b'o'; 10_000], |machine, file| {
        file.set_len(512).unwrap();
        put(file, &[b'n'; 512], 512);
        let is_early = |disk: &Disk| {
            let found = read(disk, FILE).unwrap();
            found.len() == 10_000 && found[512..1024] == [b'n'; 512] && found[1024] == b'o'
        };
        assert!(cuts(machine).any(|(_, disk)| is_early(&disk)));
    });
}

#[test]
fn bytes_behind_the_length_that_is_there_do_not_appear_when_the_file_grows() {
    on_machine(0, &[b'o'; 700], |machine, file| {
        put(file, &[b'n'; 300], 700);
        let is_short = |disk: &Disk| read(disk, FILE).unwrap().len() == 700;
        for (seed, disk) in cuts(machine).filter(|(_, disk)| is_short(disk)).take(50) {
            let next = Machine::boot(disk, 0);
            next.run(|| {
                let file = next.open(Path::new(FILE), Access::Write).unwrap();
                file.set_len(1000).unwrap();
                assert_eq!(content(&*file)[700..], [0; 300], "seed {seed}");
            });
        }
    });
}

#[test]
fn a_file_is_there_for_sure_once_its_directory_is_synced() {
    on_machine(0, b"", |machine, _| {
        let path = "/data/new";
        let file = make(machine, path, &[b'x'; 3000]);
        file.sync(SyncKind::Full).unwrap();
        let is_there = |disk: &Disk| read(disk, path).is_some();
        assert!(cuts(machine).any(|(_, disk)| !is_there(&disk)));
        for (seed, disk) in cuts(machine).filter(|(_, disk)| is_there(disk)) {
            assert_eq!(read(&disk, path).unwrap(), [b'x'; 3000], "seed {seed}");
        }
        sync_dir(machine, "/");
        assert!(cuts(machine).any(|(_, disk)| !is_there(&disk)));
        sync_dir(machine, "/data");
        assert!(cuts(machine).all(|(_, disk)| is_there(&disk)));

        machine.remove_file(Path::new(path)).unwrap();
        let left: BTreeSet<_> = cuts(machine).map(|(_, disk)| is_there(&disk)).collect();
        assert_eq!(left.len(), 2, "it may be there again");
        sync_dir(machine, "/data");
        assert!(!cuts(machine).any(|(_, disk)| is_there(&disk)));
    });
}

#[test]
fn a_directory_that_was_made_is_durable_with_its_parents() {
    let machine = Machine::new(0);
    machine.run(|| {
        machine.create_dir_all(Path::new("/a/b/c")).unwrap();
        make(&machine, "/a/b/c/file", b"");
        sync_dir(&machine, "/a/b/c");
    });
    for (seed, disk) in cuts(&machine) {
        assert_eq!(names(&disk), ["/a/b/c/file"], "seed {seed}");
    }
}

#[test]
fn a_directory_whose_making_was_interrupted_is_durable_once_it_is_made_again() {
    let machine = Machine::new(0);
    let left: Arc<Mutex<Option<Disk>>> = Arc::default();
    let kept = Arc::clone(&left);
    machine.observe(move |moment| {
        if moment.call == Call::SyncDir {
            *kept.lock().unwrap() = Some(moment.process_crash());
        }
    });
    let dir = Path::new("/data");
    machine.run(|| machine.create_dir_all(dir).unwrap());
    let left = left
        .lock()
        .unwrap()
        .take()
        .expect("the directory is synced");
    let next = Machine::boot(left, 0);
    next.run(|| {
        assert!(next.read_dir(dir).unwrap().is_empty());
        next.create_dir_all(dir).unwrap();
        make(&next, FILE, b"");
        sync_dir(&next, "/data");
    });
    assert_eq!(names(&next.power_cut(&mut Choices::nothing())), [FILE]);
}

#[test]
fn changes_of_a_directory_get_there_in_any_order() {
    on_machine(0, b"", |machine, _| {
        make(machine, "/data/a", b"");
        make(machine, "/data/b", b"");
        machine.remove_file(Path::new(FILE)).unwrap();
        let found: BTreeSet<_> = cuts(machine).map(|(_, disk)| names(&disk)).collect();
        assert_eq!(found.len(), 8, "{found:?}");
    });
}

#[test]
fn a_renamed_file_has_its_old_name_or_its_new_one_or_both() {
    for (to, synced) in [("/data/moved", "/data"), ("/moved", "/")] {
        on_machine(0, b"content", |machine, _| {
            rename(machine, FILE, to);
            let mut seen = BTreeSet::new();
            for (seed, disk) in cuts(machine) {
                let names = names(&disk);
                for name in &names {
                    let found = read(&disk, name).unwrap();
                    assert_eq!(found, b"content", "seed {seed}: {names:?}");
                }
                seen.insert(names);
            }
            let (old, new) = (vec![FILE.to_owned()], vec![to.to_owned()]);
            let mut both = vec![FILE.to_owned(), to.to_owned()];
            both.sort();
            assert_eq!(seen, BTreeSet::from([old, new.clone(), both]));
            sync_dir(machine, synced);
            for (seed, disk) in cuts(machine) {
                assert_eq!(names(&disk), new, "seed {seed}");
            }
        });
    }
}

#[test]
fn a_name_whose_file_was_replaced_stands_for_the_old_one_or_the_new_one_until_the_directory_is_synced()
 {
    on_machine(0, b"old", |machine, _| {
        let new = make(machine, "/data/new", b"new");
        new.sync(SyncKind::Data).unwrap();
        sync_dir(machine, "/data");
        let replaced = machine.replace(Path::new("/data/new"), Path::new(FILE));
        replaced.unwrap();
        let seen: BTreeSet<_> = cuts(machine)
            .map(|(_, disk)| (read(&disk, FILE), read(&disk, "/data/new")))
            .collect();
        let (old, new) = (Some(b"old".to_vec()), Some(b"new".to_vec()));
        let undone = (old, new.clone());
        let half = (new.clone(), new.clone());
        let done = (new, None);
        assert_eq!(seen, BTreeSet::from([undone, half, done.clone()]));
        sync_dir(machine, "/data");
        for (seed, disk) in cuts(machine) {
            let found = (read(&disk, FILE), read(&disk, "/data/new"));
            assert_eq!(found, done, "seed {seed}");
        }
    });
}

/// Runs `sync` while another thread does `change`; returns which of the calls `watched` came when.
fn race(
    machine: &Machine,
    watched: [Call; 3],
    sync: impl FnOnce(),
    change: impl FnOnce(&Machine) + Send + 'static,
) -> Vec<Call> {
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let noted = Arc::clone(&calls);
    machine.observe(move |moment| {
        if watched.contains(&moment.call) {
            noted.lock().unwrap().push(moment.call);
        }
    });
    let own = machine.clone();
    let joiner = machine.spawn("other", Box::new(move || change(&own)));
    sync();
    joiner.unwrap().join();
    calls.lock().unwrap().clone()
}

#[test]
fn a_sync_makes_durable_what_was_there_when_it_began() {
    let mut seen = BTreeSet::new();
    for seed in 0..400 {
        on_machine(seed, &[b'o'; 9], |machine, file| {
            let watched = [Call::Write, Call::Sync, Call::Synced];
            let sync = || file.sync(SyncKind::Data).unwrap();
            let calls = race(machine, watched, sync, |machine| {
                let file = machine.open(Path::new(FILE), Access::Write).unwrap();
                put(&*file, &[b'n'; 9], 0);
            });
            assert_eq!(content(file), [b'n'; 9], "seed {seed}");
            let is_before = calls[0] == Call::Write;
            let byte = if is_before { b'n' } else { b'o' };
            let left = machine.power_cut(&mut Choices::nothing());
            assert_eq!(read(&left, FILE).unwrap(), [byte; 9], "seed {seed}");
            seen.insert(calls);
        });
    }
    assert_eq!(seen.len(), 3, "before, while, and after: {seen:?}");
}

#[test]
fn a_sync_of_a_directory_makes_durable_what_was_there_when_it_began() {
    let mut seen = BTreeSet::new();
    for seed in 0..400 {
        on_machine(seed, b"", |machine, _| {
            let watched = [Call::Create, Call::SyncDir, Call::DirSynced];
            let sync = || sync_dir(machine, "/data");
            let calls = race(machine, watched, sync, |machine| {
                make(machine, "/data/new", b"");
            });
            let is_before = calls[0] == Call::Create;
            let left = machine.power_cut(&mut Choices::nothing());
            assert_eq!(left.files().len() == 2, is_before, "seed {seed}");
            seen.insert(calls);
        });
    }
    assert_eq!(seen.len(), 3, "before, while, and after: {seen:?}");
}

#[test]
fn a_crash_can_be_tried_at_every_moment() {
    on_machine(0, &sectors(b"oo"), |machine, file| {
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let noted = Arc::clone(&seen);
        machine.observe(move |moment| {
            let of = |disk: &Disk| fills(&disk.read(Path::new(FILE)).unwrap()).unwrap();
            let crash = of(&moment.process_crash());
            let cut = of(&moment.power_cut(&mut Choices::nothing()));
            let what = (moment.call, crash, cut, moment.version());
            noted.lock().unwrap().push(what);
            assert_eq!(moment.path, Path::new(FILE));
        });
        let before = machine.moments();
        put(file, &sectors(b"nn"), 0);
        file.sync(SyncKind::Data).unwrap();
        assert_eq!(file.len().unwrap(), 2 * SECTOR as u64);
        assert_eq!(machine.moments() - before, 5);
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let shown: Vec<_> = seen
            .iter()
            .map(|(call, crash, cut, _)| (*call, &**crash, &**cut))
            .collect();
        let expected: [(_, &[u8], &[u8]); 5] = [
            (Call::Write, b"oo", b"oo"),
            (Call::HalfWritten, b"no", b"oo"),
            (Call::Sync, b"nn", b"oo"),
            (Call::Synced, b"nn", b"oo"),
            (Call::Len, b"nn", b"nn"),
        ];
        assert_eq!(shown, expected);
        let changed = seen.windows(2).map(|pair| pair[0].3 < pair[1].3);
        assert!(changed.eq([true, true, false, true]));
    });
}

#[test]
fn a_boot_tells_a_power_cut_from_the_end_of_a_process() {
    on_machine(0, b"", |machine, file| {
        assert!(file.try_lock().unwrap());
        let other = Machine::boot(machine.process_crash(), 1);
        assert_eq!(other.boot_id(), machine.boot_id());
        other.run(|| {
            let file = other.open(Path::new(FILE), Access::Write).unwrap();
            assert!(file.try_lock().unwrap(), "the lock ended with the process");
        });
        let mut boots = BTreeSet::from([machine.boot_id()]);
        for _ in 0..3 {
            let left = machine.power_cut(&mut Choices::everything());
            let twice = left.power_cut(&mut Choices::everything());
            boots.insert(Machine::boot(left, 1).boot_id());
            boots.insert(Machine::boot(twice, 1).boot_id());
        }
        assert_eq!(boots.len(), 3, "one for each power cut in a row");
    });
}

#[test]
fn what_a_crash_left_can_be_looked_at_and_edited() {
    on_machine(0, &[b'o'; 1000], |machine, _| {
        let mut disk = machine.process_crash();
        let path = Path::new(FILE);
        assert!(disk.write(path, 999, b"nn"));
        assert!(disk.write(Path::new("/data/new"), 3, b"x"));
        assert!(!disk.write(Path::new("/nowhere/new"), 0, b"x"));
        assert_eq!(names(&disk), [FILE, "/data/new"]);
        let cut = disk.power_cut(&mut Choices::nothing());
        assert_eq!(cut.files(), disk.files());
        assert_eq!(read(&cut, "/data/new").unwrap(), b"\0\0\0x");
        assert_eq!(read(&cut, FILE).unwrap()[998..], *b"onn");
        assert!(disk.set_len(path, 5));
        assert!(disk.remove(Path::new("/data/new")));
        for path in ["/data/new", "/data", "/nowhere/new"] {
            assert!(!disk.set_len(Path::new(path), 0), "{path}");
            assert!(!disk.remove(Path::new(path)), "{path}");
            assert_eq!(read(&disk, path), None);
        }
        let cut = disk.power_cut(&mut Choices::nothing());
        assert_eq!(names(&cut), [FILE]);
        assert_eq!(read(&cut, FILE).unwrap(), b"ooooo");
        assert_eq!(machine.process_crash().files(), [path], "it is a copy");
    });
}
