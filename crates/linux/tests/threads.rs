//! Threads take turns, wait and end as on Linux.

mod support;

use glowbox_linux::{Clock, Event, Limits, Streams};
use linux_raw_sys::errno::{EAGAIN, EINVAL, ENOSYS, EPERM, ESRCH, ETIMEDOUT};
use support::{DATA, Guest, Went, error, extended, raw};

const FUTEX: u64 = DATA + 0x100;
const FUTEX2: u64 = DATA + 0x200;
const TIME: u64 = DATA + 0x300;

#[test]
fn a_call_of_the_only_thread_does_not_touch_the_vcpus_state() {
    let mut guest = Guest::new();
    assert!(!guest.process.needs_ticks());
    assert_eq!(guest.returns(raw::__NR_getpid, &[]), 2);
    assert_eq!(guest.returns(raw::__NR_sched_yield, &[]), 0);
    // Virtual clocks: nobody sleeps.
    guest.put_words(TIME, &[3600, 0]);
    assert_eq!(guest.returns(raw::__NR_nanosleep, &[TIME, 0]), 0);
    assert_eq!(guest.tick(), Went::On);
    assert_eq!(guest.hardware.asked, 0);
    assert_eq!(guest.returns(1000, &[]), error(ENOSYS));
    assert_eq!(guest.registers.rcx, guest.registers.rip);
    assert_eq!(guest.registers.r11, guest.registers.rflags);
}

#[test]
fn threads_that_never_wait_take_turns() {
    let mut guest = Guest::new();
    let others: Vec<u64> = (0..3).map(|_| guest.spawn()).collect();
    assert!(guest.process.needs_ticks());
    let mut seen = Vec::new();
    for _ in 0..8 {
        assert_eq!(guest.tick(), Went::Entered);
        seen.push(guest.id());
    }
    let [a, b, c] = others[..] else { unreachable!() };
    assert_eq!(seen, [a, b, c, 2, a, b, c, 2]);
}

#[test]
fn a_thread_that_yields_goes_last() {
    let mut guest = Guest::new();
    let (a, b) = (guest.spawn(), guest.spawn());
    for id in [a, b, 2, a] {
        assert_eq!(guest.call(raw::__NR_sched_yield, &[]), Went::Entered);
        assert_eq!(guest.id(), id);
        assert_eq!(guest.result(), 0);
    }
}

#[test]
fn a_thread_has_its_own_registers_bases_and_extended_state() {
    let mut guest = Guest::new();
    guest.registers.rbx = 77;
    let stack = DATA + 0x8_0000;
    let id = guest.spawn_with(stack, 0);
    let first = guest.registers;
    guest.hardware.extended = extended(0x11);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.id(), id);
    assert_eq!((guest.registers.rax, guest.registers.rsp), (0, stack));
    assert_eq!((guest.registers.rbx, guest.registers.rip), (77, first.rip));
    assert_eq!((guest.hardware.bases.fs, guest.hardware.bases.gs), (stack, 0x2000));
    assert_eq!(guest.hardware.extended, extended(0x5a));
    guest.registers.rbx = 78;
    guest.hardware.extended = extended(0x22);
    // ARCH_SET_GS
    assert_eq!(guest.returns(raw::__NR_arch_prctl, &[0x1001, 0x3000]), 0);
    let second = guest.registers;
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!((guest.registers, guest.hardware.bases.gs), (first, 0x2000));
    assert_eq!(guest.hardware.extended, extended(0x11));
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!((guest.registers, guest.hardware.bases.gs), (second, 0x3000));
    assert_eq!(guest.hardware.extended, extended(0x22));
}

