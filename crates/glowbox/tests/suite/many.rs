//! Many sandboxes: one after the other, at once, over threads; and what a call costs in system
//! calls.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use glowbox::{Engine, Sandbox};

use crate::support::{builder, guest, isolated, leave_out, sandbox};
use crate::trace;

/// What a process holds, as /proc tells.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    mappings: usize,
    threads: usize,
}

fn held() -> Held {
    let count = |path| std::fs::read_dir(path).expect("proc").count();
    // The allocator may split or join its own heap; what a sandbox maps has other names or none.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc");
    let ours = |line: &&str| {
        let named = line.split_whitespace().nth(5).unwrap_or("");
        named.starts_with("anon_inode") || named.starts_with("/memfd") || is_large(line)
    };
    Held {
        descriptors: count("/proc/self/fd"),
        mappings: maps.lines().filter(ours).count(),
        threads: count("/proc/self/task"),
    }
}

/// Whether a line of /proc/self/maps is an anonymous mapping as large as guest memory.
fn is_large(line: &str) -> bool {
    let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) else {
        return false;
    };
    let number = |text| u64::from_str_radix(text, 16).expect("an address");
    line.split_whitespace().nth(5).is_none() && number(to) - number(from) >= 90 << 20
}

fn greeter() -> Sandbox {
    Sandbox::builder()
        .host_function("weekday", || "Monday".to_string())
        .build(guest("hello"))
        .expect("a sandbox")
}

/// How many descriptors this process may have, when it has asked for as many as it can get.
fn descriptors_allowed() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is of the kind that both calls use, and lives on.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
    limit.rlim_cur
}

