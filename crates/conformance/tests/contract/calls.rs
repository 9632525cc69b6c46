//! Guests call out, make system calls, and go on.

use glowbox_core::registers::{CpuState, ExtendedState, Registers};
use glowbox_machine::SegmentBases;

use crate::ground::{
    CALL, FLAGS, Ground, SYSCALL, UD2, at_syscall, distinct, load_from, platform, store_to,
};

/// Bytes of an XSAVE area: the XMM registers, which components are in use, the upper halves of the YMM.
const XMM: std::ops::Range<usize> = 160..416;
const IN_USE: usize = 512;
const YMM: std::ops::Range<usize> = 576..832;
const AVX: u64 = 1 << 2;

/// A state with something in each vector register that the backend has.
pub(crate) fn vectors(seed: u8) -> ExtendedState {
    let xcr0 = platform().cpu().1;
    let avx = xcr0 & AVX != 0;
    let mut area = ExtendedState::initial().bytes().to_vec();
    area.resize(if avx { YMM.end } else { ExtendedState::MIN_SIZE }, 0);
    let fill = |bytes: &mut [u8]| {
        for (byte, value) in bytes.iter_mut().zip((0..=255).cycle()) {
            *byte = seed.wrapping_add(value) | 1;
        }
    };
    fill(&mut area[XMM]);
    area[IN_USE] = 2;
    if avx {
        fill(&mut area[YMM]);
        area[IN_USE] = 6;
    }
    ExtendedState::from_xsave(&area, xcr0 | 3, 0xffff).unwrap()
}

/// The vector registers of a state.
fn vector_bytes(state: &ExtendedState) -> (&[u8], Option<&[u8]>) {
    (&state.bytes()[XMM], state.bytes().get(YMM))
}

/// A state without what `install` leaves to the CPU: where it is and its fixed flags.
fn comparable(state: &CpuState) -> (Registers, u64, u64) {
    let registers = Registers { rflags: state.registers.rflags & FLAGS, ..state.registers };
    (registers, state.fs_base, state.gs_base)
}

