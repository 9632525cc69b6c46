//! Signals are sent, blocked, handled and waited for as on Linux.

mod support;

use glowbox_core::registers::{ExtendedState, Registers};
use glowbox_linux::{Clock, Event, Streams};
use linux_raw_sys::errno::{EAGAIN, EFAULT, EINTR, EINVAL, ENOMEM, EPERM, ESRCH};
use support::{CODE, DATA, Guest, STACK, Went, bit, error, extended, handler_of, raw};

const FUTEX: u64 = DATA + 0x100;
const TIME: u64 = DATA + 0x300;
const ALT_STACK: u64 = DATA + 0x2_0000;

fn all_registers() -> Registers {
    Registers {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rsp: STACK - 0x101,
        rbp: 8,
        r8: 9,
        r9: 10,
        r10: 11,
        r11: 12,
        r12: 13,
        r13: 14,
        r14: 15,
        r15: 16,
        rip: CODE + 17,
        rflags: support::FLAGS | 0xcd5,
    }
}

/// Sends the thread that runs a signal by a call.
fn raise(guest: &mut Guest, signal: u32) -> Went {
    let id = guest.id();
    guest.call(raw::__NR_tgkill, &[2, id, signal.into()])
}

#[test]
fn a_handler_starts_as_the_abi_says_and_its_return_restores_every_bit() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGSEGV, 0, bit(raw::SIGUSR1));
    guest.registers = all_registers();
    let (before, state) = (guest.registers, guest.hardware.extended.clone());
    assert_eq!(guest.fault(14, 6, Some(0xdead_0000)), Went::On);
    let r = guest.registers;
    assert_eq!((r.rip, r.rax, r.rdi), (handler_of(raw::SIGSEGV), 0, 11));
    assert_eq!((r.rsp % 16, r.rflags & 0x500), (8, 0));
    assert!(r.rsp < before.rsp - 128);
    // siginfo: the number, SEGV_MAPERR, the address.
    assert_eq!((guest.word32(r.rsi), guest.word32(r.rsi + 8)), (11, raw::SEGV_MAPERR));
    assert_eq!(guest.word(r.rsi + 16), 0xdead_0000);
    // ucontext: gregs as <sys/ucontext.h> numbers them.
    let register = |guest: &Guest, index: u64| guest.word(r.rdx + 40 + 8 * index);
    let words = [9, 10, 11, 12, 13, 14, 15, 16, 6, 5, 8, 2, 4, 1, 3, before.rsp, before.rip];
    for (index, word) in (0..).zip(words) {
        assert_eq!(register(&guest, index), word, "{index}");
    }
    let trap = [19, 20, 22].map(|index| register(&guest, index));
    assert_eq!((trap, guest.word(r.rdx)), ([6, 14, 0xdead_0000], 7));
    let area = register(&guest, 23);
    assert_eq!((area % 64, guest.word32(area + 464)), (0, 0x4650_5853));
    assert_eq!(guest.mask(), bit(raw::SIGUSR1) | bit(raw::SIGSEGV));

    guest.hardware.extended = extended(0xff);
    guest.registers = Registers { rsp: r.rsp, rflags: support::FLAGS, ..Registers::default() };
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!(guest.registers, before);
    assert_eq!(guest.hardware.extended, state);
    assert_eq!((guest.hardware.bases.fs, guest.hardware.bases.gs), (0x1000, 0x2000));
    assert_eq!(guest.mask(), 0);
}

#[test]
fn what_a_handler_changes_in_its_frame_counts() {
    // As Go does to preempt and to panic.
    let mut guest = Guest::new();
    guest.handler(raw::SIGURG, raw::SA_ONSTACK | raw::SA_RESTART, u64::MAX);
    assert_eq!(raise(&mut guest, raw::SIGURG), Went::On);
    let context = guest.registers.rdx;
    guest.put_words(context + 40 + 8 * 15, &[STACK - 0x400, CODE + 0x777]);
    let area = guest.word(context + 40 + 8 * 23);
    guest.put(area + 160, &[0x99]);
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!((guest.registers.rsp, guest.registers.rip), (STACK - 0x400, CODE + 0x777));
    assert_eq!(guest.hardware.extended.bytes()[160], 0x99);
}

