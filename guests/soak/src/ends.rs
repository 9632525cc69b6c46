//! The ways to end a call that is not to go on, by number. The host has the same table.

use core::arch::asm;
use core::hint::black_box;

use glowbox_guest::guest_function;

use crate::work;

/// An entry of a batch: the work if `how` is 0, else that end.
#[guest_function]
fn entry(seed: u64, how: u32) -> u64 {
    if how != 0 {
        end(how);
    }
    work::rounds(seed, 5)
}

/// Ends the call in the way of this number.
#[guest_function]
fn end(how: u32) -> u64 {
    match how {
        1 => panic!("told to, {how}"),
        2 => read(8),
        3 => write(end as fn(u32) -> u64 as usize as u64),
        4 => execute(black_box(Box::new([0xc3u8; 64])).as_ptr() as u64),
        5 => instruction(0),
        6 => instruction(1),
        7 => instruction(2),
        8 => instruction(3),
        9 => instruction(4),
        10 => instruction(5),
        11 => instruction(6),
        12 => recurse(1),
        13 => hoard(),
        14 => read(0x8000_0000_0000_0000),
        15 => read(0x6000_0000_0000),
        _ => spin(),
    }
}

fn read(address: u64) -> u64 {
    let byte: u64;
    // SAFETY: it reads or faults.
    unsafe {
        asm!("movzx {byte:e}, byte ptr [{address}]", byte = out(reg) byte, address = in(reg) address)
    };
    byte
}

fn write(address: u64) -> u64 {
    // SAFETY: not at all; the host wants the fault.
    unsafe { asm!("mov byte ptr [{address}], 0xc3", address = in(reg) address) };
    0
}

fn execute(address: u64) -> u64 {
    // SAFETY: not at all; the host wants the fault.
    unsafe { asm!("call {address}", address = in(reg) address, clobber_abi("C")) };
    0
}

fn instruction(number: u32) -> u64 {
    // SAFETY: each raises an exception, from which nothing returns; otherwise it changes no memory.
    unsafe {
        match number {
            0 => asm!("ud2"),
            1 => asm!("hlt"),
            2 => asm!("xor edx, edx", "div {zero:e}", zero = in(reg) 0, out("rdx") _, out("rax") _),
            3 => asm!("syscall", out("rcx") _, out("r11") _),
            4 => asm!("out 0x80, al", in("al") 0u8),
            5 => asm!("mov {space}, cr3", space = out(reg) _),
            _ => asm!("int 0x80"),
        }
    }
    0
}

fn recurse(depth: u64) -> u64 {
    let here = black_box([depth; 64]);
    if depth == 0 { 0 } else { recurse(black_box(depth + 1)) + here[3] }
}

/// Boxes pages until that is refused.
fn hoard() -> u64 {
    let mut pages: Vec<Box<[u64; 512]>> = Vec::new();
    loop {
        pages.push(black_box(Box::new([1; 512])));
    }
}

fn spin() -> u64 {
    loop {
        core::hint::spin_loop();
    }
}
