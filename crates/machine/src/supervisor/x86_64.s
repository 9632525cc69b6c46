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

# The resume page: how a guest starts, and starts again after a reset. It runs in ring 3, at full speed,
# and loads what the host can't set at little cost or (on some KVMs) at all: segment selectors,
# x87, SSE and AVX state. The host sets all other registers, and the page's data, which is the guest's own.
#
# Only moves, so that the flags stay as the host set them. Nothing here can be used for anything that
# ring 3 could not do by itself.
#
# One variant for each combination of what the virtual CPU has.

.set RESUME_DATA, 0x100         # must agree with supervisor/resume.rs
.set RESUME_EXTENDED, 0x200

.macro resume_page name, fsgsbase, xsave
.balign 8
.global glowbox_resume_\name
.hidden glowbox_resume_\name
glowbox_resume_\name:
    mov eax, 0
    mov ds, eax                 # null selectors: they would outlive a guest
    mov es, eax
.if \fsgsbase
    mov fs, eax                 # may clear the base, which comes next
    mov gs, eax
    mov rax, [rip + glowbox_resume_\name + RESUME_DATA + 24]
    wrfsbase rax
    mov rax, [rip + glowbox_resume_\name + RESUME_DATA + 32]
    wrgsbase rax
.endif
    # Some CPUs leave the x87 instruction and data pointers alone when they load a state without
    # an exception in it: overwrite them by one harmless load.
    fnclex
    emms
    fild dword ptr [rip + glowbox_resume_\name + RESUME_DATA + 48]
.if \xsave
    mov eax, [rip + glowbox_resume_\name + RESUME_DATA + 40]    # components
    mov edx, [rip + glowbox_resume_\name + RESUME_DATA + 44]
    xrstor64 [rip + glowbox_resume_\name + RESUME_EXTENDED]
.else
    fxrstor64 [rip + glowbox_resume_\name + RESUME_EXTENDED]
.endif
    mov rax, [rip + glowbox_resume_\name + RESUME_DATA + 8]
    mov rdx, [rip + glowbox_resume_\name + RESUME_DATA + 16]
    jmp qword ptr [rip + glowbox_resume_\name + RESUME_DATA]
glowbox_resume_\name\()_end:
.global glowbox_resume_\name\()_end
.hidden glowbox_resume_\name\()_end
.endm

.pushsection .rodata.glowbox_resume, "a", @progbits
resume_page full, 1, 1
resume_page no_fsgsbase, 0, 1
resume_page no_xsave, 1, 0
resume_page least, 0, 0
.popsection