#[test]
fn handlers_nest_and_unwind() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, 0, 0);
    guest.handler(raw::SIGUSR2, raw::SA_NODEFER, 0);
    let start = guest.registers.rip;
    raise(&mut guest, raw::SIGUSR1);
    let first = guest.registers.rsp;
    // Its own signal waits until it is over.
    assert_eq!(raise(&mut guest, raw::SIGUSR1), Went::On);
    assert_eq!(guest.registers.rsp, first);
    for _ in 0..2 {
        guest.registers.rip = CODE + 0x50;
        assert_eq!(raise(&mut guest, raw::SIGUSR2), Went::On);
        assert_eq!(guest.registers.rip, handler_of(raw::SIGUSR2));
    }
    assert_eq!(guest.mask(), bit(raw::SIGUSR1));
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!((guest.registers.rip, guest.registers.rsp), (CODE + 0x50, first));
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!((guest.registers.rip, guest.registers.rdi), (handler_of(raw::SIGUSR1), 10));
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!((guest.registers.rip, guest.registers.rsp, guest.mask()), (start, STACK, 0));
}

#[test]
fn a_handler_runs_on_the_alternate_stack_if_it_wants_to() {
    let mut guest = Guest::new();
    let set = |guest: &mut Guest, start, flags: u64, size| {
        guest.put_words(TIME, &[start, flags, size]);
        guest.returns(raw::__NR_sigaltstack, &[TIME, TIME + 24])
    };
    let disable = u64::from(raw::SS_DISABLE);
    assert_eq!(set(&mut guest, ALT_STACK, 0, 100), error(ENOMEM));
    assert_eq!(set(&mut guest, ALT_STACK, 4, 8192), error(EINVAL));
    assert_eq!(set(&mut guest, ALT_STACK, 0, 8192), 0);
    assert_eq!(guest.word32(TIME + 32), raw::SS_DISABLE);
    guest.handler(raw::SIGSEGV, raw::SA_ONSTACK | raw::SA_NODEFER, 0);
    guest.handler(raw::SIGUSR1, 0, 0);
    // The ordinary stack has overflown.
    guest.registers.rsp = DATA - 0x10;
    let before = guest.registers;
    assert_eq!(guest.fault(14, 6, Some(DATA - 0x18)), Went::On);
    let first = guest.registers.rsp;
    assert!((ALT_STACK..ALT_STACK + 8192).contains(&first));
    assert_eq!(set(&mut guest, ALT_STACK, disable, 0), error(EPERM));
    // Nested ones go on below, with the flag or without, until there is no room.
    raise(&mut guest, raw::SIGUSR1);
    assert!((ALT_STACK..first).contains(&guest.registers.rsp));
    assert_eq!(guest.returns(raw::__NR_sigaltstack, &[0, TIME + 24]), 0);
    assert_eq!(guest.word32(TIME + 32), raw::SS_ONSTACK);
    guest.sigreturn();
    assert_eq!(guest.registers.rsp, first);
    guest.sigreturn();
    assert_eq!(guest.registers, before);
    for _ in 0..4 {
        assert_eq!(guest.fault(14, 6, Some(0)), Went::On);
    }
    assert_eq!((0..9).find_map(|_| killed(guest.fault(14, 6, Some(0)))), Some(11));
}

fn killed(went: Went) -> Option<i32> {
    match went {
        Went::Killed(signal) => Some(signal),
        _ => None,
    }
}

#[test]
fn a_fault_that_can_not_be_handled_kills() {
    let signals = [(0, 8), (1, 5), (3, 5), (6, 4), (12, 11), (13, 11), (14, 11), (16, 8), (17, 7)];
    for (vector, signal) in signals.into_iter().chain([(19, 8), (18, 11)]) {
        assert_eq!(Guest::new().fault(vector, 0, None), Went::Killed(signal), "{vector}");
    }
    // Blocked, in its own handler, or with no stack to run on.
    let mut guest = Guest::new();
    guest.handler(raw::SIGFPE, 0, 0);
    assert_eq!(guest.fault(0, 0, None), Went::On);
    assert_eq!(guest.word32(guest.registers.rsi + 8), raw::FPE_INTDIV);
    assert_eq!(guest.fault(0, 0, None), Went::Killed(8));
    let mut guest = Guest::new();
    guest.handler(raw::SIGFPE, 0, 0);
    guest.registers.rsp = 0x1000;
    assert_eq!(guest.fault(0, 0, None), Went::Killed(11));
}

