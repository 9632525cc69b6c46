//! A process that is killed while it saves a snapshot, at any of the system calls of that.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use glowbox::{Engine, Error, ErrorKind, Sandbox, Snapshot};
use tempfile::TempDir;

use crate::inject::{Case, kill};
use crate::support::{guest, in_fork};

fn snapshot_of(name: &str) -> Snapshot {
    let engine = Engine::builder().pool_size(1).build().unwrap();
    let builder = Sandbox::builder().engine(&engine).deterministic(1);
    builder.build(guest(name)).unwrap().snapshot().unwrap()
}

/// A save, each in a process of its own.
const fn saving(attempt: fn(&mut Snapshot) -> Result<(), Error>) -> Case<Snapshot> {
    let prepare = || snapshot_of("faults");
    Case { kinds: &[], only: &[], fresh: true, prepare, attempt, repair: |_| () }
}

/// Whether a file is a snapshot that can be loaded, all of which is verified, and works.
fn is_complete(path: &Path) -> bool {
    let engine = Engine::builder().pool_size(0).build().unwrap();
    match Snapshot::loader().engine(&engine).load(path) {
        Ok(snapshot) => {
            let mut sandbox = snapshot.spawn().unwrap();
            assert!(sandbox.call::<_, ()>("touch_place", ("heap", "write", &[0u8; 4][..])).is_ok());
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidSnapshot, "{error}");
            false
        }
    }
}

/// Files in the folder but for the target.
fn others(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| !path.ends_with("snapshot")).collect()
}

tests! {
    fn whenever_it_is_killed_there_is_the_old_file_or_the_new_one_and_no_half_of_one() {
        static TARGET: OnceLock<PathBuf> = OnceLock::new();
        let folder = TempDir::new().unwrap();
        let target = TARGET.get_or_init(|| folder.path().join("snapshot"));
        let case = saving(|snapshot| snapshot.save(TARGET.get().expect("a path")));
        let whole = OnceLock::new();
        kill(&case, |when| {
            // The first of them has been saved without a fault.
            let saved = std::fs::read(target).unwrap_or_default();
            let before = whole.get_or_init(|| saved.clone());
            assert!(saved == *before, "{when}: the target is another");
            let left = others(folder.path());
            assert!(left.len() <= 1, "{when}: {left:?}");
            let status = in_fork(|| {
                assert!(is_complete(target), "{when}");
                for path in &left {
                    let name = path.file_name().unwrap().to_string_lossy();
                    assert!(name.starts_with(".glowbox-"), "{when}: {name}");
                    // Complete, or refused.
                    is_complete(path);
                }
                // What was left does not stand in the way of the next.
                let snapshot = snapshot_of("faults");
                snapshot.save(target).unwrap();
                let other = folder.path().join("other");
                snapshot.save(&other).unwrap();
                assert!(is_complete(&other), "{when}");
                std::fs::remove_file(&other).unwrap();
            });
            assert_eq!(status, 0, "{when}");
            left.iter().for_each(|path| std::fs::remove_file(path).unwrap());
            std::fs::write(target, before).unwrap();
        });
    }

    fn whenever_the_first_save_is_killed_there_is_no_file_or_a_complete_one() {
        static FIRST: OnceLock<PathBuf> = OnceLock::new();
        let folder = TempDir::new().unwrap();
        let path = FIRST.get_or_init(|| folder.path().join("snapshot"));
        let case = saving(|snapshot| snapshot.save(FIRST.get().expect("a path")));
        // Of the one that was not killed.
        let clear = || {
            for entry in std::fs::read_dir(folder.path()).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        };
        let seen = std::cell::Cell::new([0; 2]);
        kill(&case, |when| {
            let there = path.exists();
            let status = in_fork(|| {
                if there {
                    assert!(is_complete(path), "{when}");
                }
            });
            assert_eq!(status, 0, "{when}");
            let mut counts = seen.get();
            counts[usize::from(there)] += 1;
            seen.set(counts);
            clear();
        });
        let [without, with] = seen.get();
        assert!(without > 5 && with > 0, "{without} times no file, {with} times one");
    }
}
