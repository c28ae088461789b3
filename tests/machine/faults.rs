//! Calls, syncs, disks and bits of the simulated machine that go wrong when told to.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    path::Path,
};

use duralog::testing::{
    Access, FileSystem, SyncKind,
    sim::{Call, Choices, Effect, Fault, Machine, PAGE, SECTOR},
};

use crate::storage::{FILE, content, cuts, fills, make, on_machine, put, read, sectors};

const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// Machines on which a fault is tried: which sectors it meets is left to chance.
const SEEDS: u64 = 200;

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// The device's own content of the file, which no choice of a power cut changes.
fn on_device(machine: &Machine) -> Vec<u8> {
    let found: BTreeSet<_> = cuts(machine)
        .take(20)
        .map(|(_, disk)| read(&disk, FILE).unwrap())
        .collect();
    assert_eq!(found.len(), 1, "nothing is left to a power cut");
    found.into_iter().next().unwrap()
}

#[test]
fn a_failed_sync_is_reported_once_and_reads_as_written_until_the_cache_is_dropped() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        on_machine(seed, &sectors(b"abc"), |machine, file| {
            put(file, &sectors(b"AB"), 0);
            let fault = Fault::once(Call::Synced, FILE, Effect::FailedSync);
            machine.inject(&fault);
            assert_eq!(errno(file.sync(SyncKind::Data)), Some(EIO), "seed {seed}");
            assert_eq!(fault.fired(), 1);
            assert_eq!(fills(&content(file)).unwrap(), b"ABc", "seed {seed}");
            file.sync(SyncKind::Data).unwrap();
            file.sync(SyncKind::Full).unwrap();
            assert_eq!(fills(&content(file)).unwrap(), b"ABc", "seed {seed}");

            let left = fills(&on_device(machine)).unwrap();
            let lost = left.iter().zip(b"ABc").filter(|(a, b)| a != b).count();
            assert_eq!(machine.drop_cache(), lost, "seed {seed}");
            assert_eq!(fills(&content(file)).unwrap(), left, "seed {seed}");
            assert_eq!(machine.drop_cache(), 0);
            seen.insert(left);
        });
    }
    let expected: [&[u8]; 4] = [b"ABc", b"Abc", b"aBc", b"abc"];
    assert!(seen.iter().eq(&expected), "{seen:?}");
}

#[test]
fn what_is_written_again_after_a_failed_sync_is_durable_after_the_next() {
    for seed in 0..SEEDS {
        on_machine(seed, &sectors(b"ab"), |machine, file| {
            put(file, &sectors(b"AB"), 0);
            machine.inject(&Fault::once(Call::Synced, FILE, Effect::FailedSync));
            assert!(file.sync(SyncKind::Data).is_err());
            put(file, b"!", 0);
            assert_eq!(&content(file)[..2], b"!A", "it reads the cache's sector");
            file.sync(SyncKind::Data).unwrap();
            let left = on_device(machine);
            assert_eq!(left[0], b'!', "seed {seed}");
            assert_eq!(left[1..SECTOR], [b'A'; SECTOR - 1], "seed {seed}");
            assert!(left[SECTOR..] == [b'B'; SECTOR] || left[SECTOR..] == [b'b'; SECTOR]);
        });
    }
}

#[test]
fn a_failed_sync_brings_nothing_back_that_was_cut_off() {
    for seed in 0..SEEDS {
        on_machine(seed, &[b'o'; 10_000], |machine, file| {
            file.set_len(700).unwrap();
            put(file, &[b'n'; 3000], 5000);
            machine.inject(&Fault::once(Call::Synced, FILE, Effect::FailedSync));
            assert!(file.sync(SyncKind::Data).is_err());
            for (cut, disk) in cuts(machine).take(50) {
                let found = read(&disk, FILE).unwrap();
                let behind = found.get(700..).unwrap_or_default();
                assert!(!behind.contains(&b'o'), "seeds {seed} and {cut}");
            }
            file.sync(SyncKind::Data).unwrap();
            machine.drop_cache();
            assert!(!content(file)[700..].contains(&b'o'), "seed {seed}");
        });
    }
}