#[test]
fn what_clone_can_not_do_it_refuses() {
    let mut guest = Guest::with(Limits { threads: 2, ..Limits::default() });
    let shared: u32 =
        raw::CLONE_VM | raw::CLONE_FS | raw::CLONE_FILES | raw::CLONE_SIGHAND | raw::CLONE_THREAD;
    let mut clone = |flags: u32, tls: u64| {
        guest.returns(raw::__NR_clone, &[flags.into(), DATA + 0x1000, 0, 0, tls])
    };
    // fork, vfork and posix_spawn.
    assert_eq!(clone(raw::SIGCHLD, 0), error(ENOSYS));
    assert_eq!(clone(raw::CLONE_VM | raw::CLONE_VFORK | raw::SIGCHLD, 0), error(ENOSYS));
    assert_eq!(clone(shared & !raw::CLONE_FILES, 0), error(ENOSYS));
    assert_eq!(clone(shared | raw::CLONE_NEWUSER, 0), error(ENOSYS));
    assert_eq!(clone(shared & !raw::CLONE_SIGHAND, 0), error(EINVAL));
    assert_eq!(clone(shared | raw::CLONE_SETTLS, 1 << 63), error(EPERM));
    assert_eq!(clone(shared, 0), 3);
    assert_eq!(clone(shared, 0), error(EAGAIN));
}

#[test]
fn the_longest_waiting_is_woken_first() {
    let mut guest = Guest::new();
    let others: Vec<u64> = (0..3).map(|_| guest.spawn()).collect();
    guest.tick();
    for id in &others {
        assert_eq!(guest.id(), *id);
        assert_eq!(guest.futex_wait(FUTEX), Went::Entered);
    }
    assert_eq!(guest.id(), 2);
    assert!(!guest.process.needs_ticks());
    assert_eq!(guest.futex_wake(FUTEX2, 9), 0);
    for id in others {
        assert_eq!(guest.futex_wake(FUTEX, 1), 1);
        assert_eq!(guest.tick(), Went::Entered);
        assert_eq!((guest.id(), guest.result()), (id, 0));
        assert_eq!(guest.futex_wait(FUTEX2), Went::Entered);
    }
    assert_eq!(guest.futex_wake(FUTEX, 1), 0);
}

#[test]
fn a_futex_whose_word_has_changed_is_not_waited_for() {
    let mut guest = Guest::new();
    guest.put(FUTEX, &[1]);
    let wait = u64::from(raw::FUTEX_WAIT);
    assert_eq!(guest.returns(raw::__NR_futex, &[FUTEX, wait, 0]), error(EAGAIN));
    assert_eq!(guest.returns(raw::__NR_futex, &[FUTEX + 1, wait, 0]), error(EINVAL));
    let pi = u64::from(raw::FUTEX_LOCK_PI);
    assert_eq!(guest.returns(raw::__NR_futex, &[FUTEX, pi, 0]), error(ENOSYS));
}

#[test]
fn requeued_threads_wait_elsewhere_in_order() {
    let mut guest = Guest::new();
    let others: Vec<u64> = (0..3).map(|_| guest.spawn()).collect();
    guest.tick();
    for _ in &others {
        guest.futex_wait(FUTEX);
    }
    guest.put(FUTEX, &[7]);
    let requeue = u64::from(raw::FUTEX_CMP_REQUEUE_PRIVATE);
    let arguments = |expected| [FUTEX, requeue, 1, 1 << 20, FUTEX2, expected];
    assert_eq!(guest.returns(raw::__NR_futex, &arguments(6)), error(EAGAIN));
    assert_eq!(guest.returns(raw::__NR_futex, &arguments(7)), 3);
    guest.tick();
    assert_eq!(guest.id(), others[0]);
    guest.tick();
    assert_eq!(guest.futex_wake(FUTEX, 9), 0);
    assert_eq!(guest.futex_wake(FUTEX2, 1), 1);
    guest.tick();
    guest.tick();
    assert_eq!(guest.id(), others[1]);
    assert_eq!(guest.futex_wake(FUTEX2, 9), 1);
}

