//! Breaks the mailbox's rules, in whatever way it is told: the host sends it steps, such as raw stores to the
//! mailbox and exits with any header.
//!
//! It is an ordinary guest otherwise, so that the library's own state is there to be confused. None of its
//! `unsafe` keeps the rules that `unsafe` asks for: an attacker's code does not either.

#![no_std]
#![no_main]

mod steps;

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use glowbox_abi::mailbox::{
    BATCH_PROGRESS_OFFSET, BOOT_INFO_OFFSET, BootInfo, FromGuestKind, ToGuestKind,
};
use glowbox_guest::__private::raw::{batch_progress, leave};
use glowbox_guest::__private::{FromGuest, decode};
use glowbox_guest::{HostError, guest_function, host_function};

use steps::{Header, Place, START_MAGIC, START_SIZE, Step};

/// Written by every attack, and put back by every reset.
static MARK: AtomicU64 = AtomicU64::new(0);

/// Steps for the start-up, which the test writes into the file.
#[used]
#[unsafe(link_section = ".data")]
static START: [u8; START_MAGIC.len() + START_SIZE] = {
    let mut bytes = [0; START_MAGIC.len() + START_SIZE];
    bytes.split_at_mut(START_MAGIC.len()).0.copy_from_slice(&START_MAGIC);
    bytes
};

macro_rules! nests {
    ($($name:ident = $number:literal)*) => {
        $(
            #[host_function]
            fn $name(steps: &[u8]) -> Result<u8, HostError>;
        )*

        fn nest(number: u8, steps: &[u8]) -> Result<u8, HostError> {
            match number {
                $($number => $name(steps),)*
                _ => Err(HostError::new("there is no such function")),
            }
        }
    };
}

nests! {
    nest_0 = 0 nest_1 = 1 nest_2 = 2 nest_3 = 3 nest_4 = 4 nest_5 = 5 nest_6 = 6 nest_7 = 7 nest_8 = 8
    nest_9 = 9 nest_10 = 10 nest_11 = 11 nest_12 = 12 nest_13 = 13 nest_14 = 14 nest_15 = 15 nest_16 = 16
    nest_17 = 17
}

/// What calls by hand go to.
#[host_function]
fn take(byte: u8) -> u8;

/// The same, with something to decode.
#[host_function]
fn parse(words: Vec<String>, pair: Option<(u8, u16)>, list: Vec<(String, u64)>) -> u64;

/// Answers with so many bytes.
#[host_function]
fn large(bytes: u32) -> Vec<u8>;

/// Calls `strike` with the steps, and answers with the data that it was given before that.
#[host_function]
fn hold(data: &[u8], steps: &[u8]) -> Result<Vec<u8>, HostError>;

/// Does the steps that these bytes encode. Returns the kind, times 16, and the status of the host's last
/// answer to a header by hand.
#[guest_function]
fn strike(steps: &[u8]) -> u8 {
    run(steps)
}

/// The same, but may fail.
#[guest_function]
fn try_strike(steps: &[u8]) -> Result<u8, String> {
    Ok(run(steps))
}

/// The same, without a result.
#[guest_function]
fn strike_blindly(steps: &[u8]) {
    run(steps);
}

/// What an attack has left: 0 after a reset.
#[guest_function]
fn traces() -> u64 {
    let (outgoing, _) = place(Place::Outgoing);
    let bytes = (0..4096).map(|at| {
        // SAFETY: a byte of the outgoing buffer, which is a page at the least.
        u64::from(unsafe { ptr::read_volatile(ptr::with_exposed_provenance::<u8>(outgoing + at)) })
    });
    MARK.load(Ordering::Relaxed) + bytes.sum::<u64>() + batch_progress().load(Ordering::Relaxed)
}

/// What an honest guest does.
#[guest_function]
fn double(number: u64) -> u64 {
    number.wrapping_mul(2)
}

/// Addresses of the program's code and variables, and of its stack.
#[guest_function]
fn addresses() -> Vec<u64> {
    let local = 0u8;
    let addresses = [
        traces as fn() -> u64 as usize,
        (&raw const MARK).addr(),
        (&raw const START).addr(),
        (&raw const local).addr(),
    ];
    addresses.iter().map(|address| *address as u64).collect()
}

#[glowbox_guest::main]
fn main() {
    // SAFETY: a static; read like this, since the compiler must not know what is in it.
    let start = unsafe { ptr::read_volatile(&raw const START) };
    let (_, start) = start.split_at(START_MAGIC.len());
    let Some((length, bytes)) = start.split_first_chunk() else { return };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(0);
    if let Some(steps) = bytes.get(..length)
        && length > 0
    {
        run(steps);
    }
}

