//! Stack pointers that point anywhere, and instruction pointers that can't be: exceptions and system calls use
//! neither the guest's stack nor its code, and what does use its stack faults there.

use glowbox_abi::CALL_PORT;
use glowbox_core::layout::{
    PAGE_TABLES, RegionKind, SUPERVISOR_CODE, SUPERVISOR_STACK, SUPERVISOR_TABLES,
};
use glowbox_core::registers::Registers;
use glowbox_machine::Exit;

use crate::ground::{Ground, Outcome};
use crate::support::{executed, tried};

/// Where the stack pointer is sent.
fn pivots(ground: &Ground) -> Vec<u64> {
    let mut pivots = vec![
        0,
        1,
        7,
        8,
        0x1000,
        0x0000_7fff_ffff_fff8,
        0x0000_8000_0000_0000,
        0x8000_0000_0000_0000,
    ];
    pivots.extend([u64::MAX, u64::MAX - 7, 0xffff_8000_0000_0000, 0xffff_ffff_8000_0000]);
    for region in ground.layout.regions() {
        let (start, end) = (region.start.0, region.end().0);
        pivots.extend([start, start + 1, start + 8, end - 1, end - 8, end]);
        pivots.extend([start.wrapping_sub(8), end - region.length / 2]);
    }
    for ours in [SUPERVISOR_CODE, SUPERVISOR_TABLES, SUPERVISOR_STACK, PAGE_TABLES] {
        pivots.extend([ours.0 + 0xff8, ours.0 + 0x1000, ours.0 + 0x7fc]);
    }
    pivots
}

/// `mov rsp, rax`, and then what is to happen with that stack.
fn pivot(ground: &mut Ground, to: u64, code: &[u8]) -> Outcome {
    let code = [&[0x48, 0x89, 0xc4], code].concat();
    let registers = Registers { rax: to, rbp: to, ..Registers::default() };
    let outcome = ground.run_to_its_end(&code, &registers);
    tried("stack pivots", 1);
    executed("stack pivots", 1);
    outcome
}