#[test]
fn wake_op_changes_the_word_and_wakes_at_both() {
    let mut guest = Guest::new();
    let (a, b) = (guest.spawn(), guest.spawn());
    guest.tick();
    assert_eq!(guest.id(), a);
    guest.futex_wait(FUTEX);
    assert_eq!(guest.id(), b);
    guest.futex_wait(FUTEX2);
    // Set to 5; wake there if it was 0.
    let code = 5 << 12;
    let operation = u64::from(raw::FUTEX_WAKE_OP_PRIVATE);
    let woken = guest.returns(raw::__NR_futex, &[FUTEX, operation, 1, 1, FUTEX2, code]);
    assert_eq!((woken, guest.word32(FUTEX2)), (2, 5));
}

#[test]
fn masks_choose_who_is_woken() {
    let mut guest = Guest::new();
    let (a, b) = (guest.spawn(), guest.spawn());
    let wait = u64::from(raw::FUTEX_WAIT_BITSET_PRIVATE);
    let wake = u64::from(raw::FUTEX_WAKE_BITSET_PRIVATE);
    assert_eq!(guest.returns(raw::__NR_futex, &[FUTEX, wait, 0, 0, 0, 0]), error(EINVAL));
    guest.tick();
    for mask in [1, 2] {
        guest.call(raw::__NR_futex, &[FUTEX, wait, 0, 0, 0, mask]);
    }
    assert_eq!(guest.returns(raw::__NR_futex, &[FUTEX, wake, 9, 0, 0, 2]), 1);
    guest.tick();
    assert_eq!(guest.id(), b);
    guest.tick();
    assert_eq!(guest.returns(raw::__NR_futex, &[FUTEX, wake, 9, 0, 0, 3]), 1);
    guest.tick();
    guest.tick();
    assert_eq!(guest.id(), a);
}

#[test]
fn on_a_virtual_clock_time_jumps_to_the_earliest_sleeper() {
    for clock in [Clock::Virtual, Clock::Frozen(std::time::SystemTime::UNIX_EPOCH)] {
        let mut guest = Guest::new().clock(clock);
        let others: Vec<u64> = (0..3).map(|_| guest.spawn()).collect();
        guest.tick();
        for seconds in [30, 10, 20] {
            guest.put_words(TIME, &[seconds, 0]);
            let call = match seconds {
                20 => (raw::__NR_clock_nanosleep, [1, 0, TIME, 0]),
                _ => (raw::__NR_nanosleep, [TIME, 0, 0, 0]),
            };
            assert_eq!(guest.call(call.0, &call.1), Went::Entered);
        }
        assert_eq!(guest.id(), 2);
        assert!(guest.process.needs_ticks());
        let wait = u64::from(raw::FUTEX_WAIT_PRIVATE);
        guest.put_words(TIME, &[25, 0]);
        let mut order = Vec::new();
        assert_eq!(guest.call(raw::__NR_futex, &[FUTEX, wait, 0, TIME]), Went::Entered);
        for _ in 0..4 {
            order.push((guest.id(), guest.result()));
            guest.futex_wait(FUTEX2);
        }
        let timed_out = error(ETIMEDOUT);
        assert_eq!(order, [(others[1], 0), (others[2], 0), (2, timed_out), (others[0], 0)]);
    }
}

#[test]
fn a_thread_that_spins_does_not_starve_a_sleeper() {
    let mut guest = Guest::new();
    let other = guest.spawn();
    guest.tick();
    guest.put_words(TIME, &[0, 12_000_000]);
    assert_eq!(guest.call(raw::__NR_nanosleep, &[TIME, 0]), Went::Entered);
    assert!(guest.process.needs_ticks());
    let ticks = (1..9).find(|_| guest.tick() == Went::Entered);
    assert_eq!((ticks, guest.id()), (Some(3), other));
}

