//! What guest code may do with each part of its memory, and what not.

use glowbox::{Access, Error, ErrorKind, FaultKind, Guest, RegionKind, Sandbox};
use glowbox_core::elf::Program;
use glowbox_core::layout::{Layout, Limits, SUPERVISOR_CODE};
use glowbox_machine::supervisor::SYSCALL_ENTRY;
use glowbox_testguest::{GuestFile, R, W, X};

use crate::faults::{Bystander, fault, sandbox};
use crate::support::{error, guest};

/// The ways of using memory, as the guest calls them.
const ACCESSES: [(&str, Access); 3] =
    [("read", Access::Read), ("store", Access::Write), ("execute", Access::Execute)];
/// Bytes that the guest is sent: the instruction `ret`.
const MESSAGE: &[u8] = &[0xc3; 16];

/// What `faults` fails with when it touches this address.
#[track_caller]
fn fault_at(bystander: &mut Bystander, sandbox: Sandbox, address: u64, access: &str) -> FaultKind {
    let error = bystander
        .watch(sandbox, |sandbox| sandbox.call::<_, ()>("touch_address", (address, access)));
    let fault = fault(&error);
    assert_eq!((fault.vector, fault.address), (Some(14), Some(address)), "{error}");
    assert!(error.to_string().contains(&format!("address {address:#x}")), "{error}");
    // A jump has happened when its target faults.
    assert_eq!(fault.rip == address, access == "execute", "{error}");
    assert_eq!(fault.symbol.is_some(), access != "execute", "{error}");
    fault.kind
}

/// Limits, one set with large pages and one without.
fn limits() -> [Limits; 2] {
    [
        Limits { heap: 16 << 20, stack: 1 << 20, incoming: 4 << 20, outgoing: 4 << 20 },
        Limits { heap: 300 << 10, stack: 64 << 10, incoming: 12 << 10, outgoing: 12 << 10 },
    ]
}

fn sandbox_with(limits: &Limits) -> Sandbox {
    Sandbox::builder()
        .memory_limit(limits.heap)
        .stack_size(limits.stack)
        .message_size(limits.incoming)
        .build(guest("faults"))
        .expect("a sandbox")
}

fn program() -> Program {
    let bytes = std::fs::read(guest("faults").path().expect("a file")).expect("the guest's file");
    Program::parse(bytes.into()).expect("a guest")
}

/// Where things lie. The program's place is random for each sandbox; that of all else is not.
fn layout(limits: &Limits) -> Layout {
    Layout::new(&program(), *limits, 0).expect("limits that can be")
}