tests! {
    fn exceptions_and_calls_with_any_stack_pointer_are_what_they_are_with_a_good_one() {
        let mut ground = Ground::new();
        // What it is, vector where all machines agree.
        let codes: [(&[u8], &[u8]); 8] = [
            (&[0x0f, 0x0b], &[6]),
            (&[0xcc], &[3]),
            (&[0xf4], &[13]),
            (&[0xf7, 0xf1], &[0]),
            (&[0xcd, 0x80], &[6, 13]),
            (&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0], &[14]),
            (&[0xe4, 0x80], &[13]),
            (&[0x8e, 0xd8], &[11, 12, 13, 3]),
        ];
        for to in pivots(&ground) {
            for (code, vectors) in codes {
                let outcome = pivot(&mut ground, to, code);
                let fine = match &outcome.exit {
                    Exit::Exception(exception) => vectors.contains(&exception.vector),
                    Exit::Port { port, .. } => *code == [0xe4, 0x80] && *port == 0x80,
                    _ => false,
                };
                assert!(fine, "{code:02x?} with RSP {to:#x}: {outcome:x?}");
                let rsp = outcome.registers().map(|registers| registers.rsp);
                assert_eq!(rsp, Some(to), "{code:02x?}: {outcome:x?}");
            }
            // The system call, by its entry or the page fault there; and a call out.
            let outcome = pivot(&mut ground, to, &[0x0f, 0x05]);
            let registers = outcome.registers().copied().expect("registers");
            let entered = match &outcome.exit {
                Exit::Syscall(_) => true,
                Exit::Exception(exception) => (exception.vector, exception.error_code) == (14, 0x15),
                _ => false,
            };
            assert!(entered, "syscall with RSP {to:#x}: {outcome:x?}");
            assert_eq!((registers.rsp, registers.rcx), (to, ground.code + 5));
            let outcome = pivot(&mut ground, to, &[0xe6, CALL_PORT]);
            assert_eq!(outcome.exit, Exit::CalledOut, "RSP {to:#x}");
        }
        ground.prove_clean();
    }

    fn what_uses_the_stack_faults_where_there_is_none() {
        let mut ground = Ground::new();
        // Pushes; pops, which only read.
        let pushes: [&[u8]; 6] = [&[0x50], &[0x9c], &[0xe8, 0, 0, 0, 0], &[0x6a, 1], &[0xc8, 8, 0, 0], &[0x68, 1, 2, 3, 4]];
        let pops: [&[u8]; 4] = [&[0x58], &[0xc3], &[0xc9], &[0x59]];
        for to in pivots(&ground) {
            let may = |at: u64, write: bool| {
                let backing = ground.layout.region_at(at).and_then(|region| region.backing);
                backing.is_some_and(|(_, protection, privilege)| {
                    use glowbox_core::address::Protection::ReadWrite;
                    use glowbox_core::paging::Privilege::User;
                    privilege == User && (!write || protection == ReadWrite)
                })
            };
            let pushes_work = may(to.wrapping_sub(8), true) && may(to.wrapping_sub(1), true);
            let pops_work = may(to, false) && may(to.wrapping_add(7), false);
            for (codes, works) in [(&pushes[..], pushes_work), (&pops[..], pops_work)] {
                for code in codes {
                    let outcome = pivot(&mut ground, to, code);
                    let (vector, _) = outcome.exception().expect("an exception");
                    let rip = outcome.registers().map(|registers| registers.rip);
                    if works {
                        // Behind it there is `int3`, or what it returned to.
                        assert!([3, 13, 14].contains(&vector), "{code:02x?} with RSP {to:#x}: {outcome:x?}");
                    } else {
                        // `enter` may fault behind its push, and is restarted then.
                        assert!([12, 13, 14].contains(&vector), "{code:02x?} with RSP {to:#x}: {outcome:x?}");
                        assert_eq!(rip, Some(ground.code + 3), "{code:02x?} with RSP {to:#x}: {outcome:x?}");
                    }
                }
            }
        }
        ground.prove_clean();
    }

    fn returns_and_jumps_to_addresses_that_cannot_be_are_general_protection_faults() {
        let mut ground = Ground::new();
        let addresses = [1 << 47, 1 << 48, 1 << 63, (1 << 47) + ground.code, ground.code | 1 << 62, 0xffff_7fff_ffff_ffff];
        // mov [rsp - 8], rax; sub rsp, 8; ret. push rax; call [rsp]. jmp rax. call rax. add far behind.
        let codes: [&[u8]; 4] = [&[0x50, 0xc3], &[0x50, 0xff, 0x14, 0x24], &[0xff, 0xe0], &[0xff, 0xd0]];
        for address in addresses {
            for code in codes {
                let registers = Registers { rax: address, ..Registers::default() };
                let outcome = ground.run_to_its_end(code, &registers);
                let (vector, error) = outcome.exception().expect("an exception");
                assert_eq!((vector, error), (13, 0), "{code:02x?} to {address:#x}: {outcome:x?}");
                tried("instruction pointers that cannot be", 1);
            }
        }
        ground.prove_clean();
    }

    fn running_down_through_the_stack_ends_in_its_guard() {
        let mut ground = Ground::new();
        // push rax; jmp to it. call itself. enter 0x1000; jmp to it.
        for code in [&[0x50, 0xeb, 0xfd][..], &[0xe8, 0xfb, 0xff, 0xff, 0xff], &[0xc8, 0, 0x10, 0, 0xeb, 0xfa]] {
            let outcome = ground.run_to_its_end(code, &Registers::default());
            let Exit::Exception(exception) = &outcome.exit else { panic!("{outcome:x?}") };
            let at = exception.address.expect("a page fault");
            let region = ground.layout.region_at(at).map(|region| region.kind);
            assert_eq!(region, Some(RegionKind::StackGuard), "{code:02x?}: {outcome:x?}");
            tried("stack pivots", 1);
        }
        ground.prove_clean();
    }

    fn misaligned_stacks_and_alignment_checks_are_harmless() {
        let mut ground = Ground::new();
        for offset in 0..16u64 {
            // Alignment checks on by popf, then pushes, pops and an `out`.
            let code = [
                0x48, 0x89, 0xc4, 0x9c, 0x81, 0x0c, 0x24, 0, 0, 4, 0, 0x9d, 0x50, 0x58, 0x0f, 0x28, 0x04, 0x24,
                0xe6, CALL_PORT,
            ];
            let rax = (ground.stack.start + ground.stack.end) / 2 + offset;
            let outcome = ground.run_to_its_end(&code, &Registers { rax, ..Registers::default() });
            let fine = outcome.exit == Exit::CalledOut || matches!(outcome.exception(), Some((13 | 17, 0)));
            assert!(fine, "{offset}: {outcome:x?}");
            tried("misaligned stacks", 1);
        }
        ground.prove_clean();
    }
}