#[test]
fn on_the_real_clock_the_host_sleeps() {
    let mut guest = Guest::new().clock(Clock::Real);
    guest.put_words(TIME, &[0, 2_000_000]);
    let Went::Sleeps { until: Some(until), streams: Streams::NONE } =
        guest.call(raw::__NR_nanosleep, &[TIME, 0])
    else {
        panic!("it does not sleep")
    };
    // Woken too early.
    assert_eq!(
        guest.event(Event::Woken),
        Went::Sleeps { until: Some(until), streams: Streams::NONE }
    );
    std::thread::sleep(std::time::Duration::from_millis(3));
    assert_eq!(guest.event(Event::Woken), Went::On);
    assert_eq!((guest.result(), guest.hardware.asked), (0, 0));
}

#[test]
fn who_waits_for_nothing_that_can_happen_is_a_deadlock() {
    let mut guest = Guest::new();
    guest.spawn();
    assert_eq!(guest.futex_wait(FUTEX), Went::Entered);
    assert_eq!(guest.futex_wait(FUTEX2), Went::Deadlock);
    assert_eq!(Guest::new().call(raw::__NR_pause, &[]), Went::Deadlock);
}

#[test]
fn who_joins_a_thread_is_woken_when_it_ends() {
    let mut guest = Guest::new();
    let id = guest.spawn_with(DATA + 0x8_0000, FUTEX);
    assert_eq!(u64::from(guest.word32(FUTEX)), id);
    let wait = u64::from(raw::FUTEX_WAIT_BITSET | raw::FUTEX_CLOCK_REALTIME);
    let all = u64::from(u32::MAX);
    assert_eq!(guest.call(raw::__NR_futex, &[FUTEX, wait, id, 0, 0, all]), Went::Entered);
    assert_eq!(guest.id(), id);
    assert_eq!(guest.call(raw::__NR_exit, &[0]), Went::Entered);
    assert_eq!((guest.word32(FUTEX), guest.result(), guest.id()), (0, 0, 2));
    assert_eq!(guest.process.threads(), 1);
    let tgkill = guest.returns(raw::__NR_tgkill, &[2, id, 0]);
    assert_eq!(tgkill, error(ESRCH));
}

#[test]
fn the_first_thread_may_end_before_others() {
    let mut guest = Guest::new();
    let id = guest.spawn();
    assert_eq!(guest.call(raw::__NR_exit, &[7]), Went::Entered);
    assert_eq!(guest.id(), id);
    assert_eq!(guest.returns(raw::__NR_getpid, &[]), 2);
    assert_eq!(guest.call(raw::__NR_exit, &[9]), Went::Exited(7));
}

#[test]
fn who_reads_from_a_pipe_waits_for_who_writes() {
    let mut guest = Guest::new();
    assert_eq!(guest.returns(raw::__NR_pipe2, &[DATA, 0]), 0);
    let (from, to) = (guest.word32(DATA).into(), guest.word32(DATA + 4).into());
    let other = guest.spawn();
    assert_eq!(guest.call(raw::__NR_read, &[from, FUTEX, 8]), Went::Entered);
    assert!(!guest.process.needs_ticks());
    assert_eq!((guest.id(), guest.process.needs_ticks()), (other, true));
    // A look, since there was a call; then it waits on.
    assert_eq!((guest.tick(), guest.process.needs_ticks()), (Went::On, false));
    assert_eq!(guest.returns(raw::__NR_write, &[to, FUTEX2, 3]), 3);
    assert!(guest.process.needs_ticks());
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!((guest.id(), guest.result()), (2, 3));
    // A pipe that is full makes writers wait, and without readers kills.
    while guest.call(raw::__NR_write, &[to, DATA, 4096]) == Went::On {}
    assert_eq!(guest.id(), other);
    assert_eq!(guest.returns(raw::__NR_read, &[from, DATA, 4096]), 4096);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!((guest.id(), guest.result()), (2, 4096));
    guest.returns(raw::__NR_close, &[from]);
    let sigpipe = raw::SIGPIPE.cast_signed();
    assert_eq!(guest.call(raw::__NR_write, &[to, DATA, 1]), Went::Killed(sigpipe));
}

