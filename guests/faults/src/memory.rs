//! Reading, writing and executing any address.
//!
//! Everything that is executed starts with a `ret`, so that code which runs where none should
//! comes back as if nothing had happened, and the test sees that there was no fault.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::AtomicU64;

use glowbox_guest::__private::raw;
use glowbox_guest::guest_function;

/// The `ret` instruction.
const RET: u8 = 0xc3;

/// In .rodata.
static CONSTANTS: [u8; 64] = [RET; 64];
/// In .data.rel.ro: constants that hold addresses.
static TEXTS: [&str; 4] = ["spring", "summer", "autumn", "winter"];
/// In .data.rel.ro as well.
static HANDLERS: [extern "C" fn(); 2] = [nothing, nothing];
/// In .data.
static VARIABLE: AtomicU64 = AtomicU64::new(0xc3c3_c3c3_c3c3_c3c3);
/// In .bss.
static ZEROED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    /// Where the linker put the ELF header: the program's load base.
    safe static __ehdr_start: u8;
}

extern "C" fn nothing() {}

/// Reads a byte.
#[inline(never)]
fn read_byte(address: u64) -> u8 {
    let value: u8;
    // SAFETY: a read of memory changes nothing; where it is forbidden it faults.
    unsafe {
        asm!(
            "mov {value}, byte ptr [{address}]",
            address = in(reg) address,
            value = out(reg_byte) value,
            options(nostack, readonly, preserves_flags),
        );
    }
    value
}

/// Writes a byte and puts back what was there, so that nothing changes where it is not forbidden.
#[inline(never)]
fn write_byte(address: u64) {
    // SAFETY: the guest has one thread, so nobody sees the byte in between. `xchg` is one access,
    // and that a write, whoever emulates it.
    unsafe {
        asm!(
            "xchg byte ptr [{address}], {value}",
            "xchg byte ptr [{address}], {value}",
            address = in(reg) address,
            value = inout(reg_byte) 0u8 => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Writes a byte, for where that must fault: a plain store, which no machine takes for a read.
#[inline(never)]
fn store_byte(address: u64) {
    // SAFETY: it is asked for only where nothing of the guest's can be.
    unsafe { asm!("mov byte ptr [{address}], 0", address = in(reg) address, options(nostack)) }
}

/// Calls an address.
#[inline(never)]
fn execute(address: u64) {
    // SAFETY: what is called either faults, or is a `ret`. RCX is 0, so that this can't be taken
    // for what `syscall` leaves behind.
    unsafe { asm!("call rax", in("rax") address, in("rcx") 0u64, clobber_abi("C")) }
}

fn touch(address: u64, access: &str) {
    match access {
        "read" => {
            black_box(read_byte(address));
        }
        "write" => write_byte(address),
        "store" => store_byte(address),
        "execute" => execute(address),
        _ => panic!("no such access: {access}"),
    }
}

/// Reads, writes or executes an address.
#[guest_function]
fn touch_address(address: u64, access: &str) {
    touch(address, access);
}

/// Reads, writes or executes what lies in a place of a kind. The message is full of `ret`s.
#[guest_function]
fn touch_place(place: &str, access: &str, message: &[u8]) {
    let local = black_box([RET; 64]);
    let boxed = Box::new(black_box([RET; 64]));
    let address = match place {
        "heap" => boxed.as_ptr().expose_provenance(),
        "stack" => local.as_ptr().expose_provenance(),
        "incoming" => message.as_ptr().expose_provenance(),
        _ => return touch(address_of(place), access),
    };
    touch(address as u64, access);
    black_box((local, boxed));
}

/// The address of something that does not move while the guest runs.
#[guest_function]
fn address_of(place: &str) -> u64 {
    let address = match place {
        "image" => (&raw const __ehdr_start).expose_provenance(),
        "code" => (nothing as extern "C" fn() as *const u8).expose_provenance(),
        "read_byte" => (read_byte as fn(u64) -> u8 as *const u8).expose_provenance(),
        "constants" => CONSTANTS.as_ptr().expose_provenance(),
        "texts" => TEXTS.as_ptr().expose_provenance(),
        "handlers" => HANDLERS.as_ptr().expose_provenance(),
        "variable" => VARIABLE.as_ptr().expose_provenance(),
        "zeroed" => ZEROED.as_ptr().expose_provenance(),
        "outgoing" => raw::with_outgoing(|space| {
            space[..16].fill(RET);
            space.as_ptr().expose_provenance()
        })
        .unwrap_or(0),
        _ => panic!("no such place: {place}"),
    };
    address as u64
}