#[test]
fn a_fault_says_what_it_was() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGSEGV, raw::SA_NODEFER, 0);
    let mut code = |vector, error_code, address| {
        assert_eq!(guest.fault(vector, error_code, address), Went::On);
        let info = guest.registers.rsi;
        (guest.word32(info + 8), guest.word(info + 16))
    };
    // Data is not executable.
    assert_eq!(code(14, 0x15, Some(DATA)), (raw::SEGV_ACCERR, DATA));
    assert_eq!(code(14, 4, Some(8)), (raw::SEGV_MAPERR, 8));
    assert_eq!(code(13, 0, None), (raw::SI_KERNEL, 0));
    // Invalid operation in MXCSR, and not masked.
    let mut guest = Guest::new();
    guest.handler(raw::SIGFPE, 0, 0);
    let mut area = ExtendedState::initial().bytes().to_vec();
    area[24..26].copy_from_slice(&0x1f01_u16.to_le_bytes());
    guest.hardware.extended = ExtendedState::from_xsave(&area, 3, 0xffff).unwrap();
    guest.fault(19, 0, None);
    assert_eq!(guest.word32(guest.registers.rsi + 8), raw::FPE_FLTINV);
}

#[test]
fn a_page_that_is_missing_is_brought_in() {
    let mut guest = Guest::new();
    let flags = u64::from(raw::MAP_PRIVATE | raw::MAP_ANONYMOUS);
    let at = guest.returns(raw::__NR_mmap, &[0, 0x1000, 3, flags, u64::MAX, 0]).cast_unsigned();
    let before = guest.registers;
    assert_eq!(guest.fault(14, 6, Some(at)), Went::On);
    assert_eq!((guest.registers, guest.hardware.asked), (before, 0));
}

#[test]
fn default_actions_are_linuxs() {
    for signal in 1..=64_u32 {
        let mut guest = Guest::new();
        let harmless = matches!(signal, 17 | 18 | 19 | 20 | 21 | 22 | 23 | 28);
        let expected = if harmless { Went::On } else { Went::Killed(signal.cast_signed()) };
        assert_eq!(guest.call(raw::__NR_kill, &[2, signal.into()]), expected, "{signal}");
    }
    let mut guest = Guest::new();
    assert_eq!(guest.returns(raw::__NR_kill, &[3, 9]), error(ESRCH));
    assert_eq!(guest.returns(raw::__NR_kill, &[2, 65]), error(EINVAL));
    assert_eq!(guest.returns(raw::__NR_kill, &[2, 0]), 0);
    assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 9, 9]), error(ESRCH));
    guest.put_words(DATA, &[1, 0, 0, 0]);
    for signal in [9, 19] {
        assert_eq!(guest.returns(raw::__NR_rt_sigaction, &[signal, DATA, 0, 8]), error(EINVAL));
    }
}

#[test]
fn a_handler_for_once_is_gone_after_it() {
    let mut guest = Guest::new();
    // glibc passes the flag sign-extended.
    let flags = 0xffff_ffff_8000_0000 | u64::from(raw::SA_RESTORER);
    guest.put_words(DATA, &[handler_of(10), flags, CODE + 0x2000, 0]);
    assert_eq!(guest.returns(raw::__NR_rt_sigaction, &[10, DATA, 0, 8]), 0);
    assert_eq!(raise(&mut guest, raw::SIGUSR1), Went::On);
    guest.sigreturn();
    assert_eq!(raise(&mut guest, raw::SIGUSR1), Went::Killed(10));
}

#[test]
fn blocked_signals_wait_and_come_lowest_first() {
    let mut guest = Guest::new();
    for signal in [raw::SIGUSR1, raw::SIGUSR2] {
        guest.handler(signal, 0, u64::MAX);
    }
    guest.put_words(DATA, &[u64::MAX]);
    assert_eq!(guest.returns(raw::__NR_rt_sigprocmask, &[2, DATA, 0, 8]), 0);
    // KILL and STOP can't be blocked.
    assert_eq!(guest.mask(), !(1 << 8 | 1 << 18));
    for signal in [raw::SIGUSR2, raw::SIGUSR1, raw::SIGUSR1] {
        assert_eq!(raise(&mut guest, signal), Went::On);
    }
    assert_eq!(guest.returns(raw::__NR_rt_sigpending, &[DATA, 8]), 0);
    assert_eq!(guest.word(DATA), bit(raw::SIGUSR1) | bit(raw::SIGUSR2));
    guest.put_words(DATA, &[0]);
    assert_eq!(guest.call(raw::__NR_rt_sigprocmask, &[2, DATA, 0, 8]), Went::On);
    // The call's result is what the handler returns to.
    let context = guest.registers.rdx;
    assert_eq!((guest.registers.rdi, guest.word(context + 40 + 8 * 13)), (10, 0));
    guest.sigreturn();
    assert_eq!(guest.registers.rdi, 12);
    guest.sigreturn();
    assert_eq!((guest.registers.rip, guest.mask()), (CODE, 0));
}

