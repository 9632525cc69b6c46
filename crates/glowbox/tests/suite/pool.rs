//! The pool of VMs: how many stand idle, who gets them, and what using them again costs.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use glowbox::{CallOptions, Engine, ErrorKind, Sandbox, Snapshot};

use crate::patterns::{Places, alike, leaks, namesake, random};
use crate::support::{error, guest, in_fork, isolated};
use crate::trace::{self, Call, KVM_RUN};

const SHORT: Duration = Duration::from_millis(100);
/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: Call = (libc::SYS_ioctl, 0xc060_6610);

fn engine(shells: usize) -> Engine {
    Engine::builder().pool_size(shells).build().expect("an engine")
}

fn count(sandbox: &mut Sandbox) -> u32 {
    sandbox.call("count", ()).expect("a number")
}

/// What a loop makes of system calls in all, when it has warmed up.
fn system_calls(turns: u32, make: impl FnOnce() -> Box<dyn FnMut()>) -> BTreeMap<Call, u64> {
    trace::count_system_calls(|mark| {
        let mut turn = make();
        (0..50).for_each(|_| turn());
        mark();
        (0..turns).for_each(|_| turn());
        mark();
    })
}

/// Checks that `turns` turns took so many system calls each and no others but those that any
/// process may make at any time: asking who it is, how many page faults it had, and for random
/// numbers.
#[track_caller]
fn assert_each(mut found: BTreeMap<Call, u64>, turns: u64, expected: &[Call]) {
    for call in expected {
        let times = found.remove(call);
        // Where nothing can be new, written pages are not asked for; with debug assertions they are.
        let seldom = *call == ask() && !cfg!(debug_assertions);
        assert!(
            seldom && times <= Some(turns / 50) || times == Some(turns),
            "{call:?} of {found:?}"
        );
    }
    let others = [
        (libc::SYS_getrandom, turns),
        (libc::SYS_getpid, 4 * turns),
        (libc::SYS_getrusage, 2 * turns),
    ];
    for (call, most) in others {
        let times = found.remove(&(call, 0)).unwrap_or(0);
        assert!(times <= most, "{call}: {times}");
    }
    assert_eq!(found, BTreeMap::new());
}

/// Page faults of this thread, with and without reading from a disk.
fn page_faults() -> i64 {
    // SAFETY: an all-zero rusage is a valid value, and the call fills it in.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
        usage.ru_minflt + usage.ru_majflt
    }
}

/// How this kernel is asked for the written pages.
fn ask() -> Call {
    if has_scan() { PAGEMAP_SCAN } else { (libc::SYS_pread64, 0) }
}

/// Whether this kernel can be asked for the written pages.
fn has_scan() -> bool {
    let file = std::fs::File::open("/proc/self/pagemap").expect("the page map");
    // SAFETY: without an argument, the request fails, one way or the other.
    let result = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), PAGEMAP_SCAN.1 as libc::c_ulong, 0usize)
    };
    assert_eq!(result, -1);
    std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOTTY)
}

