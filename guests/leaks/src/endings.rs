//! Overwrites all writable memory and all registers with a pattern, and then does one thing more.

use core::arch::asm;

use glowbox_guest::guest_function;

use crate::state::has_avx;

/// Bits that keep the inverted pattern's place in a register canonical.
const CANONICAL: u64 = 0x0000_7fff_ffff_ffff;

macro_rules! endings {
    ($($(#[$doc:meta])* $name:ident ($flags:literal): $($text:literal)+;)*) => {$(
        $(#[$doc])*
        #[guest_function]
        #[inline(never)]
        fn $name(ranges: &[u8], inverted: u64, place: u64) {
            let count = ranges.len() / 16;
            // SAFETY: nothing comes back from here to code that would miss what is overwritten.
            unsafe {
                asm!(
                    "push rax",
                    "push 0x0c7e",
                    // Null selectors have a privilege level too; and one that is not null.
                    "mov ecx, 3",
                    "mov es, ecx",
                    "mov fs, ecx",
                    "mov ecx, 2",
                    "mov gs, ecx",
                    "mov ecx, 0x2b",
                    "verr cx",
                    "jz 3f",
                    "mov ecx, 0x23",
                    "verr cx",
                    "jnz 4f",
                    "3: mov ds, ecx",
                    "4: wrfsbase rdx",
                    "wrgsbase rdx",
                    // Nine times into eight registers: an exception is pending from now on.
                    "fninit",
                    "fldcw [rsp]",
                    ".rept 9",
                    "fld qword ptr [rsp + 8]",
                    ".endr",
                    "mov dword ptr [rsp], 0xffff",
                    "ldmxcsr [rsp]",
                    "test r8, r8",
                    "jz 5f",
                    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                    "vbroadcastsd ymm\\n, qword ptr [rsp + 8]",
                    ".endr",
                    "jmp 6f",
                    "5:",
                    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                    "movddup xmm\\n, qword ptr [rsp + 8]",
                    ".endr",
                    "6: test r9, r9",
                    "jz 7f",
                    "mov rdi, [rsi]",
                    "mov rcx, [rsi + 8]",
                    "shr rcx, 3",
                    "rep stosq",
                    "add rsi, 16",
                    "dec r9",
                    "jmp 6b",
                    "7:",
                    concat!("push ", $flags),
                    "popfq",
                    ".irp r, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r14, r15, rsp",
                    "mov \\r, rax",
                    ".endr",
                    $($text,)+
                    "ud2",
                    in("rax") !inverted,
                    in("rdx") !inverted & CANONICAL,
                    in("rsi") ranges.as_ptr(),
                    in("r8") u64::from(has_avx()),
                    in("r9") count,
                    in("r13") place,
                    options(noreturn),
                );
            }
        }
    )*};
}

// The flags are carry, parity, adjust, zero, sign, direction, overflow, nested task, alignment
// check and ID.
endings! {
    /// An invalid instruction.
    end_by_fault("0x244cd5"): "ud2";
    /// No end.
    end_never("0x244cd5"): "2: jmp 2b";
    /// A port that is no port of the guest's.
    end_by_port("0x244cd5"): "out 0x80, al";
    /// The port it may use, the other way round.
    end_by_in("0x244cd5"): "in al, 0x47";
    /// As above, four bytes.
    end_by_wide_in("0x244cd5"): "in eax, 0x47";
    /// As above, into memory.
    end_by_ins("0x2448d5"): "mov edx, 0x47" "mov rdi, r13" "mov ecx, 64" "rep insb";
    /// Memory to the port and then the port to memory.
    end_by_outs_and_ins("0x2448d5"):
        "mov edx, 0x47" "mov rsi, r13" "mov ecx, 64" "rep outsb"
        "mov rdi, r13" "mov ecx, 64" "rep insb";
    /// A message that makes no sense.
    end_by_protocol("0x244cd5"): "out 0x47, al";
    /// A kernel's entry.
    end_by_syscall("0x244cd5"): "syscall";
    /// Another kernel's entry.
    end_by_interrupt("0x244cd5"): "int 0x80";
    /// A breakpoint.
    end_by_breakpoint("0x244cd5"): "int3";
    /// A privileged instruction.
    end_by_halt("0x244cd5"): "hlt";
    /// One step.
    end_by_step("0x244dd5"): "nop" "nop";
    /// An address that is none.
    end_by_access("0x204cd5"): "mov al, [rax]";
    /// The 32-bit code segment of Linux, and what is 32-bit code nowhere.
    end_by_far_jump("0x204cd5"): "mov rsp, r13" "push 0x23" "push 0x1234" "retfq";
    /// The exception that the x87 holds back.
    end_by_x87("0x244cd5"): "fwait";
}
