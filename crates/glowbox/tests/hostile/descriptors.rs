//! Descriptor tables, segments and far transfers: a guest learns of no table but its own supervisor's, and gets
//! into no segment but ring 3's.

use glowbox_core::registers::Registers;
use glowbox_machine::Exit;
use glowbox_machine::supervisor::{self, selector};

use crate::ground::{DATA_SIZE, Ground, Outcome};
use crate::support::{executed, factor, leave_out, tried};

/// The selector of 32-bit code in Linux's own table, which is the one that counts on a KVM that runs ring 3 in
/// the host's (`docs/kvm.md`); in a guest's it is data.
const OTHERS_32_BIT_CODE: u16 = 0x23;

/// What the guest has stored behind its data pointer.
fn stored(outcome: &Outcome, count: usize) -> &[u8] {
    &outcome.data[DATA_SIZE / 2..][..count]
}

/// A table register as it is stored.
fn table_bytes(table: supervisor::Table) -> Vec<u8> {
    [&table.limit.to_le_bytes()[..], &table.base.0.to_le_bytes()].concat()
}

/// Selectors: all that a table could have, and some of the rest.
fn selectors() -> impl Iterator<Item = u16> {
    let step = (64 / factor()).max(1);
    (0..=u16::MAX).filter(move |selector| {
        *selector < 0x100 || *selector > 0xfff0 || (u64::from(*selector) * 5).is_multiple_of(step)
    })
}

tests! {
    fn descriptor_tables_are_not_shown_or_are_the_supervisors() {
        if lacks!(descriptor_tables) {
            return;
        }
        let mut ground = Ground::new();
        let registers = ground.pointers();
        let cases: [(&[u8], Vec<u8>); 5] = [
            (&[0x0f, 0x01, 0x07], table_bytes(supervisor::GDT)),
            (&[0x0f, 0x01, 0x0f], table_bytes(supervisor::IDT)),
            (&[0x0f, 0x00, 0x07], vec![0, 0]),
            (&[0x0f, 0x00, 0x0f], selector::TASK.to_le_bytes().to_vec()),
            // CR0: protection, coprocessor, no emulation, no task switch.
            (&[0x0f, 0x01, 0x27], vec![0x33, 0]),
        ];
        for (code, bytes) in cases {
            for prefix in [&[][..], &[0x66], &[0x48], &[0xf3], &[0x64]] {
                let code = [prefix, code].concat();
                let outcome = ground.run_to_its_end(&code, &registers);
                match outcome.exception() {
                    // User-mode instruction prevention.
                    Some((13, 0)) => {}
                    // `int3` behind it.
                    Some((3, 0)) => assert_eq!(stored(&outcome, bytes.len()), bytes, "{code:02x?}"),
                    _ => panic!("{code:02x?}: {outcome:x?}"),
                }
                tried("descriptor tables", 1);
            }
        }
        // The same into registers, and the instructions that load them.
        for group in [0, 1] {
            for operand in 0..=255u8 {
                let outcome = ground.run(&[0x0f, group, operand, 0, 0, 0, 0], &registers);
                assert!(!matches!(outcome.exit, Exit::Broken { .. }), "{operand:#x}: {outcome:x?}");
                tried("descriptor tables", 1);
            }
        }
        ground.prove_clean();
    }

    fn every_selector_in_every_segment_register_is_loaded_as_ring_3_or_refused() {
        let mut ground = Ground::new();
        // mov es, ss, ds, fs, gs; then a read by that segment.
        let codes: [&[u8]; 5] = [
            &[0x8e, 0xc0, 0x26, 0x8a, 0x0f],
            &[0x8e, 0xd0, 0x36, 0x8a, 0x0f],
            &[0x8e, 0xd8, 0x3e, 0x8a, 0x0f],
            &[0x8e, 0xe0, 0x8a, 0x0f],
            &[0x8e, 0xe8, 0x8a, 0x0f],
        ];
        for selector in selectors() {
            for code in codes {
                let registers = Registers { rax: selector.into(), rdi: ground.data, ..Registers::default() };
                let outcome = ground.run_to_its_end(code, &registers);
                let (vector, error) = outcome.exception().expect("an exception");
                let refused = [11, 12, 13].contains(&vector) && error == u64::from(selector & !3);
                assert!(vector == 3 || refused, "{selector:#x}, {code:02x?}: {outcome:x?}");
                tried("segment selectors", 1);
                executed("segment selectors", 1);
            }
        }
        ground.prove_clean();
    }

    fn far_returns_and_jumps_lead_to_ring_3_or_nowhere() {
        if lacks!(descriptor_tables) {
            return;
        }
        let mut ground = Ground::new();
        let target = ground.code + 0x800;
        let place = ground.data + DATA_SIZE as u64 / 2;
        let shared = !ground.has_ports();
        for index in 0..10u16 {
            for rpl in 0..4u16 {
                let selector = index << 3 | rpl;
                if shared && selector == OTHERS_32_BIT_CODE {
                    leave_out("segments are the host's here, and 32-bit code in one may bring its kernel down");
                    continue;
                }
                far(&mut ground, selector, target, place);
            }
        }
        ground.prove_clean();
    }

    fn what_is_told_of_selectors_is_the_same_for_all_and_no_address() {
        let mut ground = Ground::new();
        // xor ecx, ecx; next: instruction eax, ecx; jnz over; inc edx; over: inc cx; jnz next; ud2
        for instruction in [[0x0f, 0x02, 0xc1], [0x0f, 0x03, 0xc1], [0x0f, 0x00, 0xe1], [0x0f, 0x00, 0xe9]] {
            let code = [&[0x31, 0xc9][..], &instruction, &[0x75, 2, 0xff, 0xc2, 0x66, 0xff, 0xc1, 0x75, 0xf4, 0x0f, 0x0b]]
                .concat();
            let outcome = ground.run_to_its_end(&code, &Registers::default());
            assert_eq!(outcome.exception(), Some((6, 0)), "{outcome:x?}");
            let known = outcome.registers().expect("registers").rdx;
            // A descriptor table has at most as many entries, each with four privilege levels.
            assert!(known <= 4 * 32, "{known} selectors of {instruction:02x?}");
            tried("questions about selectors", 1 << 16);
            executed("questions about selectors", 5 << 16);
        }
        ground.prove_clean();
    }
}

