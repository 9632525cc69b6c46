//! Whatever a system call answers while something is done with a sandbox: the answer is right or a typed
//! error, nothing is left behind, and the same can be done again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use glowbox::{CallOptions, Engine, Error, ErrorKind, HostError, Mapping, Sandbox, Snapshot};
use tempfile::{NamedTempFile, TempDir};

use crate::inject::{Case, inject};
use crate::support::{builder, guest, loader};

const HYPERVISOR: &[ErrorKind] = &[
    ErrorKind::Hypervisor,
    ErrorKind::HypervisorMissing,
    ErrorKind::HypervisorDenied,
    ErrorKind::Io,
];
/// The same, and what a `KVM_RUN` or a read that fails may stand for.
const LOSES: &[ErrorKind] = &[
    ErrorKind::Hypervisor,
    ErrorKind::HypervisorMissing,
    ErrorKind::HypervisorDenied,
    ErrorKind::Io,
    ErrorKind::MemoryLost,
];

fn engine(shells: usize) -> Engine {
    Engine::builder().pool_size(shells).build().expect("an engine")
}

fn build(engine: &Engine) -> Result<Sandbox, Error> {
    builder().engine(engine).build(guest("testing"))
}

fn check(sandbox: &mut Sandbox) -> Result<(), Error> {
    assert_eq!(sandbox.call::<_, u32>("add", (20u32, 22u32))?, 42);
    Ok(())
}

/// A sandbox, and where to go when it is spent.
struct Used {
    sandbox: Sandbox,
    snapshot: Snapshot,
}

/// A spawned sandbox; the pool has room for one shell.
fn used() -> Used {
    let mut sandbox = build(&engine(1)).unwrap();
    let snapshot = sandbox.snapshot().unwrap();
    Used { sandbox: snapshot.spawn().unwrap(), snapshot }
}

/// Makes a sandbox one that can be called, as whoever uses one does.
fn make_usable(sandbox: &mut Sandbox, snapshot: &Snapshot) {
    if sandbox.is_spent() && sandbox.reset().is_err() {
        *sandbox = snapshot.spawn().unwrap();
    }
}

fn repair(used: &mut Used) {
    make_usable(&mut used.sandbox, &used.snapshot);
}

/// A case in which all calls fail, and nothing has to be repaired.
const fn of<S>(prepare: fn() -> S, attempt: fn(&mut S) -> Result<(), Error>) -> Case<S> {
    Case { kinds: LOSES, only: &[], fresh: false, prepare, attempt, repair: |_| () }
}

/// A case that works on a sandbox in any way that a spawned one can be worked on.
const fn of_sandbox(attempt: fn(&mut Used) -> Result<(), Error>) -> Case<Used> {
    Case { repair, ..of(used, attempt) }
}

/// Checks that a call ends as it should.
fn expect<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(error),
        Ok(value) => panic!("{value:?}"),
    }
}

/// A folder with a snapshot's file in it.
struct Saved {
    folder: TempDir,
    engine: Engine,
}

impl Saved {
    fn path(&self) -> PathBuf {
        self.folder.path().join("snapshot")
    }
}

fn saved() -> Saved {
    let engine = engine(1);
    let snapshot = build(&engine).unwrap().snapshot().unwrap();
    let saved = Saved { folder: TempDir::new().unwrap(), engine };
    snapshot.save(saved.path()).unwrap();
    saved
}

/// Two snapshots that take turns in a file, the one with more memory than the other, and what each is there.
struct Turns {
    folder: TempDir,
    snapshots: [Snapshot; 2],
    files: [Vec<u8>; 2],
    /// Which of them is in the file.
    there: usize,
    failed: bool,
}

impl Turns {
    fn prepared() -> Turns {
        let folder = TempDir::new().unwrap();
        let mut used = used();
        used.sandbox.call::<_, u64>("keep", (64u64 << 10, 3u8)).unwrap();
        let snapshots = [used.snapshot, used.sandbox.snapshot().unwrap()];
        let path = folder.path().join("snapshot");
        let [second, first] = [1, 0].map(|turn: usize| {
            snapshots[turn].save(&path).unwrap();
            std::fs::read(&path).unwrap()
        });
        assert!(first != second && first.len() != second.len());
        Turns { folder, snapshots, files: [first, second], there: 0, failed: false }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("snapshot")
    }

    /// Saves the one whose turn it is.
    fn save(&mut self) -> Result<(), Error> {
        let next = 1 - self.there;
        let saved = self.snapshots[next].save(self.path());
        self.failed = saved.is_err();
        if saved.is_ok() {
            self.there = next;
        }
        saved
    }

