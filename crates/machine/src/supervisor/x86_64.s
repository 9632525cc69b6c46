# The supervisor: all the code that ever runs in ring 0 of a guest.
#
# It does nothing but tell the host where it was entered: each entry is one `out`, and the host
# reads the vector from the instruction pointer and the rest from the exception frame. Nothing ever
# returns from here by itself; the host decides how the guest goes on, if at all. That keeps the
# work in ring 0 at one instruction, which matters where ring 0 is emulated.
#
# Copied to a page of guest memory; position-independent.

.pushsection .rodata.glowbox_supervisor, "a", @progbits
.balign 8
.global glowbox_supervisor_start
.hidden glowbox_supervisor_start
.global glowbox_supervisor_end
.hidden glowbox_supervisor_end
glowbox_supervisor_start:

# One entry of eight bytes for each of the 32 exception vectors.
.rept 32
    out {port}, al          # leave to the host
2:  jmp 2b                  # never reached: the host does not resume here
    .balign 8, 0xcc
.endr

# The entry of `syscall`.
    out {port}, al
2:  jmp 2b
    .balign 8, 0xcc

glowbox_supervisor_end:
.popsection