#[test]
fn names_whose_sync_failed_are_seen_and_stay_pending() {
    on_machine(0, b"content", |machine, _| {
        let (path, moved) = (Path::new(FILE), Path::new("/data/moved"));
        let fault = Fault::once(Call::DirSynced, "/data", Effect::FailedSync);
        machine.inject(&fault);
        machine.rename(path, moved).unwrap();
        let dir = machine.open_dir(Path::new("/data")).unwrap();
        assert_eq!(errno(dir.sync()), Some(EIO));
        assert_eq!(fault.fired(), 1);
        assert_eq!(machine.process_crash().files(), [moved]);
        let left: BTreeSet<_> = cuts(machine).map(|(_, disk)| disk.files()).collect();
        assert_eq!(left.len(), 3, "either name, or both: {left:?}");
        dir.sync().unwrap();
        assert!(cuts(machine).all(|(_, disk)| disk.files() == [moved]));
    });
}

#[test]
fn a_misdirected_write_leaves_its_sector_old_and_another_one_overwritten() {
    let mut targets = BTreeSet::new();
    for seed in 0..SEEDS {
        on_machine(seed, &sectors(b"abcd"), |machine, file| {
            put(file, &sectors(b"X"), SECTOR);
            let fault = Fault::once(Call::Synced, FILE, Effect::Misdirect);
            machine.inject(&fault);
            file.sync(SyncKind::Data).unwrap();
            assert_eq!(fills(&content(file)).unwrap(), b"aXcd", "seed {seed}");
            let left = fills(&on_device(machine)).unwrap();
            if fault.fired() == 0 {
                assert_eq!(left, b"aXcd", "seed {seed}: it met itself");
                assert_eq!(machine.drop_cache(), 0);
            } else {
                let target = left.iter().position(|fill| *fill == b'X').unwrap();
                let mut expected = b"abcd".to_vec();
                expected[target] = b'X';
                assert_eq!(left, expected, "seed {seed}");
                assert_eq!(machine.drop_cache(), 2, "seed {seed}");
                assert_eq!(fills(&content(file)).unwrap(), left, "seed {seed}");
                targets.insert(target);
            }
        });
    }
    assert!(targets.iter().eq(&[0, 2, 3]), "{targets:?}");
}

#[test]
fn a_short_write_says_how_much_it_did() {
    on_machine(0, &[b'o'; 3000], |machine, file| {
        let fault = Fault::once(Call::Write, FILE, Effect::Short);
        machine.inject(&fault);
        assert_eq!(file.write_at(&[b'n'; 2000], 500).unwrap(), 1000);
        assert_eq!(fault.fired(), 1);
        let found = content(file);
        assert_eq!(found[..500], [b'o'; 500]);
        assert_eq!(found[500..1500], [b'n'; 1000]);
        assert_eq!(found[1500..], [b'o'; 1500]);
        assert_eq!(file.write_at(&[b'n'; 2000], 500).unwrap(), 2000);
    });
}

#[test]
fn the_second_half_of_a_write_may_be_missing_at_its_end() {
    on_machine(0, &sectors(b"oooo"), |machine, file| {
        let fault = Fault::once(Call::HalfWritten, FILE, Effect::Fail(EIO));
        machine.inject(&fault);
        assert_eq!(errno(file.write_at(&sectors(b"nnnn"), 0)), Some(EIO));
        assert_eq!(fills(&content(file)).unwrap(), b"nnoo");
    });
}

#[test]
fn a_full_disk_takes_what_fits_and_has_space_again_for_what_is_removed() {
    on_machine(0, &[b'o'; 100], |machine, file| {
        let other = make(machine, "/data/other", &[b'x'; 2 * PAGE]);
        machine.set_free(Some(2 * PAGE as u64));
        let big = make(machine, "/data/big", b"");
        assert_eq!(big.write_at(&[1; 3 * PAGE], 0).unwrap(), 2 * PAGE);
        let full = big.write_at(&[1; PAGE], 2 * PAGE as u64);
        assert_eq!(errno(full), Some(ENOSPC));
        put(&*big, &[2; PAGE], 0);
        put(file, &[b'n'; PAGE - 100], 100);
        assert_eq!(errno(file.write_at(b"n", PAGE as u64)), Some(ENOSPC));
        assert_eq!(file.len().unwrap(), PAGE as u64);

        machine.remove_file(Path::new("/data/other")).unwrap();
        let full = file.write_at(b"n", PAGE as u64);
        assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
        drop(other);
        put(file, b"n", PAGE);
        big.set_len(PAGE as u64).unwrap();
        put(file, &[b'n'; 2 * PAGE], 2 * PAGE);
        assert!(file.write_at(b"n", 4 * PAGE as u64).is_err());
        machine.set_free(None);
        put(file, b"n", 4 * PAGE);
    });
}

