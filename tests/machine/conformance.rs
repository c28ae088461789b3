//! What the seam promises, on the machine that the tests run on and on the simulated one.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use duralog::{
    Acks, FlushPolicy, Log, Record, WriteMode,
    testing::{Access, EntryKind, File, Host, RealHost, SyncKind, sim::Machine},
};

/// Of the simulated machine: enough for several schedules.
const SEEDS: u64 = 8;

/// Runs `test` on both machines, in an empty directory.
pub fn on_both(test: impl Fn(&Arc<dyn Host>, &Path)) {
    let root = tempfile::tempdir().unwrap();
    println!("on the real machine");
    let real: Arc<dyn Host> = Arc::new(RealHost::new());
    test(&real, root.path());
    for seed in 0..SEEDS {
        println!("on a simulated machine, seed {seed}");
        let machine = Machine::new(seed);
        let simulated: Arc<dyn Host> = Arc::new(machine.clone());
        machine.run(|| {
            let dir = Path::new("/tmp/test");
            simulated.create_dir_all(dir).unwrap();
            test(&simulated, dir);
        });
        assert_eq!(machine.problems(), Vec::<String>::new(), "seed {seed}");
    }
}

/// Makes a file.
fn make(host: &Arc<dyn Host>, path: &Path, content: &[u8]) -> Arc<dyn File> {
    let file = host.open(path, Access::CreateNew).unwrap();
    put(&*file, content, 0);
    file
}

fn put(file: &dyn File, mut bytes: &[u8], mut position: u64) {
    while !bytes.is_empty() {
        let written = file.write_at(bytes, position).unwrap();
        assert!(written > 0);
        bytes = &bytes[written..];
        position += written as u64;
    }
}

