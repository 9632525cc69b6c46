//! Hostile machine code in whole sandboxes: the error names what happened, another sandbox goes on, and after
//! a reset this one works and is clean. And the process has no more descriptors, mappings and memory after
//! thousands of such guests than before them.
//!
//! The guest is one file of machine code with a function for each case, and one that is honest: it counts its
//! calls in its data, which every reset has to take back.

use std::time::Duration;

use glowbox::{CallOptions, ErrorKind, Guest, Sandbox};
use glowbox_abi::CALL_PORT;
use glowbox_abi::mailbox::{FROM_GUEST_OFFSET, FromGuestKind};
use glowbox_core::elf::Program;
use glowbox_core::layout::{Layout, Limits, RegionKind};
use glowbox_core::registers::Registers;
use glowbox_testguest::{CODE, GuestFile, R, Record, Segment, W, X};

use crate::generate::{MAPS, PREFIXES, Random};
use crate::ground::{Ground, with_cases};
use crate::support::{alone, check_growth, factor, seed, tried};

/// Bytes of a function's code, and of its record: a record's offset leads to the code.
const SNIPPET: usize = 48;
/// Bytes of the record before the functions'.
const FIRST_RECORD: u8 = 32;
const SIGNATURE: &str = "() -> u8";
/// Where the guest counts.
const COUNTER: u64 = 0x100_0000;
/// The honest function, and a case's.
const HONEST: &str = "honest";

fn name(case: usize) -> String {
    format!("c{case:05}")
}

/// Where control page and outgoing buffer are in every guest of this kind.
fn mailbox() -> (u64, u64) {
    let program = Program::parse(GuestFile::of_code(&[0xcc]).to_bytes().into()).expect("a guest");
    let layout = Layout::new(&program, Limits::DEFAULT, 0).expect("limits");
    let start = |kind| layout.region(kind).start.0;
    (start(RegionKind::Control), start(RegionKind::Outgoing))
}

/// The guest with a function for each piece of code.
pub(crate) fn guest(cases: &[Vec<u8>]) -> Guest {
    let (control, outgoing) = mailbox();
    let field = u8::try_from(FROM_GUEST_OFFSET).expect("it is on the second cache line");
    let relative = |from: usize, to: u64| {
        let from = CODE + from as u64;
        u32::try_from(to - from).expect("a small file").to_le_bytes()
    };
    // mov rbx, control; mov dword [rbx + field], Ready; out PORT, al
    let mut code = [&[0x48, 0xbb][..], &control.to_le_bytes(), &[0xc7, 0x43, field]].concat();
    code.extend((FromGuestKind::Ready as u32).to_le_bytes());
    code.extend([0xe6, CALL_PORT]);
    let served = code.len();
    // mov eax, [rbx + 8]; sub eax, 32; lea rcx, [rip + snippets]; add rcx, rax; jmp rcx
    code.extend([0x8b, 0x43, 8, 0x83, 0xe8, FIRST_RECORD, 0x48, 0x8d, 0x0d, 5, 0, 0, 0]);
    code.extend([0x48, 0x01, 0xc1, 0xff, 0xe1]);
    let snippets = code.len();
    // lea rdx, [rip + counter]; inc byte [rdx]; mov al, [rdx]; mov rcx, outgoing; mov [rcx], al
    code.extend([0x48, 0x8d, 0x15]);
    code.extend(relative(snippets + 7, COUNTER));
    code.extend([0xfe, 0x02, 0x8a, 0x02, 0x48, 0xb9]);
    code.extend(outgoing.to_le_bytes());
    code.extend([0x88, 0x01, 0xc7, 0x43, field]);
    code.extend((FromGuestKind::Return as u32).to_le_bytes());
    // mov qword [rbx + length], 1; out PORT, al; jmp served
    code.extend([0x48, 0xc7, 0x43, field + 24, 1, 0, 0, 0, 0xe6, CALL_PORT]);
    let back =
        i32::try_from(served).expect("small") - i32::try_from(code.len() + 5).expect("small");
    code.push(0xe9);
    code.extend(back.to_le_bytes());
    code.resize(snippets + SNIPPET, 0xcc);
    let code = with_cases(code, cases, SNIPPET);
    let mut file = GuestFile::of_code(&[]);
    file.segments =
        vec![Segment::of(CODE, R | X, code), Segment::of(COUNTER, R | W, vec![0; 4096])];
    let exports = file.exports.as_mut().expect("records");
    exports.push(Record::function(HONEST, SIGNATURE));
    exports.extend((0..cases.len()).map(|case| Record::function(&name(case), SIGNATURE)));
    Guest::from_bytes("attacks", file.to_bytes()).expect("a guest")
}

