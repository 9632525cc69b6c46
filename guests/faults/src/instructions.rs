//! Instructions that do not end well.

use core::arch::asm;

use glowbox_guest::guest_function;

macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident: $($text:literal)+;)*) => {$(
        $(#[$doc])*
        #[guest_function]
        #[inline(never)]
        fn $name() {
            // SAFETY: the instruction raises an exception, from which nothing returns. Were that
            // wrong: it changes no memory, and of the registers only those listed.
            unsafe {
                asm!(
                    $($text),+,
                    in("rax") 0u64,
                    in("rcx") 0u64,
                    in("rdx") 0u64,
                    clobber_abi("C"),
                );
            }
        }
    )*};
}

instructions! {
    /// What no CPU has.
    invalid_opcode: "ud2";
    /// 0 / 0.
    divide_by_zero: "div rcx";
    /// Stops the CPU.
    halt: "hlt";
    /// Asks a kernel.
    call_kernel: "syscall";
    /// Asks a kernel, as 32-bit programs do.
    software_interrupt: "int 0x80";
    /// The port at which computers show how far they have come.
    write_port: "out 0x80, al";
    /// Page tables of the guest's choice.
    load_page_tables: "mov cr3, rax";
    /// A model-specific register.
    write_msr: "wrmsr";
    /// An address that is none.
    non_canonical: "bts rax, 63" "mov al, byte ptr [rax]";
}

/// Divides by zero with the exception for that unmasked.
#[guest_function]
fn unmasked_sse() -> f64 {
    let (mut quotient, everything, default) = (1.0f64, 0u32, 0x1f80u32);
    // SAFETY: changes MXCSR, and puts it back should the division come to its end.
    unsafe {
        asm!("ldmxcsr [{everything}]", "divsd {quotient}, {zero}", "ldmxcsr [{default}]",
            everything = in(reg) &raw const everything, default = in(reg) &raw const default,
            quotient = inout(xmm_reg) quotient, zero = in(xmm_reg) 0.0f64, options(nostack));
    }
    quotient
}

/// As `unmasked_sse`, on the x87.
#[guest_function]
#[inline(never)]
fn unmasked_x87() {
    let everything = 0x0340u16;
    // SAFETY: resets the x87, which compiled code for x86-64 does not use, before and after.
    unsafe {
        asm!("fninit", "fldcw [{}]", "fld1", "fldz", "fdivp", "fwait", "fninit",
            in(reg) &raw const everything, options(nostack));
    }
}

/// Reads eight bytes from an odd address with alignment checks on.
#[guest_function]
fn misaligned_read() -> u64 {
    #[repr(align(16))]
    struct Aligned([u8; 16]);
    let bytes = Aligned([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    let value;
    // SAFETY: 8 of the 16 bytes are read; the flags are put back.
    unsafe {
        asm!(
            "pushfq",
            "or dword ptr [rsp], 0x40000",
            "popfq",
            "mov {value}, [{address} + 1]",
            "pushfq",
            "and dword ptr [rsp], 0xfffbffff",
            "popfq",
            address = in(reg) bytes.0.as_ptr(),
            value = out(reg) value,
        );
    }
    value
}

/// Asks for no interrupts, and does not end.
#[guest_function]
fn spin_without_interrupts() {
    // SAFETY: changes nothing but the interrupt flag.
    unsafe { asm!("cli", "2: jmp 2b", options(noreturn, nomem)) }
}

/// Asks for a debug exception after the next instruction.
#[guest_function]
#[inline(never)]
fn single_step() {
    // SAFETY: changes nothing but the trap flag, and puts it back.
    unsafe {
        asm!(
            "pushfq",
            "or dword ptr [rsp], 0x100",
            "popfq",
            "nop",
            "nop",
            "pushfq",
            "and dword ptr [rsp], 0xfffffeff",
            "popfq"
        );
    }
}
