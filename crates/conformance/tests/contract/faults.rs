//! What guests do wrong is told apart, with vector, error code, address and registers.

use glowbox_core::fault::Exception;
use glowbox_core::registers::Registers;
use glowbox_machine::Exit;

use crate::ground::{CALL, Ground, UD2, distinct, load_from, store_to};

/// Bits of a page fault's error code: the page is there; it was a write, in ring 3, an instruction fetch.
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const FETCH: u64 = 1 << 4;

/// Runs code with distinct registers until it raises an exception.
#[track_caller]
fn fault(code: &[u8]) -> (Ground, Exception) {
    let mut ground = Ground::new(code);
    ground.start(&ground.state(&distinct()));
    let exit = ground.run();
    match exit {
        Exit::Exception(exception) => (ground, *exception),
        other => panic!("{code:x?} ended in {other:?}"),
    }
}

#[track_caller]
fn page_fault(code: &[u8], error_code: u64, address: u64) {
    let (ground, found) = fault(code);
    let expected = (14, error_code, Some(address));
    assert_eq!((found.vector, found.error_code, found.address), expected, "{code:x?}");
    assert_eq!(found.registers.rip, ground.code, "{code:x?}");
}

tests! {
    fn an_invalid_instruction_is_one_with_the_registers_at_it() {
        let (ground, found) = fault(&UD2);
        assert_eq!((found.vector, found.error_code, found.address), (6, 0, None));
        let expected = Registers {
            rip: ground.code,
            rsp: ground.stack,
            rflags: found.registers.rflags,
            ..distinct()
        };
        assert_eq!(found.registers, expected);
    }

    fn a_fault_with_segment_bases_in_the_upper_half_is_one_and_leaves_them() {
        // mov rax, base; wrfsbase rax; wrgsbase rax
        let base = 0xffff_8000_0000_0000_u64;
        let set = [&[0x48, 0xb8][..], &base.to_le_bytes(), &[0xf3, 0x48, 0x0f, 0xae, 0xd0]].concat();
        let set = [&set[..], &[0xf3, 0x48, 0x0f, 0xae, 0xd8]].concat();
        // ud2; mov rax, gs:[0]; mov rax, [1 << 40]
        let load = [0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0];
        for (end, vector, address) in [
            (&UD2[..], 6, None),
            (&load, 14, Some(base)),
            (&load_from(1 << 40), 14, Some(1 << 40)),
        ] {
            let (mut ground, found) = fault(&[&set[..], end].concat());
            assert_eq!((found.vector, found.address), (vector, address), "{end:x?}");
            let expected = Registers {
                rax: base,
                rip: ground.code + set.len() as u64,
                rsp: ground.stack,
                rflags: found.registers.rflags,
                ..distinct()
            };
            assert_eq!(found.registers, expected);
            let state = ground.machine.state().unwrap();
            assert_eq!((state.fs_base, state.gs_base), (base, base));
            // What starts next has none of them.
            let at = ground.place(ground.code);
            ground.machine.memory_mut()[at..at + 2].copy_from_slice(&CALL);
            ground.start_plain();
            ground.run_to_call();
            let state = ground.machine.state().unwrap();
            assert_eq!((state.fs_base, state.gs_base), (0, 0));
        }
    }

    fn a_division_by_zero_is_one() {
        // xor ecx, ecx; div ecx
        let (ground, found) = fault(&[0x31, 0xc9, 0xf7, 0xf1]);
        assert_eq!((found.vector, found.address), (0, None));
        assert_eq!(found.registers.rip, ground.code + 2);
    }

    fn a_breakpoint_is_one_and_lies_before_where_it_goes_on() {
        let (ground, found) = fault(&[0xcc]);
        assert_eq!((found.vector, found.registers.rip), (3, ground.code + 1));
    }

    fn a_step_of_the_trap_flag_is_one() {
        // pushf; or qword [rsp], 1 << 8; popf; nop; nop
        let (ground, found) = fault(&[0x9c, 0x48, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90, 0x90]);
        assert_eq!((found.vector, found.registers.rip), (1, ground.code + 11));
    }

    fn memory_that_is_not_there_is_not_there_to_be_read_written_and_executed() {
        let guard = Ground::new(&[]).data + 0x10_0000;
        page_fault(&load_from(0x18), USER, 0x18);
        page_fault(&load_from(guard + 5), USER, guard + 5);
        page_fault(&store_to(guard), USER | WRITE, guard);
        // mov rax, guard; jmp rax
        let code = [&[0x48, 0xb8][..], &guard.to_le_bytes(), &[0xff, 0xe0]].concat();
        let (_, found) = fault(&code);
        assert_eq!((found.vector, found.error_code), (14, USER | FETCH));
        assert_eq!((found.address, found.registers.rip), (Some(guard), guard));
    }

    fn constants_and_code_are_not_written() {
        let ground = Ground::new(&[]);
        page_fault(&store_to(ground.constants + 8), PRESENT | USER | WRITE, ground.constants + 8);
        page_fault(&store_to(ground.code + 64), PRESENT | USER | WRITE, ground.code + 64);
    }

    fn data_is_not_executed() {
        let data = Ground::new(&[]).data;
        let code = [&[0x48, 0xb8][..], &data.to_le_bytes(), &[0xff, 0xe0]].concat();
        let (_, found) = fault(&code);
        assert_eq!((found.vector, found.error_code), (14, PRESENT | USER | FETCH));
        assert_eq!((found.address, found.registers.rip), (Some(data), data));
    }

    fn an_address_that_can_not_be_is_a_protection_fault_without_address() {
        let (_, found) = fault(&load_from(0x1234_5678_9abc_def0));
        assert_eq!((found.vector, found.error_code, found.address), (13, 0, None));
    }

    fn what_is_the_kernels_is_refused() {
        // hlt; rdmsr; mov rax, cr3; lgdt [rax]; wbinvd; clts
        for code in [
            &[0xf4][..], &[0x0f, 0x32], &[0x0f, 0x20, 0xd8], &[0x0f, 0x01, 0x10], &[0x0f, 0x09],
            &[0x0f, 0x06],
        ] {
            let (ground, found) = fault(code);
            assert_eq!((found.vector, found.registers.rip), (13, ground.code), "{code:x?}");
        }
    }

    fn ports_other_than_the_call_port_are_refused_or_lead_to_the_host() {
        // in al, 0x80; out 0x80, al; in al, CALL_PORT
        for (code, port) in [([0xe4, 0x80], 0x80), ([0xe6, 0x80], 0x80), ([0xe4, CALL[1]], CALL[1])] {
            let mut ground = Ground::new(&[&code[..], &CALL].concat());
            ground.start(&ground.state(&distinct()));
            match ground.run() {
                Exit::Exception(found) => assert_eq!((found.vector, found.error_code), (13, 0)),
                Exit::Port { port: found, registers } => {
                    assert_eq!(found, u16::from(port));
                    assert_eq!(registers.rbx, distinct().rbx);
                }
                other => panic!("{code:x?} ended in {other:?}"),
            }
        }
    }

    fn a_machine_goes_on_after_each_fault() {
        let mut ground = Ground::new(&UD2);
        for round in 0..20 {
            ground.start(&ground.state(&Registers { rax: round, ..distinct() }));
            let exit = ground.run();
            let Exit::Exception(found) = &exit else { panic!("{exit:?}") };
            assert_eq!((found.vector, found.registers.rax), (6, round));
            assert!(!ground.machine.is_broken());
            ground.machine.settle().unwrap();
        }
    }
}