#[test]
fn exit_group_ends_all() {
    let mut guest = Guest::new();
    guest.spawn();
    guest.tick();
    assert_eq!(guest.call(raw::__NR_exit_group, &[0x1_03]), Went::Exited(3));
}

#[test]
fn robust_futexes_of_a_thread_that_ends_are_given_up() {
    let mut guest = Guest::new();
    let id = guest.spawn();
    guest.tick();
    // A list of two, and one that it was just taking.
    let (head, one, two, pending) = (DATA + 0x400, DATA + 0x440, DATA + 0x480, DATA + 0x4c0);
    guest.put_words(head, &[one, 8, pending]);
    guest.put_words(one, &[two, id | u64::from(raw::FUTEX_WAITERS)]);
    guest.put_words(two, &[head, 2]);
    guest.put_words(pending, &[0, id]);
    assert_eq!(guest.returns(raw::__NR_set_robust_list, &[head, 24]), 0);
    guest.tick();
    let value = u64::from(guest.word32(one + 8));
    let wait = u64::from(raw::FUTEX_WAIT);
    assert_eq!(guest.call(raw::__NR_futex, &[one + 8, wait, value]), Went::Entered);
    assert_eq!(guest.call(raw::__NR_exit, &[0]), Went::Entered);
    assert_eq!((guest.id(), guest.result()), (2, 0));
    let died = raw::FUTEX_OWNER_DIED;
    assert_eq!(guest.word32(one + 8), died | raw::FUTEX_WAITERS);
    assert_eq!((guest.word32(two + 8), guest.word32(pending + 8)), (2, died));
}

#[test]
fn a_robust_list_without_end_is_left() {
    let mut guest = Guest::new();
    guest.spawn();
    let (head, one) = (DATA + 0x400, DATA + 0x440);
    guest.put_words(head, &[one, 8, 0]);
    guest.put_words(one, &[one, 0]);
    guest.returns(raw::__NR_set_robust_list, &[head, 24]);
    assert_eq!(guest.call(raw::__NR_exit, &[0]), Went::Entered);
}

#[test]
fn an_alarm_rings_on_a_thread_that_spins_and_on_one_that_waits() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGALRM, 0, 0);
    assert_eq!(guest.returns(raw::__NR_alarm, &[1]), 0);
    assert!(guest.process.needs_ticks());
    let before = guest.registers;
    for _ in 0..300 {
        guest.tick();
    }
    assert_eq!(guest.registers.rip, support::handler_of(raw::SIGALRM));
    assert!(!guest.process.needs_ticks());
    guest.sigreturn();
    assert_eq!(guest.registers, before);
    assert_eq!(guest.returns(raw::__NR_alarm, &[5]), 0);
    assert_eq!(guest.returns(raw::__NR_alarm, &[5]), 5);
    assert_eq!(guest.call(raw::__NR_pause, &[]), Went::On);
    assert_eq!(guest.registers.rip, support::handler_of(raw::SIGALRM));
}

#[test]
fn a_copy_goes_on_like_the_original() {
    let mut guest = Guest::new();
    guest.spawn();
    guest.futex_wait(FUTEX);
    let mut copy = Guest {
        process: guest.process.clone(),
        hardware: support::Fake {
            memory: guest.hardware.memory.clone(),
            bases: guest.hardware.bases,
            extended: guest.hardware.extended.clone(),
            asked: 0,
            stops: false,
        },
        world: Default::default(),
        registers: guest.registers,
    };
    assert!(copy.process.is_sound(support::MEMORY));
    for guest in [&mut guest, &mut copy] {
        assert_eq!(guest.futex_wake(FUTEX, 1), 1);
        assert_eq!(guest.tick(), Went::Entered);
        assert_eq!((guest.id(), guest.result()), (2, 0));
    }
}