/// Goes to `target` with a code selector, in each way that there is.
fn far(ground: &mut Ground, selector: u16, target: u64, place: u64) {
    let [low, high] = selector.to_le_bytes();
    // push of the selector, push of RAX, retfq. The stack segment, RBP, flags, the selector, RAX, iretq.
    let push = [0x68, low, high, 0, 0];
    let data = [0x6a, 0x23];
    let ret = [&push[..], &[0x50, 0x48, 0xcb]].concat();
    let iret = [&data[..], &[0x55, 0x6a, 2], &push, &[0x50, 0x48, 0xcf]].concat();
    // mov [rdi], rax; mov word [rdi + 8], selector; jmp or call far [rdi], of eight bytes
    let stored = [0x48, 0x89, 0x07, 0x66, 0xc7, 0x47, 8, low, high];
    let jump = [&stored[..], &[0x48, 0xff, 0x2f]].concat();
    let call = [&stored[..], &[0x48, 0xff, 0x1f]].concat();
    for code in [ret, iret, jump, call] {
        let rbp = (ground.stack.start + ground.stack.end) / 2;
        let registers = Registers { rax: target, rdi: place, rbp, ..Registers::default() };
        let outcome = ground.run_to_its_end(&code, &registers);
        let (vector, error) = outcome.exception().expect("an exception");
        let rip = outcome.registers().expect("registers").rip;
        let arrived = vector == 3 && rip == target + 1;
        if selector == selector::USER_CODE | selector::RING3 {
            assert!(arrived || matches!(vector, 6 | 10..=14), "{code:02x?}: {outcome:x?}");
        } else {
            let refused = (10..=13).contains(&vector) && error & !3 == u64::from(selector & !3);
            assert!(refused || arrived || vector == 6, "{selector:#x}, {code:02x?}: {outcome:x?}");
        }
        tried("far transfers", 1);
        executed("far transfers", 2);
    }
}
