//! Signal frames and processes that are anything.

mod support;

use fastrand::Rng;
use glowbox_core::registers::{ExtendedState, Registers};
use glowbox_linux::Event;
use support::{CODE, DATA, Guest, STACK, Went, handler_of, raw};

const FUTEX: u64 = DATA + 0x100;

#[test]
fn any_bytes_may_be_a_frame() {
    let mut random = Rng::with_seed(0x1234_5678_9abc_def1);
    let mut entered = 0;
    for round in 0..2000 {
        let mut guest = Guest::new();
        guest.handler(raw::SIGUSR1, 0, 0);
        assert_eq!(guest.call(raw::__NR_kill, &[2, 10]), Went::On);
        let frame = guest.registers.rsp;
        let length = STACK - frame;
        // Everything random, or a few words of a real frame.
        let words: Vec<u64> = match round % 2 {
            0 => (0..length / 8).collect(),
            _ => (0..5).map(|_| random.u64(..length / 8)).collect(),
        };
        for word in words {
            guest.put_words(frame + 8 * word, &[random.u64(..) >> random.u64(..64)]);
        }
        guest.registers.rsp = frame + 8;
        match guest.call(raw::__NR_rt_sigreturn, &[]) {
            Went::Killed(11) => {}
            Went::Entered => {
                entered += 1;
                let user = 0x24_0dd5;
                assert_eq!(guest.registers.rflags & !user, support::FLAGS);
                assert!(guest.registers.rip < 1 << 47);
                let bytes = guest.hardware.extended.bytes();
                let again = ExtendedState::from_xsave(bytes, 0b111, 0xffff).unwrap();
                assert_eq!(again, guest.hardware.extended);
                assert_eq!(bytes.len(), 832);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(entered > 500, "{entered}");
}

#[test]
fn frames_outside_of_memory_kill() {
    for rsp in [0, 7, 8, u64::MAX, 1 << 47, STACK, STACK - 100] {
        let mut guest = Guest::new();
        guest.registers.rsp = rsp;
        assert_eq!(guest.call(raw::__NR_rt_sigreturn, &[]), Went::Killed(11));
    }
}

#[test]
fn a_process_in_a_file_goes_on_from_there() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, 0, 0);
    guest.spawn();
    assert_eq!(guest.futex_wait(FUTEX), Went::Entered);
    let bytes = postcard::to_allocvec(&guest.process).unwrap();
    guest.process = postcard::from_bytes(&bytes).unwrap();
    assert!(guest.process.is_sound(support::MEMORY));
    assert_eq!(guest.returns(raw::__NR_tgkill, &[2, 2, 10]), 0);
    assert_eq!(guest.futex_wake(FUTEX, 1), 1);
    let (before, state) = (guest.registers, guest.hardware.extended.clone());
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.registers.rip, handler_of(raw::SIGUSR1));
    assert_eq!(guest.sigreturn(), Went::Entered);
    assert_eq!((guest.result(), &guest.hardware.extended), (0, &state));
    assert_eq!(guest.tick(), Went::Entered);
    assert_eq!(guest.registers, before);
}

#[test]
fn any_bytes_may_be_a_process() {
    let mut guest = Guest::new();
    guest.handler(raw::SIGUSR1, 0, 0);
    guest.spawn();
    guest.spawn();
    guest.futex_wait(FUTEX);
    let good = postcard::to_allocvec(&guest.process).unwrap();
    let mut random = Rng::with_seed(0xfeed_beef_1234_5677);
    let mut sound = 0;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..=random.u64(..3) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let Ok(process) = postcard::from_bytes(&bytes) else { continue };
        guest.process = process;
        if !guest.process.is_sound(support::MEMORY) {
            continue;
        }
        sound += 1;
        let registers = Registers { rax: raw::__NR_futex.into(), ..guest.registers };
        for event in [
            Event::Tick(registers),
            Event::Syscall(registers),
            Event::Syscall(Registers { rax: raw::__NR_exit.into(), ..registers }),
            Event::Woken,
        ] {
            let _ = guest.process.handle(event, &mut guest.hardware, &mut guest.world);
        }
    }
    assert!(sound > 100, "{sound}");
}

#[test]
fn a_handler_that_is_nowhere_kills() {
    for handler in [1 << 47, u64::MAX, 1 << 63] {
        let mut guest = Guest::new();
        let flags = u64::from(raw::SA_RESTORER);
        guest.put_words(DATA, &[handler, flags, CODE, 0]);
        assert_eq!(guest.returns(raw::__NR_rt_sigaction, &[10, DATA, 0, 8]), 0);
        assert_eq!(guest.call(raw::__NR_kill, &[2, 10]), Went::Killed(11));
    }
}
