//! Deadlines and interrupts.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use glowbox::{CallOptions, Engine, ErrorKind};

use crate::support::{builder, builder_without, error, guest, in_fork, isolated, sandbox};

const SHORT: Duration = Duration::from_millis(100);

tests! {
    fn a_call_that_loops_meets_the_sandboxs_deadline() {
        let mut sandbox = builder().deadline(SHORT).build(guest("testing")).unwrap();
        let start = Instant::now();
        let late = error(sandbox.call::<_, u32>("spin", ()));
        assert_eq!(late.kind(), ErrorKind::Deadline);
        assert!(late.to_string().contains(&format!("{SHORT:?}")), "{late}");
        assert!(start.elapsed() >= SHORT);
        assert!(sandbox.is_spent());
    }

    fn a_calls_own_deadline_goes_before_the_sandboxs() {
        let mut sandbox = sandbox();
        let options = CallOptions::new().deadline(SHORT);
        let start = Instant::now();
        let late = error(sandbox.call_with::<_, u32>(&options, "spin", ()));
        assert_eq!(late.kind(), ErrorKind::Deadline);
        // The sandbox's is ten seconds.
        assert!(start.elapsed() < Duration::from_secs(8));
    }

    fn a_calls_deadline_may_be_longer_than_the_sandboxs() {
        let mut sandbox = builder().deadline(SHORT).build(guest("testing")).unwrap();
        let handle = sandbox.interrupt_handle();
        let waiter = thread::spawn(move || {
            thread::sleep(SHORT * 6);
            handle.interrupt()
        });
        let options = CallOptions::new().no_deadline();
        let stopped = error(sandbox.call_with::<_, u32>(&options, "spin", ()));
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
        assert!(waiter.join().unwrap());
    }

    fn deadlines_hold_over_many_sandboxes_at_once() {
        let threads: Vec<_> = (1..=6u32)
            .map(|number| {
                thread::spawn(move || {
                    let allowed = Duration::from_millis(u64::from(number) * 100);
                    let mut sandbox = builder().deadline(allowed).build(guest("testing")).unwrap();
                    for _ in 0..5 {
                        sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap();
                    }
                    let start = Instant::now();
                    let late = error(sandbox.call::<_, u32>("spin", ()));
                    assert_eq!(late.kind(), ErrorKind::Deadline);
                    assert!(start.elapsed() >= allowed);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn a_deadline_after_a_long_quiet_time_still_holds() {
        let mut sandbox = builder().deadline(SHORT).build(guest("testing")).unwrap();
        sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap();
        // Long enough for the watchdog to go to sleep for good.
        thread::sleep(SHORT * 5);
        assert_eq!(error(sandbox.call::<_, u32>("spin", ())).kind(), ErrorKind::Deadline);
    }

    fn a_handle_stops_a_running_call_from_another_thread() {
        let mut sandbox = sandbox();
        let handle = sandbox.interrupt_handle();
        let stopper = thread::spawn(move || {
            while !handle.interrupt() {
                thread::yield_now();
            }
        });
        let stopped = error(sandbox.call::<_, u32>("spin", ()));
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
        assert!(sandbox.is_spent());
        stopper.join().unwrap();
    }

    fn a_handle_does_nothing_when_nothing_runs() {
        let mut sandbox = sandbox();
        let handle = sandbox.interrupt_handle();
        assert!(!handle.interrupt());
        assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
        assert!(!handle.interrupt());
        assert_eq!(sandbox.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
        drop(sandbox);
        assert!(!handle.interrupt());
    }

    /// One thread interrupts a sandbox as soon as it can, again and again, while another calls that
    /// sandbox and a second one in turn. An interrupt that says it stopped a call may come too late
    /// for it, but it must never stop the second sandbox's calls, nor a later call of the first.
    fn an_interrupt_never_hits_another_call() {
        for _ in 0..25 {
            let (mut first, mut second) = (sandbox(), sandbox());
            let handle = first.interrupt_handle();
            let (stop, hits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
            let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&hits));
            let stopper = thread::spawn(move || {
                while !stopped.load(Ordering::SeqCst) {
                    counter.fetch_add(u32::from(handle.interrupt()), Ordering::SeqCst);
                    thread::yield_now();
                }
            });
            let stopped = loop {
                let before = hits.load(Ordering::SeqCst);
                let ended = first.call::<_, u32>("add", (1u32, 2u32));
                assert_eq!(second.call::<_, u32>("add", (1u32, 2u32)).unwrap(), 3);
                match ended {
                    Ok(sum) => assert_eq!(sum, 3),
                    Err(error) => break (error, before),
                }
            };
            stop.store(true, Ordering::SeqCst);
            stopper.join().unwrap();
            assert_eq!(stopped.0.kind(), ErrorKind::Interrupted);
            // It was an interrupt during this very call that stopped it.
            assert!(hits.load(Ordering::SeqCst) > stopped.1);
        }
    }

    fn a_deadline_of_zero_is_refused_for_a_call_too() {
        let mut sandbox = sandbox();
        let options = CallOptions::new().deadline(Duration::ZERO);
        let zero = error(sandbox.call_with::<_, u32>(&options, "add", (1u32, 2u32)));
        assert_eq!(zero.kind(), ErrorKind::InvalidOption);
        assert!(!sandbox.is_spent());
    }

    fn deadlines_hold_in_a_forked_process_and_its_parents_engine_is_refused() {
        let name = "time::deadlines_hold_in_a_forked_process_and_its_parents_engine_is_refused";
        isolated(name, || {
            let engine = Engine::new().unwrap();
            let mut here = sandbox();
            here.call::<_, u32>("add", (1u32, 2u32)).unwrap();
            let child = in_fork(move || {
                let refused = error(builder().engine(&engine).build(guest("testing")));
                assert!(refused.to_string().contains("forked"), "{refused}");
                // The parent's VM is not this process's to run.
                assert_eq!(error(here.call::<_, u32>("add", (1u32, 2u32))).kind(), ErrorKind::Hypervisor);
                let mut sandbox = builder().deadline(SHORT).build(guest("testing")).unwrap();
                assert_eq!(error(sandbox.call::<_, u32>("spin", ())).kind(), ErrorKind::Deadline);
                drop((engine, here));
            });
            assert_eq!(child, 0, "the forked process failed");
        });
    }

    fn interrupts_and_deadlines_work_while_the_guest_sits_in_a_host_call_loop() {
        let mut sandbox = sandbox();
        let handle = sandbox.interrupt_handle();
        let stopper = thread::spawn(move || {
            thread::sleep(SHORT);
            handle.interrupt()
        });
        let stopped = error(sandbox.call::<_, u32>("call_for_ever", ()));
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
        assert!(stopper.join().unwrap());

        let mut sandbox = builder().deadline(SHORT).build(guest("testing")).unwrap();
        let late = error(sandbox.call::<_, u32>("call_for_ever", ()));
        assert_eq!(late.kind(), ErrorKind::Deadline);
    }

    fn a_call_interrupted_during_a_host_function_ends_when_that_returns() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let host_add = move |a: u32, b: u32| -> u32 {
            receiver.lock().unwrap().recv().expect("the stopper says when");
            a + b
        };
        let mut sandbox = builder_without("host_add")
            .host_function("host_add", host_add)
            .build(guest("testing"))
            .unwrap();
        let handle = sandbox.interrupt_handle();
        let stopper = thread::spawn(move || {
            while !handle.interrupt() {
                thread::yield_now();
            }
            sender.send(()).expect("the host function waits");
        });
        let stopped = error(sandbox.call::<_, u32>("call_host_add", (1u32, 2u32)));
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
        stopper.join().unwrap();
    }

    fn a_thread_that_has_the_signal_blocked_before_its_first_call_can_be_interrupted() {
        let mut sandbox = builder().deadline(SHORT).build(guest("testing")).unwrap();
        thread::spawn(move || {
            block_all_signals();
            assert_eq!(error(sandbox.call::<_, u32>("spin", ())).kind(), ErrorKind::Deadline);
        })
        .join()
        .unwrap();
    }

    fn a_signal_that_the_program_uses_is_neither_stolen_nor_required() {
        isolated("time::a_signal_that_the_program_uses_is_neither_stolen_nor_required", || {
            let taken = libc::SIGRTMAX() - 5;
            let free = libc::SIGRTMAX() - 6;
            let handler = handle_mine as extern "C" fn(libc::c_int) as libc::sighandler_t;
            assert_ne!(install_handler(taken, handler), libc::SIG_ERR);
            let refused = error(Engine::builder().interrupt_signal(taken).build());
            assert_eq!(refused.kind(), ErrorKind::InvalidOption);
            assert!(refused.to_string().contains("handled or ignored"), "{refused}");
            raise(taken);
            assert_eq!(MINE.load(Ordering::SeqCst), 1, "the program's handler is still there");

            let engine = Engine::builder().interrupt_signal(free).build().unwrap();
            let mut sandbox =
                builder().engine(&engine).deadline(SHORT).build(guest("testing")).unwrap();
            assert_eq!(error(sandbox.call::<_, u32>("spin", ())).kind(), ErrorKind::Deadline);
            let wrong = error(Engine::builder().interrupt_signal(libc::SIGUSR1).build());
            assert_eq!(wrong.kind(), ErrorKind::InvalidOption);
        });
    }

    fn a_zero_deadline_is_refused_by_the_builder() {
        let zero = error(builder().deadline(Duration::ZERO).build(guest("testing")));
        assert_eq!(zero.kind(), ErrorKind::InvalidOption);
    }
}

static MINE: AtomicU32 = AtomicU32::new(0);

extern "C" fn handle_mine(_: libc::c_int) {
    MINE.fetch_add(1, Ordering::SeqCst);
}

fn install_handler(signal: i32, handler: libc::sighandler_t) -> libc::sighandler_t {
    // SAFETY: the handler only adds to an atomic.
    unsafe { libc::signal(signal, handler) }
}

fn raise(signal: i32) {
    // SAFETY: the signal has a handler.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

fn block_all_signals() {
    // SAFETY: the set lives on this stack and is filled before it is used.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}