#[test]
fn an_allocation_on_a_full_disk_leaves_the_file_as_long_as_it_was() {
    on_machine(0, &[b'o'; PAGE], |machine, file| {
        let other = make(machine, "/data/other", &[b'x'; 2 * PAGE]);
        machine.set_free(Some(2 * PAGE as u64));
        assert_eq!(errno(file.allocate(0, 4 * PAGE as u64)), Some(ENOSPC));
        assert_eq!(content(file), [b'o'; PAGE]);
        // The page that is there takes no space.
        file.allocate(0, 3 * PAGE as u64).unwrap();
        assert_eq!(file.len().unwrap(), 3 * PAGE as u64);
        assert_eq!(errno(other.write_at(b"x", 2 * PAGE as u64)), Some(ENOSPC));
        assert_eq!(errno(file.allocate(3 * PAGE as u64, 1)), Some(ENOSPC));
        put(file, &[b'n'; 2 * PAGE], PAGE);

        drop(other);
        machine.remove_file(Path::new("/data/other")).unwrap();
        file.allocate(3 * PAGE as u64, 2 * PAGE as u64).unwrap();
        assert_eq!(file.len().unwrap(), 5 * PAGE as u64);
    });
}

#[test]
fn a_hole_takes_no_space_until_it_is_written() {
    on_machine(0, b"", |machine, file| {
        machine.set_free(Some(0));
        file.set_len(10 * PAGE as u64).unwrap();
        assert_eq!(content(file), vec![0; 10 * PAGE]);
        let full = file.write_at(b"x", 5 * PAGE as u64);
        assert_eq!(errno(full), Some(ENOSPC));
    });
}

#[test]
fn a_fault_meets_its_call_on_its_path_as_often_as_it_is_told() {
    on_machine(0, b"", |machine, file| {
        let other = make(machine, "/data/other", b"");
        let write = |file: &dyn duralog::testing::File| errno(file.write_at(b"x", 0));

        let once = Fault::once(Call::Write, "file", Effect::Fail(EIO));
        machine.inject(&once);
        assert_eq!(write(&*other), None);
        assert_eq!(file.len().unwrap(), 0, "another call");
        assert_eq!([write(file), write(file)], [Some(EIO), None]);
        assert_eq!(once.fired(), 1);

        let later = Fault::once(Call::Write, "file", Effect::Fail(ENOSPC)).after(2);
        machine.inject(&later);
        assert_eq!(write(&*other), None);
        let found = [write(file), write(file), write(file), write(file)];
        assert_eq!(found, [None, None, Some(ENOSPC), None]);

        let always = Fault::always(Call::Write, "", Effect::Fail(EINTR)).after(1);
        machine.inject(&always);
        let found = [write(file), write(file), write(&*other)];
        assert_eq!(found, [None, Some(EINTR), Some(EINTR)]);
        assert_eq!(always.fired(), 2);
        machine.lift_faults();
        assert_eq!(write(file), None);
    });
}

#[test]
fn a_fault_follows_a_file_that_is_renamed() {
    on_machine(0, b"", |machine, file| {
        let moved = Path::new("/data/moved");
        machine.rename(Path::new(FILE), moved).unwrap();
        machine.inject(&Fault::always(Call::Len, "file", Effect::Fail(EIO)));
        assert_eq!(file.len().unwrap(), 0);
        machine.inject(&Fault::always(Call::Len, "moved", Effect::Fail(EIO)));
        assert_eq!(errno(file.len()), Some(EIO));
    });
}

#[test]
fn a_call_that_fails_changes_nothing() {
    on_machine(0, &[b'o'; 3000], |machine, file| {
        let (path, new) = (Path::new(FILE), Path::new("/data/new"));
        let try_all = || {
            [
                errno(file.write_at(&[b'n'; 3000], 100)),
                errno(file.set_len(0)),
                errno(file.allocate(0, 10_000)),
                errno(file.try_lock()),
                errno(machine.rename(path, new)),
                errno(machine.remove_file(path)),
                errno(machine.open(new, Access::Create)),
                errno(machine.create_dir_all(new)),
            ]
        };
        let calls = [
            Call::Write,
            Call::SetLen,
            Call::Allocate,
            Call::Lock,
            Call::Rename,
            Call::Remove,
            Call::Create,
            Call::CreateDir,
        ];
        for call in calls {
            machine.inject(&Fault::always(call, "", Effect::Fail(EIO)));
        }
        assert_eq!(try_all(), [Some(EIO); 8]);
        let other = machine.open(path, Access::Write).unwrap();
        machine.lift_faults();
        assert!(other.try_lock().unwrap());
        assert_eq!(content(file), [b'o'; 3000]);
        assert_eq!(machine.process_crash().files(), [path]);
        assert_eq!(machine.read_dir(Path::new("/data")).unwrap().len(), 1);
    });
}

