//! Every instruction: all opcodes of all maps with prefixes and operands, generated, in ring 3.

use glowbox_core::registers::Registers;

use crate::generate::{MAPS, PREFIXES, Random, operands};
use crate::ground::{Ground, Outcome, filled};
use crate::support::{executed, factor, tried};

/// What an instruction finds in registers: nothing, addresses of data, addresses of no memory that there can
/// be, the supervisor's.
fn contents(ground: &Ground) -> [Registers; 4] {
    [
        Registers::default(),
        ground.pointers(),
        filled(0x8000_0000_0000_0000),
        filled(glowbox_core::layout::SUPERVISOR_TABLES.0),
    ]
}

/// Runs each code with some contents of the registers: `forms` of them, others each time.
fn sweep(class: &'static str, codes: impl Iterator<Item = Vec<u8>>, forms: usize) {
    let mut ground = Ground::new();
    let contents = contents(&ground);
    let mut cases = 0;
    let mut done = 0;
    for (number, code) in codes.enumerate() {
        for form in 0..forms.min(contents.len()) {
            let outcome = ground.run(&code, &contents[(number + form) % contents.len()]);
            done += u64::from(has_gone_on(&ground, &outcome));
            cases += 1;
        }
    }
    ground.prove_clean();
    tried(class, cases);
    executed(class, done);
}

/// Whether the guest was behind its first instruction when it stopped.
fn has_gone_on(ground: &Ground, outcome: &Outcome) -> bool {
    outcome.registers().is_none_or(|registers| registers.rip != ground.code)
}

/// All opcodes of a map with each prefix, and `count` of the operands, others for each.
fn opcodes(map: &[u8], count: usize) -> impl Iterator<Item = Vec<u8>> {
    let operands: Vec<_> = operands().collect();
    let count = count.min(operands.len());
    let number = move |opcode: u8, prefix: usize| usize::from(opcode) * 7 + prefix * 5;
    (0..=255u8).flat_map(move |opcode| {
        let operands = operands.clone();
        PREFIXES.iter().enumerate().flat_map(move |(at, prefix)| {
            let operands = operands.clone();
            (0..count).map(move |form| {
                let operand = &operands[(number(opcode, at) + form) % operands.len()];
                [prefix, map, &[opcode], operand, &[0x11, 0, 0, 0][..]].concat()
            })
        })
    })
}

fn count(of: u64) -> usize {
    usize::try_from(of * factor()).expect("a factor that is no mistake")
}

tests! {
    fn all_one_byte_opcodes_with_all_prefixes_are_harmless() {
        sweep("one-byte opcodes", opcodes(MAPS[0], count(2)), 2);
    }

    fn all_two_byte_opcodes_with_all_prefixes_are_harmless() {
        sweep("two-byte opcodes", opcodes(MAPS[1], count(2)), 2);
    }

    fn all_three_byte_opcodes_with_all_prefixes_are_harmless() {
        let codes = MAPS[2..].iter().flat_map(|map| opcodes(map, count(1)));
        sweep("three-byte opcodes", codes, 1);
    }

    fn all_operands_of_the_groups_of_system_instructions_are_harmless() {
        // sldt and its like, sgdt to rdpru, endbr and its like, fences and saved state, cmpxchg8b to rdpid,
        // bt and its like, moves to and from control and debug registers, hint nops, MSRs.
        let second = [0x00, 0x01, 0x1e, 0xae, 0xc7, 0xba, 0x20, 0x21, 0x22, 0x23, 0x18, 0x30, 0x32, 0xa7, 0xa6];
        let prefixes = &PREFIXES[..if factor() > 1 { PREFIXES.len() } else { 6 }];
        let codes = second.into_iter().flat_map(|opcode| {
            (0..=255u8).flat_map(move |operand| {
                prefixes.iter().map(move |prefix| {
                    [prefix, &[0x0f, opcode, operand, 0, 0, 0, 0][..]].concat()
                })
            })
        });
        sweep("groups of system instructions", codes, 1);
    }

    fn all_opcodes_with_vex_evex_and_xop_prefixes_are_harmless() {
        let mut random = Random::new(1);
        let mut codes = Vec::new();
        for opcode in 0..=255u8 {
            for _ in 0..count(12) {
                let [a, b, c, operand] = std::array::from_fn(|_| random.byte());
                let rest = [opcode, operand, 0x10, 0, 0, 0];
                // Maps: one to three of VEX, eight to ten of XOP; others now and then.
                let map = if c & 7 == 0 { a & 31 } else { 1 + a % 3 };
                codes.push([&[0xc5, b][..], &rest].concat());
                codes.push([&[0xc4, a & 0xe0 | map, b][..], &rest].concat());
                codes.push([&[0x8f, a & 0xe0 | (7 + map), b][..], &rest].concat());
                codes.push([&[0x62, a & 0xf0 | map, b | 4, c][..], &rest].concat());
            }
        }
        sweep("VEX, EVEX and XOP opcodes", codes.into_iter(), 1);
    }

    fn every_software_interrupt_is_one_error_that_names_it() {
        let mut ground = Ground::new();
        for vector in 0..=255u8 {
            for prefix in PREFIXES {
                let code = [prefix, &[0xcd, vector]].concat();
                let outcome = ground.run_to_its_end(&code, &Registers::default());
                // Behind a lock prefix it is no instruction; int 3 may pass the breakpoint's gate; some
                // hypervisors refuse all others by #UD.
                let (raised, error) = outcome.exception().expect("an exception");
                let behind = ground.code + code.len() as u64 + 1;
                let gone_on = outcome.registers().is_some_and(|registers| registers.rip == behind);
                let expected = match raised {
                    13 => error == 0 || error & !1 == u64::from(vector) * 8 + 2,
                    // One KVM answers `int 0x1a` as `cpuid`: see docs/kvm.md. Behind it is `int3`.
                    3 => vector == 3 || vector == 0x1a && gone_on,
                    4 => vector == 4,
                    6 => true,
                    _ => false,
                };
                assert!(expected, "{code:02x?}: {outcome:x?}");
                tried("software interrupts", 1);
            }
        }
        for code in [&[0xcc][..], &[0xf1], &[0xce], &[0xf3, 0xcc], &[0xf2, 0xf1]] {
            let outcome = ground.run_to_its_end(code, &Registers::default());
            let (raised, _) = outcome.exception().expect("an exception");
            // In 64-bit mode there is no `into`.
            assert!([1, 3, 6].contains(&raised), "{code:02x?}: {outcome:?}");
            tried("software interrupts", 1);
        }
        ground.prove_clean();
    }

    fn interrupts_that_a_guest_could_turn_off_do_not_keep_the_host_from_stopping_it() {
        let mut ground = Ground::new();
        // cli, sti and popf with the interrupt flag clear work where IOPL counts; then `jmp $`.
        for code in [
            &[0xfa, 0xeb, 0xfe][..],
            &[0xfb, 0xeb, 0xfe],
            &[0x6a, 0, 0x9d, 0xeb, 0xfe],
            &[0xeb, 0xfe],
            &[0xf3, 0x90, 0xeb, 0xfc],
            &[0xfa, 0x0f, 0xae, 0xf0, 0xeb, 0xfb],
            &[0xfa, 0x0f, 0xa2, 0xeb, 0xfc],
        ] {
            let outcome = ground.run(code, &Registers::default());
            let stopped = outcome.exit == glowbox_machine::Exit::Interrupted;
            assert!(stopped || matches!(outcome.exception(), Some((13, _))), "{code:02x?}: {outcome:?}");
            tried("loops with interrupts off", 1);
        }
        ground.prove_clean();
    }
}
