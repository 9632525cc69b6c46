//! A process that is killed while it saves a snapshot, at any of the system calls of that.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use glowbox::{Engine, Error, ErrorKind, Snapshot};
use tempfile::TempDir;

use crate::inject::{Case, kill};
use crate::support::{builder, guest, in_fork, loader};

/// How much the guest of the new snapshot has kept; that of the old one has kept nothing.
const KEPT: u64 = 64 << 10;

/// A snapshot of a guest that has kept so many bytes.
fn snapshot_of(kept: u64) -> Snapshot {
    let engine = Engine::builder().pool_size(1).build().unwrap();
    let mut sandbox = builder().engine(&engine).deterministic(1).build(guest("testing")).unwrap();
    if kept > 0 {
        sandbox.call::<_, u64>("keep", (kept, 3u8)).unwrap();
    }
    sandbox.snapshot().unwrap()
}

/// A save of the new snapshot, each in a process of its own.
const fn saving(
    prepare: fn() -> Snapshot,
    attempt: fn(&mut Snapshot) -> Result<(), Error>,
) -> Case<Snapshot> {
    Case { kinds: &[], only: &[], fresh: true, prepare, attempt, repair: |_| () }
}

/// How much the guest of a snapshot's file has kept, if that can be loaded, all of which is verified, and works.
fn kept(path: &Path) -> Option<u64> {
    let engine = Engine::builder().pool_size(0).build().unwrap();
    match loader().engine(&engine).load(path) {
        Ok(snapshot) => {
            let mut sandbox = snapshot.spawn().unwrap();
            let kept = sandbox.call("kept", ()).unwrap();
            let sum: u64 = sandbox.call("sum_kept", (1u32,)).unwrap();
            assert_eq!(sum, 3 * kept);
            Some(kept)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidSnapshot, "{error}");
            None
        }
    }
}

/// The files of the old snapshot and of the new one, as they are when nothing fails. They are made in a process
/// of their own: what is killed later is forked from this one.
fn files() -> [Vec<u8>; 2] {
    let folder = TempDir::new().unwrap();
    let paths = ["old", "new"].map(|name| folder.path().join(name));
    let status = in_fork(|| {
        for (path, size) in paths.iter().zip([0, KEPT]) {
            snapshot_of(size).save(path).unwrap();
            assert_eq!(kept(path), Some(size));
        }
    });
    assert_eq!(status, 0);
    let [old, new] = paths.map(|path| std::fs::read(path).unwrap());
    assert!(old != new && old.len() != new.len(), "{} and {} bytes", old.len(), new.len());
    [old, new]
}

/// Files in the folder but for the target.
fn others(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| !path.ends_with("snapshot")).collect()
}

/// Counts one more of what is or is not.
fn count(seen: &Cell<[u32; 2]>, is: bool) {
    let mut counts = seen.get();
    counts[usize::from(is)] += 1;
    seen.set(counts);
}

tests! {
    fn whenever_it_is_killed_there_is_the_old_file_or_the_new_one_and_no_half_of_one() {
        static TARGET: OnceLock<PathBuf> = OnceLock::new();
        static OLD: OnceLock<Vec<u8>> = OnceLock::new();
        let folder = TempDir::new().unwrap();
        let target = TARGET.get_or_init(|| folder.path().join("snapshot"));
        let [old, new] = files();
        let old = OLD.get_or_init(|| old);
        // The old file is there before each save.
        let prepare = || {
            std::fs::write(TARGET.get().expect("a path"), OLD.get().expect("a file")).unwrap();
            snapshot_of(KEPT)
        };
        let case = saving(prepare, |snapshot| snapshot.save(TARGET.get().expect("a path")));
        let seen = Cell::new([0; 2]);
        kill(&case, |when| {
            let found = std::fs::read(target).unwrap();
            let is_new = found == new;
            assert!(is_new || found == *old, "{when}: {} bytes of neither", found.len());
            count(&seen, is_new);
            let left = others(folder.path());
            assert!(left.len() <= 1, "{when}: {left:?}");
            let status = in_fork(|| {
                for path in &left {
                    let name = path.file_name().unwrap().to_string_lossy();
                    assert!(name.starts_with(".glowbox-"), "{when}: {name}");
                    // Complete, or refused.
                    assert!([None, Some(KEPT)].contains(&kept(path)), "{when}");
                }
                // What was left does not stand in the way of the next.
                let snapshot = snapshot_of(KEPT);
                let other = folder.path().join("other");
                for path in [target, &other] {
                    snapshot.save(path).unwrap();
                    assert!(std::fs::read(path).unwrap() == new, "{when}");
                }
                std::fs::remove_file(&other).unwrap();
            });
            assert_eq!(status, 0, "{when}");
            left.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        });
        let [old, new] = seen.get();
        assert!(old > 5 && new > 0, "{old} times the old file, {new} times the new one");
        println!("killed while saving: {old} times the old file, {new} times the new one");
    }

    fn whenever_the_first_save_is_killed_there_is_no_file_or_a_complete_one() {
        static FIRST: OnceLock<PathBuf> = OnceLock::new();
        let folder = TempDir::new().unwrap();
        let path = FIRST.get_or_init(|| folder.path().join("snapshot"));
        let prepare = || snapshot_of(KEPT);
        let case = saving(prepare, |snapshot| snapshot.save(FIRST.get().expect("a path")));
        // Of the one that was not killed.
        let clear = || {
            for entry in std::fs::read_dir(folder.path()).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        };
        let seen = Cell::new([0; 2]);
        kill(&case, |when| {
            let there = path.exists();
            let status = in_fork(|| {
                if there {
                    assert_eq!(kept(path), Some(KEPT), "{when}");
                }
            });
            assert_eq!(status, 0, "{when}");
            count(&seen, there);
            clear();
        });
        let [without, with] = seen.get();
        assert!(without > 5 && with > 0, "{without} times no file, {with} times one");
    }
}