#[test]
fn real_time_signals_queue_with_their_values() {
    let mut guest = Guest::new();
    guest.block(40);
    let info = DATA + 0x40;
    for value in 1..=3 {
        guest.put_words(info, &[0, 0xffff_ffff, 2, value]);
        assert_eq!(guest.returns(raw::__NR_rt_sigqueueinfo, &[2, 40, info]), 0);
    }
    for value in 1..=3 {
        guest.put_words(TIME, &[bit(40)]);
        assert_eq!(guest.returns(raw::__NR_rt_sigtimedwait, &[TIME, info, 0, 8]), 40);
        assert_eq!((guest.word32(info), guest.word32(info + 8)), (40, u32::MAX));
        assert_eq!(guest.word(info + 24), value);
    }
    let queued = (0..1000)
        .take_while(|_| guest.returns(raw::__NR_rt_sigqueueinfo, &[2, 40, info]) == 0)
        .count();
    assert_eq!((queued, guest.result()), (256, error(EAGAIN)));
}

#[test]
fn waiting_for_signals_ends_with_one_or_with_the_time() {
    let mut guest = Guest::new();
    guest.block(raw::SIGUSR1);
    let other = guest.spawn();
    guest.put_words(TIME, &[bit(raw::SIGUSR1), 0, 5_000_000]);
    let wait = [TIME, 0, TIME + 8, 8];
    assert_eq!(guest.call(raw::__NR_rt_sigtimedwait, &wait), Went::Entered);
    assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, 10]), 0);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!((guest.id(), guest.result()), (2, 10));
    guest.tick();
    assert_eq!(guest.id(), other);
    assert_eq!(guest.call(raw::__NR_exit, &[0]), Went::Entered);
    assert_eq!(guest.returns(raw::__NR_rt_sigtimedwait, &wait), error(EAGAIN));
}

#[test]
fn sigsuspend_waits_with_another_mask_and_restores_it() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, 0, 0);
    guest.block(raw::SIGUSR1);
    assert_eq!(raise(&mut guest, raw::SIGUSR1), Went::On);
    guest.put_words(DATA, &[bit(raw::SIGUSR2)]);
    assert_eq!(guest.call(raw::__NR_rt_sigsuspend, &[DATA, 8]), Went::On);
    assert_eq!(guest.registers.rip, handler_of(raw::SIGUSR1));
    assert_eq!(guest.mask(), bit(raw::SIGUSR1) | bit(raw::SIGUSR2));
    guest.sigreturn();
    assert_eq!((guest.result(), guest.mask()), (error(EINTR), bit(raw::SIGUSR1)));
}

#[test]
fn a_mask_for_a_poll_holds_while_it_waits() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, raw::SA_RESTART, 0);
    guest.block(raw::SIGUSR1);
    let other = guest.spawn();
    guest.put_words(TIME, &[0, 5_000_000, 0]);
    let poll = [0, 0, TIME, TIME + 16, 8];
    // It times out: then nothing has come through.
    assert_eq!(guest.call(raw::__NR_ppoll, &poll), Went::Entered);
    assert_eq!(guest.id(), other);
    let at = guest.returns(raw::__NR_rt_sigprocmask, &[0, 0, DATA, 8]);
    assert_eq!((at, guest.word(DATA)), (0, bit(raw::SIGUSR1)));
    assert_eq!(guest.call(raw::__NR_exit, &[0]), Went::Entered);
    assert_eq!((guest.id(), guest.result(), guest.mask()), (2, 0, bit(raw::SIGUSR1)));
    // A signal that was pending cuts it short.
    raise(&mut guest, raw::SIGUSR1);
    let epoll = guest.returns(raw::__NR_epoll_create1, &[0]).cast_unsigned();
    let wait = [epoll, TIME, 1, u64::MAX, TIME + 16, 4];
    assert_eq!(guest.returns(raw::__NR_epoll_pwait, &wait), error(EINVAL));
    let wait = [epoll, TIME, 1, u64::MAX, TIME + 16, 8];
    for (number, arguments) in [(raw::__NR_ppoll, &poll[..]), (raw::__NR_epoll_pwait, &wait)] {
        assert_eq!(guest.call(number, arguments), Went::On);
        assert_eq!(guest.registers.rip, handler_of(raw::SIGUSR1));
        guest.sigreturn();
        assert_eq!((guest.result(), guest.mask()), (error(EINTR), bit(raw::SIGUSR1)));
        raise(&mut guest, raw::SIGUSR1);
    }
}