/// All that is in a file, which must be as long as it says.
fn content(file: &dyn File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0; 1000];
    loop {
        match file.read_at(&mut piece, bytes.len() as u64).unwrap() {
            0 => break,
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
    assert_eq!(file.len().unwrap(), bytes.len() as u64);
    bytes
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn names(host: &Arc<dyn Host>, dir: &Path) -> Vec<String> {
    let entries = host.read_dir(dir).unwrap().into_iter();
    let mut names: Vec<_> = entries
        .map(|entry| entry.name.into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_made_with_its_parents_and_may_be_there_already() {
    on_both(|host, dir| {
        let deep = dir.join("a/b/c");
        host.create_dir_all(&deep).unwrap();
        make(host, &deep.join("file"), b"x");
        host.create_dir_all(&deep).unwrap();
        host.create_dir_all(&dir.join("a")).unwrap();
        assert_eq!(names(host, dir), ["a"]);
        assert_eq!(names(host, &deep), ["file"]);
    });
}

#[test]
fn a_file_in_the_place_of_a_directory_is_an_error() {
    on_both(|host, dir| {
        let file = dir.join("file");
        make(host, &file, b"x");
        let exists = Some(ErrorKind::AlreadyExists);
        assert_eq!(kind(host.create_dir_all(&file)), exists);
        assert_eq!(kind(host.create_dir_all(&file.join("inside"))), exists);
        let no_directory = Some(ErrorKind::NotADirectory);
        assert_eq!(kind(host.read_dir(&file)), no_directory);
        assert_eq!(kind(host.open_dir(&file)), no_directory);
        let inside = file.join("inside");
        for access in [Access::Read, Access::Create, Access::CreateNew] {
            assert_eq!(kind(host.open(&inside, access)), no_directory);
        }
        assert_eq!(kind(host.remove_file(&inside)), no_directory);
        assert_eq!(kind(host.rename(&file, &inside)), no_directory);
        assert_eq!(names(host, dir), ["file"]);
    });
}

#[test]
fn a_directory_lists_names_lengths_and_kinds() {
    on_both(|host, dir| {
        make(host, &dir.join("empty"), b"");
        make(host, &dir.join("file"), &[7; 1234]);
        host.create_dir_all(&dir.join("inside")).unwrap();
        make(host, &dir.join("inside/hidden"), b"x");
        let mut found: Vec<_> = host.read_dir(dir).unwrap();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let kinds: Vec<_> = found.iter().map(|entry| entry.kind).collect();
        let (file, directory) = (EntryKind::File, EntryKind::Directory);
        assert_eq!(kinds, [file, file, directory]);
        assert_eq!((found[0].len, found[1].len), (0, 1234));
        assert_eq!(names(host, dir), ["empty", "file", "inside"]);
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    on_both(|host, dir| {
        let (nothing, nowhere) = (dir.join("nothing"), dir.join("nowhere/file"));
        let missing = Some(ErrorKind::NotFound);
        for access in [Access::Read, Access::Write] {
            assert_eq!(kind(host.open(&nothing, access)), missing);
        }
        for access in [Access::Create, Access::CreateNew] {
            assert_eq!(kind(host.open(&nowhere, access)), missing);
        }
        assert_eq!(kind(host.read_dir(&nothing)), missing);
        assert_eq!(kind(host.open_dir(&nothing)), missing);
        assert_eq!(kind(host.remove_file(&nothing)), missing);
        assert_eq!(kind(host.rename(&nothing, &dir.join("other"))), missing);
        let file = make(host, &dir.join("file"), b"x");
        assert_eq!(kind(host.rename(&dir.join("file"), &nowhere)), missing);
        assert_eq!(content(&*file), b"x");
        assert_eq!(names(host, dir), ["file"]);
    });
}

#[test]
fn a_file_is_made_unless_it_is_there_and_keeps_what_it_holds() {
    on_both(|host, dir| {
        let path = dir.join("file");
        let made = host.open(&path, Access::Create).unwrap();
        put(&*made, b"content", 0);
        let exists = Some(ErrorKind::AlreadyExists);
        assert_eq!(kind(host.open(&path, Access::CreateNew)), exists);
        for access in [Access::Read, Access::Write, Access::Create] {
            assert_eq!(content(&*host.open(&path, access).unwrap()), b"content");
        }
    });
}

#[test]
fn a_directory_is_no_file() {
    on_both(|host, dir| {
        let inside = dir.join("inside");
        host.create_dir_all(&inside).unwrap();
        for access in [Access::Read, Access::Write, Access::Create] {
            let refused = kind(host.open(&inside, access)).expect("it is no file");
            assert_ne!(refused, ErrorKind::NotFound, "{access:?}");
        }
        let exists = Some(ErrorKind::AlreadyExists);
        assert_eq!(kind(host.open(&inside, Access::CreateNew)), exists);
        let is_directory = Some(ErrorKind::IsADirectory);
        assert_eq!(kind(host.remove_file(&inside)), is_directory);
        host.open_dir(&inside).unwrap().sync().unwrap();
        assert_eq!(names(host, dir), ["inside"]);
    });
}

#[test]
fn all_handles_of_a_file_see_each_write_at_once() {
    on_both(|host, dir| {
        let path = dir.join("file");
        let writer = make(host, &path, b"first");
        let other = host.open(&path, Access::Write).unwrap();
        let reader = host.open(&path, Access::Read).unwrap();
        put(&*other, b"second", 3);
        put(&*writer, b"F", 0);
        for file in [&writer, &other, &reader] {
            assert_eq!(content(&**file), b"Firsecond");
        }
    });
}

#[test]
fn reading_at_the_end_and_behind_it_gives_nothing() {
    on_both(|host, dir| {
        let file = make(host, &dir.join("file"), b"content");
        let mut bytes = [9; 4];
        assert_eq!(file.read_at(&mut bytes, 5).unwrap(), 2);
        assert_eq!(&bytes, &[b'n', b't', 9, 9]);
        for position in [7, 8, 4096, 1 << 40] {
            assert_eq!(file.read_at(&mut bytes, position).unwrap(), 0);
        }
        assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    });
}

#[test]
fn a_write_behind_the_end_leaves_zeros_between() {
    on_both(|host, dir| {
        let file = make(host, &dir.join("file"), b"abc");
        put(&*file, b"xyz", 9000);
        let mut expected = b"abc".to_vec();
        expected.resize(9000, 0);
        expected.extend_from_slice(b"xyz");
        assert_eq!(content(&*file), expected);
        assert_eq!(file.write_at(b"", 20_000).unwrap(), 0);
        assert_eq!(file.len().unwrap(), 9003);
    });
}

#[test]
fn what_a_cut_took_off_does_not_come_back() {
    on_both(|host, dir| {
        for len in [0, 100, 512, 700, 4096, 5000] {
            let file = make(host, &dir.join(len.to_string()), &[b'x'; 10_000]);
            file.set_len(len).unwrap();
            let kept = vec![b'x'; usize::try_from(len).unwrap()];
            assert_eq!(content(&*file), kept);
            file.set_len(11_000).unwrap();
            let mut expected = kept;
            expected.resize(11_000, 0);
            assert_eq!(content(&*file), expected);
        }
    });
}

#[test]
fn allocating_extends_a_file_with_zeros_and_keeps_what_it_holds() {
    on_both(|host, dir| {
        let file = make(host, &dir.join("file"), &[b'x'; 5000]);
        if kind(file.allocate(0, 1)) == Some(ErrorKind::Unsupported) {
            println!("skipped: the file system of {} can't", dir.display());
            return;
        }
        file.allocate(1000, 3000).unwrap();
        assert_eq!(content(&*file), [b'x'; 5000]);
        file.allocate(4000, 16_000).unwrap();
        let mut expected = vec![b'x'; 5000];
        expected.resize(20_000, 0);
        assert_eq!(content(&*file), expected);
        assert!(file.allocate(30_000, 0).is_err());
        assert_eq!(content(&*file), expected);
    });
}

#[test]
fn a_rename_keeps_the_content_and_the_handles() {
    on_both(|host, dir| {
        host.create_dir_all(&dir.join("other")).unwrap();
        let file = make(host, &dir.join("a"), b"content");
        for (from, to) in [("a", "b"), ("b", "other/c"), ("other/c", "a")] {
            let (from, to) = (dir.join(from), dir.join(to));
            host.rename(&from, &to).unwrap();
            put(&*file, b"C", 0);
            let reopened = host.open(&to, Access::Read).unwrap();
            assert_eq!(content(&*reopened), b"Content");
            let missing = Some(ErrorKind::NotFound);
            assert_eq!(kind(host.open(&from, Access::Read)), missing);
        }
        assert_eq!(names(host, dir), ["a", "other"]);
        assert_eq!(names(host, &dir.join("other")), [""; 0]);
    });
}

#[test]
fn replacing_puts_a_file_in_the_place_of_another_which_stays_readable_to_those_who_have_it() {
    on_both(|host, dir| {
        let (a, b, inside) = (dir.join("a"), dir.join("b"), dir.join("inside"));
        make(host, &a, b"new");
        let old = make(host, &b, b"old");
        host.create_dir_all(&inside).unwrap();
        host.replace(&a, &b).unwrap();
        assert_eq!(names(host, dir), ["b", "inside"]);
        let reopened = host.open(&b, Access::Read).unwrap();
        assert_eq!(content(&*reopened), b"new");
        assert_eq!(content(&*old), b"old");
        host.replace(&b, &b).unwrap();
        host.replace(&b, &a).unwrap();
        assert_eq!(names(host, dir), ["a", "inside"]);
        let missing = Some(ErrorKind::NotFound);
        assert_eq!(kind(host.replace(&b, &a)), missing);
        let is_directory = Some(ErrorKind::IsADirectory);
        assert_eq!(kind(host.replace(&a, &inside)), is_directory);
    });
}

#[test]
fn a_rename_replaces_nothing() {
    on_both(|host, dir| {
        let (a, b, inside) = (dir.join("a"), dir.join("b"), dir.join("inside"));
        make(host, &a, b"a");
        make(host, &b, b"b");
        host.create_dir_all(&inside).unwrap();
        let exists = Some(ErrorKind::AlreadyExists);
        for target in [&a, &b, &inside] {
            assert_eq!(kind(host.rename(&a, target)), exists);
        }
        let missing = Some(ErrorKind::NotFound);
        assert_eq!(kind(host.rename(&dir.join("nothing"), &b)), missing);
        for (path, expected) in [(&a, b"a"), (&b, b"b")] {
            let file = host.open(path, Access::Read).unwrap();
            assert_eq!(content(&*file), expected);
        }
        assert_eq!(names(host, dir), ["a", "b", "inside"]);
    });
}

#[test]
fn a_file_that_is_removed_lives_on_in_its_handles() {
    on_both(|host, dir| {
        let path = dir.join("file");
        let old = make(host, &path, b"old");
        let reader = host.open(&path, Access::Read).unwrap();
        host.remove_file(&path).unwrap();
        assert_eq!(names(host, dir), [""; 0]);
        assert_eq!(kind(host.remove_file(&path)), Some(ErrorKind::NotFound));
        let new = make(host, &path, b"new content");
        put(&*old, b"er", 3);
        old.sync(SyncKind::Full).unwrap();
        assert_eq!(content(&*reader), b"older");
        assert_eq!(content(&*new), b"new content");
    });
}

#[test]
fn one_handle_at_a_time_locks_a_file() {
    on_both(|host, dir| {
        let path = dir.join("file");
        let first = make(host, &path, b"");
        let second = host.open(&path, Access::Write).unwrap();
        let reader = host.open(&path, Access::Read).unwrap();
        let other = make(host, &dir.join("other"), b"");
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        assert!(!reader.try_lock().unwrap());
        assert!(first.try_lock().unwrap(), "it has the lock already");
        assert!(other.try_lock().unwrap(), "it is another file");
        put(&*second, b"a lock forbids nothing", 0);

        let clone = Arc::clone(&first);
        drop(first);
        assert!(!second.try_lock().unwrap());
        drop(clone);
        assert!(second.try_lock().unwrap());
        drop(second);
        assert!(reader.try_lock().unwrap());
    });
}

#[test]
fn a_lock_ends_with_its_handle_though_a_mapping_of_it_lives_on() {
    on_both(|host, dir| {
        let path = dir.join("file");
        let first = make(host, &path, &[1; 100]);
        let second = host.open(&path, Access::Write).unwrap();
        assert!(first.try_lock().unwrap());
        let writer = first.map_writer(4096, 100).unwrap();
        drop(first);
        assert!(second.try_lock().unwrap());
        assert_eq!(writer.reader().bytes(), [1; 100]);
    });
}

#[test]
fn a_lock_on_a_file_that_lost_its_name_is_none() {
    on_both(|host, dir| {
        let (path, moved) = (dir.join("file"), dir.join("moved"));
        let old = make(host, &path, b"");
        host.rename(&path, &moved).unwrap();
        assert_eq!(kind(old.try_lock()), Some(ErrorKind::NotFound));
        let new = make(host, &path, b"");
        assert!(!old.try_lock().unwrap());
        assert!(new.try_lock().unwrap());
        drop((old, new));
        let old = host.open(&path, Access::Write).unwrap();
        host.remove_file(&path).unwrap();
        assert_eq!(kind(old.try_lock()), Some(ErrorKind::NotFound));
    });
}

#[test]
fn a_handle_to_read_changes_nothing() {
    on_both(|host, dir| {
        let path = dir.join("file");
        make(host, &path, &[b'x'; 5000]);
        let file = host.open(&path, Access::Read).unwrap();
        assert!(file.write_at(b"y", 0).is_err());
        for len in [0, 5000, 6000] {
            assert!(file.set_len(len).is_err());
        }
        assert!(file.allocate(0, 6000).is_err());
        assert!(file.map_writer(8192, 5000).is_err());
        assert!(file.map_cells(5000).is_err());
        assert_eq!(content(&*file), [b'x'; 5000]);
        assert_eq!(file.map_reader(5000).unwrap().bytes(), [b'x'; 5000]);
    });
}

#[test]
fn a_mapping_to_read_has_the_bytes_of_the_file_after_its_handle_and_its_name() {
    on_both(|host, dir| {
        let path = dir.join("file");
        let bytes: Vec<_> = (0..9000u32).flat_map(u32::to_le_bytes).collect();
        let file = make(host, &path, &bytes);
        let reader = file.map_reader(bytes.len()).unwrap();
        let part = file.map_reader(5000).unwrap();
        drop(file);
        host.remove_file(&path).unwrap();
        assert_eq!(reader.bytes(), bytes);
        assert_eq!(part.bytes(), &bytes[..5000]);
    });
}

#[test]
fn a_mapping_to_append_to_shows_what_was_published_and_takes_nothing_unprepared() {
    on_both(|host, dir| {
        let bytes = [b'x'; 5000];
        let file = make(host, &dir.join("file"), &bytes);
        let mut writer = file.map_writer(1 << 20, 5000).unwrap();
        for len in [1, 3000, 1 << 20, usize::MAX] {
            assert!(writer.tail(len).is_none(), "{len} bytes");
        }
        assert_eq!(writer.preparer().prepared(), 5000);
        let reader = writer.reader();
        assert_eq!(reader.bytes(), bytes);
        assert!(!reader.is_sole_holder(), "the writer lives");
        drop((writer, file));
        assert!(reader.is_sole_holder());
        let clone = reader.clone();
        assert!(!reader.is_sole_holder());
        drop(reader);
        assert!(clone.is_sole_holder());
        assert_eq!(clone.bytes(), bytes);
    });
}

#[test]
fn what_is_published_through_a_mapping_is_in_the_file() {
    const VALUE: &str = "a value that is written through mapped memory";
    on_both(|host, dir| {
        let options = Log::options()
            .write_mode(WriteMode::Mapped)
            .flush(FlushPolicy::never());
        let log = duralog::testing::open(Arc::clone(host), &options, dir).unwrap();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        let segment = names(host, dir)
            .into_iter()
            .find(|name| Path::new(name).extension() == Some("log".as_ref()));
        let path = dir.join(segment.expect("it is there"));
        let file = host.open(&path, Access::Read).unwrap();
        for number in 0..3 {
            // Meanwhile the log may extend it.
            let mut found = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            assert_eq!(file.read_at(&mut found, 0).unwrap(), found.len());
            let value = VALUE.as_bytes();
            let times = found.windows(value.len()).filter(|at| *at == value).count();
            assert_eq!(times, number);
            let mapped = file.map_reader(found.len()).unwrap();
            assert!(mapped.bytes() == found);
            drop(producer.send(Record::new(VALUE)).unwrap());
        }
        drop(producer);
        log.close().unwrap();
    });
}

#[test]
fn what_is_stored_in_place_is_in_the_file_at_once_and_so_is_what_is_written_beside_it() {
    on_both(|host, dir| {
        let path = dir.join("file");
        let file = make(host, &path, &[b'x'; 8192]);
        let reader = host.open(&path, Access::Read).unwrap();
        let mut cells = file.map_cells(8192).unwrap();
        let mut expected = vec![b'x'; 8192];
        let mut number = 0;
        for (position, len) in [(512, 512), (0, 8), (4096, 24), (512, 512), (8184, 8)] {
            number += 1;
            cells.store(position, &vec![number; len]);
            expected[position..position + len].fill(number);
            assert!(content(&*reader) == expected);
            put(&*file, &[b'p', number], 300);
            expected[300..302].copy_from_slice(&[b'p', number]);
            assert!(content(&*reader) == expected);
        }
        file.sync(SyncKind::Data).unwrap();
        drop((file, cells));
        assert!(content(&*reader) == expected);
    });
}

#[test]
fn a_path_is_made_absolute_unless_it_is_empty() {
    on_both(|host, _| {
        assert!(host.absolute(Path::new("")).is_err());
        let path = host.absolute(Path::new("some/where")).unwrap();
        assert!(path.is_absolute() && path.ends_with("some/where"));
        assert_eq!(host.absolute(&path).unwrap(), path);
        assert_eq!(host.absolute(Path::new("/")).unwrap(), PathBuf::from("/"));
    });
}

#[test]
fn random_numbers_differ_and_the_boot_stays_the_same() {
    on_both(|host, _| {
        let numbers: BTreeSet<_> = (0..1000).map(|_| host.random()).collect();
        assert_eq!(numbers.len(), 1000);
        assert_eq!(host.boot_id(), host.boot_id());
    });
}
