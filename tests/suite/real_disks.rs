//! File systems that are really full, or really read-only. Mounting them takes root; without it
//! the tests say that they were skipped (the same is tested with injected errors in `faults`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use duralog::{Acks, ErrorKind, Log, Record};

use crate::common::{MODES, read_all};

/// A mounted file system, unmounted when dropped.
struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    fn new(prepare: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mount")).unwrap();
        let arguments = prepare(dir.path());
        let this = Self { dir };
        let mounted = Command::new("mount")
            .args(arguments)
            .arg(this.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(this);
        }
        println!("skipped: this needs the right to mount");
        None
    }

    fn tmpfs(size: &str) -> Option<Self> {
        let options = ["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"];
        Self::new(|_| options.iter().map(ToString::to_string).collect())
    }

    fn ext4(bytes: u64) -> Option<Self> {
        Self::new(|dir| {
            let image = dir.join("image");
            fs::File::create(&image).unwrap().set_len(bytes).unwrap();
            let made = Command::new("mkfs.ext4")
                .args(["-q", "-F"])
                .arg(&image)
                .output();
            assert!(made.is_err() || made.is_ok_and(|output| output.status.success()));
            vec!["-o".into(), "loop".into(), image.display().to_string()]
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn remount_read_only(&self) {
        let mounted = Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(self.path())
            .status();
        assert!(mounted.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).output());
    }
}

/// Fills the file system by sending, frees some of it, goes on; a crash image and a reopening
/// agree with what was acknowledged.
fn fill_and_free(mounted: &Mounted, ballast_bytes: usize) {
    for mode in MODES {
        let ballast = mounted.path().join("ballast");
        fs::write(&ballast, vec![1; ballast_bytes]).unwrap();
        let path = mounted.path().join(format!("{mode:?}"));
        let options = Log::options().segment_bytes(1 << 20).write_mode(mode);
        let log = options.open(&path).unwrap();
        let producer = log.producer().acks(Acks::Written).build().unwrap();
        let value = |number: u64| format!("{number:01000}");
        let mut sent = 0;
        let failed = loop {
            match producer.send(Record::new(value(sent))) {
                Ok(receipt) => assert_eq!(receipt.wait().unwrap(), sent),
                Err(failed) => break failed,
            }
            sent += 1;
        };
        assert!(failed.error().is_storage_full(), "{failed:?}");
        assert!(sent > 1000, "only {sent} records fitted");
        log.sync()
            .expect("what is written can be synced on a full disk");
        fs::remove_file(&ballast).unwrap();
        let receipt = producer
            .send_with(failed.into_record(), Acks::Durable)
            .unwrap();
        assert_eq!(receipt.wait().unwrap(), sent);
        let image = tempfile::tempdir().unwrap();
        crate::common::copy_dir(&path, &image.path().join("log"));
        let crashed = Log::open(image.path().join("log")).unwrap();
        log.close().unwrap();
        for log in [crashed, Log::open(&path).unwrap()] {
            let (records, gaps) = read_all(&log);
            assert_eq!(gaps, []);
            assert!(
                records
                    .into_iter()
                    .eq((0..=sent).map(|number| (number, value(number))))
            );
        }
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_full_tmpfs_loses_nothing_and_kills_nobody() {
    let Some(mounted) = Mounted::tmpfs("12m") else {
        return;
    };
    fill_and_free(&mounted, 4 << 20);
}

#[test]
fn a_full_ext4_loses_nothing_and_kills_nobody() {
    let Some(mounted) = Mounted::ext4(24 << 20) else {
        return;
    };
    fill_and_free(&mounted, 8 << 20);
}

#[test]
fn a_disk_that_is_full_when_the_log_is_opened_still_serves_it() {
    let Some(mounted) = Mounted::tmpfs("8m") else {
        return;
    };
    let path = mounted.path().join("log");
    let log = Log::open(&path).unwrap();
    drop(
        log.producer()
            .build()
            .unwrap()
            .send(Record::new("a"))
            .unwrap(),
    );
    log.close().unwrap();
    while fs::write(
        mounted.path().join(format!("{}", free_name(&mounted))),
        [0; 4096],
    )
    .is_ok()
    {}
    let log = Log::open(&path).unwrap();
    assert_eq!(read_all(&log).0.len(), 1);
    let producer = log.producer().build().unwrap();
    let big = Record::new(vec![0; 1 << 20]);
    assert!(producer.send(big).unwrap_err().error().is_storage_full());
}

fn free_name(mounted: &Mounted) -> usize {
    fs::read_dir(mounted.path()).unwrap().count()
}

#[test]
fn a_read_only_file_system_refuses_writers_and_serves_readers() {
    let Some(mounted) = Mounted::tmpfs("8m") else {
        return;
    };
    let path = mounted.path().join("log");
    let log = Log::open(&path).unwrap();
    log.producer()
        .build()
        .unwrap()
        .send(Record::new("a"))
        .unwrap()
        .wait()
        .unwrap();
    log.close().unwrap();
    mounted.remount_read_only();
    let error = Log::open(&path).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io { path, .. } if path.ends_with("LOCK")));
    let error = Log::open(mounted.path().join("new")).unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Io {
                operation: "create",
                ..
            }
        ),
        "{error}"
    );
    let look = Log::open_read_only(&path).unwrap();
    assert_eq!(
        look.reader()
            .build()
            .unwrap()
            .poll(Duration::ZERO)
            .unwrap()
            .len(),
        1
    );
    assert!(
        look.consumer("g").build().is_err(),
        "a group needs a file to write"
    );
}
