# The stub: all code in a guest's process that is not the guest's.
#
# It gives away what the process does not need, says that it is ready, and never runs again, but for its
# first instruction: the gate, by which the tracer lets the process make a system call.
#
# Assembled for any address; `stub.rs` makes a program of it, and writes the list of calls behind it.

.pushsection .rodata.glowbox_stub, "a", @progbits
.global glowbox_stub_start
.hidden glowbox_stub_start
.global glowbox_stub_end
.hidden glowbox_stub_end
glowbox_stub_start:
    # The gate.
    syscall
    int3
    .balign 16, 0xcc

    # Where the program starts: makes each call in the list.
    lea r12, [rip + glowbox_stub_start + {calls}]
2:  mov rax, [r12]
    cmp rax, -1                 # no call: the end of the list
    je 4f
    mov rdi, [r12 + 8]
    mov rsi, [r12 + 16]
    mov rdx, [r12 + 24]
    mov r10, [r12 + 32]
    mov r8, [r12 + 40]
    mov r9, [r12 + 48]
    syscall
    cmp rax, -4095              # no error
    jb 5f
    cmp qword ptr [r12 + 56], 0 # one that makes no difference
    je 3f
5:  add r12, 64
    jmp 2b

    # It has failed: ends with the call's place in the list, counted from 1.
3:  lea rdi, [rip + glowbox_stub_start + {calls} - 64]
    sub r12, rdi
    mov rdi, r12
    shr rdi, 6
    mov eax, {exit_group}
    syscall

    # Ready. The tracer does not let it go on from here.
4:  int3
    ud2

    # Loads the flags, for the tracer.
.global glowbox_stub_load_flags
.hidden glowbox_stub_load_flags
glowbox_stub_load_flags:
    popfq
    int3

    # Loads the bases of FS and GS, for the tracer.
.global glowbox_stub_load_bases
.hidden glowbox_stub_load_bases
glowbox_stub_load_bases:
    wrfsbase rax
    wrgsbase rdx
    int3
glowbox_stub_end:
.popsection