/// Waits for what the kernel gives back a little later.
fn settles_to(expected: &Held) -> Held {
    for _ in 0..200 {
        if held() == *expected {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    held()
}

tests! {
    fn a_thousand_sandboxes_in_a_row_leave_nothing_behind() {
        isolated("many::a_thousand_sandboxes_in_a_row_leave_nothing_behind", || {
            drop(greeter().call::<_, String>("greet", ("first",)).expect("an answer"));
            let before = held();
            for number in 0..1000u32 {
                let name = number.to_string();
                let greeting: String = greeter().call("greet", (&name,)).expect("an answer");
                assert_eq!(greeting, format!("Hello, {name}! Today is Monday."));
            }
            assert_eq!(settles_to(&before), before);
        });
    }

    fn two_hundred_sandboxes_at_once_called_from_eight_threads_leave_nothing_behind() {
        let name = "many::two_hundred_sandboxes_at_once_called_from_eight_threads_leave_nothing_behind";
        isolated(name, || {
            // Without a pool, in which some VMs would stay.
            let engine = Engine::builder().pool_size(0).build().expect("an engine");
            let sandbox = || builder().engine(&engine).build(guest("testing")).expect("a sandbox");
            assert_eq!(sandbox().call::<_, u32>("add", (1u32, 2u32)).expect("an answer"), 3);
            let before = held();
            let mut sandboxes: Vec<Sandbox> = (0..200).map(|_| sandbox()).collect();
            assert!(held().descriptors >= before.descriptors + 400);
            // Three rounds; in each, every thread has other sandboxes than in the one before.
            for round in 0..3u32 {
                sandboxes.rotate_left(25 - usize::try_from(round).expect("small"));
                thread::scope(|scope| {
                    for part in sandboxes.chunks_mut(25) {
                        scope.spawn(move || {
                            for (number, sandbox) in (0..).zip(part) {
                                let sum: u32 = sandbox.call("add", (number, round)).expect("a sum");
                                assert_eq!(sum, number + round);
                                assert_eq!(
                                    sandbox.call::<_, u32>("count", ()).expect("a count"),
                                    round + 1
                                );
                            }
                        });
                    }
                });
            }
            drop(sandboxes);
            assert_eq!(settles_to(&before), before);
        });
    }

    /// Each has written to its memory, and answers with what it wrote.
    fn a_thousand_sandboxes_live_at_once_and_each_answers_with_its_own_state() {
        let name = "many::a_thousand_sandboxes_live_at_once_and_each_answers_with_its_own_state";
        isolated(name, || {
            const COUNT: u32 = 1000;
            if descriptors_allowed() < 4 * u64::from(COUNT) {
                return leave_out("a thousand sandboxes need 4000 descriptors (ulimit -n)");
            }
            let engine = Engine::builder().pool_size(0).build().expect("an engine");
            let mut first = builder().engine(&engine).build(guest("testing")).expect("a sandbox");
            let snapshot = first.snapshot().expect("a snapshot");
            let before = held();
            let mut sandboxes: Vec<Sandbox> =
                (0..COUNT).map(|_| snapshot.spawn().expect("a sandbox")).collect();
            assert!(held().descriptors >= before.descriptors + 2 * COUNT as usize);
            for (number, sandbox) in (0u64..).zip(&mut sandboxes) {
                let kept: u64 = sandbox.call("keep", (number, 1u8)).expect("an answer");
                assert_eq!(kept, number);
            }
            for (number, sandbox) in (0u64..).zip(&mut sandboxes) {
                assert_eq!(sandbox.call::<_, u64>("kept", ()).expect("an answer"), number);
            }
            drop(sandboxes);
            assert_eq!(settles_to(&before), before);
        });
    }

    fn sandboxes_that_ended_badly_leave_nothing_behind() {
        isolated("many::sandboxes_that_ended_badly_leave_nothing_behind", || {
            let build = || {
                builder()
                    .deadline(std::time::Duration::from_millis(200))
                    .build(guest("testing"))
                    .expect("a sandbox")
            };
            build().call::<_, u32>("spin", ()).expect_err("the deadline");
            let before = held();
            for _ in 0..20 {
                build().call::<_, u32>("spin", ()).expect_err("the deadline");
                build().call::<_, String>("malformed_string", ()).expect_err("no string");
            }
            assert_eq!(settles_to(&before), before);
        });
    }

    fn a_sandbox_may_be_called_from_one_thread_after_another() {
        let (sender, receiver) = mpsc::channel::<Sandbox>();
        let thread = thread::spawn(move || {
            let mut sandbox = receiver.recv().expect("a sandbox");
            let count: u32 = sandbox.call("count", ()).expect("a count");
            (sandbox, count)
        });
        let mut here = sandbox();
        assert_eq!(here.call::<_, u32>("count", ()).unwrap(), 1);
        sender.send(here).expect("the thread waits");
        let (mut back, count) = thread.join().unwrap();
        assert_eq!(count, 2);
        assert_eq!(back.call::<_, u32>("count", ()).unwrap(), 3);
    }

    fn a_warm_call_is_one_entry() {
        let mut sandbox = sandbox();
        let add = sandbox.function::<(u32, u32), u32>("add").unwrap();
        let before = sandbox.stats();
        for number in 0..100 {
            assert_eq!(add.call(&mut sandbox, (number, 1)).unwrap(), number + 1);
        }
        let after = sandbox.stats();
        assert_eq!(after.calls - before.calls, 100);
        // A signal that is none of the sandbox's business may cost an entry more.
        assert!((100..110).contains(&(after.entries - before.entries)));
    }

    /// All system calls of the calling thread, counted by ptrace: one ioctl a call and nothing
    /// else, with the default deadline in force.
    fn a_warm_call_is_one_kvm_run_and_no_other_system_call() {
        if lacks!(known_requests) {
            return;
        }
        isolated("many::a_warm_call_is_one_kvm_run_and_no_other_system_call", || {
            assert_eq!(system_calls("add", 200), BTreeMap::from([(trace::KVM_RUN, 200)]));
        });
    }

    fn a_host_call_is_one_kvm_run_more() {
        if lacks!(known_requests) {
            return;
        }
        isolated("many::a_host_call_is_one_kvm_run_more", || {
            assert_eq!(system_calls("call_host_add", 100), BTreeMap::from([(trace::KVM_RUN, 200)]));
        });
    }
}

/// The system calls that warm calls of a function take.
fn system_calls(function: &str, calls: u32) -> BTreeMap<trace::Call, u64> {
    trace::count_system_calls(|mark| {
        let mut sandbox = sandbox();
        let function = sandbox.function::<(u32, u32), u32>(function).expect("a handle");
        let mut call = |number| {
            let sum = function.call(&mut sandbox, (number, 1)).expect("a sum");
            assert_eq!(sum, number + 1);
        };
        (0..50).for_each(&mut call);
        mark();
        (0..calls).for_each(&mut call);
        mark();
    })
}
