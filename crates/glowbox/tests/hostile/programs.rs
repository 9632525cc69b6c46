//! Hostile machine code in Linux programs, whose system calls and faults the host answers: however it goes on, the
//! host has a status or an error that names what happened, another sandbox goes on, and what is spawned next
//! in the same VM is clean.
//!
//! The program is one file of machine code. Its argument says which case it runs; the first is honest, and looks
//! whether registers, data and stack are as a program finds them that nobody has run before.

use std::time::Duration;

use glowbox::{ErrorKind, Guest, Output, Process, Sandbox, Snapshot};
use glowbox_core::layout::{PAGE_TABLES, RESUME, SUPERVISOR_CODE};
use glowbox_machine::supervisor::SYSCALL_ENTRY;
use glowbox_testguest::{CODE, GuestFile, R, Segment, W, X};

use crate::generate::{Harmless, MAPS, PREFIXES, Random};
use crate::ground::with_cases;
use crate::sandboxes;
use crate::support::{alone, check_growth, factor, seed, tried};

/// Bytes of a case's code.
const SNIPPET: usize = 256;
/// Cases that two bytes which are not zero can name, without the honest one.
const MOST: usize = 255 * 255 - 1;
/// Where the data is, and how much.
const DATA: u64 = 0x100_0000;
const DATA_SIZE: u16 = 8192;
/// What the honest case ends with if all is clean.
const CLEAN: i32 = 41;

/// `lea REG, [rip + place]`, behind so many bytes of code.
fn lea(code: &mut Vec<u8>, rex: u8, register: u8, place: u64) {
    let next = CODE + code.len() as u64 + 7;
    let relative = u32::try_from(place - next).expect("it lies behind");
    code.extend([rex, 0x8d, 0x05 | register << 3]);
    code.extend(relative.to_le_bytes());
}

/// The beginning, which leads to the case, and the honest one: the first snippets.
fn beginning() -> Vec<u8> {
    // or every register but RSP into RAX
    let mut code = vec![];
    for other in [1, 2, 3, 5, 6, 7] {
        code.extend([0x48, 0x09, 0xc0 | other << 3]);
    }
    for other in 0..8 {
        code.extend([0x4c, 0x09, 0xc0 | other << 3]);
    }
    // mov r14, rax; por xmm0, xmm1 to xmm15; movq rax, xmm0; punpckhqdq xmm0, xmm0; movq rbx, xmm0
    code.extend([0x49, 0x89, 0xc6]);
    (1..8).for_each(|other| code.extend([0x66, 0x0f, 0xeb, 0xc0 | other]));
    (0..8).for_each(|other| code.extend([0x66, 0x41, 0x0f, 0xeb, 0xc0 | other]));
    code.extend([
        0x66, 0x48, 0x0f, 0x7e, 0xc0, 0x66, 0x0f, 0x6d, 0xc0, 0x66, 0x48, 0x0f, 0x7e, 0xc3,
    ]);
    // or r14, rax; or r14, rbx
    code.extend([0x49, 0x09, 0xc6, 0x49, 0x09, 0xde]);
    // lea r15, [rip + data]
    lea(&mut code, 0x4c, 7, DATA);
    // mov rax, [rsp + 16]; movzx ecx, byte [rax]; movzx edx, byte [rax + 1]; dec ecx; dec edx
    code.extend([0x48, 0x8b, 0x44, 0x24, 16, 0x0f, 0xb6, 0x08, 0x0f, 0xb6, 0x50, 1]);
    code.extend([0xff, 0xc9, 0xff, 0xca]);
    // imul ecx, ecx, 255; add ecx, edx; imul rcx, rcx, SNIPPET
    code.extend([0x69, 0xc9, 255, 0, 0, 0, 0x01, 0xd1, 0x48, 0x69, 0xc9]);
    code.extend(u32::try_from(SNIPPET).expect("small").to_le_bytes());
    // lea rax, [rip + snippets]; add rax, rcx; jmp rax
    lea(&mut code, 0x48, 0, CODE + SNIPPET as u64);
    code.extend([0x48, 0x01, 0xc8, 0xff, 0xe0]);
    assert!(code.len() <= SNIPPET);
    code.resize(SNIPPET, 0xcc);
    // mov edi, CLEAN; mov rsi, r14; test rsi, rsi; jz +3; add edi, 1
    let mut honest = vec![0xbf];
    honest.extend(CLEAN.to_le_bytes());
    honest.extend([0x4d, 0x85, 0xf6, 0x74, 3, 0x83, 0xc7, 1]);
    // Data: mov ebx, edi; mov rdi, r15; xor eax, eax; mov ecx, size; repe scasb; je +3; add ebx, 2
    honest.extend([0x89, 0xfb, 0x4c, 0x89, 0xff, 0x31, 0xc0, 0xb9]);
    honest.extend(u32::from(DATA_SIZE).to_le_bytes());
    honest.extend([0xf3, 0xae, 0x74, 3, 0x83, 0xc3, 2]);
    // Below the stack pointer: lea rdi, [rsp - 8192]; mov ecx, 8192; repe scasb; je +3; add ebx, 4
    honest.extend([0x48, 0x8d, 0xbc, 0x24]);
    honest.extend((-8192_i32).to_le_bytes());
    honest.push(0xb9);
    honest.extend(8192_u32.to_le_bytes());
    honest.extend([0xf3, 0xae, 0x74, 3, 0x83, 0xc3, 4]);
    // And both are written to: mov byte [r15 + 100], 1; mov byte [rsp - 100], 1
    honest.extend([0x41, 0xc6, 0x47, 100, 1, 0xc6, 0x44, 0x24, 0x9c, 1]);
    // mov edi, ebx; mov eax, 231; syscall
    honest.extend([0x89, 0xdf, 0xb8, 231, 0, 0, 0, 0x0f, 0x05]);
    honest.resize(SNIPPET, 0xcc);
    [code, honest].concat()
}