    /// Checks that the file is whole, and the new one if no error was returned; that nothing lies beside it.
    /// Returns what there was.
    fn check(&mut self) -> &'static str {
        let found = std::fs::read(self.path()).unwrap();
        let old = self.there;
        self.there = self.files.iter().position(|file| *file == found).expect("one of them, whole");
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 1);
        match (self.failed, self.there == old) {
            (false, true) => "the new file",
            (false, false) => panic!("no error, and the old file"),
            (true, true) => "an error and the old file",
            (true, false) => "an error and the new file",
        }
    }
}

/// Gives a builder or a loader what the guest with the standard library needs, and a folder of the host's.
macro_rules! equipped {
    ($made:expr, $engine:expr, $folder:expr) => {
        $made
            .engine($engine)
            .host_function("weekday", || "Monday".to_string())
            .host_function("double", |number: u32| -> Result<u32, HostError> { Ok(number * 2) })
            .host_function("back", || ())
            .directory("/host", $folder)
    };
}

/// A guest with the standard library.
fn standard(engine: &Engine, folder: &Path) -> Result<Sandbox, Error> {
    equipped!(Sandbox::builder(), engine, folder).build(guest("testing-std"))
}

struct Standard {
    folder: TempDir,
    engine: Engine,
    sandbox: Sandbox,
    snapshot: Snapshot,
}

fn standard_used() -> Standard {
    let engine = engine(1);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("text"), "what the host has").unwrap();
    let mut sandbox = standard(&engine, folder.path()).unwrap();
    let snapshot = sandbox.snapshot().unwrap();
    snapshot.save(folder.path().join("snapshot")).unwrap();
    Standard { folder, engine, sandbox: snapshot.spawn().unwrap(), snapshot }
}

