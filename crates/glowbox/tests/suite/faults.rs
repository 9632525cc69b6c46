//! Faults are told apart, and end one sandbox and no other.
//!
//! The instructions are tested as raw code that runs as soon as its guest starts; what compiled
//! code does is tested with the guest `faults`. The hypervisor under this may be hardware or an
//! emulation of it, and they differ in how some instructions fault. What is asserted here holds on
//! both.

use std::error::Error as _;
use std::fmt::Debug;
use std::time::Duration;

use glowbox::{Access, Error, ErrorKind, Fault, FaultKind, Guest, RegionKind, Sandbox};
use glowbox_abi::CALL_PORT;
use glowbox_testguest::GuestFile;

use crate::support::{error, guest, leave_out};

/// A sandbox of the guest `faults`.
pub(crate) fn sandbox() -> Sandbox {
    Sandbox::builder().build(guest("faults")).expect("a sandbox")
}

/// The fault of an error that has one.
#[track_caller]
pub(crate) fn fault(error: &Error) -> &Fault {
    error.fault().unwrap_or_else(|| panic!("not a fault: {error:?}"))
}

/// A sandbox that looks on while others end, and is none the worse for it.
pub(crate) struct Bystander(Sandbox);

impl Bystander {
    pub(crate) fn new() -> Bystander {
        Bystander(sandbox())
    }

    /// Makes a call that must end `sandbox`, and checks that it is over with that one, but not
    /// with this one.
    #[track_caller]
    pub(crate) fn watch<T: Debug>(
        &mut self,
        mut sandbox: Sandbox,
        call: impl FnOnce(&mut Sandbox) -> Result<T, Error>,
    ) -> Error {
        assert!(!sandbox.is_spent());
        let ended = error(call(&mut sandbox));
        assert!(sandbox.is_spent(), "{ended:?}");
        for _ in 0..2 {
            let entries = sandbox.stats().entries;
            let spent = error(sandbox.call::<_, u64>("recurse", (1u64,)));
            assert_eq!(spent.kind(), ErrorKind::Spent);
            assert!(spent.to_string().contains(&ended.to_string()), "{spent}");
            let source = spent.source().and_then(|source| source.downcast_ref::<Error>());
            assert_eq!(source.map(Error::kind), Some(ended.kind()));
            assert_eq!(sandbox.stats().entries, entries, "a spent guest ran again");
        }
        assert_eq!(self.0.call::<_, u64>("recurse", (5u64,)).unwrap(), 5);
        ended
    }
}

/// Runs raw code, which must fault during the guest's start-up.
#[track_caller]
fn run_code(name: &str, code: &[u8]) -> Error {
    let guest = Guest::from_bytes(name, GuestFile::of_code(code).to_bytes()).expect("a guest");
    error(Sandbox::builder().build(guest))
}

/// The position in its page of the instruction that faulted. Raw code starts a page.
fn offset_in_page(fault: &Fault) -> u64 {
    fault.rip % 4096
}

/// What a piece of raw code must come to: name, bytes, what the fault is called, offset of the
/// instruction that faults, its vector where all machines agree about it.
type Case<'a> = (&'a str, &'a [u8], FaultKind, u64, Option<u8>);