/// The program with these cases.
fn program(cases: &[Vec<u8>]) -> Guest {
    let code = with_cases(beginning(), cases, SNIPPET);
    let mut file = GuestFile::program(&[]);
    let data = vec![0; usize::from(DATA_SIZE)];
    file.segments = vec![Segment::of(CODE, R | X, code), Segment::of(DATA, R | W, data)];
    Guest::from_bytes("attacks", file.to_bytes()).expect("a program")
}

/// The argument for a case; the honest one is 0.
fn argument(case: usize) -> Vec<u8> {
    [case / 255, case % 255].map(|digit| u8::try_from(digit + 1).expect("a digit")).to_vec()
}

fn spawned(snapshot: &Snapshot, case: usize) -> Process {
    let spawner = snapshot.spawner().args([argument(case)]);
    // A machine may be busy, and the honest one is to end by itself.
    let allowed = Duration::from_millis(if case == 0 { 10_000 } else { 50 });
    spawner.deadline(allowed).load().expect("a program")
}

/// What a Linux program's values may be: small numbers, places of its own and others'.
fn value(random: &mut Random) -> u64 {
    const FROM: [u64; 24] = [
        0,
        1,
        2,
        // Flags of a thread, of an anonymous mapping, a size, a signal's number.
        0x5_0f00,
        0x22,
        0x32,
        4096,
        11,
        CODE,
        DATA,
        DATA + 64,
        DATA + 4095,
        1 << 20,
        SYSCALL_ENTRY.0,
        SUPERVISOR_CODE.0,
        PAGE_TABLES.0,
        RESUME.0,
        1 << 47,
        (1 << 47) - 4096,
        0xffff_8000_0000_0000,
        1 << 63,
        u64::MAX,
        u64::MAX - 4095,
        0xffff_ffff,
    ];
    match random.below(8) {
        0 => random.next(),
        1 => random.next() & 0xffff,
        _ => *random.pick(&FROM),
    }
}

