//! Nothing of a guest is left when the machine is put back and started again.

use std::sync::Arc;
use std::time::Duration;

use glowbox_core::registers::{CpuState, Registers};
use glowbox_machine::Exit;

use crate::calls::vectors;
use crate::ground::{CALL, Ground, SPIN, SYSCALL, UD2, distinct, now, store_to};

/// What is put into every register and into memory.
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// A guest that has written a secret into its data and stack, and has it in its registers. `end` is what it
/// does then.
fn guest(end: &[u8]) -> Ground {
    let data = Ground::new(&[]).data;
    // push rax; mov [data], rax
    let code = [&[0x50][..], &store_to(data), &store_to(data + 0x2000), end].concat();
    let mut ground = Ground::new(&code);
    let clean = ground.state(&Registers::default());
    ground.machine.install(&clean);
    ground.capture();
    ground
}

/// All that a guest which starts clean can find, and memory.
fn found(ground: &mut Ground) -> (CpuState, Vec<u8>) {
    let state = ground.state(&Registers::default());
    let at = ground.place(ground.code);
    // Calls out at once; with what is left of the code nothing happens any more.
    let first = ground.machine.memory()[at..at + 2].to_vec();
    ground.machine.memory_mut()[at..at + 2].copy_from_slice(&CALL);
    ground.start(&state);
    ground.run_to_call();
    let found = ground.machine.state().unwrap();
    ground.machine.memory_mut()[at..at + 2].copy_from_slice(&first);
    (found, ground.machine.memory().to_vec())
}

/// Runs a guest until its deadline.
fn stopped(ground: &mut Ground) -> Exit {
    ground.control.begin(now() + 5_000_000);
    let control = Arc::clone(&ground.control);
    let stopper = std::thread::spawn(move || {
        while !control.expire(now()) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let exit = ground.machine.run().unwrap();
    stopper.join().unwrap();
    ground.control.end();
    exit
}

/// Runs a guest full of secrets to an end of some kind, puts all back, and compares with one that has never run.
#[track_caller]
fn leaves_nothing(end: &[u8], is_end: impl Fn(&Exit) -> bool) {
    let (state, memory) = found(&mut guest(end));
    let mut ground = guest(end);
    for round in 0..3 {
        let secret = |r: Registers| Registers { rax: SECRET, rbx: SECRET, r12: SECRET, ..r };
        let mut full = ground.state(&secret(distinct()));
        (full.fs_base, full.gs_base) = (ground.data, ground.data + 64);
        full.extended = vectors(11);
        ground.machine.install(&full);
        ground.machine.start(&full).unwrap();
        let exit = if end == SPIN { stopped(&mut ground) } else { ground.run() };
        assert!(is_end(&exit), "{end:x?} ended in {exit:?}");
        ground.restore();
        let (again, bytes) = found(&mut ground);
        assert_eq!(again.registers, state.registers, "round {round}");
        assert_eq!((again.fs_base, again.gs_base), (state.fs_base, state.gs_base));
        assert_eq!(again.extended, state.extended);
        let other = bytes.chunks(4096).zip(memory.chunks(4096)).position(|(is, was)| is != was);
        assert_eq!(other, None, "a page is not as it was");
        ground.restore();
    }
}

tests! {
    fn nothing_is_left_after_a_call() {
        leaves_nothing(&CALL, |exit| *exit == Exit::CalledOut);
    }

    fn nothing_is_left_after_a_fault() {
        leaves_nothing(&UD2, |exit| matches!(exit, Exit::Exception(_)));
    }

    fn nothing_is_left_after_a_system_call() {
        leaves_nothing(&SYSCALL, |exit| crate::ground::at_syscall(exit).is_some());
    }

    fn nothing_is_left_after_a_stop() {
        leaves_nothing(&SPIN, |exit| *exit == Exit::Interrupted);
    }

    fn nothing_is_left_after_reads_of_ports_into_registers_and_memory() {
        let is_end = |exit: &Exit| matches!(exit, Exit::Port { .. } | Exit::Exception(_));
        // in al, 0x80
        leaves_nothing(&[0xe4, 0x80], is_end);
        // mov rdi, rsp; mov ecx, 3; mov dx, 0x80; rep insb
        let code = [0x48, 0x89, 0xe7, 0xb9, 3, 0, 0, 0, 0x66, 0xba, 0x80, 0, 0xf3, 0x6c];
        leaves_nothing(&code, is_end);
    }
}
