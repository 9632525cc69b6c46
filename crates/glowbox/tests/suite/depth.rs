//! What still holds if something before it should not: behind ring 3 there is a supervisor that can do
//! next to nothing, behind that a VM that has next to nothing, and a process that gives little away.
//!
//! No guest gets as far as these tests: they write code into the supervisor, or change page tables, which
//! only the host can.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use glowbox::Engine;
use glowbox_core::elf::Program;
use glowbox_core::layout::{
    Layout, Limits, RegionKind, SUPERVISOR_CODE_GPA, SUPERVISOR_TABLES_GPA,
};
use glowbox_core::load::{self, Start};
use glowbox_core::registers::CpuState;
use glowbox_machine::interrupt::{RunControl, default_signal, install};
use glowbox_machine::supervisor::PORT;
use glowbox_machine::{Exit, open};
use glowbox_testguest::{DATA, GuestFile};

use crate::patterns::{Places, leaks};
use crate::support::{builder, guest, isolated, leave_out, loader, sandbox};
use crate::trace::count_system_calls;
use crate::windows::{Mapping, is_image, mappings, windows};

const PAGE: usize = 4096;
/// `ud2`, whose entry of the supervisor the tests replace.
const UD2: [u8; 2] = [0x0f, 0x0b];
/// Offset of that entry.
const ENTRY: usize = 6 * 8;
/// Offset in the supervisor's page at which nothing of its own is.
const FREE: usize = 0x800;
/// Bits of CR4: UMIP, SMEP, SMAP, and their names in /proc/cpuinfo.
const PROTECTIONS: [(u32, &str); 3] = [(11, "umip"), (20, "smep"), (21, "smap")];

/// Runs a guest of raw code in a machine whose memory `change` has changed, and returns how that ended,
/// and memory.
fn run(code: &[u8], change: impl FnOnce(&mut [u8], &Layout) + Send + 'static) -> (Exit, Vec<u8>) {
    let program = Program::parse(GuestFile::of_code(code).to_bytes().into()).expect("a guest");
    // What it runs is of this test's making, and may not end.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let layout = Layout::new(&program, Limits::MIN, 7).expect("limits");
        let signal = install(default_signal()).expect("a signal");
        let platform = open(None).expect("a hypervisor");
        let memory = platform.memory(layout.size()).expect("memory");
        let control = Arc::new(RunControl::new(signal));
        let mut machine = platform.machine(memory, control).expect("a VM");
        let start = Start::named(b"raw");
        let entry = load::load(&program, &layout, &start, machine.memory_mut());
        let state = CpuState::starting_at(entry.rip.0, entry.rsp.0);
        machine.install(&state);
        change(machine.memory_mut(), &layout);
        machine.start(&state).expect("a start");
        let exit = machine.run().expect("a run");
        sender.send((exit, machine.memory().to_vec())).expect("the test waits");
    });
    receiver.recv_timeout(Duration::from_secs(20)).expect("the guest ends")
}

/// Runs code in ring 0, in the place of an entry of the supervisor, and returns how that ended.
fn run_in_ring_0(code: &'static [u8]) -> Exit {
    let change = move |memory: &mut [u8], _: &Layout| {
        let page = &mut memory[usize::try_from(SUPERVISOR_CODE_GPA.0).unwrap()..][..PAGE];
        // jmp to the free part of the page
        let distance = u32::try_from(FREE - ENTRY - 5).unwrap();
        page[ENTRY] = 0xe9;
        page[ENTRY + 1..ENTRY + 5].copy_from_slice(&distance.to_le_bytes());
        page[FREE..FREE + code.len()].copy_from_slice(code);
        // out PORT, al
        page[FREE + code.len()..][..2].copy_from_slice(&[0xe6, PORT]);
    };
    run(&UD2, change).0
}

/// The vector of the exception that ring 0 has raised.
#[track_caller]
fn ring_0_exception(exit: &Exit) -> &str {
    let Exit::Broken { reason } = exit else { panic!("{exit:?}") };
    assert!(reason.contains("in ring 0"), "{reason}");
    reason.split(',').next().expect("text")
}

fn cpu_has(flag: &str) -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").expect("/proc/cpuinfo");
    let flags = text.lines().find(|line| line.starts_with("flags")).expect("flags");
    flags.split_whitespace().any(|word| word == flag)
}

/// The descriptors of this process that are images of guests.
fn images() -> Vec<std::fs::File> {
    let links = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    let is_image = |path: &std::path::Path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("glowbox-image"))
    };
    let paths = links.map(|entry| entry.expect("a descriptor").path());
    paths
        .filter(|path| is_image(path))
        .filter_map(|path| std::fs::File::options().read(true).write(true).open(path).ok())
        .collect()
}