tests! {
    fn a_guest_calls_out_and_goes_on_behind_that_instruction() {
        // mov eax, n; out: three times
        let code: Vec<u8> =
            (1..=3).flat_map(|n| [&[0xb8, n, 0, 0, 0][..], &CALL].concat()).collect();
        let mut ground = Ground::new(&code);
        ground.start_plain();
        for n in 1..=3 {
            ground.run_to_call();
            let registers = ground.machine.state().unwrap().registers;
            assert_eq!((registers.rax, registers.rip), (n, ground.code + 7 * n));
        }
    }

    fn a_state_is_the_one_that_the_guest_was_started_in() {
        let mut ground = Ground::new(&CALL);
        let registers = Registers { rflags: 1 << 0 | 1 << 6 | 1 << 11, ..distinct() };
        let mut state = ground.state(&registers);
        (state.fs_base, state.gs_base) = (ground.data + 8, ground.data + 16);
        state.extended = vectors(3);
        ground.start(&state);
        ground.run_to_call();
        let found = ground.machine.state().unwrap();
        state.registers.rip += 2;
        assert_eq!(comparable(&found), comparable(&state));
        assert_eq!(vector_bytes(&found.extended), vector_bytes(&state.extended));
        assert_eq!(ground.machine.extended().unwrap(), found.extended);
        let bases = SegmentBases { fs: state.fs_base, gs: state.gs_base };
        assert_eq!(ground.machine.bases().unwrap(), bases);
    }

    fn a_state_is_gone_on_with_later_and_on_another_machine() {
        // out; add rax, rbx; out
        let code = [&CALL[..], &[0x48, 0x01, 0xd8], &CALL].concat();
        let mut ground = Ground::new(&code);
        let state = CpuState { extended: vectors(9), ..ground.state(&distinct()) };
        ground.start(&state);
        ground.run_to_call();
        let between = ground.machine.state().unwrap();
        ground.run_to_call();
        let end = ground.machine.state().unwrap();
        assert_eq!(end.registers.rax, distinct().rax + distinct().rbx);
        let mut other = Ground::new(&code);
        for ground in [&mut ground, &mut other] {
            ground.start(&between);
            ground.run_to_call();
            let again = ground.machine.state().unwrap();
            assert_eq!(comparable(&again), comparable(&end));
            assert_eq!(vector_bytes(&again.extended), vector_bytes(&end.extended));
        }
    }

    fn a_guest_has_the_segment_bases_that_it_sets_wherever_they_are() {
        // In each half of the addresses, and at their border.
        let places = [0x1000, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX - 0xfff];
        for (fs, gs) in places.into_iter().flat_map(|fs| places.map(|gs| (fs, gs))) {
            let data = Ground::new(&[]).data;
            let set = |base: u64| [&[0x48, 0xb8][..], &base.to_le_bytes()].concat();
            // mov rax, fs; wrfsbase rax; mov rax, gs; wrgsbase rax; out
            let own = [&set(fs)[..], &[0xf3, 0x48, 0x0f, 0xae, 0xd0]].concat();
            let own = [&own[..], &set(gs), &[0xf3, 0x48, 0x0f, 0xae, 0xd8], &CALL].concat();
            // rdfsbase rax; mov [data], rax, a page that has not been used; rdgsbase rax; mov [data + 8], rax
            let read = [&[0xf3, 0x48, 0x0f, 0xae, 0xc0][..], &store_to(data)].concat();
            let read = [&read[..], &[0xf3, 0x48, 0x0f, 0xae, 0xc8], &store_to(data + 8)].concat();
            let mut ground = Ground::new(&[&own[..], &read, &CALL, &SYSCALL].concat());
            let start = ground.state(&distinct());
            ground.start(&start);
            ground.run_to_call();
            let between = ground.machine.state().unwrap();
            assert_eq!((between.fs_base, between.gs_base), (fs, gs));
            let on_with = |ground: &mut Ground| {
                ground.run_to_call();
                assert_eq!((ground.word(data), ground.word(data + 8)), (fs, gs));
                let found = ground.machine.state().unwrap();
                assert_eq!((found.fs_base, found.gs_base), (fs, gs));
                let registers = Registers { rax: gs, ..between.registers };
                assert_eq!(Registers { rip: 0, ..found.registers }, Registers { rip: 0, ..registers });
                let exit = ground.run();
                assert!(at_syscall(&exit).is_some(), "{exit:?}");
                // It goes on behind that with others, and is put back.
                let bases = SegmentBases { fs: gs, gs: fs };
                let behind = Registers { rip: ground.code, ..found.registers };
                ground.machine.proceed(&behind, bases).unwrap();
                ground.run_to_call();
                assert_eq!(ground.machine.bases().unwrap(), SegmentBases { fs, gs });
                ground.start(&start);
                let begun = ground.machine.state().unwrap();
                assert_eq!((begun.fs_base, begun.gs_base), (0, 0));
            };
            on_with(&mut ground);
            // As a snapshot of it does, on this machine and on another.
            let mut other = Ground::new(&[&own[..], &read, &CALL, &SYSCALL].concat());
            for ground in [&mut ground, &mut other] {
                ground.start(&between);
                on_with(ground);
            }
        }
    }

    fn host_and_guest_see_each_others_writes() {
        let data = Ground::new(&[]).data;
        // mov rax, [data]; inc rax; mov [data + 8], rax; out; and again
        let part = [&load_from(data)[..], &[0x48, 0xff, 0xc0], &store_to(data + 8), &CALL].concat();
        let mut ground = Ground::new(&part.repeat(2));
        assert_eq!(ground.data, data);
        ground.start_plain();
        for value in [41, 0xffff_ffff_0000] {
            ground.set_word(data, value);
            ground.run_to_call();
            assert_eq!(ground.word(data + 8), value + 1);
        }
    }

    fn a_system_call_has_the_way_back_and_the_flags() {
        let mut ground = Ground::new(&SYSCALL);
        let flags = 1 << 0 | 1 << 7;
        ground.start(&ground.state(&Registers { rflags: flags, ..distinct() }));
        let exit = ground.run();
        let found = at_syscall(&exit).unwrap_or_else(|| panic!("{exit:?}"));
        assert_eq!((found.rcx, found.r11 & FLAGS), (ground.code + 2, flags));
        let others = |r: &Registers| [r.rax, r.rbx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r12];
        assert_eq!(others(&found), others(&distinct()));
        assert_eq!(found.rsp, ground.stack);
    }

    fn a_guest_proceeds_with_other_registers_and_bases() {
        for carried in [false, true] {
            // syscall; mov rcx, fs:[0]; mov rdx, gs:[0]; out
            let code = [
                &SYSCALL[..],
                &[0x64, 0x48, 0x8b, 0x0c, 0x25, 0, 0, 0, 0],
                &[0x65, 0x48, 0x8b, 0x14, 0x25, 0, 0, 0, 0],
                &CALL,
            ]
            .concat();
            let mut ground = Ground::new(&code);
            ground.machine.carry_registers(carried);
            let (fs, gs) = (ground.data + 0x100, ground.data + 0x200);
            ground.set_word(fs, 0xf5);
            ground.set_word(gs, 0x65);
            let state = CpuState { extended: vectors(5), ..ground.state(&distinct()) };
            ground.start(&state);
            let found = at_syscall(&ground.run()).unwrap();
            let rsp = ground.stack - 64;
            let registers = Registers { rip: found.rcx, rax: 77, rsp, rflags: found.r11, ..found };
            ground.machine.proceed(&registers, SegmentBases { fs, gs }).unwrap();
            ground.run_to_call();
            let end = ground.machine.state().unwrap();
            let r = end.registers;
            assert_eq!((r.rax, r.rcx, r.rdx, r.rsp, r.r15), (77, 0xf5, 0x65, rsp, distinct().r15));
            assert_eq!((end.fs_base, end.gs_base), (fs, gs));
            // What the exit did not concern is as it was.
            assert_eq!(vector_bytes(&end.extended), vector_bytes(&state.extended));
        }
    }

    fn a_guest_proceeds_after_a_fault_at_another_place() {
        // ud2; mov eax, 7; out
        let code = [&UD2[..], &[0xb8, 7, 0, 0, 0], &CALL].concat();
        let mut ground = Ground::new(&code);
        ground.start(&ground.state(&distinct()));
        let exit = ground.run();
        let glowbox_machine::Exit::Exception(exception) = exit else { panic!("{exit:?}") };
        let bases = ground.machine.bases().unwrap();
        let registers = Registers { rip: exception.registers.rip + 2, ..exception.registers };
        ground.machine.proceed(&registers, bases).unwrap();
        ground.run_to_call();
        let found = ground.machine.state().unwrap().registers;
        assert_eq!((found.rax, found.rbx), (7, distinct().rbx));
    }

    fn vector_registers_are_known_at_every_exit() {
        for code in [&CALL[..], &UD2, &SYSCALL] {
            let mut ground = Ground::new(code);
            let state = CpuState { extended: vectors(7), ..ground.state(&Registers::default()) };
            ground.start(&state);
            ground.run();
            let found = ground.machine.extended().unwrap();
            assert_eq!(vector_bytes(&found), vector_bytes(&state.extended), "{code:x?}");
        }
    }
}