/// `mov REG, value`.
fn set(register: u8, value: u64) -> Vec<u8> {
    let mut code = vec![0x48 | register >> 3, 0xb8 | register & 7];
    code.extend(value.to_le_bytes());
    code
}

/// Three system calls in a row, with any numbers and arguments.
fn calls(random: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..3 {
        // RDI, RSI, RDX, R10, R8, R9; the last ones of a call before stay.
        for register in [7, 6, 2, 10, 8, 9].into_iter().take(3 + random.below(4)) {
            code.extend(match random.below(3) {
                // lea REG, [r15 + n], or mov REG, rsp
                0 => [
                    &[0x49 | register >> 3 << 2, 0x8d, 0x87 | (register & 7) << 3][..],
                    &u32::try_from(random.below(4096)).expect("small").to_le_bytes(),
                ]
                .concat(),
                1 if random.below(4) == 0 => vec![0x48 | register >> 3, 0x89, 0xe0 | register & 7],
                _ => set(register, value(random)),
            });
        }
        let number = match random.below(16) {
            // Any at all, and what is most often asked for in programs that mean no good.
            0 => random.next(),
            1..4 => *random.pick(&[9, 10, 11, 12, 13, 14, 15, 25, 28, 56, 62, 131, 158, 202, 234]),
            _ => random.below(340) as u64,
        };
        code.extend([0xb8]);
        code.extend(number.to_le_bytes()[..4].iter());
        code.extend([0x0f, 0x05]);
    }
    code
}

/// A state that no compiler makes, and then a system call, or a jump to anywhere.
fn states(random: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    if random.byte() & 1 == 0 {
        // wrfsbase rax; wrgsbase rax
        code.extend(set(0, value(random)));
        code.extend([0xf3, 0x48, 0x0f, 0xae, *random.pick(&[0xd0, 0xd8])]);
    }
    if random.byte() & 1 == 0 {
        // push imm32; popfq
        code.push(0x68);
        code.extend(random.bytes(4));
        code.push(0x9d);
    }
    if random.byte() & 1 == 0 {
        // mov dword [r15], imm32; ldmxcsr [r15]; or fldenv, fldcw, fxrstor of zeros
        code.extend([0x41, 0xc7, 0x07]);
        code.extend(random.bytes(4));
        code.extend(*random.pick(&[
            &[0x41, 0x0f, 0xae, 0x17][..],
            &[0x41, 0xd9, 0x27],
            &[0x41, 0xd9, 0x2f],
            &[0x41, 0x0f, 0xae, 0x0f],
        ]));
    }
    for register in [1, 11, 3, 5, 12] {
        code.extend(set(register, value(random)));
    }
    if random.below(4) == 0 {
        code.extend(set(4, value(random)));
    }
    code.extend(set(0, random.below(340) as u64));
    if random.byte() & 1 == 0 {
        code.extend([0x0f, 0x05]);
        return code;
    }
    code.extend(set(2, if random.below(4) == 0 { value(random) } else { SYSCALL_ENTRY.0 }));
    // jmp rdx; or push rdx, ret
    code.extend(*random.pick(&[&[0xff, 0xe2][..], &[0x52, 0xc3]]));
    code
}

/// Instructions that do no harm, and then an opcode with prefix and operands.
fn instructions(random: &mut Random) -> Vec<u8> {
    let count = random.below(30);
    let mut code = Harmless::new(random, count).bytes;
    let (prefix, map) = (*random.pick(&PREFIXES), *random.pick(&MAPS[..2]));
    code.truncate(SNIPPET - 32);
    [&code[..], prefix, map, &random.bytes(12)].concat()
}