/// Lets the first thread make a call that waits and another thread signal it.
fn interrupted(flags: u32, number: u32, arguments: &[u64]) -> (Guest, Registers) {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, flags, 0);
    guest.spawn();
    guest.put_words(TIME, &[100, 0]);
    assert_eq!(guest.call(number, arguments), Went::Entered);
    assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, 10]), 0);
    assert_eq!(guest.tick(), Went::Entered);
    let in_handler = guest.registers;
    assert_eq!(in_handler.rip, handler_of(raw::SIGUSR1));
    assert_eq!(guest.sigreturn(), Went::Entered);
    (guest, in_handler)
}

#[test]
fn a_call_that_a_signal_cuts_short_fails_or_is_made_again() {
    let wait = u64::from(raw::FUTEX_WAIT_PRIVATE);
    let restart = raw::SA_RESTART;
    let (guest, _) = interrupted(0, raw::__NR_futex, &[FUTEX, wait, 0, 0]);
    assert_eq!((guest.result(), guest.registers.rip), (error(EINTR), CODE));
    let (guest, _) = interrupted(restart, raw::__NR_futex, &[FUTEX, wait, 0, 0]);
    assert_eq!((guest.result(), guest.registers.rip), (raw::__NR_futex.into(), CODE - 2));
    assert_eq!(guest.registers.rdi, FUTEX);
    // With a time limit, it is not.
    let (guest, _) = interrupted(restart, raw::__NR_futex, &[FUTEX, wait, 0, TIME]);
    assert_eq!((guest.result(), guest.registers.rip), (error(EINTR), CODE));
    let (guest, _) = interrupted(restart, raw::__NR_pause, &[]);
    assert_eq!(guest.result(), error(EINTR));
    let (guest, _) = interrupted(restart, raw::__NR_nanosleep, &[TIME, TIME + 16]);
    assert_eq!((guest.result(), guest.word(TIME + 16)), (error(EINTR), 99));
}

#[test]
fn a_signal_to_the_process_goes_to_a_thread_that_takes_it() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, 0, 0);
    let other = guest.spawn();
    guest.block(raw::SIGUSR1);
    guest.tick();
    assert_eq!(guest.futex_wait(FUTEX), Went::Entered);
    assert_eq!(guest.returns(raw::__NR_kill, &[2, 10]), 0);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.registers.rip, handler_of(raw::SIGUSR1));
    assert_eq!(guest.id(), other);
}

#[test]
fn a_signal_that_another_thread_takes_loses_no_wake_up() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, 0, 0);
    let other = guest.spawn();
    assert_eq!(guest.futex_wait(FUTEX), Went::Entered);
    // Offered to the first thread, which waits, while this one blocks it; taken by this one then.
    guest.block(raw::SIGUSR1);
    assert_eq!(guest.returns(raw::__NR_kill, &[2, 10]), 0);
    guest.put_words(TIME, &[bit(raw::SIGUSR1)]);
    assert_eq!(guest.returns(raw::__NR_rt_sigtimedwait, &[TIME, 0, 0, 8]), 10);
    assert_eq!(guest.futex_wake(FUTEX, 1), 1);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!((guest.id(), guest.result()), (2, 0));
    // Without a wake-up it waits on.
    assert_eq!(guest.futex_wait(FUTEX), Went::Entered);
    assert_eq!(guest.id(), other);
    assert_eq!(guest.returns(raw::__NR_kill, &[2, 10]), 0);
    assert_eq!(guest.returns(raw::__NR_rt_sigtimedwait, &[TIME, 0, 0, 8]), 10);
    assert_eq!(guest.tick(), Went::On);
}

#[test]
fn a_signal_that_is_ignored_disturbs_nobody() {
    let mut guest = Guest::new();
    guest.spawn();
    assert_eq!(guest.futex_wait(FUTEX), Went::Entered);
    assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, raw::SIGURG.into()]), 0);
    assert_eq!(guest.tick(), Went::On);
}