#[test]
fn what_is_looked_at_can_fail_too() {
    on_machine(0, b"content", |machine, file| {
        let (path, dir) = (Path::new(FILE), Path::new("/data"));
        let opened = machine.open_dir(dir).unwrap();
        let try_all = || {
            [
                errno(file.read_at(&mut [0; 7], 0)),
                errno(file.len()),
                errno(file.map_reader(7)),
                errno(file.sync(SyncKind::Data)),
                errno(machine.open(path, Access::Read)),
                errno(machine.read_dir(dir)),
                errno(machine.open_dir(dir)),
                errno(opened.sync()),
            ]
        };
        let calls = [
            Call::Read,
            Call::Len,
            Call::Map,
            Call::Sync,
            Call::Open,
            Call::ReadDir,
            Call::OpenDir,
            Call::SyncDir,
        ];
        for call in calls {
            machine.inject(&Fault::once(call, "/data", Effect::Fail(EIO)));
        }
        assert_eq!(try_all(), [Some(EIO); 8]);
        assert_eq!(try_all(), [None; 8]);
        assert_eq!(content(file), b"content");
    });
}

#[test]
fn a_sync_that_fails_at_once_leaves_all_to_be_written() {
    on_machine(0, b"old", |machine, file| {
        put(file, b"new", 0);
        machine.inject(&Fault::once(Call::Sync, FILE, Effect::Fail(EIO)));
        assert!(file.sync(SyncKind::Data).is_err());
        let left = machine.power_cut(&mut Choices::nothing());
        assert_eq!(read(&left, FILE).unwrap(), b"old");
        file.sync(SyncKind::Data).unwrap();
        let left = machine.power_cut(&mut Choices::nothing());
        assert_eq!(read(&left, FILE).unwrap(), b"new");
    });
}

#[test]
fn a_bit_that_flips_is_read_and_stays() {
    on_machine(0, &[0; 3000], |machine, file| {
        put(file, &[b'x'; 3000], 0);
        file.sync(SyncKind::Data).unwrap();
        let mut disk = machine.process_crash();
        let path = Path::new(FILE);
        for (position, bit) in [(3000, 0), (usize::MAX, 0)] {
            assert!(!disk.flip_bit(path, position, bit));
        }
        assert!(!disk.flip_bit(Path::new("/data/nothing"), 0, 0));
        assert!(!disk.flip_bit(Path::new("/data"), 0, 0));
        assert_eq!(read(&disk, FILE).unwrap(), [b'x'; 3000]);
        let untouched = disk.fingerprint();
        assert!(disk.flip_bit(path, 2999, 7));
        assert_ne!(disk.fingerprint(), untouched);
        assert!(disk.flip_bit(path, 0, 0));
        let mut expected = [b'x'; 3000];
        expected[0] ^= 1;
        expected[2999] ^= 1 << 7;
        let next = Machine::boot(disk.power_cut(&mut Choices::of(1)), 1);
        next.run(|| {
            let file = next.open(path, Access::Write).unwrap();
            assert_eq!(content(&*file), expected);
            put(&*file, b"x", 1);
            file.sync(SyncKind::Data).unwrap();
            assert_eq!(content(&*file), expected);
        });
    });
}

#[test]
fn what_a_power_cut_took_takes_no_space() {
    on_machine(0, &[b'o'; PAGE], |machine, file| {
        put(file, &[b'n'; 2 * PAGE], PAGE);
        let lost = make(machine, "/data/lost", &[b'x'; 3 * PAGE]);
        lost.sync(SyncKind::Data).unwrap();
        let next = Machine::boot(machine.power_cut(&mut Choices::nothing()), 1);
        next.run(|| {
            next.set_free(Some(0));
            let file = next.open(Path::new(FILE), Access::Write).unwrap();
            assert_eq!(errno(file.allocate(0, 2 * PAGE as u64)), Some(ENOSPC));
            next.set_free(Some(PAGE as u64));
            file.allocate(0, 2 * PAGE as u64).unwrap();
        });
    });
}

#[test]
fn a_handle_takes_no_space_once_its_process_is_over() {
    on_machine(0, &[b'o'; PAGE], |machine, _| {
        let next = Machine::boot(machine.process_crash(), 1);
        next.run(|| {
            next.set_free(Some(0));
            let other = make(&next, "/data/other", b"");
            assert_eq!(errno(other.write_at(b"x", 0)), Some(ENOSPC));
            next.remove_file(Path::new(FILE)).unwrap();
            put(&*other, b"x", 0);
        });
    });
}
