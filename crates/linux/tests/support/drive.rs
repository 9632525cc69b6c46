//! Bytes that are read as what a guest does: any bytes mean something, and most of it is nearly right,
//! so that calls get past their first checks. For the fuzzers.

use glowbox_linux::{Clock, Event, Limits, table};

use super::{CODE, DATA, DATA_SIZE, Guest, MEMORY, STACK, Went, files_for_fuzz, raw};

/// What a process may keep the host busy with here.
pub const LIMITS: Limits = Limits { threads: 5, descriptors: 16, areas: 256, buffered: 1 << 18 };
/// Bytes that a process may take up in the host's memory beyond that, written out.
const OVERHEAD: usize = 1 << 20;
/// Calls between two looks at the whole process.
const LOOK: u32 = 64;

/// Choices out of bytes; zeros when there are no more.
struct Choices<'a> {
    bytes: &'a [u8],
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((byte, rest)) => {
                self.bytes = rest;
                *byte
            }
            None => 0,
        }
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn below(&mut self, end: usize) -> usize {
        let choice = usize::from(self.byte()) << 8 | usize::from(self.byte());
        choice % end.max(1)
    }
}

const STRINGS: [&str; 19] = [
    "/",
    ".",
    "..",
    "",
    "a",
    "/tmp/a",
    "/tmp/d",
    "d/../a",
    "/dev/null",
    "/dev/urandom",
    "/dev/zero",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/fd/3",
    "/proc/self/maps",
    "/given/file",
    "/tmp/d/b",
    "/tmp/link",
    "/tmp/../tmp/./a/",
];
/// Where they lie, and structures of any content.
const TEXTS: u64 = DATA + 0x1000;
const TEXT_SIZE: u64 = 32;
const STRUCTURES: u64 = DATA + 0x2000;

fn start(clock: u8) -> Guest {
    let mut guest = Guest::with_all(LIMITS, &files_for_fuzz());
    guest.world.clock = match clock % 4 {
        0 => Clock::Frozen(std::time::SystemTime::UNIX_EPOCH),
        1 => Clock::Real,
        _ => Clock::Virtual,
    };
    for (index, text) in (0..).zip(STRINGS) {
        guest.put(TEXTS + index * TEXT_SIZE, text.as_bytes());
    }
    guest
}

/// Lets a guest do what bytes say, and checks that the host bears it.
pub fn drive(bytes: &[u8]) -> u32 {
    let mut choices = Choices { bytes };
    let clock = choices.byte();
    let mut guest = start(clock);
    let mut results = [0; 8];
    let mut calls = 0;
    while !choices.bytes.is_empty() {
        let went = step(&mut guest, &mut choices, &mut results, calls);
        calls += 1;
        match went {
            Went::On | Went::Entered => {
                assert_eq!(guest.registers.rflags & !0x24_0dd5, super::FLAGS, "{went:?}");
            }
            Went::Sleeps { .. } => {
                if let Went::Sleeps { .. } = guest.event(Event::Woken) {
                    check(&guest);
                    guest = start(clock);
                }
            }
            Went::Deadlock => {
                check(&guest);
                guest = start(clock);
            }
            Went::Exited(_) | Went::Killed(_) | Went::OutOfMemory => guest = start(clock),
        }
        if calls.is_multiple_of(LOOK) {
            check(&guest);
        }
    }
    check(&guest);
    calls
}

/// What must hold whatever a guest has done.
fn check(guest: &Guest) {
    let process = &guest.process;
    assert!(process.is_sound(MEMORY));
    assert!(process.threads() <= LIMITS.threads as usize);
    let written = postcard::to_allocvec(process).expect("it can be written to a file");
    let most = OVERHEAD + usize::try_from(LIMITS.buffered).expect("it is small");
    assert!(written.len() < most, "the process takes {} bytes", written.len());
}

fn step(guest: &mut Guest, choices: &mut Choices<'_>, results: &mut [u64; 8], calls: u32) -> Went {
    match choices.byte() {
        0..10 => guest.tick(),
        10..13 => {
            let address = argument(choices, results);
            guest.fault(14, u64::from(choices.byte() & 0x17), Some(address))
        }
        13..14 => {
            let vector = choices.byte() % 32;
            // Page faults come with an address.
            guest.fault(if vector == 14 { 13 } else { vector }, 0, None)
        }
        14..60 => {
            let at = STRUCTURES + 8 * choices.below(64) as u64;
            let words: [u64; 4] = std::array::from_fn(|_| argument(choices, results));
            guest.put_words(at, &words);
            Went::On
        }
        60..64 => {
            guest.registers.rsp = argument(choices, results);
            guest.registers.rip = CODE;
            Went::On
        }
        64..70 => {
            guest.registers.rsp = STACK - 64 * choices.below(4096) as u64;
            Went::On
        }
        // Back from a handler, as it should be.
        70..76 if guest.in_handler() => {
            guest.registers.rsp += 8;
            guest.call(raw::__NR_rt_sigreturn, &[])
        }
        _ => {
            let number = number(choices);
            let mut arguments: [u64; 6] = std::array::from_fn(|_| argument(choices, results));
            if choices.byte() < 200 {
                mend(guest, number, &mut arguments);
            }
            let went = guest.call(number, &arguments);
            // Addresses, descriptors and threads to come back to.
            if !matches!(guest.registers.rax, 0 | 0xffff_ffff_ffff_f000..) {
                results[calls as usize % 8] = guest.registers.rax;
            }
            went
        }
    }
}