#[track_caller]
fn check_codes(cases: &[Case<'_>]) {
    for &(name, code, kind, offset, vector) in cases {
        let error = run_code(name, code);
        let fault = fault(&error);
        assert_eq!(fault.kind, kind, "{name}: {error}");
        assert_eq!(offset_in_page(fault), offset, "{name}: {error}");
        if vector.is_some() {
            assert_eq!(fault.vector, vector, "{name}: {error}");
        }
        assert_eq!(fault.symbol, None, "{name}: {error}");
        let text = error.to_string();
        for part in [kind.to_string(), format!("rip {:#x}", fault.rip)] {
            assert!(text.contains(&part), "{name}: {text}");
        }
        if let Some(vector) = fault.vector {
            let part = format!("vector {vector}, error code {:#x}", fault.error_code);
            assert!(text.contains(&part), "{name}: {text}");
        }
    }
}

/// Sets the type of the symbol table's section to 0, and so hides it.
fn without_symbols(mut file: Vec<u8>) -> Vec<u8> {
    const SYMBOL_TABLE: u32 = 2;
    let number =
        |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (start, size) = (number(&file[0x28..0x30]), number(&file[0x3a..0x3c]));
    let count = number(&file[0x3c..0x3e]);
    let kinds = (0..count).map(|section| start + section * size + 4);
    let found = kinds.filter(|at| file[*at..at + 4] == SYMBOL_TABLE.to_le_bytes());
    let found: Vec<usize> = found.collect();
    assert_eq!(found.len(), 1, "guests have a symbol table");
    file[found[0]..found[0] + 4].fill(0);
    file
}

fn bytes_of(guest: &Guest) -> Vec<u8> {
    std::fs::read(guest.path().expect("a file")).expect("the guest's file")
}

/// Lets a guest read a null pointer.
fn read_null(sandbox: &mut Sandbox) -> Result<(), Error> {
    sandbox.call("touch_address", (0x18u64, "read"))
}

tests! {
    fn exceptions_are_told_apart() {
        use FaultKind::*;
        check_codes(&[
            ("ud2", &[0x0f, 0x0b], InvalidOpcode, 0, Some(6)),
            ("push es", &[0x06], InvalidOpcode, 0, Some(6)),
            ("lock add eax, eax", &[0xf0, 0x01, 0xc0], InvalidOpcode, 0, Some(6)),
            ("div ecx", &[0xf7, 0xf1], DivideError, 0, Some(0)),
            (
                "mov eax, 1 << 31; cdq; or ecx, -1; idiv ecx",
                &[0xb8, 0, 0, 0, 0x80, 0x99, 0x83, 0xc9, 0xff, 0xf7, 0xf9],
                DivideError,
                9,
                Some(0),
            ),
            ("hlt", &[0xf4], Halt, 0, Some(13)),
            ("nop; rex.w hlt", &[0x90, 0x48, 0xf4], Halt, 1, Some(13)),
            ("syscall", &[0x0f, 0x05], Syscall, 0, None),
            ("nop; syscall", &[0x90, 0x0f, 0x05], Syscall, 1, None),
            ("no instruction is that long", &[0x66; 20], GeneralProtection, 0, Some(13)),
            (
                "mov rax, 1 << 63; mov al, [rax]",
                &[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x8a, 0],
                GeneralProtection,
                10,
                Some(13),
            ),
            (
                "mov rsp, 1 << 63; push rax",
                &[0x48, 0xbc, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x50],
                GeneralProtection,
                10,
                // A stack fault by the manuals, a general protection fault on QEMU.
                None,
            ),
            (
                "mov ecx, 5; xgetbv: unprivileged, but there is no such register",
                &[0xb9, 5, 0, 0, 0, 0x0f, 0x01, 0xd0],
                GeneralProtection,
                5,
                Some(13),
            ),
            // An exception needs no stack of the guest's.
            ("xor esp, esp; ud2", &[0x31, 0xe4, 0x0f, 0x0b], InvalidOpcode, 2, Some(6)),
        ]);
    }

    fn ring_0_is_out_of_reach() {
        let privileged: &[(&str, &[u8])] = &[
            ("mov cr3, rax", &[0x0f, 0x22, 0xd8]),
            ("mov rax, cr0", &[0x0f, 0x20, 0xc0]),
            ("mov cr8, rax", &[0x44, 0x0f, 0x22, 0xc0]),
            ("mov rax, dr7", &[0x0f, 0x21, 0xf8]),
            ("mov dr7, rax", &[0x0f, 0x23, 0xf8]),
            ("wrmsr", &[0x0f, 0x30]),
            ("rdmsr", &[0x0f, 0x32]),
            ("lgdt [rsp]", &[0x0f, 0x01, 0x14, 0x24]),
            ("lidt [rsp]", &[0x0f, 0x01, 0x1c, 0x24]),
            ("lldt ax", &[0x0f, 0x00, 0xd0]),
            ("ltr ax", &[0x0f, 0x00, 0xd8]),
            ("lmsw ax", &[0x0f, 0x01, 0xf0]),
            ("invlpg [rsp]", &[0x0f, 0x01, 0x3c, 0x24]),
            ("swapgs", &[0x0f, 0x01, 0xf8]),
            ("xsetbv", &[0x0f, 0x01, 0xd1]),
            ("clts", &[0x0f, 0x06]),
            ("sysretq", &[0x48, 0x0f, 0x07]),
            ("sysenter", &[0x0f, 0x34]),
            ("sysexit", &[0x0f, 0x35]),
        ];
        let cases: Vec<Case<'_>> = privileged
            .iter()
            .map(|(name, code)| (*name, *code, FaultKind::PrivilegedInstruction, 0, None))
            .collect();
        check_codes(&cases);
        // QEMU 10.0 does not refuse these in ring 3, and the KVM there skips them.
        let (refused, passed): (Vec<_>, Vec<_>) =
            [("invd", [0x0f, 0x08]), ("wbinvd", [0x0f, 0x09])].into_iter().partition(|(name, code)| {
                let error = run_code(name, &[&code[..], &[0x0f, 0x0b]].concat());
                offset_in_page(fault(&error)) == 0
            });
        for (name, code) in &refused {
            check_codes(&[(name, code, FaultKind::PrivilegedInstruction, 0, None)]);
        }
        if !passed.is_empty() {
            let names: Vec<&str> = passed.into_iter().map(|(name, _)| name).collect();
            leave_out(&format!("this machine does not refuse {}", names.join(" and ")));
        }
        let protection = FaultKind::GeneralProtection;
        check_codes(&[
            ("ring-0 data", &[0xb8, 0x10, 0, 0, 0, 0x8e, 0xd8], protection, 5, Some(13)),
        ]);
        // Far returns to ring 0 and to data (in 64-bit mode there is nothing but 64-bit code), and
        // an interrupt return to ring 0. QEMU 7.2 reads the stack as ring 0 would, which SMAP forbids:
        // a page fault there.
        let returns: [(&[u8], u64); 3] = [
            (&[0x6a, 0x08, 0x50, 0x48, 0xcb], 3),
            (&[0x6a, 0x23, 0x50, 0x48, 0xcb], 3),
            (&[0x6a, 0x10, 0x54, 0x6a, 2, 0x6a, 0x08, 0x50, 0x48, 0xcf], 8),
        ];
        if lacks!(descriptor_tables) {
            return;
        }
        for (code, offset) in returns {
            let error = run_code("return to ring 0", code);
            assert!([protection, FaultKind::Other].contains(&fault(&error).kind), "{error}");
            assert_eq!(offset_in_page(fault(&error)), offset, "{error}");
        }
    }

    fn what_only_some_machines_refuse_does_no_harm() {
        // Each is followed by `ud2`: the guest ends here or there, always by a fault.
        let codes: &[(&str, &[u8])] = &[
            ("cli", &[0xfa]),
            ("sti", &[0xfb]),
            ("sgdt [rsp]", &[0x0f, 0x01, 0x04, 0x24]),
            ("sidt [rsp]", &[0x0f, 0x01, 0x0c, 0x24]),
            ("smsw eax", &[0x0f, 0x01, 0xe0]),
            ("str eax", &[0x0f, 0x00, 0xc8]),
            ("sldt eax", &[0x0f, 0x00, 0xc0]),
            ("int1", &[0xf1]),
            ("vmcall", &[0x0f, 0x01, 0xc1]),
            ("vmmcall", &[0x0f, 0x01, 0xd9]),
            ("monitor", &[0x0f, 0x01, 0xc8]),
            ("mwait", &[0x0f, 0x01, 0xc9]),
            ("rdpmc", &[0x0f, 0x33]),
            ("rdtsc", &[0x0f, 0x31]),
            ("xgetbv", &[0x0f, 0x01, 0xd0]),
            ("mov ss, ax", &[0x8e, 0xd0]),
        ];
        for (name, code) in codes {
            let error = run_code(name, &[code, &[0x0f, 0x0b][..]].concat());
            assert_eq!(error.kind(), ErrorKind::Fault, "{name}: {error}");
            let offset = offset_in_page(fault(&error));
            assert!(offset == 0 || offset == code.len() as u64, "{name}: {error}");
        }
    }

    fn software_interrupts_name_their_number() {
        let codes = [0, 1, 2, 3, 8, 13, 14, 31, 32, 0x80, 0xff].map(|n| (n, vec![0xcd, n]));
        for (number, code) in codes.into_iter().chain([(3, vec![0xcc])]) {
            let error = run_code("int n", &[&[0x90], &code[..]].concat());
            let fault = fault(&error);
            assert_eq!(fault.kind, FaultKind::SoftwareInterrupt(number), "{error}");
            // Some machines let breakpoints through, as the traps they are; RIP is the
            // instruction's all the same.
            assert_eq!(offset_in_page(fault), 1, "{error}");
            assert!(error.to_string().contains(&format!("interrupt {number:#x}")), "{error}");
        }
    }

    fn ports_other_than_the_call_port_are_forbidden() {
        let supervisors = glowbox_machine::supervisor::PORT;
        for port in [supervisors, CALL_PORT + 1, CALL_PORT - 1, 0x80, 0x00, 0xff] {
            let kind = FaultKind::ForbiddenPort;
            check_codes(&[
                ("out imm8, al", &[0xe6, port], kind, 0, None),
                ("out imm8, eax", &[0xe7, port], kind, 0, None),
                ("in al, imm8", &[0xe4, port], kind, 0, None),
                ("mov dl, imm8; out dx, al", &[0xb2, port, 0xee], kind, 2, None),
                ("mov dl, imm8; in eax, dx", &[0xb2, port, 0xed], kind, 2, None),
            ]);
            // Where IOPL opens all ports to ring 3, RIP may be behind these when they leave.
            for code in [[0xb2, port, 0x48, 0x89, 0xe6, 0x6e], [0xb2, port, 0x48, 0x89, 0xe7, 0x6c]] {
                let error = run_code("outsb, insb", &code);
                assert_eq!(fault(&error).kind, kind, "{error}");
                assert!((5..=6).contains(&offset_in_page(fault(&error))), "{error}");
            }
        }
        let kind = FaultKind::ForbiddenPort;
        check_codes(&[
            ("mov dx, 0x3f8; out dx, al", &[0x66, 0xba, 0xf8, 0x03, 0xee], kind, 4, None),
            ("the call port is for output", &[0xe4, CALL_PORT], kind, 0, None),
        ]);
    }

    fn a_fault_carries_every_register() {
        let value = |register: u8| 0x0101_0101_0101_0101 * u64::from(register + 1);
        let mut code = Vec::new();
        for register in 0..16 {
            // mov r64, imm64
            code.extend([0x48 | register >> 3, 0xb8 | register & 7]);
            code.extend(value(register).to_le_bytes());
        }
        // stc; ud2
        code.extend([0xf9, 0x0f, 0x0b]);
        let error = run_code("registers", &code);
        let r = fault(&error).registers;
        assert_eq!(r.rip, fault(&error).rip);
        assert_eq!(r.rflags & 1, 1, "the carry flag");
        let found = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15,
        ];
        assert_eq!(
            found,
            std::array::from_fn(|register| { value(u8::try_from(register).expect("below 16")) })
        );
    }

    fn code_at_the_end_of_its_page_is_told_apart() {
        let at_the_end = |instruction: &[u8]| {
            let mut code = vec![0x90; 4096];
            code[4096 - instruction.len()..].copy_from_slice(instruction);
            run_code("end of page", &code)
        };
        let error = at_the_end(&[0xf4]);
        assert_eq!((fault(&error).kind, offset_in_page(fault(&error))), (FaultKind::Halt, 4095));
        // Half an instruction: the rest would have to come from the data page behind it.
        let error = at_the_end(&[0x0f]);
        let fault = fault(&error);
        assert_eq!(fault.kind, FaultKind::ExecuteData(RegionKind::Data));
        assert_eq!((offset_in_page(fault), fault.address), (4095, Some(fault.rip + 1)));
    }

    fn compiled_code_faults_by_name_and_alone() {
        use FaultKind::*;
        let mut bystander = Bystander::new();
        for (name, kind) in [
            ("invalid_opcode", InvalidOpcode),
            ("divide_by_zero", DivideError),
            ("halt", Halt),
            ("call_kernel", Syscall),
            ("software_interrupt", SoftwareInterrupt(0x80)),
            ("write_port", ForbiddenPort),
            ("load_page_tables", PrivilegedInstruction),
            ("write_msr", PrivilegedInstruction),
            ("non_canonical", GeneralProtection),
            ("single_step", Debug),
            ("unmasked_x87", FloatingPoint),
        ] {
            let error = bystander.watch(sandbox(), |sandbox| sandbox.call::<_, ()>(name, ()));
            assert_eq!(error.kind(), ErrorKind::Fault, "{error}");
            assert_eq!(fault(&error).kind, kind, "{error}");
            let symbol = format!("(faults::instructions::{name}+0x");
            assert!(error.to_string().contains(&symbol), "{error}");
        }
        if let Ok(infinity) = sandbox().call::<_, f64>("unmasked_sse", ()) {
            leave_out(&format!("this machine does not raise SSE exceptions ({infinity})"));
            return;
        }
        let error =
            bystander.watch(sandbox(), |sandbox| sandbox.call::<_, f64>("unmasked_sse", ()));
        assert_eq!(fault(&error).kind, FloatingPoint, "{error}");
        assert_eq!(fault(&error).vector, Some(19), "{error}");
    }

    fn a_page_fault_says_all_there_is_to_know() {
        let mut bystander = Bystander::new();
        let mut start = 0;
        let error = bystander.watch(sandbox(), |sandbox| {
            start = sandbox.call::<_, u64>("address_of", ("read_byte",)).unwrap();
            read_null(sandbox)
        });
        let fault = fault(&error);
        assert_eq!(fault.kind, FaultKind::NullDereference(Access::Read));
        assert_eq!((fault.vector, fault.error_code), (Some(14), 4));
        assert_eq!(fault.address, Some(0x18));
        let symbol = fault.symbol.as_ref().expect("release guests have symbols");
        assert_eq!(symbol.name, "faults::memory::read_byte");
        assert_eq!(symbol.offset, fault.rip - start);
        let text = format!(
            "the guest faulted: null pointer dereference (read) at rip {:#x} \
             (faults::memory::read_byte+{:#x}), address 0x18, vector 14, error code 0x4",
            fault.rip, symbol.offset
        );
        assert_eq!(error.to_string(), text);
    }

    fn without_a_symbol_table_a_fault_names_no_function() {
        let stripped = without_symbols(bytes_of(&guest("faults")));
        let guest = Guest::from_bytes("stripped", stripped).unwrap();
        let mut sandbox = Sandbox::builder().build(guest).unwrap();
        let error = error(read_null(&mut sandbox));
        assert_eq!(fault(&error).symbol, None);
        assert_eq!(fault(&error).kind, FaultKind::NullDereference(Access::Read));
        assert!(!error.to_string().contains("read_byte"), "{error}");
    }

    fn a_symbols_name_carries_no_control_characters() {
        let mut file = bytes_of(&guest("faults"));
        let (name, evil) = (b"read_byte", b"\x1b[31m\n\xff\0z");
        let places: Vec<usize> =
            (0..file.len() - name.len()).filter(|at| file[*at..].starts_with(name)).collect();
        assert!(!places.is_empty());
        // The guest's own use of the text goes too, which does not matter here.
        for at in places {
            file[at..at + name.len()].copy_from_slice(evil);
        }
        let guest = Guest::from_bytes("evil", file).unwrap();
        let mut sandbox = Sandbox::builder().build(guest).unwrap();
        let error = error(read_null(&mut sandbox));
        let symbol = &fault(&error).symbol.as_ref().expect("the symbol is still there").name;
        assert!(symbol.contains("[31m"), "{symbol:?}");
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }

    fn misaligned_access_with_alignment_checks_on_does_no_harm() {
        let mut sandbox = sandbox();
        match sandbox.call::<_, u64>("misaligned_read", ()) {
            // Without CR0.AM, which is not the guest's to set, alignment is not checked.
            Ok(value) => {
                assert_eq!(value, 0x0807_0605_0403_0201);
                assert_eq!(sandbox.call::<_, u64>("recurse", (2u64,)).unwrap(), 2);
            }
            Err(error) => assert_eq!(fault(&error).kind, FaultKind::Misaligned, "{error}"),
        }
        Bystander::new().watch(self::sandbox(), read_null);
    }

    fn a_guest_that_masks_interrupts_can_still_be_stopped() {
        let builder = Sandbox::builder().deadline(Duration::from_millis(200));
        let sandbox = builder.build(guest("faults")).unwrap();
        let error = Bystander::new()
            .watch(sandbox, |sandbox| sandbox.call::<_, ()>("spin_without_interrupts", ()));
        match error.kind() {
            ErrorKind::Deadline => {}
            _ => assert_eq!(fault(&error).kind, FaultKind::PrivilegedInstruction, "{error}"),
        }
    }

    fn no_opcode_does_worse_than_fault() {
        // Whatever it makes of the bytes behind it, most of which are `ud2`.
        for prefix in [&[][..], &[0x0f]] {
            for opcode in 0..=255 {
                let name = format!("{prefix:02x?} {opcode:02x}");
                let error =
                    run_code(&name, &[prefix, &[opcode], &[0x0f, 0x0b].repeat(100)].concat());
                assert_eq!(error.kind(), ErrorKind::Fault, "{name}: {error}");
            }
        }
    }
}
