//! Does what a guest must not do, one function for each attempt.
//!
//! A guest author can write any machine code, so a good part of this is `unsafe`. None of it keeps
//! the rules that `unsafe` asks for; that is what it is for.

#![no_std]
#![no_main]

use core::arch::asm;
use core::hint::black_box;

use glowbox_guest::{HostError, guest_function, host_function};

/// The host answers only for files that it has chosen.
#[host_function]
fn read_file(path: &str) -> Result<String, HostError>;

#[guest_function]
fn write_null() {
    let nowhere: *mut u8 = black_box(core::ptr::null_mut());
    // SAFETY: none. Nothing is mapped at address 0.
    unsafe { nowhere.write_volatile(1) }
}

#[guest_function]
fn patch_own_code() {
    let code = black_box(answer as fn(u32, u32) -> u32) as *mut u8;
    // SAFETY: none. Code is mapped read-only.
    unsafe { code.write_volatile(0xc3) }
}

#[guest_function]
fn run_heap() {
    let code = black_box(vec![0xc3u8; 16]);
    // SAFETY: none. The heap is mapped non-executable.
    let function: extern "C" fn() = unsafe { core::mem::transmute(code.as_ptr()) };
    function();
}

#[guest_function]
fn halt() {
    // SAFETY: none. Ring 3 may not stop the CPU.
    unsafe { asm!("hlt") }
}

#[guest_function]
fn load_page_tables() {
    // SAFETY: none. Ring 3 may not write control registers.
    unsafe { asm!("mov cr3, {}", in(reg) 0u64) }
}

#[guest_function]
fn write_port() {
    // SAFETY: none. The I/O bitmap allows one port, and this is another.
    unsafe { asm!("out 0x80, al", in("al") 0u8) }
}

#[guest_function]
fn system_call() {
    // SAFETY: none. There is no kernel to answer. (231 is Linux's `exit_group`.)
    unsafe { asm!("syscall", in("rax") 231, in("rdi") 0, out("rcx") _, out("r11") _) }
}

#[guest_function]
fn recurse() {
    #[allow(unconditional_recursion, reason = "that is the attempt")]
    fn deeper(depth: u64) -> u64 {
        let frame = black_box([depth; 64]);
        deeper(depth + 1) + frame[0]
    }
    black_box(deeper(0));
}

#[guest_function]
fn take_all_memory() {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1u8; 1 << 20]);
    }
}

#[guest_function]
fn panic_out_of_bounds() {
    let values = [1, 2, 3];
    let index = black_box(7);
    black_box(values[index]);
}

#[guest_function]
fn loop_forever() {
    loop {
        core::hint::spin_loop();
    }
}

#[guest_function]
fn lie_about_length() {
    use glowbox_guest::__private::{FromGuest, raw::leave};
    // A message by hand, past the library: a returned value of 2^64 - 1 bytes.
    leave(&FromGuest { kind: 2, length: u64::MAX, ..FromGuest::default() });
}

#[guest_function]
fn read_secret() -> Result<(), HostError> {
    read_file("/etc/shadow").map(drop)
}

#[guest_function]
fn flood_log(lines: u32) {
    for line in 0..lines {
        glowbox_guest::println!("line {line} \x1b[2J");
    }
}

#[guest_function]
fn answer(a: u32, b: u32) -> u32 {
    a * b
}
