//! The filter of system calls for threads that run guests: under it the library works, and not much else.
//!
//! What ends a process, or is traced, runs in one of its own.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use glowbox::seccomp::Filter;
use glowbox::{
    Backend, CallOptions, Engine, ErrorKind, Input, InterruptHandle, Mapping, Output, Sandbox,
    Snapshot,
};

use crate::support::{builder, error, guest, in_fork, isolated, loader, standard_guests};
use crate::trace::{self, Call};

/// What there is before the filter.
struct Prepared {
    engine: Engine,
    testing: Snapshot,
    faults: Snapshot,
    panics: Snapshot,
    programs: Vec<Snapshot>,
    mapping: Mapping,
    /// In an engine without a pool: its VM is closed when it is dropped.
    alone: Sandbox,
    folder: tempfile::TempDir,
    /// Stops the call of whom it gets a handle of.
    stopper: Sender<InterruptHandle>,
    /// Runs until it is stopped.
    spinner: InterruptHandle,
}

impl Prepared {
    fn new() -> Prepared {
        let engine = Engine::builder().pool_size(16).build().unwrap();
        let on = |engine: &Engine, name: &str| builder().engine(engine).build(guest(name)).unwrap();
        let testing = on(&engine, "testing").snapshot().unwrap();
        let plain = |name| Sandbox::builder().engine(&engine).build(guest(name)).unwrap();
        let faults = plain("faults").snapshot().unwrap();
        let panics = Sandbox::builder()
            .engine(&engine)
            .host_function("weekday", || -> String { panic!("on purpose") })
            .build(guest("hello"))
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "from the host").unwrap();
        let programs: Vec<Snapshot> =
            standard_guests().map(|name| program(&engine, name, Some(&folder))).collect();
        let without_pool = Engine::builder().pool_size(0).build().unwrap();
        let prepared = Prepared {
            testing,
            faults,
            panics: { panics }.snapshot().unwrap(),
            programs,
            mapping: Mapping::copy_of(b"lent").unwrap(),
            alone: on(&without_pool, "testing"),
            folder,
            stopper: stopper(),
            spinner: spinner(on(&engine, "testing")),
            engine,
        };
        prepared.fill_the_pool();
        prepared
    }

    fn fill_the_pool(&self) {
        let snapshots = [&self.testing, &self.faults, &self.panics];
        let snapshots: Vec<_> = snapshots.into_iter().chain(&self.programs).collect();
        snapshots.iter().for_each(|snapshot| snapshot.keep_ready(2).unwrap());
        let start = Instant::now();
        while self.engine.idle_shells() < 2 * snapshots.len() {
            assert!(start.elapsed() < Duration::from_secs(60), "VMs are not made");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A Linux program, which may be granted a directory.
fn program(engine: &Engine, name: &str, folder: Option<&tempfile::TempDir>) -> Snapshot {
    let builder = Sandbox::builder()
        .engine(engine)
        .host_function("weekday", || "Monday".to_string())
        .host_function("double", |number: u32| -> Result<u32, glowbox::HostError> {
            Ok(number * 2)
        })
        .host_function("back", || ())
        .stdin(Input::bytes("a line\n"))
        .stdout(Output::buffer(1000).0)
        .stderr(Output::stderr());
    let builder = match folder {
        Some(folder) => builder.directory("/host", folder.path()),
        None => builder,
    };
    builder.build(guest(name)).unwrap().snapshot().unwrap()
}

fn stopper() -> Sender<InterruptHandle> {
    let (sender, receiver) = channel::<InterruptHandle>();
    thread::spawn(move || {
        for handle in receiver {
            while !handle.interrupt() {
                thread::yield_now();
            }
        }
    });
    sender
}

fn spinner(mut sandbox: Sandbox) -> InterruptHandle {
    let handle = sandbox.interrupt_handle();
    thread::spawn(move || {
        let options = CallOptions::new().no_deadline();
        let stopped = error(sandbox.call_with::<_, u32>(&options, "spin", ()));
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
    });
    handle
}

/// All that [`Filter::for_calls`] promises.
fn calls(prepared: &Prepared) {
    let short = CallOptions::new().deadline(Duration::from_millis(20));
    let mut sandbox = prepared.testing.spawn().unwrap();
    assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
    assert_eq!(sandbox.call::<_, u32>("call_host_add", (1u32, 2u32)).unwrap(), 3);
    let add = sandbox.function::<(u32, u32), u32>("add").unwrap();
    let sums = add.call_many(&mut sandbox, (0..100).map(|number| (number, 1)));
    assert!(sums.into_iter().zip(1..).all(|(sum, expected)| sum.unwrap() == expected));
    assert_eq!(error(sandbox.call_with::<_, u32>(&short, "spin", ())).kind(), ErrorKind::Deadline);
    sandbox.reset().unwrap();
    prepared.stopper.send(sandbox.interrupt_handle()).unwrap();
    let stopped = error(sandbox.call::<_, u32>("spin", ()));
    assert_eq!(stopped.kind(), ErrorKind::Interrupted);
    sandbox.restore(&prepared.testing).unwrap();
    sandbox.map("lent", &prepared.mapping).unwrap();
    assert_eq!(sandbox.call::<_, Option<u64>>("map_length", ("lent",)).unwrap(), Some(4));
    sandbox.unmap_all().unwrap();
    // Much memory, which is given back.
    assert_eq!(sandbox.call::<_, u64>("keep", (24u64 << 20, 1u8)).unwrap(), 24 << 20);
    sandbox.reset().unwrap();
    drop(sandbox);
    while !prepared.spinner.interrupt() {
        thread::sleep(Duration::from_millis(1));
    }
    let mut faults = prepared.faults.spawn().unwrap();
    for _ in 0..2 {
        let fault = error(faults.call::<_, ()>("touch_address", (8u64, "write")));
        assert_eq!(fault.kind(), ErrorKind::Fault);
        assert_eq!(fault.fault().unwrap().address, Some(8));
        faults.reset().unwrap();
    }
    let mut panics = prepared.panics.spawn().unwrap();
    assert_eq!(error(panics.call::<_, String>("greet", ("you",))).kind(), ErrorKind::HostPanic);
    for snapshot in &prepared.programs {
        linux(&mut snapshot.spawn().unwrap());
    }
}

/// What a Linux program does without files of the host.
fn linux(sandbox: &mut Sandbox) {
    assert_eq!(sandbox.call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
    assert_eq!(sandbox.call::<_, String>("read_line", ()).unwrap(), "a line\n");
    sandbox.call::<_, ()>("print_lines", ("to the buffer", "to standard error")).unwrap();
    assert!(sandbox.call::<_, Duration>("sleep", (5u64,)).unwrap() >= Duration::from_millis(5));
    assert_eq!(sandbox.call::<_, u32>("count_under_a_lock", (3u32, 500u32)).unwrap(), 1500);
    assert_eq!(sandbox.call::<_, usize>("allocate", (4usize << 20,)).unwrap(), 1024);
    // A handler's signal, and one without.
    assert!(sandbox.call::<_, u64>("recurse", (0u64,)).is_err());
    sandbox.reset().unwrap();
    let aborted = error(sandbox.call::<_, ()>("abort", ()));
    assert_eq!(aborted.exit_status().unwrap().signal(), Some(6));
    sandbox.reset().unwrap();
    assert_eq!(sandbox.call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
}

/// What the filter promises of the standard library.
fn standard_library() {
    let map: HashMap<u32, u32> = (0..100).map(|number| (number, number)).collect();
    assert_eq!(map[&7], 7);
    let mut large = vec![1u8; 1 << 20];
    // It grows where it is, or moves.
    (21..25).for_each(|bits| large.resize(1 << bits, 1));
    thread::sleep(Duration::from_millis(1));
    let (sender, receiver) = channel::<u32>();
    assert!(receiver.recv_timeout(Duration::from_millis(1)).is_err());
    drop(sender);
    eprintln!("written under a filter");
    println!("written under a filter");
    let panic = std::panic::catch_unwind(|| panic!("on purpose"));
    assert!(panic.is_err());
}

/// All that [`Filter::with_building`] adds.
fn building(prepared: &Prepared) {
    let engine = &prepared.engine;
    let mut built = builder().engine(engine).build(guest("testing")).unwrap();
    assert_eq!(built.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
    let snapshot = built.snapshot().unwrap();
    let held: Vec<Sandbox> = (0..20).map(|_| snapshot.spawn().unwrap()).collect();
    drop(held);
    built.map("lent", &Mapping::copy_of(b"lent").unwrap()).unwrap();
    assert_eq!(built.call::<_, Option<u64>>("map_length", ("lent",)).unwrap(), Some(4));
    for name in standard_guests() {
        program(engine, name, None);
    }
}

/// All that [`Filter::with_files`] adds.
fn files(prepared: &Prepared) {
    let path: PathBuf = guest("hello").path().unwrap().into();
    let weekday = || "Monday".to_string();
    let sandbox = Sandbox::builder().engine(&prepared.engine).host_function("weekday", weekday);
    assert!(sandbox.build(&path).is_ok());
    let saved = prepared.folder.path().join("saved");
    prepared.testing.save(&saved).unwrap();
    let loaded = loader().engine(&prepared.engine).load(&saved).unwrap();
    let mut sandbox = loaded.spawn().unwrap();
    assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
    sandbox.map("file", &Mapping::file(&saved).unwrap()).unwrap();
    assert!(sandbox.call::<_, Option<u64>>("map_length", ("file",)).unwrap() > Some(1 << 12));
    sandbox.unmap_all().unwrap();
    sandbox.reset().unwrap();
    for snapshot in &prepared.programs {
        let mut program = snapshot.spawn().unwrap();
        let text: Vec<u8> = program.call("read_file", ("/host/a.txt",)).unwrap();
        assert_eq!(text, b"from the host");
    }
    // A fault in a guest whose memory lies in a file, of which the error tells the instruction.
    prepared.faults.save(&saved).unwrap();
    let mut faults =
        Snapshot::loader().engine(&prepared.engine).load(&saved).unwrap().spawn().unwrap();
    let fault = error(faults.call::<_, ()>("touch_address", (8u64, "write")));
    assert_eq!(fault.kind(), ErrorKind::Fault);
}

/// Runs `test` in a thread under a filter, and what it leaves behind after it.
fn under(filter: Filter, test: impl FnOnce(&Prepared) + Send + 'static) {
    let prepared = Prepared::new();
    let worker = thread::spawn(move || {
        filter.apply_to_this_thread(&prepared.engine).unwrap();
        trace::mark();
        test(&prepared);
        // Its VMs, and the folder, are for a thread that may remove it.
        let Prepared { alone, folder, engine, .. } = prepared;
        drop(alone);
        (folder, engine)
    });
    drop(worker.join().unwrap());
}

/// What the calls of a filter's threads are that `test` makes, and the whole process at its end.
fn made(filter: fn() -> Filter, test: fn(&Prepared)) -> BTreeSet<Call> {
    trace::calls_after_marks(|| {
        // The usual one may look for names of functions, in files, in vain.
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
        let filter = filter().refuse().allow(libc::SYS_getpriority);
        under(filter.clone(), test);
        filter.apply_to_this_thread(&Engine::new().unwrap()).unwrap();
        trace::mark();
    })
}

/// Checks that all that was made is in the filter's list, and that there is nothing else in it, but
/// for what depends on the system.
#[track_caller]
fn assert_exact(filter: &Filter, made: &BTreeSet<Call>, listed_elsewhere: &BTreeSet<Call>) {
    let calls = filter.system_calls();
    let call =
        |call: &glowbox::seccomp::SystemCall| (call.number, call.request.unwrap_or(0).into());
    let all: BTreeSet<Call> = calls.iter().map(call).collect();
    let always: BTreeSet<Call> =
        calls.iter().filter(|call| call.when.is_none()).map(call).collect();
    let missing: Vec<_> = made.difference(&all).collect();
    assert!(missing.is_empty(), "made, but not in the list: {missing:?}");
    let unused: Vec<_> =
        always.difference(made).filter(|call| !listed_elsewhere.contains(call)).collect();
    assert!(unused.is_empty(), "in the list, but never made: {unused:?}");
}

/// How a process ends in which `code` runs under a filter: with its result, or minus a signal.
fn ended(filter: Filter, code: impl FnOnce() -> i32) -> i32 {
    let status = in_fork(move || {
        let engine = Engine::new().unwrap();
        filter.apply_to_this_thread(&engine).unwrap();
        let result = code();
        // SAFETY: ends the child.
        unsafe { libc::_exit(result) };
    });
    if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Makes a system call, and returns its error number or 0.
fn make(&(_, number, [a, b, c]): &Attempt) -> i32 {
    // SAFETY: no argument that is tried here is an address at which there is anything.
    let result = unsafe { libc::syscall(number, a, b, c, 0, 0, 0) };
    if result >= 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() }
}

/// What is tried: its name, the system call, its arguments.
type Attempt = (&'static str, i64, [i64; 3]);

/// `PROT_READ | PROT_EXEC`.
const EXECUTABLE: i64 = 5;

/// What no thread that runs guests has to do.
const FOREIGN: &[Attempt] = &[
    ("socket", libc::SYS_socket, [1, 1, 0]),
    ("execve", libc::SYS_execve, [0; 3]),
    ("ptrace", libc::SYS_ptrace, [0; 3]),
    ("fork", libc::SYS_fork, [0; 3]),
    ("chmod", libc::SYS_chmod, [0; 3]),
    ("kill", libc::SYS_kill, [1, 0, 0]),
    ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0]),
    ("another process's memory", libc::SYS_process_vm_writev, [1, 0, 0]),
    // TCGETS.
    ("another ioctl", libc::SYS_ioctl, [0, 0x5401, 0]),
    ("signals to init", libc::SYS_tgkill, [1, 1, 6]),
    ("executable memory", libc::SYS_mmap, [0, 4096, EXECUTABLE]),
    ("memory made executable", libc::SYS_mprotect, [4096, 4096, EXECUTABLE]),
    ("the same with a key", libc::SYS_pkey_mprotect, [4096, 4096, EXECUTABLE]),
];

/// What the library does under other filters.
const ELSEWHERE: &[Attempt] = &[
    ("open", libc::SYS_openat, [0; 3]),
    ("writing elsewhere", libc::SYS_write, [77, 0, 0]),
    ("unlink", libc::SYS_unlink, [0; 3]),
    ("memfd", libc::SYS_memfd_create, [0; 3]),
    ("a VM", libc::SYS_ioctl, [0, 0xae01, 0]),
    ("a pipe", libc::SYS_pipe2, [0; 3]),
];

tests! {
    fn calls_resets_spawns_and_drops_work_under_the_filter_for_calls() {
        if lacks!(known_requests) {
            return;
        }
        isolated("seccomp::calls_resets_spawns_and_drops_work_under_the_filter_for_calls", || {
            under(Filter::for_calls().allow(libc::SYS_getpriority), |prepared| {
                calls(prepared);
                standard_library();
            });
        });
    }

    fn vms_and_snapshots_are_made_under_the_filter_for_building() {
        if lacks!(known_requests) {
            return;
        }
        isolated("seccomp::vms_and_snapshots_are_made_under_the_filter_for_building", || {
            let filter = Filter::for_calls().with_building();
            under(filter.allow(libc::SYS_getpriority), building);
        });
    }

    fn guests_and_snapshots_are_read_and_saved_under_the_filter_for_files() {
        if lacks!(known_requests) {
            return;
        }
        isolated("seccomp::guests_and_snapshots_are_read_and_saved_under_the_filter_for_files", || {
            let filter = Filter::for_calls().with_building().with_files();
            under(filter.allow(libc::SYS_getpriority), files);
        });
    }

    fn each_filter_allows_what_the_library_does_and_nothing_else() {
        if lacks!(known_requests) {
            return;
        }
        isolated("seccomp::each_filter_allows_what_the_library_does_and_nothing_else", || {
            let calls_made = made(Filter::for_calls, |prepared| {
                calls(prepared);
                standard_library();
            });
            assert_exact(&Filter::for_calls(), &calls_made, &BTreeSet::new());
            let filter = || Filter::for_calls().with_building();
            let building_made = made(filter, building);
            assert_exact(&filter(), &building_made, &calls_made);
            let filter = || Filter::for_calls().with_building().with_files();
            let files_made = made(filter, files);
            assert_exact(&filter(), &files_made, &calls_made.union(&building_made).copied().collect());
        });
    }

    fn what_the_library_never_does_ends_the_process() {
        if lacks!(known_requests) {
            return;
        }
        for attempt in FOREIGN {
            let name = attempt.0;
            assert_eq!(ended(Filter::for_calls(), || make(attempt)), -libc::SIGSYS, "{name}");
            let all = Filter::for_calls().with_building().with_files();
            assert_eq!(ended(all, || make(attempt)), -libc::SIGSYS, "{name}");
            assert_eq!(ended(Filter::for_calls().refuse(), || make(attempt)), libc::EPERM, "{name}");
        }
        // To itself, but not the engine's signal.
        let signal = || {
            // SAFETY: asks for two numbers, and would end the child.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGTERM) };
            0
        };
        assert_eq!(ended(Filter::for_calls(), signal), -libc::SIGSYS);
    }

    fn a_spawn_that_finds_no_idle_vm_is_an_error_under_the_filter_for_calls() {
        if lacks!(known_requests) {
            return;
        }
        isolated("seccomp::a_spawn_that_finds_no_idle_vm_is_an_error_under_the_filter_for_calls", || {
            let engine = Engine::builder().pool_size(1).build().unwrap();
            let snapshot = builder().engine(&engine).build(guest("testing")).unwrap().snapshot().unwrap();
            assert_eq!(engine.idle_shells(), 1);
            let worker = thread::spawn(move || {
                Filter::for_calls().apply_to_this_thread(&engine).unwrap();
                let _first = snapshot.spawn().unwrap();
                let refused = error(snapshot.spawn());
                assert_eq!(refused.kind(), ErrorKind::Hypervisor, "{refused}");
                assert!(refused.to_string().contains("KVM_CREATE_VM"), "{refused}");
            });
            worker.join().unwrap();
        });
    }

    fn a_filter_holds_for_the_threads_that_its_thread_starts_and_for_no_others() {
        if lacks!(known_requests) {
            return;
        }
        isolated("seccomp::a_filter_holds_for_the_threads_that_its_thread_starts_and_for_no_others", || {
            let engine = Engine::new().unwrap();
            let reads = || std::fs::read("/proc/self/status").map_err(|error| error.kind());
            let denied = std::io::ErrorKind::PermissionDenied;
            let started = thread::spawn(move || {
                // What starting a thread takes, with any C library.
                let filter = Filter::for_calls().allow(libc::SYS_clone).allow(libc::SYS_clone3);
                let filter = filter.allow(libc::SYS_rseq).allow(libc::SYS_set_robust_list);
                let filter = filter.allow(libc::SYS_sched_getaffinity).refuse();
                filter.apply_to_this_thread(&engine).unwrap();
                assert_eq!(reads().unwrap_err(), denied);
                thread::spawn(reads).join().unwrap()
            });
            assert_eq!(started.join().unwrap().unwrap_err(), denied);
            assert!(reads().is_ok());
        });
    }

    fn a_filter_that_does_not_know_the_backend_is_an_error_that_says_so() {
        isolated("seccomp::a_filter_that_does_not_know_the_backend_is_an_error_that_says_so", || {
            let engine = Engine::builder().backend(Backend::Process).build().unwrap();
            let refused = error(Filter::for_calls().apply_to_this_thread(&engine));
            assert_eq!(refused.kind(), ErrorKind::Filter);
            assert!(refused.to_string().contains("the engine's is process"), "{refused}");
            // Nothing is in force: files can be opened.
            std::fs::read("/proc/self/status").unwrap();
        });
    }

    fn what_the_embedder_allows_is_allowed() {
        if lacks!(known_requests) {
            return;
        }
        let socket = &FOREIGN[0];
        let filter = || Filter::for_calls().allow(libc::SYS_socket);
        assert_eq!(ended(filter(), || make(socket)), 0);
        assert_eq!(ended(filter().refuse(), || make(socket)), 0);
    }

    fn what_the_library_does_under_another_filter_is_refused() {
        if lacks!(known_requests) {
            return;
        }
        for attempt in ELSEWHERE {
            let name = attempt.0;
            assert_eq!(ended(Filter::for_calls(), || make(attempt)), libc::EPERM, "{name}");
            assert_eq!(ended(Filter::for_calls().refuse(), || make(attempt)), libc::EPERM, "{name}");
        }
        let thread = || match thread::Builder::new().spawn(|| ()) {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap(),
        };
        assert_eq!(ended(Filter::for_calls(), thread), libc::EPERM);
    }
}