/// Where a place starts, and its length.
fn place(place: Place) -> (usize, usize) {
    let control = ptr::from_ref(batch_progress()).expose_provenance() - BATCH_PROGRESS_OFFSET;
    let info = ptr::with_exposed_provenance(control + BOOT_INFO_OFFSET);
    // SAFETY: the control page is mapped, and the host wrote the structure before the start. It may have
    // been overwritten since.
    let info: BootInfo = unsafe { ptr::read_volatile(info) };
    let (address, size) = match place {
        Place::Control => return (control, 4096),
        Place::Incoming => (info.incoming_address, info.incoming_size),
        Place::Outgoing => (info.outgoing_address, info.outgoing_size),
        Place::Heap => (info.heap_address, info.heap_size),
    };
    (usize::try_from(address).unwrap_or(0), usize::try_from(size).unwrap_or(0))
}

fn store(to: usize, byte: u8) {
    // SAFETY: none; whatever is there, or is not.
    unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(to), byte) }
}

fn offset(of: Place, offset: u64) -> usize {
    place(of).0.wrapping_add(usize::try_from(offset).unwrap_or(0))
}

/// Leaves with a header. While the host answers by calls, does what those say.
fn leave_by_hand(header: &Header) -> u8 {
    let Header { kind, status, function, text_length, offset, length, reply_offset, amount } =
        *header;
    let header =
        FromGuest { kind, status, function, text_length, offset, length, reply_offset, amount };
    let mut answer = leave(&header);
    if kind == FromGuestKind::Log as u32 || kind == FromGuestKind::BatchFlush as u32 {
        // The host says nothing to those.
        return 0;
    }
    while answer.kind == ToGuestKind::Call as u32 {
        let (incoming, _) = place(Place::Incoming);
        let bytes = (0..answer.length).map(|at| {
            let at = usize::try_from(answer.offset + at).unwrap_or(0);
            // SAFETY: the host has said that the message is there.
            unsafe { ptr::read_volatile(ptr::with_exposed_provenance::<u8>(incoming + at)) }
        });
        let bytes: Vec<u8> = bytes.collect();
        if let Ok((steps, [])) = decode::<&[u8]>(&bytes) {
            run(steps);
        }
        answer = leave(&FromGuest { kind: 2, length: 1, ..FromGuest::default() });
    }
    (answer.kind << 4 | answer.status & 15).to_le_bytes()[0]
}

fn run(steps: &[u8]) -> u8 {
    MARK.store(0x6d61_726b, Ordering::Relaxed);
    let answer = Cell::new(0);
    match decode::<Vec<Step>>(steps) {
        Ok((steps, [])) => run_all(&steps, &answer),
        _ => panic!("these are no steps"),
    }
    answer.get()
}

fn run_all(steps: &[Step], answer: &Cell<u8>) {
    for step in steps {
        match step {
            Step::Leave(header) => answer.set(leave_by_hand(header)),
            Step::Write(place, at, bytes) => {
                let start = offset(*place, *at);
                for (at, byte) in bytes.iter().enumerate() {
                    store(start.wrapping_add(at), *byte);
                }
            }
            Step::Nest(number, steps) => answer.set(nest(*number, steps).unwrap_or(0xee)),
            Step::Hold(data, steps) => {
                let same = hold(data, steps).is_ok_and(|held| held == *data);
                answer.set(if same { 1 } else { 0xee });
            }
            Step::Ask => {
                let words = vec!["some".to_string(), String::new()];
                let parsed = parse(words, Some((1, 2)), vec![("a".to_string(), 3)]);
                let expected = parsed == 1 + 2 + 3 + 3 && take(7) == 8 && large(5) == [5; 5];
                answer.set(u8::from(expected));
            }
            Step::Repeat(count, steps) => (0..*count).for_each(|_| run_all(steps, answer)),
            Step::Keep { size, count } => {
                let size = usize::try_from(*size).unwrap_or(usize::MAX);
                for _ in 0..*count {
                    let mut block = Vec::<u8>::with_capacity(size);
                    block.push(1);
                    core::mem::forget(core::hint::black_box(block));
                }
            }
            Step::Touch(place, at, pages) => {
                let start = offset(*place, *at);
                for page in 0..usize::try_from(*pages).unwrap_or(0) {
                    store(start.wrapping_add(page << 12), 1);
                }
            }
            Step::Say(bytes) => glowbox_guest::print!("{}", "s".repeat(*bytes as usize)),
        }
    }
}