#[test]
fn who_takes_no_part_in_a_fault_is_not_touched_by_it() {
    // A thread that spins is preempted by a signal from another one.
    let mut guest = Guest::new();
    guest.handler(raw::SIGURG, raw::SA_ONSTACK | raw::SA_RESTART, u64::MAX);
    let spinning = guest.registers;
    let stack = STACK - 0x1_0000;
    let other = guest.spawn_with(stack, 0);
    guest.registers.rsp = spinning.rsp;
    let before = guest.registers;
    guest.tick();
    assert_eq!(guest.id(), other);
    assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, raw::SIGURG.into()]), 0);
    guest.hardware.extended = extended(0x77);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.registers.rip, handler_of(raw::SIGURG));
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!(guest.registers, before);
    assert_eq!(guest.hardware.extended, extended(0x5a));
    guest.tick();
    assert_eq!(guest.hardware.extended, extended(0x77));
}

#[test]
fn a_signal_is_taken_also_while_others_make_calls() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, 0, 0);
    assert_eq!(guest.returns(raw::__NR_pipe, &[TIME]), 0);
    guest.spawn();
    // What the other thread does lets it look at the pipe again.
    assert_eq!(guest.call(raw::__NR_read, &[3, FUTEX, 8]), Went::Entered);
    assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, 10]), 0);
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.registers.rip, handler_of(raw::SIGUSR1));
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!(guest.result(), error(EINTR));
}

#[test]
fn a_timer_whose_signal_does_nothing_lets_the_host_look_at_other_things() {
    let frozen = Clock::Frozen(std::time::SystemTime::UNIX_EPOCH);
    for (clock, blocked) in [(Clock::Virtual, false), (Clock::Virtual, true), (frozen, false)] {
        let mut guest = Guest::new().clock(clock);
        match blocked {
            true => guest.block(raw::SIGALRM),
            false => {
                guest.put_words(DATA, &[1, 0, 0, 0]);
                assert_eq!(guest.returns(raw::__NR_rt_sigaction, &[14, DATA, 0, 8]), 0);
            }
        }
        guest.put_words(TIME, &[0, 1000, 0, 1000]);
        assert_eq!(guest.returns(raw::__NR_setitimer, &[0, TIME, 0]), 0);
        // A bounded number of times, and it goes on.
        let mut went = guest.call(raw::__NR_pause, &[]);
        let mut before = 0;
        for _ in 0..3 {
            let Went::Sleeps { until: Some(until), streams: Streams::NONE } = went else {
                panic!("{went:?}");
            };
            assert!(until > before && until <= guest.process.now(&guest.world));
            before = until;
            went = guest.event(Event::Woken);
        }
        // Not even once if the guest is to stop.
        guest.hardware.stops = true;
        let now = guest.process.now(&guest.world);
        let stops = Went::Sleeps { until: Some(now), streams: Streams::NONE };
        assert_eq!(guest.event(Event::Woken), stops);
    }
}

#[test]
fn what_is_waited_for_is_known_from_the_start_and_forgotten_with_the_wait() {
    const PAGE: u64 = DATA + 0x8000;
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR2, 0, 0);
    guest.block(raw::SIGUSR1);
    let other = guest.spawn();
    guest.put_words(PAGE, &[bit(raw::SIGUSR1)]);
    for (to, result) in [(0, 10), (PAGE, error(EFAULT))] {
        let set = if to == 0 { PAGE } else { TIME };
        guest.put_words(TIME, &[bit(raw::SIGUSR1)]);
        assert_eq!(guest.call(raw::__NR_rt_sigtimedwait, &[set, to, 0, 8]), Went::Entered);
        assert_eq!(guest.id(), other);
        // What the call was given is gone when the signal comes.
        assert_eq!(guest.returns(raw::__NR_munmap, &[PAGE, 4096]), 0);
        assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, 10]), 0);
        assert_eq!(guest.tick(), Went::Entered);
        assert_eq!((guest.result(), guest.id()), (result, 2));
        // The same signal is nothing to wait for any more.
        assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, 10]), 0);
        assert_eq!(guest.call(raw::__NR_pause, &[]), Went::Entered);
        assert_eq!(guest.id(), other);
        assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, 12]), 0);
        assert_eq!(guest.tick(), Went::Entered);
        assert_eq!(guest.sigreturn(), Went::Entered);
        assert_eq!((guest.result(), guest.id()), (error(EINTR), 2));
        assert_eq!(guest.returns(raw::__NR_rt_sigtimedwait, &[TIME, 0, 0, 8]), 10);
    }
}
