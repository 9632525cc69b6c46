//! Guests are stopped from outside: at once, always, and only by what concerns them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use glowbox_core::registers::Registers;
use glowbox_machine::Exit;
use glowbox_machine::interrupt::{RunControl, SLICE, StopReason};

use crate::ground::{CALL, COUNT, Ground, SPIN, now};

/// How long it may take at most until a guest has been stopped, on a machine with much else to do.
const SOON: Duration = Duration::from_secs(20);

/// Calls `what` on another thread after some time, and again and again until it returns `true`.
fn later(
    control: &Arc<RunControl>,
    after: Duration,
    what: impl Fn(&RunControl) -> bool + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let control = Arc::clone(control);
    std::thread::spawn(move || {
        let from = Instant::now();
        while from.elapsed() < after {
            std::hint::spin_loop();
        }
        while !what(&control) {
            std::thread::yield_now();
        }
    })
}

/// A thread that ends time slices.
struct Ticker(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Ticker {
    fn of(control: &Arc<RunControl>) -> Ticker {
        let (over, control) = (Arc::new(AtomicBool::new(false)), Arc::clone(control));
        let ended = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                control.tick(now());
                control.expire(now());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Ticker(over, Some(thread))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().map(|thread| thread.join());
    }
}

tests! {
    fn a_call_that_is_stopped_before_it_runs_ends_at_once() {
        let mut ground = Ground::new(&SPIN);
        ground.start_plain();
        ground.begin();
        assert!(ground.control.interrupt());
        assert_eq!(ground.machine.run().unwrap(), Exit::Interrupted);
        assert_eq!(ground.control.stop_reason(), Some(StopReason::Interrupted));
        ground.control.end();
    }

    fn a_running_guest_is_stopped() {
        let mut ground = Ground::new(&SPIN);
        ground.start_plain();
        for _ in 0..10 {
            ground.begin();
            let stopper = later(&ground.control, Duration::from_millis(20), RunControl::interrupt);
            let start = Instant::now();
            assert_eq!(ground.machine.run().unwrap(), Exit::Interrupted);
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
            ground.control.end();
            stopper.join().unwrap();
        }
    }

    fn a_stop_at_any_moment_of_the_entry_is_not_lost() {
        let mut ground = Ground::new(&SPIN);
        ground.start_plain();
        for round in 0..400 {
            ground.begin();
            let after = Duration::from_nanos(round * 997);
            let stopper = later(&ground.control, after, RunControl::interrupt);
            let start = Instant::now();
            assert_eq!(ground.machine.run().unwrap(), Exit::Interrupted);
            assert!(start.elapsed() < SOON, "{:?} in round {round}", start.elapsed());
            ground.control.end();
            stopper.join().unwrap();
        }
    }

    fn a_deadline_ends_a_call_and_says_so() {
        let mut ground = Ground::new(&SPIN);
        ground.start_plain();
        ground.control.begin(now() + 3_000_000);
        let stopper = later(&ground.control, Duration::ZERO, |control| control.expire(now()));
        assert_eq!(ground.machine.run().unwrap(), Exit::Interrupted);
        assert_eq!(ground.control.stop_reason(), Some(StopReason::Deadline));
        ground.control.end();
        stopper.join().unwrap();
    }

    fn a_stop_between_calls_stops_none() {
        let mut ground = Ground::new(&CALL.repeat(50));
        ground.start_plain();
        for _ in 0..50 {
            assert!(!ground.control.interrupt());
            ground.run_to_call();
        }
    }

    fn a_guest_that_was_stopped_starts_again() {
        let mut ground = Ground::new(&[&CALL[..], &SPIN].concat());
        for _ in 0..5 {
            ground.start_plain();
            ground.run_to_call();
            ground.begin();
            let stopper = later(&ground.control, Duration::from_millis(1), RunControl::interrupt);
            assert_eq!(ground.machine.run().unwrap(), Exit::Interrupted);
            ground.control.end();
            stopper.join().unwrap();
            ground.machine.settle().unwrap();
        }
    }

    fn a_control_that_was_exchanged_stops_nothing_any_more() {
        let mut ground = Ground::new(&[&CALL[..], &CALL].concat());
        ground.start_plain();
        let old = Arc::clone(ground.machine.control());
        let signal = glowbox_machine::interrupt::default_signal();
        let signal = glowbox_machine::interrupt::install(signal).unwrap();
        let new = Arc::new(RunControl::new(signal));
        ground.machine.set_control(Arc::clone(&new));
        ground.control = new;
        old.begin(u64::MAX);
        assert!(old.interrupt());
        ground.run_to_call();
        old.end();
        ground.run_to_call();
    }

    fn a_time_slice_ends_and_the_guest_goes_on() {
        let mut ground = Ground::new(&COUNT);
        ground.start_plain();
        let _ticker = Ticker::of(&ground.control);
        ground.control.begin(now() + u64::try_from(SOON.as_nanos()).unwrap());
        ground.control.set_slice(now() + SLICE);
        let mut counted = 0;
        for _ in 0..10 {
            let exit = ground.machine.run().unwrap();
            let Exit::Tick(registers) = exit else { panic!("{exit:?}") };
            let code = ground.code..ground.code + COUNT.len() as u64;
            assert!(code.contains(&registers.rip), "{registers}");
            assert!(registers.rbx >= counted);
            counted = registers.rbx;
        }
        assert!(counted > 0);
        ground.control.end();
    }

    fn another_thread_of_the_guest_runs_in_the_next_slice() {
        let mut ground = Ground::new(&COUNT);
        let _ticker = Ticker::of(&ground.control);
        ground.control.begin(now() + u64::try_from(SOON.as_nanos()).unwrap());
        ground.control.set_slice(now() + SLICE);
        let threads = [1 << 40, 1 << 50].map(|rbx| ground.state(&Registers { rbx, ..Registers::default() }));
        let mut threads = threads.map(|state| (state.registers.rbx, state));
        for round in 0..8 {
            let (least, state) = &mut threads[round % 2];
            ground.start(state);
            let exit = ground.machine.run().unwrap();
            let Exit::Tick(registers) = exit else { panic!("{exit:?}") };
            assert!(registers.rbx >= state.registers.rbx && registers.rbx < 2 * *least);
            state.registers = *registers;
        }
        ground.control.end();
    }

    fn a_slice_that_ends_between_runs_ends_the_next_at_once() {
        // out; then count for ever
        let mut ground = Ground::new(&[&CALL[..], &COUNT].concat());
        ground.start_plain();
        ground.control.begin(now() + u64::try_from(SOON.as_nanos()).unwrap());
        assert_eq!(ground.machine.run().unwrap(), Exit::CalledOut);
        ground.control.set_slice(now());
        ground.control.tick(now());
        let exit = ground.machine.run().unwrap();
        let Exit::Tick(registers) = exit else { panic!("{exit:?}") };
        assert!(registers.rip >= ground.code + 2, "{registers}");
        ground.control.end();
    }
}
