//! Whatever a system call answers while something is done with a sandbox: the answer is right or a typed
//! error, nothing is left behind, and the same can be done again.

use std::io::Write;
use std::path::{Path, PathBuf};
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

fn repair(used: &mut Used) {
    if used.sandbox.is_spent() && used.sandbox.reset().is_err() {
        used.sandbox = used.snapshot.spawn().unwrap();
    }
}

/// A case that works on a sandbox in any way that a spawned one can be worked on.
const fn of_sandbox(attempt: fn(&mut Used) -> Result<(), Error>) -> Case<Used> {
    Case { kinds: LOSES, only: &[], fresh: false, prepare: used, attempt, repair }
}

/// Checks that a call ends as it should.
fn expect<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(error),
        Ok(value) => panic!("{value:?}"),
    }
}

/// A folder with a file in it, and a snapshot.
struct Saved {
    folder: TempDir,
    engine: Engine,
    snapshot: Snapshot,
    file: Vec<u8>,
}

impl Saved {
    fn path(&self) -> PathBuf {
        self.folder.path().join("snapshot")
    }
}

fn saved() -> Saved {
    let engine = engine(1);
    let snapshot = build(&engine).unwrap().snapshot().unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("snapshot");
    snapshot.save(&path).unwrap();
    let file = std::fs::read(&path).unwrap();
    Saved { folder, engine, snapshot, file }
}

/// A guest with the standard library, that can read a folder of the host's.
fn standard(engine: &Engine, folder: &Path) -> Result<Sandbox, Error> {
    Sandbox::builder()
        .engine(engine)
        .host_function("weekday", || "Monday".to_string())
        .host_function("double", |number: u32| -> Result<u32, HostError> { Ok(number * 2) })
        .host_function("back", || ())
        .directory("/host", folder)
        .build(guest("testing-std"))
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

fn repair_standard(used: &mut Standard) {
    if used.sandbox.is_spent() && used.sandbox.reset().is_err() {
        used.sandbox = used.snapshot.spawn().unwrap();
    }
}

tests! {
    fn opening_an_engine() {
        inject(&Case {
            kinds: HYPERVISOR,
            only: &[],
            fresh: false,
            prepare: || (),
            attempt: |()| Engine::builder().pool_size(1).build().map(drop),
            repair: |()| (),
        });
    }

    fn the_first_sandbox_of_a_process() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: true,
            prepare: || (),
            attempt: |()| {
                let engine = Engine::builder().pool_size(0).build()?;
                let mut sandbox = build(&engine)?;
                check(&mut sandbox)?;
                sandbox.reset()?;
                check(&mut sandbox)
            },
            repair: |()| (),
        });
    }

    fn building_and_dropping() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: || engine(0),
            attempt: |engine| check(&mut build(engine)?),
            repair: |_| (),
        });
    }

    fn building_in_a_shell_and_giving_it_back() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: || engine(1),
            attempt: |engine| check(&mut build(engine)?),
            repair: |_| (),
        });
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
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: || build(&engine(0)).unwrap().snapshot().unwrap(),
            attempt: |snapshot| check(&mut snapshot.spawn()?),
            repair: |_| (),
        });
    }

    fn going_from_one_snapshot_to_another() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: || {
                let mut used = used();
                used.sandbox.call::<_, u64>("keep", (1u64 << 20, 3u8)).unwrap();
                let other = used.sandbox.snapshot().unwrap();
                (used, other)
            },
            attempt: |(used, other)| {
                used.sandbox.restore(&used.snapshot)?;
                assert_eq!(used.sandbox.call::<_, u64>("kept", ())?, 0);
                used.sandbox.restore(other)?;
                assert_eq!(used.sandbox.call::<_, u64>("sum_kept", (1u32,))?, 3 << 20);
                Ok(())
            },
            repair: |(used, _)| repair(used),
        });
    }

    fn lending_files_and_bytes() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: || {
                let mut file = NamedTempFile::new().unwrap();
                file.write_all(b"what the file says").unwrap();
                (used(), file)
            },
            attempt: |(used, file)| {
                let sandbox = &mut used.sandbox;
                // What an attempt before this has left.
                sandbox.unmap_all()?;
                sandbox.map("file", &Mapping::file(file.path())?)?;
                sandbox.map("bytes", &Mapping::copy_of(b"of the host")?)?;
                for (name, text) in [("file", &b"says"[..]), ("bytes", b"host")] {
                    let at = if name == "file" { 14u64 } else { 7 };
                    let read: Option<Vec<u8>> = sandbox.call("map_read", (name, at, 4u32))?;
                    assert_eq!(read.as_deref(), Some(text));
                }
                sandbox.unmap_all()?;
                check(sandbox)
            },
            repair: |(used, _)| repair(used),
        });
    }

    fn saving() {
        inject(&Case {
            kinds: &[ErrorKind::Io],
            only: &[],
            fresh: false,
            prepare: saved,
            attempt: |saved| saved.snapshot.save(saved.path()),
            repair: |saved| {
                // The old one or the new one, which are the same, and nothing else.
                assert!(std::fs::read(saved.path()).unwrap() == saved.file);
                assert_eq!(std::fs::read_dir(saved.folder.path()).unwrap().count(), 1);
            },
        });
    }

    fn loading_and_spawning() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: saved,
            attempt: |saved| {
                let loader = loader().engine(&saved.engine);
                check(&mut loader.load(saved.path())?.spawn()?)
            },
            repair: |_| (),
        });
    }

    fn running_a_linux_program() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: standard_used,
            attempt: |used| {
                let sandbox = &mut used.sandbox;
                assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32))?, 3);
                let sum: Option<u64> = sandbox.call("sum_on_four_threads", (1000u64,))?;
                assert_eq!(sum, Some(499_500));
                sandbox.reset()
            },
            repair: repair_standard,
        });
    }

    fn starting_a_linux_program() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: standard_used,
            attempt: |used| {
                let mut sandbox = standard(&used.engine, used.folder.path())?;
                assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32))?, 3);
                Ok(())
            },
            repair: |_| (),
        });
    }

    fn loading_a_linux_program() {
        inject(&Case {
            kinds: LOSES,
            only: &[],
            fresh: false,
            prepare: standard_used,
            attempt: |used| {
                let loader = Snapshot::loader()
                    .engine(&used.engine)
                    .host_function("weekday", || "Monday".to_string())
                    .host_function("double", |number: u32| -> Result<u32, HostError> { Ok(number * 2) })
                    .host_function("back", || ())
                    .directory("/host", used.folder.path());
                let snapshot = loader.load(used.folder.path().join("snapshot"))?;
                assert_eq!(snapshot.spawn()?.call::<_, u32>("add", (1u32, 2u32))?, 3);
                Ok(())
            },
            repair: |_| (),
        });
    }

    fn keeping_shells_ready() {
        inject(&Case {
            kinds: HYPERVISOR,
            only: &["clone", "clone3", "mprotect"],
            fresh: false,
            prepare: || (),
            attempt: |()| {
                let engine = Engine::builder().pool_size(1).build()?;
                let snapshot = build(&engine)?.snapshot()?;
                snapshot.keep_ready(1)?;
                check(&mut snapshot.spawn()?)
            },
            repair: |()| (),
        });
    }
}