fn sandbox(guest: &Guest) -> Sandbox {
    Sandbox::builder().deadline(Duration::from_millis(100)).build(guest.clone()).expect("a sandbox")
}

/// An honest call, on a machine that may be busy with something else.
pub(crate) fn honest(sandbox: &mut Sandbox) -> u8 {
    let options = CallOptions::new().deadline(Duration::from_secs(10));
    sandbox.call_with(&options, HONEST, ()).expect("an honest call")
}

/// Something of every class: opcodes, software interrupts, ports, random bytes.
fn attacks(random: &mut Random, streams: usize) -> Vec<Vec<u8>> {
    let mut cases = Vec::new();
    for opcode in 0..=255u8 {
        for map in &MAPS[..2] {
            let prefix = *random.pick(&PREFIXES);
            cases.push([prefix, map, &[opcode], &random.bytes(8)[..]].concat());
        }
        cases.push(vec![0xcd, opcode]);
        cases.push(vec![0xe6, opcode]);
    }
    cases.extend((0..streams).map(|_| random.bytes(SNIPPET)));
    cases
}

/// Runs each attack in a sandbox, with one that looks on, and checks what is promised.
fn attack(class: &'static str, seed: u64, streams: usize) {
    let cases = attacks(&mut Random::new(seed), streams);
    let guest = guest(&cases);
    let snapshot = sandbox(&guest).snapshot().expect("a snapshot");
    let mut attacker = snapshot.spawn().expect("a sandbox");
    let mut bystander = sandbox(&guest);
    for (case, code) in cases.iter().enumerate() {
        let looking_on = u8::try_from(case % 200).expect("small");
        if looking_on == 0 {
            bystander.reset().expect("a reset");
        }
        if let Err(error) = attacker.call::<_, u8>(&name(case), ()) {
            let text = error.to_string();
            let named = match error.kind() {
                ErrorKind::Fault | ErrorKind::StackOverflow => {
                    error.fault().is_some() && text.contains("rip 0x")
                }
                ErrorKind::Protocol | ErrorKind::Deadline => true,
                _ => false,
            };
            assert!(named && !text.is_empty(), "{code:02x?}: {error:?}");
            assert!(attacker.is_spent(), "{code:02x?}: {error:?}");
        }
        assert_eq!(honest(&mut bystander), looking_on + 1, "{code:02x?}");
        attacker.reset().unwrap_or_else(|error| panic!("{code:02x?}: {error:?}"));
        assert_eq!(honest(&mut attacker), 1, "{code:02x?}");
        attacker.reset().expect("a reset");
        tried(class, 1);
    }
}

tests! {
    fn hostile_code_ends_in_an_error_and_is_gone_after_a_reset() {
        let test = "hostile_code_ends_in_an_error_and_is_gone_after_a_reset";
        let streams = usize::try_from(500 * factor()).expect("a factor").min(60_000);
        attack("hostile code in sandboxes", seed(test), streams);
    }

    fn the_host_does_not_grow_however_many_guests_attack() {
        alone("sandboxes::the_host_does_not_grow_however_many_guests_attack", || {
            check_growth(1, |number| {
                attack("hostile code in sandboxes", number, 100);
                let mut ground = Ground::new();
                for _ in 0..500 {
                    ground.run(&Random::new(number).bytes(64), &Registers::default());
                }
                drop(ground);
            });
        });
    }
}