tests! {
    fn opening_an_engine() {
        let attempt = |(): &mut ()| Engine::builder().pool_size(1).build().map(drop);
        inject(&Case { kinds: HYPERVISOR, ..of(|| (), attempt) });
    }

    fn the_first_sandbox_of_a_process() {
        let attempt = |(): &mut ()| {
            let engine = Engine::builder().pool_size(0).build()?;
            let mut sandbox = build(&engine)?;
            check(&mut sandbox)?;
            sandbox.reset()?;
            check(&mut sandbox)
        };
        inject(&Case { fresh: true, ..of(|| (), attempt) });
    }

    fn building_and_dropping() {
        inject(&of(|| engine(0), |engine| check(&mut build(engine)?)));
    }

    fn building_in_a_shell_and_giving_it_back() {
        inject(&of(|| engine(1), |engine| check(&mut build(engine)?)));
    }

    fn calling_and_being_called() {
        inject(&of_sandbox(|used| {
            check(&mut used.sandbox)?;
            assert_eq!(used.sandbox.call::<_, u32>("call_host_add", (1u32, 2u32))?, 3);
            assert_eq!(used.sandbox.call::<_, u32>("visit", (1u32, "a text"))?, 2);
            Ok(())
        }));
    }

    fn calling_many_at_once() {
        inject(&of_sandbox(|used| {
            let add = used.sandbox.function::<(u32, u32), u32>("call_host_add")?;
            let inputs: Vec<_> = (0..3u32).map(|number| (number, 1)).collect();
            let sums = add.call_many(&mut used.sandbox, inputs);
            for (number, sum) in (1..).zip(sums) {
                assert_eq!(sum?, number);
            }
            Ok(())
        }));
    }

    fn ending_by_a_panic_and_resetting() {
        inject(&of_sandbox(|used| {
            used.sandbox.call::<_, u64>("keep", (1u64 << 20, 3u8))?;
            let ended = used.sandbox.call::<_, u32>("end_by", (1u32, 1u8));
            expect(ended, ErrorKind::Panic)?;
            used.sandbox.reset()?;
            assert_eq!(used.sandbox.call::<_, u64>("kept", ())?, 0);
            check(&mut used.sandbox)
        }));
    }

    fn meeting_a_deadline() {
        inject(&of_sandbox(|used| {
            let options = CallOptions::new().deadline(Duration::from_millis(5));
            let spins = used.sandbox.call_with::<_, u32>(&options, "spin", ());
            expect(spins, ErrorKind::Deadline)?;
            used.sandbox.reset()?;
            check(&mut used.sandbox)
        }));
    }

    fn taking_a_snapshot_and_spawning_from_it() {
        inject(&of_sandbox(|used| {
            let mut copy = used.sandbox.snapshot()?.spawn()?;
            check(&mut copy)?;
            check(&mut used.sandbox)
        }));
    }

    fn spawning_in_a_new_machine() {
        let prepare = || build(&engine(0)).unwrap().snapshot().unwrap();
        inject(&of(prepare, |snapshot| check(&mut snapshot.spawn()?)));
    }

    fn going_from_one_snapshot_to_another() {
        let prepare = || {
            let mut used = used();
            used.sandbox.call::<_, u64>("keep", (1u64 << 20, 3u8)).unwrap();
            let other = used.sandbox.snapshot().unwrap();
            (used, other)
        };
        let attempt = |(used, other): &mut (Used, Snapshot)| {
            used.sandbox.restore(&used.snapshot)?;
            assert_eq!(used.sandbox.call::<_, u64>("kept", ())?, 0);
            used.sandbox.restore(other)?;
            assert_eq!(used.sandbox.call::<_, u64>("sum_kept", (1u32,))?, 3 << 20);
            Ok(())
        };
        inject(&Case { repair: |(used, _)| repair(used), ..of(prepare, attempt) });
    }

    fn lending_files_and_bytes() {
        let prepare = || {
            let mut file = NamedTempFile::new().unwrap();
            file.write_all(b"what the file says").unwrap();
            (used(), file)
        };
        let attempt = |(used, file): &mut (Used, NamedTempFile)| {
            let sandbox = &mut used.sandbox;
            // What an attempt before this has left.
            sandbox.unmap_all()?;
            sandbox.map("file", &Mapping::file(file.path())?)?;
            sandbox.map("bytes", &Mapping::copy_of(b"of the host")?)?;
            for (name, at, text) in [("file", 14u64, b"says"), ("bytes", 7, b"host")] {
                let read: Option<Vec<u8>> = sandbox.call("map_read", (name, at, 4u32))?;
                assert_eq!(read.as_deref(), Some(&text[..]));
            }
            sandbox.unmap_all()?;
            check(sandbox)
        };
        inject(&Case { repair: |(used, _)| repair(used), ..of(prepare, attempt) });
    }

    fn saving() {
        // It is the processes with the faults that see what there is, so they write it down.
        static SEEN: OnceLock<PathBuf> = OnceLock::new();
        let notes = NamedTempFile::new().unwrap();
        SEEN.get_or_init(|| notes.path().to_path_buf());
        inject(&Case {
            kinds: &[ErrorKind::Io],
            repair: |turns: &mut Turns| {
                let seen = turns.check();
                let notes = File::options().append(true).open(SEEN.get().expect("a path"));
                writeln!(notes.unwrap(), "{seen}").unwrap();
            },
            ..of(Turns::prepared, Turns::save)
        });
        let seen = std::fs::read_to_string(notes.path()).unwrap();
        let times = |what| seen.lines().filter(|line| *line == what).count();
        let (old, new) = (times("an error and the old file"), times("the new file"));
        let late = times("an error and the new file");
        println!("saving: an error and the old file {old} times, and the new one {late}; the new file {new}");
        assert!(old > 5 && new > 5, "{old} times the old file, {new} times the new one");
    }

    fn loading_and_spawning() {
        inject(&of(saved, |saved| {
            let loader = loader().engine(&saved.engine);
            check(&mut loader.load(saved.path())?.spawn()?)
        }));
    }

    fn faulting_and_resetting_with_memory_in_a_file() {
        let prepare = || {
            let saved = saved();
            let snapshot = loader().engine(&saved.engine).load(saved.path()).unwrap();
            Used { sandbox: snapshot.spawn().unwrap(), snapshot }
        };
        inject(&Case {
            repair,
            ..of(prepare, |used| {
                let ended = used.sandbox.call::<_, u32>("end_by", (1u32, 2u8));
                expect(ended, ErrorKind::Fault)?;
                used.sandbox.reset()?;
                check(&mut used.sandbox)
            })
        });
    }

    fn running_a_linux_program() {
        let attempt = |used: &mut Standard| {
            let sandbox = &mut used.sandbox;
            assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32))?, 3);
            let sum: Option<u64> = sandbox.call("sum_on_four_threads", (1000u64,))?;
            assert_eq!(sum, Some(499_500));
            sandbox.reset()
        };
        let repair = |used: &mut Standard| make_usable(&mut used.sandbox, &used.snapshot);
        inject(&Case { repair, ..of(standard_used, attempt) });
    }

    fn starting_a_linux_program() {
        inject(&of(standard_used, |used| {
            let mut sandbox = standard(&used.engine, used.folder.path())?;
            assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32))?, 3);
            Ok(())
        }));
    }

    fn loading_a_linux_program() {
        inject(&of(standard_used, |used| {
            let folder = used.folder.path();
            let loader = equipped!(Snapshot::loader(), &used.engine, folder);
            let snapshot = loader.load(folder.join("snapshot"))?;
            assert_eq!(snapshot.spawn()?.call::<_, u32>("add", (1u32, 2u32))?, 3);
            Ok(())
        }));
    }

    fn keeping_shells_ready() {
        inject(&Case {
            kinds: HYPERVISOR,
            only: &["clone", "clone3", "mprotect"],
            ..of(
                || (),
                |()| {
                    let engine = Engine::builder().pool_size(1).build()?;
                    let snapshot = build(&engine)?.snapshot()?;
                    snapshot.keep_ready(1)?;
                    check(&mut snapshot.spawn()?)
                },
            )
        });
    }
}