tests! {
    fn each_kind_of_memory_allows_what_it_is_for_and_no_page_is_writable_and_executable() {
        use FaultKind::{ExecuteData, WriteToReadOnly};
        let mut bystander = Bystander::new();
        let fine = None;
        let constants = Some(ExecuteData(RegionKind::ReadOnlyData));
        for (place, write, execute) in [
            ("code", Some(WriteToReadOnly), fine),
            ("constants", Some(WriteToReadOnly), constants),
            ("texts", Some(WriteToReadOnly), constants),
            ("handlers", Some(WriteToReadOnly), constants),
            ("variable", fine, Some(ExecuteData(RegionKind::Data))),
            ("zeroed", fine, Some(ExecuteData(RegionKind::Data))),
            ("heap", fine, Some(ExecuteData(RegionKind::Heap))),
            ("stack", fine, Some(ExecuteData(RegionKind::Stack))),
            ("incoming", Some(WriteToReadOnly), Some(ExecuteData(RegionKind::Incoming))),
            ("outgoing", fine, Some(ExecuteData(RegionKind::Outgoing))),
        ] {
            for (access, expected) in [("read", fine), ("write", write), ("execute", execute)] {
                let call = |sandbox: &mut Sandbox| -> Result<(), Error> {
                    sandbox.call("touch_place", (place, access, MESSAGE))
                };
                match expected {
                    None => call(&mut sandbox())
                        .unwrap_or_else(|error| panic!("{access} of {place}: {error}")),
                    Some(kind) => {
                        let error = bystander.watch(sandbox(), call);
                        assert_eq!(fault(&error).kind, kind, "{access} of {place}: {error}");
                        assert_eq!(error.kind(), ErrorKind::Fault);
                    }
                }
            }
        }
    }

    fn constants_that_hold_addresses_are_read_only_by_relro_alone() {
        let program = program();
        let relro = program.relro().expect("guests are linked with -z relro");
        let address_of = |sandbox: &mut Sandbox, place: &str| {
            sandbox.call::<_, u64>("address_of", (place,)).unwrap()
        };
        let mut sandbox = sandbox();
        let base = address_of(&mut sandbox, "image");
        for (place, inside) in
            [("texts", true), ("handlers", true), ("variable", false), ("constants", false)]
        {
            let address = address_of(&mut sandbox, place) - base;
            assert_eq!(relro.contains(&address), inside, "{place} at {address:#x}");
        }
        // Variables start right behind.
        sandbox.call::<_, ()>("touch_address", (base + relro.end, "write")).unwrap();
        for address in [relro.start, relro.end - 1] {
            let mut sandbox = self::sandbox();
            let base = address_of(&mut sandbox, "image");
            let written = sandbox.call::<_, ()>("touch_address", (base + address, "write"));
            assert_eq!(fault(&error(written)).kind, FaultKind::WriteToReadOnly);
        }
    }

    fn the_null_page_is_never_mapped() {
        let mut bystander = Bystander::new();
        for (access, expected) in ACCESSES {
            for address in [0, 1, 0xfff, 0x1000, 0xffff] {
                let found = fault_at(&mut bystander, sandbox(), address, access);
                assert_eq!(found, FaultKind::NullDereference(expected), "{address:#x}");
            }
            let found = fault_at(&mut bystander, sandbox(), 0x10000, access);
            assert_eq!(found, FaultKind::Unmapped(expected));
        }
    }

    fn a_program_at_a_fixed_address_has_a_null_page_too() {
        // mov al, [0x10000]; mov al, [0xffff]
        let code = [0x8a, 4, 0x25, 0, 0, 1, 0, 0x8a, 4, 0x25, 0xff, 0xff, 0, 0];
        let mut file = GuestFile::of_code(&code);
        file.file_type = 2;
        file.entry = 0x10000;
        (file.segments[0].address, file.segments[1].address) = (0x10000, 0x11000);
        let error =
            error(Sandbox::builder().build(Guest::from_bytes("fixed", file.to_bytes()).unwrap()));
        assert_eq!(fault(&error).kind, FaultKind::NullDereference(Access::Read));
        assert_eq!((fault(&error).rip, fault(&error).address), (0x10007, Some(0xffff)));
    }

    fn every_buffer_can_be_used_up_to_its_ends() {
        for limits in limits() {
            let layout = layout(&limits);
            let mut sandbox = sandbox_with(&limits);
            for (kind, accesses) in [
                (RegionKind::Stack, &["read", "write"][..]),
                (RegionKind::Control, &["read", "write"]),
                (RegionKind::Incoming, &["read"]),
                (RegionKind::Outgoing, &["read", "write"]),
                (RegionKind::Heap, &["read", "write"]),
            ] {
                let region = layout.region(kind);
                for address in [region.start.0, region.end().0 - 1] {
                    for access in accesses {
                        sandbox
                            .call::<_, ()>("touch_address", (address, *access))
                            .unwrap_or_else(|error| panic!("{access} of {kind:?}: {error}"));
                    }
                }
            }
        }
    }

    fn nothing_is_mapped_before_and_behind_buffers() {
        let mut bystander = Bystander::new();
        for limits in limits() {
            let layout = layout(&limits);
            let before = |kind| layout.region(kind).start.0 - 1;
            let behind = |kind| layout.region(kind).end().0;
            for (access, used) in ACCESSES {
                let unmapped = FaultKind::Unmapped(used);
                for (address, expected) in [
                    (before(RegionKind::StackGuard), unmapped),
                    (layout.region(RegionKind::StackGuard).start.0, FaultKind::StackOverflow),
                    (before(RegionKind::Stack), FaultKind::StackOverflow),
                    (behind(RegionKind::Stack), unmapped),
                    (before(RegionKind::Control), unmapped),
                    (behind(RegionKind::Control), unmapped),
                    (before(RegionKind::Incoming), unmapped),
                    (behind(RegionKind::Incoming), unmapped),
                    (before(RegionKind::Outgoing), unmapped),
                    (behind(RegionKind::Outgoing), unmapped),
                    (before(RegionKind::Heap), unmapped),
                    (behind(RegionKind::Heap), unmapped),
                ] {
                    let sandbox = sandbox_with(&limits);
                    let found = fault_at(&mut bystander, sandbox, address, access);
                    assert_eq!(found, expected, "{access} of {address:#x}");
                }
            }
        }
    }

    fn nothing_is_mapped_before_and_behind_the_program() {
        let extent = program().extent();
        let mut bystander = Bystander::new();
        for offset in [extent.start.wrapping_sub(1), extent.end] {
            for (access, used) in ACCESSES {
                let mut sandbox = sandbox();
                let base = sandbox.call::<_, u64>("address_of", ("image",)).unwrap();
                let address = base.wrapping_add(offset);
                let found = fault_at(&mut bystander, sandbox, address, access);
                assert_eq!(found, FaultKind::Unmapped(used), "{access} of {address:#x}");
            }
        }
    }

    fn nothing_is_mapped_in_the_kernels_half_of_the_addresses() {
        let mut bystander = Bystander::new();
        for address in [0x7fff_ffff_f000, 0xffff_8000_0000_0000, 0xffff_ffff_8000_0000, u64::MAX] {
            for (access, used) in ACCESSES {
                let found = fault_at(&mut bystander, sandbox(), address, access);
                assert_eq!(found, FaultKind::Unmapped(used), "{access} of {address:#x}");
            }
        }
    }

    fn the_supervisor_and_the_page_tables_are_out_of_reach() {
        let layout = layout(&limits()[0]);
        let mut bystander = Bystander::new();
        let mut regions = 0;
        for region in layout.regions() {
            let expected = |access| match region.kind {
                RegionKind::Supervisor => Some(FaultKind::Supervisor(access)),
                RegionKind::PageTables => Some(FaultKind::PageTables(access)),
                _ => None,
            };
            for (access, used) in ACCESSES {
                let Some(expected) = expected(used) else { continue };
                regions += 1;
                for address in [region.start.0, region.start.0 + 8, region.end().0 - 1] {
                    let sandbox = sandbox_with(&limits()[0]);
                    let found = fault_at(&mut bystander, sandbox, address, access);
                    assert_eq!(found, expected, "{access} of {address:#x}");
                }
            }
        }
        assert_eq!(regions, 4 * 3, "code, tables, stack and page tables");
    }

    fn no_entry_of_the_supervisor_can_be_jumped_to() {
        let entries = (SUPERVISOR_CODE.0..=SYSCALL_ENTRY.0).step_by(8);
        assert_eq!(entries.clone().count(), 33);
        let mut bystander = Bystander::new();
        for address in entries {
            let found = fault_at(&mut bystander, sandbox(), address, "execute");
            assert_eq!(found, FaultKind::Supervisor(Access::Execute), "{address:#x}");
        }
    }

    fn a_program_that_wants_writable_code_is_refused() {
        let mut file = GuestFile::of_code(&[0xf4]);
        file.segments[0].flags = R | W | X;
        let error = error(Guest::from_bytes("writable", file.to_bytes()));
        assert_eq!(error.kind(), ErrorKind::InvalidGuest);
        assert!(error.to_string().contains("writable and executable"), "{error}");
    }
}