tests! {
    fn there_are_never_more_idle_shells_than_asked_for() {
        for size in [0, 1, 3] {
            let engine = engine(size);
            let snapshot = leaks(&engine).snapshot().unwrap();
            assert_eq!(engine.idle_shells(), size.min(1));
            let mut sandboxes: Vec<_> = (0..5).map(|_| snapshot.spawn().unwrap()).collect();
            assert_eq!(engine.idle_shells(), 0);
            for (number, mut sandbox) in (1..).zip(sandboxes.drain(..)) {
                assert_eq!(count(&mut sandbox), 1);
                drop(sandbox);
                assert_eq!(engine.idle_shells(), size.min(number));
            }
        }
    }

    fn a_spawn_call_and_drop_enters_once_and_maps_nothing() {
        if lacks!(known_requests) {
            return;
        }
        let name = "pool::a_spawn_call_and_drop_enters_once_and_maps_nothing";
        isolated(name, || {
            let found = system_calls(100, || {
                let engine = engine(4);
                let snapshot = leaks(&engine).snapshot().unwrap();
                Box::new(move || assert_eq!(count(&mut snapshot.spawn().unwrap()), 1))
            });
            let scan = &[KVM_RUN, ask()];
            assert_each(found, 100, scan);
        });
    }

    fn a_reset_and_call_enters_once_and_maps_nothing() {
        if lacks!(known_requests) {
            return;
        }
        isolated("pool::a_reset_and_call_enters_once_and_maps_nothing", || {
            for built in [true, false] {
                let found = system_calls(100, || {
                    let mut sandbox = leaks(&engine(4));
                    if !built {
                        sandbox = sandbox.snapshot().unwrap().spawn().unwrap();
                    }
                    Box::new(move || {
                        sandbox.reset().unwrap();
                        assert_eq!(count(&mut sandbox), 1);
                    })
                });
                let scan = &[KVM_RUN, ask()];
                assert_each(found, 100, scan);
            }
        });
    }

    fn the_shell_that_was_used_last_is_used_next() {
        if lacks!(private_memory) {
            return;
        }
        isolated("pool::the_shell_that_was_used_last_is_used_next", || {
            // A shell keeps the pages that were written in it, so it is known by the faults of a call
            // that writes them again.
            let faults_of_the_next = |writer_is_last: bool| {
                let engine = engine(2);
                let mut parent = leaks(&engine);
                let start = Places::of(&mut parent).spare();
                let snapshot = parent.snapshot().unwrap();
                drop(parent);
                let write = |sandbox: &mut Sandbox| {
                    sandbox.call::<_, ()>("write_pages", (start, 500u64, 1u64)).unwrap();
                };
                let (mut writer, mut other) = (snapshot.spawn().unwrap(), snapshot.spawn().unwrap());
                write(&mut writer);
                count(&mut other);
                if writer_is_last {
                    drop(other);
                    drop(writer);
                } else {
                    drop(writer);
                    drop(other);
                }
                let mut next = snapshot.spawn().unwrap();
                let before = page_faults();
                write(&mut next);
                page_faults() - before
            };
            let (last, before_last) = (faults_of_the_next(true), faults_of_the_next(false));
            assert!(last < 100 && before_last >= 400, "{last} and {before_last}");
        });
    }

    fn two_snapshots_that_alternate_keep_a_shell_each() {
        if lacks!(known_requests) {
            return;
        }
        isolated("pool::two_snapshots_that_alternate_keep_a_shell_each", || {
            let found = system_calls(100, || {
                let engine = engine(2);
                let one = leaks(&engine).snapshot().unwrap();
                let two = alike(&engine).build(namesake()).unwrap().snapshot().unwrap();
                // Both at once, so that there are two shells.
                drop((one.spawn().unwrap(), two.spawn().unwrap()));
                let mut turn = false;
                Box::new(move || {
                    turn = !turn;
                    let snapshot = if turn { &one } else { &two };
                    assert_eq!(count(&mut snapshot.spawn().unwrap()), 1);
                })
            });
            let scan = &[KVM_RUN, ask()];
            assert_each(found, 100, scan);
        });
    }

    /// A guest that writes some pages each time, and what the host itself writes.
    fn in_the_steady_state_nothing_faults() {
        isolated("pool::in_the_steady_state_nothing_faults", || {
            if !has_scan() {
                return crate::support::leave_out("this kernel has no PAGEMAP_SCAN");
            }
            let engine = engine(1);
            let mut parent = leaks(&engine);
            let start = Places::of(&mut parent).spare();
            let snapshot = parent.snapshot().unwrap();
            drop(parent);
            let write = |sandbox: &mut Sandbox| {
                sandbox.call::<_, ()>("write_pages", (start, 40u64, 1u64)).unwrap();
            };
            let mut spawning = || write(&mut snapshot.spawn().unwrap());
            assert_no_faults(&mut spawning);
            let mut sandbox = snapshot.spawn().unwrap();
            let mut resetting = || {
                write(&mut sandbox);
                sandbox.reset().unwrap();
            };
            assert_no_faults(&mut resetting);
        });
    }

    fn handles_and_deadlines_of_a_dropped_sandbox_do_not_reach_the_shells_next_user() {
        let engine = engine(1);
        let mut built = alike(&engine).deadline(SHORT).build(guest("leaks")).unwrap();
        let snapshot = built.snapshot().unwrap();
        let mut handles = vec![built.interrupt_handle()];
        count(&mut built);
        drop(built);
        let spin = |sandbox: &mut Sandbox, options: &CallOptions| {
            error(sandbox.call_with::<_, ()>(options, "spin", ())).kind()
        };
        for _ in 0..5 {
            let mut sandbox = snapshot.spawner().no_deadline().spawn().unwrap();
            let own = sandbox.interrupt_handle();
            let stale: Vec<_> = handles.clone();
            let stopper = thread::spawn(move || {
                // While it runs, for longer than the last user's deadline.
                thread::sleep(SHORT * 2);
                let hits = stale.iter().filter(|handle| handle.interrupt()).count();
                thread::sleep(SHORT);
                while !own.interrupt() {
                    thread::yield_now();
                }
                hits
            });
            assert_eq!(spin(&mut sandbox, &CallOptions::new()), ErrorKind::Interrupted);
            assert_eq!(stopper.join().unwrap(), 0);
            handles.push(sandbox.interrupt_handle());
            drop(sandbox);
            assert_eq!(engine.idle_shells(), 1);
            assert!(handles.iter().all(|handle| !handle.interrupt()));
            let mut short = snapshot.spawn().unwrap();
            assert_eq!(spin(&mut short, &CallOptions::new()), ErrorKind::Deadline);
        }
    }

    fn a_handle_that_is_used_while_the_shell_changes_hands_stops_only_its_own() {
        let engine = engine(1);
        let snapshot = leaks(&engine).snapshot().unwrap();
        for _ in 0..20 {
            let sandbox = snapshot.spawn().unwrap();
            let handle = sandbox.interrupt_handle();
            let stopper = thread::spawn(move || (0..2000).filter(|_| handle.interrupt()).count());
            drop(sandbox);
            for _ in 0..10 {
                assert_eq!(count(&mut snapshot.spawn().unwrap()), 1);
            }
            assert_eq!(stopper.join().unwrap(), 0);
        }
    }

    fn a_fork_can_use_neither_snapshots_nor_idle_shells_and_harms_neither() {
        isolated("pool::a_fork_can_use_neither_snapshots_nor_idle_shells_and_harms_neither", || {
            let engine = engine(2);
            let mut parent = leaks(&engine);
            let snapshot = parent.snapshot().unwrap();
            drop(snapshot.spawn().unwrap());
            let status = in_fork(|| {
                assert_eq!(error(snapshot.spawn()).kind(), ErrorKind::Hypervisor);
                assert_eq!(error(parent.reset()).kind(), ErrorKind::Hypervisor);
                assert_eq!(error(parent.restore(&snapshot)).kind(), ErrorKind::Hypervisor);
                assert_eq!(error(parent.snapshot()).kind(), ErrorKind::Hypervisor);
                drop((engine.clone(), snapshot.clone()));
                let own = self::engine(1);
                let mine = leaks(&own).snapshot().unwrap();
                assert_eq!(count(&mut mine.spawn().unwrap()), 1);
            });
            assert_eq!(status, 0);
            for _ in 0..3 {
                assert_eq!(count(&mut snapshot.spawn().unwrap()), 1);
            }
            assert_eq!(count(&mut parent), 1);
        });
    }

    fn without_descriptors_a_spawn_is_an_error_and_works_again_later() {
        isolated("pool::without_descriptors_a_spawn_is_an_error_and_works_again_later", || {
            let engine = engine(1);
            let snapshot = leaks(&engine).snapshot().unwrap();
            let mut held = vec![snapshot.spawn().unwrap()];
            let mut files = Vec::new();
            // Every number of descriptors that may be left.
            for left in 0..6 {
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    files.push(file);
                    assert!(files.len() < 100_000, "no limit");
                    if files.len() == 1 {
                        limit_descriptors(200);
                    }
                }
                files.truncate(files.len() - left);
                match snapshot.spawn() {
                    Ok(sandbox) => held.push(sandbox),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Hypervisor, "{error}"),
                }
                held.truncate(2);
            }
            files.clear();
            held.push(snapshot.spawn().unwrap());
            held.iter_mut().for_each(|sandbox| assert_eq!(count(sandbox), 1));
        });
    }

    fn many_threads_spawn_from_many_engines() {
        let engines: Vec<Engine> = (0..4).map(engine).collect();
        let snapshots: Vec<Snapshot> = engines
            .iter()
            .map(|engine| random(engine).build(guest("leaks")).unwrap().snapshot().unwrap())
            .collect();
        thread::scope(|scope| {
            for number in 0..8usize {
                let snapshots = &snapshots;
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for turn in 0..30 {
                        let snapshot = &snapshots[(number + turn) % snapshots.len()];
                        let mut sandbox = snapshot.spawn().unwrap();
                        assert_eq!(count(&mut sandbox), 1);
                        kept.push(sandbox);
                        if kept.len() > 2 {
                            let mut oldest = kept.remove(0);
                            assert_eq!(count(&mut oldest), 2);
                        }
                    }
                });
            }
        });
        for (engine, size) in engines.iter().zip(0..) {
            assert!(engine.idle_shells() <= size);
        }
    }
}

/// Limits how many descriptors this process may have.
fn limit_descriptors(count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    // SAFETY: sets a limit, from a struct on this stack.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// Checks that a thousand turns fault no page in, once it has run for a while.
#[track_caller]
fn assert_no_faults(turn: &mut dyn FnMut()) {
    // Pages that were written once only are dropped after at most 250 turns.
    (0..600).for_each(|_| turn());
    // The system may take a page away at any time, to move it say; so not each round has to be without.
    let mut round = || {
        let before = page_faults();
        (0..1000).for_each(|_| turn());
        page_faults() - before
    };
    let faults: Vec<_> = (0..3).map(|_| round()).take_while(|faults| *faults > 0).collect();
    assert!(faults.len() < 3, "{faults:?} faults in a thousand turns");
}
