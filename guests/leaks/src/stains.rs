//! Patterns in all that compiled code can spare.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::hint::black_box;

use glowbox_guest::__private::FromGuest;
use glowbox_guest::__private::raw::{leave, with_outgoing};
use glowbox_guest::{guest_function, host_function};

use crate::memory::set_words;
use crate::state::has_avx;

#[host_function]
fn end(how: u32) -> u32;

#[host_function]
fn tick() -> u64;

/// A static of many pages.
struct Static(UnsafeCell<[u64; 16384]>);

// SAFETY: a guest has one thread.
unsafe impl Sync for Static {}

static STATIC: Static = Static(UnsafeCell::new([0; 16384]));

/// Fills a large frame.
#[inline(never)]
fn stain_stack(pattern: u64) {
    black_box(&mut [pattern; 90 << 10]);
}

#[inline(never)]
fn stain_registers(pattern: u64) {
    let avx = u64::from(has_avx());
    // SAFETY: compiled code uses neither the x87 nor the bases nor the data selectors, has given up
    // the vector registers, and works with any MXCSR that masks all exceptions.
    unsafe {
        asm!(
            "push {pattern}",
            "push 0x0c7e",
            "mov ecx, 3",
            "mov es, ecx",
            "mov ds, ecx",
            "mov fs, ecx",
            "mov gs, ecx",
            "wrfsbase {base}",
            "wrgsbase {base}",
            "fninit",
            "fldcw [rsp]",
            ".rept 9",
            "fld qword ptr [rsp + 8]",
            ".endr",
            "mov dword ptr [rsp], 0xffff",
            "ldmxcsr [rsp]",
            "test {avx}, {avx}",
            "jz 2f",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vbroadcastsd ymm\\n, qword ptr [rsp + 8]",
            ".endr",
            "2: add rsp, 16",
            pattern = in(reg) pattern,
            base = in(reg) pattern & 0x0000_7fff_ffff_ffff,
            avx = in(reg) avx,
            out("ecx") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
            out("xmm15") _,
        );
    }
}

fn stain_all(inverted: u64, heap: u64) {
    let pattern = !inverted;
    let words = usize::try_from(heap / 8).unwrap_or(0);
    drop(black_box(vec![pattern; words]));
    core::mem::forget(black_box(vec![pattern; 1000]));
    stain_stack(pattern);
    // SAFETY: a guest has one thread, and nobody else uses the static.
    unsafe { (*STATIC.0.get()).fill(pattern) };
    with_outgoing(|space| {
        let (chunks, _) = space.as_chunks_mut::<8>();
        chunks.fill(pattern.to_le_bytes());
    });
    stain_registers(pattern);
}

/// Comes back.
#[guest_function]
fn stain(inverted: u64, heap: u64) -> u32 {
    stain_all(inverted, heap);
    1
}

#[guest_function]
fn stain_and_panic(inverted: u64, heap: u64) {
    stain_all(inverted, heap);
    panic!("{:x}", !inverted);
}

/// Asks for too much.
#[guest_function]
fn stain_and_exhaust(inverted: u64, heap: u64) -> u64 {
    stain_all(inverted, heap);
    black_box(vec![1u8; 1 << 40]).len() as u64
}

/// Lets the host end it.
#[guest_function]
fn stain_and_call(inverted: u64, heap: u64, how: u32) -> u32 {
    stain_all(inverted, heap);
    end(how)
}

/// Says how often the host was asked so.
#[guest_function]
fn ticks() -> u64 {
    tick()
}

/// A record for the log, in the control page: it stays there for `out` after `out`.
fn empty_record() -> FromGuest {
    FromGuest { kind: 4, status: 3, ..FromGuest::default() }
}

/// Hands a page of patterns to the host by the string form of `out`, which is fine as the mailbox
/// says something sensible, and then asks for as much by the string form of `in`.
#[guest_function]
fn string_out_and_in(inverted: u64, place: u64) {
    set_words(place, 512, !inverted);
    leave(&empty_record());
    // SAFETY: the host reads the mailbox only, which says what it has said before.
    unsafe {
        asm!("rep outsb", in("dx") 0x47u16, inout("rcx") 1024u64 => _, inout("rsi") place => _);
    }
    set_words(place, 512, 0);
    leave(&empty_record());
    // SAFETY: writes to the place, which nobody uses.
    unsafe {
        asm!("rep insb", in("dx") 0x47u16, inout("rcx") 1024u64 => _, inout("rdi") place => _);
    }
}