tests! {
    fn code_in_ring_0_runs_and_leaves_by_the_port() {
        if lacks!(supervisor) {
            return;
        }
        // What the other tests stand on. mov al, 7
        let Exit::Port { port, registers } = run_in_ring_0(&[0xb0, 7]) else { panic!("no exit") };
        assert_eq!((port, registers.rax & 0xff), (u16::from(PORT), 7));
    }

    fn model_specific_registers_are_denied_to_ring_0() {
        if lacks!(denied_msrs) {
            return;
        }
        // mov ecx, LSTAR; rdmsr. The same with EFER, and with wrmsr.
        for code in [
            &[0xb9, 0x82, 0, 0, 0xc0, 0x0f, 0x32][..],
            &[0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32],
            &[0xb9, 0x82, 0, 0, 0xc0, 0x0f, 0x30],
            &[0xb9, 0x10, 0, 0, 0, 0x0f, 0x32],
        ] {
            assert_eq!(ring_0_exception(&run_in_ring_0(code)), "vector 13", "{code:x?}");
        }
    }

    fn smep_smap_and_umip_are_on_where_the_cpu_has_them() {
        if lacks!(supervisor) {
            return;
        }
        // mov rax, cr4
        let Exit::Port { registers, .. } = run_in_ring_0(&[0x0f, 0x20, 0xe0]) else {
            panic!("no exit")
        };
        for (bit, flag) in PROTECTIONS {
            let on = registers.rax >> bit & 1 == 1;
            if !on && !cpu_has(flag) {
                leave_out(&format!("this CPU has no {flag}"));
                continue;
            }
            assert!(on, "{flag}: {:#x}", registers.rax);
        }
    }

    fn ring_0_runs_no_page_of_the_guest() {
        if lacks!(supervisor) {
            return;
        }
        // mov rax, [rsp]: where the exception came from; jmp rax
        let exit = run_in_ring_0(&[0x48, 0x8b, 4, 0x24, 0xff, 0xe0]);
        assert_eq!(ring_0_exception(&exit), "vector 14");
    }

    fn ring_0_reads_no_page_of_the_guest() {
        if lacks!(supervisor) {
            return;
        }
        // mov rax, [rsp]: where the exception came from; mov al, [rax]
        let exit = run_in_ring_0(&[0x48, 0x8b, 4, 0x24, 0x8a, 0]);
        assert_eq!(ring_0_exception(&exit), "vector 14");
    }

    fn ring_0_can_write_neither_code_nor_tables_nor_page_tables() {
        if lacks!(supervisor) {
            return;
        }
        for (name, code) in [
            // lea rax, [rip]; mov [rax], al
            ("code", &[0x48, 0x8d, 5, 0, 0, 0, 0, 0x88, 0][..]),
            // The page behind it.
            ("tables", &[0x48, 0x8d, 5, 0, 0x10, 0, 0, 0x88, 0]),
            // The fourth page behind it.
            ("page tables", &[0x48, 0x8d, 5, 0, 0x40, 0, 0, 0x88, 0]),
        ] {
            assert_eq!(ring_0_exception(&run_in_ring_0(code)), "vector 14", "{name}");
        }
    }

    fn the_supervisor_cannot_be_written_even_if_a_page_table_allows_it() {
        if lacks!(supervisor) {
            return;
        }
        for target in [SUPERVISOR_CODE_GPA, SUPERVISOR_TABLES_GPA] {
            // mov byte [rip + distance to the data page], 1; hlt
            let distance = u32::try_from(DATA - 0x1000 - 7).unwrap().to_le_bytes();
            let [a, b, c, d] = distance;
            let code = [0xc6, 5, a, b, c, d, 1, 0xf4];
            let (exit, memory) = run(&code, move |memory, layout| {
                // The guest's data page becomes the supervisor's.
                let data = layout.memory(RegionKind::Data).start;
                let tables = layout.memory(RegionKind::PageTables);
                let tables = usize::try_from(tables.start).unwrap()..usize::try_from(tables.end).unwrap();
                let (entries, _) = memory[tables].as_chunks_mut::<8>();
                let is_it = |entry: &&mut [u8; 8]| {
                    let bits = u64::from_le_bytes(**entry);
                    bits & 0x000f_ffff_ffff_f000 == data && bits & 7 == 7
                };
                let mut found: Vec<_> = entries.iter_mut().filter(is_it).collect();
                assert_eq!(found.len(), 1);
                let bits = u64::from_le_bytes(*found[0]) & 0xfff0_0000_0000_0fff | target.0;
                *found[0] = bits.to_le_bytes();
            });
            let Exit::Broken { reason } = exit else { panic!("{exit:?}") };
            assert!(reason.contains("not to be written"), "{reason}");
            let start = usize::try_from(target.0).unwrap();
            let (_, untouched) = run(&UD2, |_, _| {});
            assert_eq!(memory[start..start + PAGE], untouched[start..start + PAGE]);
        }
    }

    fn a_vm_has_no_interrupt_controller_timer_or_device() {
        if lacks!(known_requests) {
            return;
        }
        isolated("depth::a_vm_has_no_interrupt_controller_timer_or_device", || {
            let calls = count_system_calls(|mark| {
                mark();
                let engine = Engine::new().unwrap();
                let sandbox = builder().engine(&engine).build(guest("testing")).unwrap();
                let snapshot = { sandbox }.snapshot().unwrap();
                drop(snapshot.spawn().unwrap());
                mark();
            });
            // Everything that KVM is ever asked for: version, extensions, VM, run page's size, vCPU,
            // supported CPUID, memory, CPUID, MSRs and their filter, special and extended registers, run.
            // Each by its number in the low byte; none of 0x60 to 0x79 or 0xe0 to 0xe3, which make devices.
            let known = [
                0x00, 0x01, 0x03, 0x04, 0x05, 0x41, 0x46, 0x80, 0x81, 0x82, 0x83, 0x84, 0x88, 0x89, 0x90,
                0x9f, 0xa0, 0xa4, 0xa5, 0xa6, 0xa7, 0xc6, 0xcf,
            ];
            let mut seen = 0;
            for (_, request) in calls.keys().filter(|(number, _)| *number == libc::SYS_ioctl) {
                // Requests of KVM have its letter.
                if request >> 8 & 0xff != 0xae {
                    continue;
                }
                seen += 1;
                assert!(known.contains(&(request & 0xff)), "{request:#x}");
            }
            assert!(seen > 8, "{calls:?}");
        });
    }

    fn core_dumps_have_no_guest_memory_unless_asked() {
        isolated("depth::core_dumps_have_no_guest_memory_unless_asked", || {
            // The allocator's heaps for other threads can lie beside windows. They start at such multiples.
            let is_heap = |mapping: &Mapping| {
                mapping.name.is_empty() && mapping.range.start.is_multiple_of(64 << 20)
            };
            for asked in [false, true] {
                let engine = Engine::builder().guest_memory_in_core_dumps(asked).build().unwrap();
                let mut built = leaks(&engine);
                let size = Places::of(&mut built).layout.size();
                let check = |when: &str| {
                    let images = mappings().into_iter().filter(is_image);
                    let seen: Vec<_> = windows(size).into_iter().chain(images).collect();
                    assert!(!seen.is_empty(), "{when}");
                    for mapping in seen.into_iter().filter(|mapping| !is_heap(mapping)) {
                        assert_eq!(mapping.left_out_of_dumps, !asked, "{when}: {mapping:x?}");
                    }
                };
                check("built");
                built.reset().unwrap();
                check("reset");
                let snapshot = built.snapshot().unwrap();
                check("captured");
                let mut spawned = snapshot.spawn().unwrap();
                check("spawned");
                spawned.reset().unwrap();
                drop(spawned);
                let pooled = snapshot.spawn().unwrap();
                check("spawned in a used VM");
                drop(pooled);
                let folder = tempfile::tempdir().unwrap();
                // By its name it counts as an image.
                let path = folder.path().join("glowbox-image");
                let testing = builder().engine(&engine).build(guest("testing")).unwrap();
                { testing }.snapshot().unwrap().save(&path).unwrap();
                drop((snapshot, built));
                let loader = loader().engine(&engine);
                drop(loader.load(&path).unwrap().spawn().unwrap());
                check("loaded from a file");
            }
        });
    }

    fn images_are_sealed_against_every_change() {
        let snapshot = sandbox().snapshot().unwrap();
        let images = images();
        assert!(!images.is_empty());
        for image in images {
            let size = image.metadata().unwrap().len();
            for refused in [
                image.write_at(&[1], 0).map(|_| ()),
                image.set_len(size + 1),
                image.set_len(size.saturating_sub(1)),
            ] {
                assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
            }
        }
        assert_eq!(snapshot.spawn().unwrap().call::<_, u32>("add", (2u32, 3u32)).unwrap(), 5);
    }
}
