# Entry point and the memory functions that compiled code takes for granted.
#
# The memory functions work by size: up to 32 bytes by two overlapping moves, then in steps of 32
# bytes by SSE2, and from 1 KiB on by the string instructions, which every CPU of the last ten years
# runs at full width. All loads of a short copy come before its stores, so it may overlap.
#
# System V: first arguments in rdi, rsi, rdx; result in rax; the direction flag is clear.

# A section each, so that a guest carries only those it uses.

.macro function name
    .section .text.\name, "ax", @progbits
    .global \name
    .hidden \name
    .type \name, @function
    .balign 16
\name:
.endm

.macro end name
    .size \name, . - \name
.endm

# The stack pointer is at the argument count; 16-byte aligned.
.section .text._start, "ax", @progbits
.global _start
.type _start, @function
_start:
    xorl %ebp, %ebp             # the outermost frame
    movq %rsp, %rdi
    andq $-16, %rsp
    call {start}
    ud2
.size _start, . - _start

# void *memcpy(void *to, const void *from, size_t length)
function memcpy
    movq %rdi, %rax
    cmpq $32, %rdx
    ja 3f
    cmpq $16, %rdx
    jae 2f
    cmpq $8, %rdx
    jae 1f
    cmpq $4, %rdx
    jae 0f
    testq %rdx, %rdx
    je 9f
    # 1 to 3 bytes: first, middle, last.
    movzbl (%rsi), %ecx
    movq %rdx, %r8
    shrq $1, %r8
    movzbl (%rsi,%r8), %r9d
    movzbl -1(%rsi,%rdx), %r10d
    movb %cl, (%rdi)
    movb %r9b, (%rdi,%r8)
    movb %r10b, -1(%rdi,%rdx)
9:  ret
0:  movl (%rsi), %ecx           # 4 to 7
    movl -4(%rsi,%rdx), %r8d
    movl %ecx, (%rdi)
    movl %r8d, -4(%rdi,%rdx)
    ret
1:  movq (%rsi), %rcx           # 8 to 15
    movq -8(%rsi,%rdx), %r8
    movq %rcx, (%rdi)
    movq %r8, -8(%rdi,%rdx)
    ret
2:  movups (%rsi), %xmm0        # 16 to 32
    movups -16(%rsi,%rdx), %xmm1
    movups %xmm0, (%rdi)
    movups %xmm1, -16(%rdi,%rdx)
    ret
3:  cmpq $1024, %rdx
    jae 5f
    movups -32(%rsi,%rdx), %xmm2    # the tail, before anything is written
    movups -16(%rsi,%rdx), %xmm3
    leaq -32(%rdi,%rdx), %r8        # where the tail goes
4:  movups (%rsi), %xmm0
    movups 16(%rsi), %xmm1
    addq $32, %rsi
    movups %xmm0, (%rdi)
    movups %xmm1, 16(%rdi)
    addq $32, %rdi
    cmpq %r8, %rdi
    jb 4b
    movups %xmm2, (%r8)
    movups %xmm3, 16(%r8)
    ret
5:  movq %rdx, %rcx
    rep movsb
    ret
end memcpy

# void *memmove(void *to, const void *from, size_t length)
function memmove
    movq %rdi, %rcx
    subq %rsi, %rcx
    cmpq %rdx, %rcx             # unsigned: also true when `to` is below `from`
    jae memcpy
    cmpq $32, %rdx
    jbe memcpy                  # short copies may overlap
    # Backwards, 32 bytes a step, the head last.
    movq %rdi, %rax
    movups (%rsi), %xmm2
    movups 16(%rsi), %xmm3
1:  movups -16(%rsi,%rdx), %xmm0
    movups -32(%rsi,%rdx), %xmm1
    movups %xmm0, -16(%rdi,%rdx)
    movups %xmm1, -32(%rdi,%rdx)
    subq $32, %rdx
    cmpq $32, %rdx
    ja 1b
    movups %xmm2, (%rdi)
    movups %xmm3, 16(%rdi)
    ret
end memmove

# void *memset(void *to, int byte, size_t length)
function memset
    movq %rdi, %rax
    movzbl %sil, %ecx
    movabsq $0x0101010101010101, %r8
    imulq %r8, %rcx             # the byte, eight times
    cmpq $16, %rdx
    jae 2f
    cmpq $8, %rdx
    jae 1f
    cmpq $4, %rdx
    jae 0f
    testq %rdx, %rdx
    je 9f
    movb %cl, (%rdi)
    movb %cl, -1(%rdi,%rdx)
    shrq $1, %rdx
    movb %cl, (%rdi,%rdx)
9:  ret
0:  movl %ecx, (%rdi)
    movl %ecx, -4(%rdi,%rdx)
    ret
1:  movq %rcx, (%rdi)
    movq %rcx, -8(%rdi,%rdx)
    ret
2:  cmpq $512, %rdx
    jae 4f
    movq %rcx, %xmm0
    punpcklqdq %xmm0, %xmm0
    leaq -16(%rdi,%rdx), %r8
3:  movups %xmm0, (%rdi)
    addq $16, %rdi
    cmpq %r8, %rdi
    jb 3b
    movups %xmm0, (%r8)
    ret
4:  movq %rax, %r8
    movl %ecx, %eax
    movq %rdx, %rcx
    rep stosb
    movq %r8, %rax
    ret
end memset

# int memcmp(const void *a, const void *b, size_t length)
function memcmp
    xorl %r8d, %r8d             # offset
    subq $16, %rdx
    jb 2f
1:  movups (%rdi,%r8), %xmm0
    movups (%rsi,%r8), %xmm1
    pcmpeqb %xmm1, %xmm0
    pmovmskb %xmm0, %eax
    subl $0xffff, %eax          # 0 if all are equal
    jne 5f
    addq $16, %r8
    subq $16, %rdx
    jae 1b
2:  addq $16, %rdx              # what is left: 0 to 15
    je 4f
3:  movzbl (%rdi,%r8), %eax
    movzbl (%rsi,%r8), %ecx
    subl %ecx, %eax
    jne 6f
    incq %r8
    decq %rdx
    jne 3b
4:  xorl %eax, %eax
    ret
5:  bsfl %eax, %eax             # mask - 0xffff has its lowest set bit at the first difference
    addq %rax, %r8
    movzbl (%rdi,%r8), %eax
    movzbl (%rsi,%r8), %ecx
    subl %ecx, %eax
6:  ret
end memcmp

# int bcmp(const void *a, const void *b, size_t length)
function bcmp
    jmp memcmp
end bcmp

# size_t strlen(const char *text)
function strlen
    xorl %eax, %eax
1:  cmpb $0, (%rdi,%rax)
    je 2f
    incq %rax
    jmp 1b
2:  ret
end strlen

.text