/// Makes a call that would nearly always be refused one that nearly never is.
fn mend(guest: &mut Guest, number: u32, arguments: &mut [u64; 6]) {
    let [first, second, third, ..] = *arguments;
    match number {
        raw::__NR_clone => arguments[0] = THREAD | first & 0x37f_0000 & !0x40_0000,
        raw::__NR_mmap => {
            let length = (second % 64 + 1) << 12;
            *arguments = [first & !4095, length, third % 8, 0x22, u64::MAX, 0];
        }
        raw::__NR_munmap | raw::__NR_mprotect | raw::__NR_madvise => {
            *arguments = [first & !4095, (second % 64 + 1) << 12, third % 8, 0, 0, 0];
        }
        raw::__NR_rt_sigaction => {
            let flags = u64::from(raw::SA_RESTORER) | third & 0xd800_0004;
            guest.put_words(STRUCTURES, &[CODE + 0x1000, flags, CODE + 0x2000, 0]);
            *arguments = [first % 65, STRUCTURES, 0, 8, 0, 0];
        }
        raw::__NR_futex => {
            arguments[0] = STRUCTURES + first % 4 * 8;
            arguments[1] = (second % 14) | second & 0x80;
            arguments[2] = u64::from(guest.word32(arguments[0]));
            arguments[4] = STRUCTURES + third % 4 * 8;
        }
        raw::__NR_rt_sigprocmask | raw::__NR_rt_sigtimedwait => arguments[3] = 8,
        raw::__NR_rt_sigsuspend => arguments[1] = 8,
        raw::__NR_sigaltstack => {
            guest.put_words(STRUCTURES, &[DATA + 0x8000, 0, 0x2000]);
            arguments[0] = STRUCTURES;
        }
        _ => {}
    }
}

fn number(choices: &mut Choices<'_>) -> u32 {
    let all = table::all();
    match choices.byte() {
        0 => u32::from(choices.byte()) << 8 | u32::from(choices.byte()),
        // What begins much, and what the rest needs.
        1..20 => raw::__NR_clone,
        20..60 => raw::__NR_futex,
        60..80 => raw::__NR_mmap,
        80..90 => raw::__NR_rt_sigaction,
        _ => {
            let number = all[choices.below(all.len())].number;
            let ends = [
                raw::__NR_exit_group,
                raw::__NR_exit,
                raw::__NR_kill,
                raw::__NR_tkill,
                raw::__NR_tgkill,
                raw::__NR_rt_sigreturn,
            ];
            match ends.contains(&number) && choices.byte() < 200 {
                true => raw::__NR_gettid,
                false => number,
            }
        }
    }
}

const THREAD: u64 = 0x5_0f00;

fn argument(choices: &mut Choices<'_>, results: &[u64; 8]) -> u64 {
    const EDGES: [u64; 16] = [
        u64::MAX,
        u64::MAX - 7,
        i64::MAX as u64,
        1 << 63,
        0x7ff0_0000_0000,
        0x7fef_ffff_ffff,
        0x8000_0000_0000,
        0xffff_ffff,
        0x8000_0000,
        0x7fff_ffff,
        (-100_i64).cast_unsigned(),
        4096,
        4095,
        0x10_0000,
        1 << 40,
        999_999_999,
    ];
    match choices.byte() {
        0..60 => u64::from(choices.byte() % 16),
        60..100 => STRUCTURES + 8 * choices.below(64) as u64,
        100..120 => TEXTS + TEXT_SIZE * choices.below(STRINGS.len()) as u64,
        120..140 => DATA + choices.below(0x1_0000) as u64 * 8 % DATA_SIZE,
        140..160 => EDGES[choices.below(EDGES.len())],
        160..180 => results[choices.below(results.len())],
        180..190 => results[choices.below(results.len())].wrapping_add(choices.word() >> 48),
        190..200 => u64::from(choices.byte()) << 12,
        200..210 => 1 << (choices.byte() % 64),
        210..220 => 1 << (choices.byte() % 64) | 1 << (choices.byte() % 32),
        220..225 => choices.word(),
        225..235 => THREAD,
        235..240 => CODE,
        // What mmap wants.
        240..248 => 0x22 | u64::from(choices.byte() & 0x10),
        _ => u64::from(choices.byte()),
    }
}