/// A class of attacks, and a case of it.
type Class = (&'static str, fn(&mut Random) -> Vec<u8>);

const CLASSES: [Class; 4] = [
    ("Linux programs: random bytes", |random| random.bytes(SNIPPET)),
    ("Linux programs: random instructions", instructions),
    ("Linux programs: random system calls", calls),
    ("Linux programs: random states", states),
];

/// A snapshot of the program with these cases, before it has run.
fn snapshot(cases: &[Vec<u8>]) -> Snapshot {
    let builder = Sandbox::builder()
        .memory_limit(4 << 20)
        .stdout(Output::discard())
        .stderr(Output::discard())
        .scratch("/tmp", 1 << 20)
        .current_directory("/tmp");
    builder.load(program(cases)).expect("a program").snapshot().expect("a snapshot")
}

/// Runs so many cases of a class, with a sandbox that looks on, and checks what is promised.
fn attack(class: &Class, seed: u64, count: usize) {
    let (name, make) = class;
    let cases: Vec<_> =
        (0..count as u64).map(|case| make(&mut Random::new(seed ^ case << 20))).collect();
    let snapshot = snapshot(&cases);
    let mut bystander = Sandbox::builder().build(sandboxes::guest(&[])).expect("a sandbox");
    for (case, code) in cases.iter().enumerate() {
        let looking_on = u8::try_from(case % 200).expect("small");
        if looking_on == 0 {
            bystander.reset().expect("a reset");
        }
        let mut attacker = spawned(&snapshot, case + 1);
        match attacker.run() {
            Ok(status) => {
                let one = status.code().is_some() != status.signal().is_some();
                assert!(one, "{code:02x?}: {status:?}");
            }
            Err(error) => {
                let named = match error.kind() {
                    ErrorKind::Fault | ErrorKind::StackOverflow => error.fault().is_some(),
                    ErrorKind::Protocol
                    | ErrorKind::Deadline
                    | ErrorKind::Deadlock
                    | ErrorKind::OutOfMemory => true,
                    _ => false,
                };
                assert!(named && !error.to_string().is_empty(), "{code:02x?}: {error:?}");
            }
        }
        assert_eq!(sandboxes::honest(&mut bystander), looking_on + 1, "{code:02x?}");
        drop(attacker);
        for _ in 0..2 {
            let next = spawned(&snapshot, 0).run();
            let status = next.unwrap_or_else(|error| panic!("{code:02x?}: {error:?}"));
            assert_eq!(status.code(), Some(CLEAN), "{code:02x?}: {status:?}");
        }
        tried(name, 1);
    }
}

tests! {
    fn hostile_programs_end_with_a_status_or_an_error_and_leave_nothing() {
        let seed = seed("hostile_programs_end_with_a_status_or_an_error_and_leave_nothing");
        let count = usize::try_from(400 * factor()).expect("a factor").min(MOST);
        CLASSES.iter().for_each(|class| attack(class, seed, count));
    }

    fn the_honest_case_sees_what_an_attacker_could_leave() {
        // In registers, in data and on the stack: mov r14, rsp; mov byte [r15], 1; push rsp, pop rax.
        let left: [(&[u8], i32); 3] =
            [(&[0x49, 0x89, 0xe6], 1), (&[0x41, 0xc6, 0x07, 1], 2), (&[0x54, 0x58], 4)];
        let case = |(number, (code, _)): (usize, &(&[u8], i32))| {
            // jmp to the honest case
            let to = (number + 1) * SNIPPET + code.len() + 5;
            [*code, &[0xe9], &(-i32::try_from(to).expect("small")).to_le_bytes()].concat()
        };
        let cases: Vec<_> = left.iter().enumerate().map(case).collect();
        let snapshot = snapshot(&cases);
        for (number, (_, seen)) in left.iter().enumerate() {
            let status = spawned(&snapshot, number + 1).run().expect("a status");
            assert_eq!(status.code(), Some(CLEAN + seen), "{status:?}");
            assert_eq!(spawned(&snapshot, 0).run().expect("a status").code(), Some(CLEAN));
        }
    }

    fn the_host_does_not_grow_however_many_programs_attack() {
        alone("programs::the_host_does_not_grow_however_many_programs_attack", || {
            check_growth(100, |number| CLASSES.iter().for_each(|class| attack(class, number, 50)));
        });
    }
}
