//! Random code: bytes as they come, and long runs of random instructions with something hostile at the end.

use glowbox_core::registers::Registers;
use glowbox_machine::Exit;

use crate::generate::{Harmless, MAPS, PREFIXES, Random};
use crate::ground::{CODE_SIZE, Ground, filled};
use crate::support::{executed, factor, seed, tried};

/// Registers with something of everything in them.
fn registers(random: &mut Random, ground: &Ground) -> Registers {
    let mut registers = Registers::default();
    let places = [
        0,
        1,
        ground.data + 0x800,
        ground.code + 0x100,
        ground.stack.end,
        ground.stack.start,
        glowbox_core::layout::SUPERVISOR_CODE.0,
        glowbox_core::layout::PAGE_TABLES.0,
        0x0000_7fff_ffff_ffff,
        0x8000_0000_0000_0000,
        u64::MAX,
    ];
    let Registers {
        rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, ..
    } = &mut registers;
    for register in [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15] {
        *register = match random.below(4) {
            0 => random.next(),
            _ => *random.pick(&places),
        };
    }
    registers
}

/// Something hostile: a few random bytes, or an opcode with prefix and operands.
fn hostile(random: &mut Random) -> Vec<u8> {
    if random.byte() & 1 == 0 {
        return random.bytes(16);
    }
    let prefix = *random.pick(&PREFIXES);
    let map = *random.pick(&MAPS[..2]);
    [prefix, map, &random.bytes(12)].concat()
}

tests! {
    fn random_bytes_are_harmless() {
        let mut ground = Ground::new();
        let seed = seed("random_bytes_are_harmless");
        let (mut cases, mut done) = (0, 0);
        for number in 0..4000 * factor() {
            let mut random = Random::new(seed ^ number << 20);
            let length = *random.pick(&[16, 64, 256, 4096]);
            let code = random.bytes(length);
            let registers = registers(&mut random, &ground);
            let outcome = ground.run(&code, &registers);
            let gone_on = outcome.registers().is_none_or(|registers| registers.rip != ground.code);
            done += u64::from(gone_on);
            cases += 1;
        }
        ground.prove_clean();
        tried("streams of random bytes", cases);
        executed("streams of random bytes", done);
    }

    fn random_instructions_that_do_no_harm_run_to_their_end() {
        // What the count of executed instructions below stands on.
        let mut ground = Ground::new();
        let seed = seed("random_instructions_that_do_no_harm_run_to_their_end");
        for number in 0..200 {
            let mut random = Random::new(seed ^ number << 20);
            let Harmless { mut bytes, starts } = Harmless::new(&mut random, 500);
            let end = ground.code + bytes.len() as u64;
            // ud2
            bytes.extend([0x0f, 0x0b]);
            let registers = Registers { r15: ground.data, ..filled(random.next()) };
            let outcome = ground.run_to_its_end(&bytes, &registers);
            assert_eq!(outcome.exception(), Some((6, 0)), "{number}: {outcome:x?}, {bytes:02x?}");
            assert_eq!(outcome.registers().map(|of| of.rip), Some(end), "{number}");
            executed("streams of random instructions", starts.len() as u64);
        }
        ground.prove_clean();
        tried("streams of random instructions", 200);
    }

    fn random_instructions_with_a_hostile_end_are_harmless() {
        let mut ground = Ground::new();
        let seed = seed("random_instructions_with_a_hostile_end_are_harmless");
        let (mut cases, mut done) = (0, 0);
        for number in 0..2000 * factor() {
            let mut random = Random::new(seed ^ number << 20);
            let count = 100 + random.below(500);
            let harmless = Harmless::new(&mut random, count);
            let end = hostile(&mut random);
            let code = [&harmless.bytes[..], &end].concat();
            assert!(code.len() <= CODE_SIZE);
            let random = registers(&mut random, &ground);
            let registers = Registers { r15: ground.data, ..random };
            let outcome = ground.run(&code, &registers);
            let length = harmless.bytes.len();
            let at = match outcome.registers() {
                // Elsewhere it can only be from behind all of them.
                Some(registers) => {
                    let at = registers.rip.wrapping_sub(ground.code);
                    usize::try_from(at).ok().filter(|at| *at < length).unwrap_or(length)
                }
                // So it is with `out`, which none of them is.
                None if outcome.exit == Exit::CalledOut => length,
                None => 0,
            };
            done += harmless.executed(at);
            cases += 1;
        }
        ground.prove_clean();
        tried("streams of random instructions", cases);
        executed("streams of random instructions", done);
    }
}
