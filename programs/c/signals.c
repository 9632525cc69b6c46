// Signals and jumps: what a handler is given, what it may do, how it returns.

#define _GNU_SOURCE
#include "checks.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096

static jmp_buf plain;
static sigjmp_buf out;
static volatile sig_atomic_t count, depth, deepest, seen_signal, seen_code, on_stack, bit;
static volatile uintptr_t seen_address;
static volatile int seen_pid, seen_uid;
static char *page;
static char alternate[64 * 1024];

static void handle(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    sigemptyset(&action.sa_mask);
    if (sigaction(signal, &action, NULL)) abort();
}

static void jump_down(int levels) {
    if (levels > 0) jump_down(levels - 1);
    else longjmp(plain, 7);
}

static void jumps(void) {
    int value = setjmp(plain);
    if (value == 0) jump_down(50);
    CHECK(value == 7, "longjmp comes back with its value");
    volatile int rounds = 0;
    value = setjmp(plain);
    rounds++;
    if (rounds < 1000) longjmp(plain, rounds);
    CHECK(value == 999 && rounds == 1000, "a thousand jumps");
    value = setjmp(plain);
    if (value == 0) longjmp(plain, 0);
    CHECK(value == 1, "longjmp of 0 gives 1");
}

static void note(int signal, siginfo_t *info, void *context) {
    (void)context;
    count++;
    seen_signal = info->si_signo == signal ? signal : -1;
    seen_code = info->si_code;
    seen_pid = info->si_pid;
    seen_uid = info->si_uid;
}

static void raised(void) {
    handle(SIGUSR1, note, 0);
    count = 0;
    CHECK(raise(SIGUSR1) == 0 && count == 1, "raise runs the handler before it returns");
    CHECK(seen_signal == SIGUSR1, "the handler is told the signal");
    CHECK(seen_code == SI_TKILL, "raise comes as SI_TKILL");
    CHECK(seen_pid == getpid() && seen_uid == (int)getuid(), "who sent it");
    CHECK(kill(getpid(), SIGUSR1) == 0 && count == 2, "kill of oneself runs it too");
    CHECK(seen_code == SI_USER, "kill comes as SI_USER");
    struct sigaction old;
    CHECK(sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_sigaction == note &&
              (old.sa_flags & SA_SIGINFO),
          "sigaction tells what is set");
    signal(SIGUSR1, SIG_IGN);
    CHECK(raise(SIGUSR1) == 0 && count == 2, "an ignored signal does nothing");
    signal(SIGCHLD, SIG_DFL);
    CHECK(raise(SIGCHLD) == 0, "one ignored by default does nothing");
    CHECK(kill(getpid(), 0) == 0, "signal 0 sends nothing");
    CHECK_FAILS(kill(getpid(), 1000), EINVAL, "an impossible signal");
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_IGN;
    CHECK_FAILS(sigaction(SIGKILL, &action, NULL), EINVAL, "a handler for SIGKILL");
    CHECK_FAILS(sigaction(SIGSTOP, &action, NULL), EINVAL, "a handler for SIGSTOP");
}

static void masks(void) {
    handle(SIGUSR1, note, 0);
    handle(SIGUSR2, note, 0);
    sigset_t set, old, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0, "two signals are blocked");
    count = 0;
    raise(SIGUSR1);
    raise(SIGUSR1);
    raise(SIGUSR2);
    CHECK(count == 0, "blocked signals wait");
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) == 1 &&
              sigismember(&pending, SIGUSR2) == 1 && sigismember(&pending, SIGINT) == 0,
          "sigpending names them");
    sigdelset(&set, SIGUSR2);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK(count == 1 && seen_signal == SIGUSR1, "unblocked, it comes once");
    sigprocmask(SIG_SETMASK, &old, NULL);
    CHECK(count == 2 && seen_signal == SIGUSR2, "with the old mask the other comes");
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR1) == 0 && sigismember(&now, SIGUSR2) == 0, "none is blocked");
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, &old);
    sigprocmask(SIG_BLOCK, NULL, &now);
    CHECK(sigismember(&now, SIGKILL) == 0 && sigismember(&now, SIGSTOP) == 0 &&
              sigismember(&now, SIGTERM) == 1,
          "SIGKILL and SIGSTOP can't be blocked");
    sigprocmask(SIG_SETMASK, &old, NULL);

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR1);
    count = 0;
    CHECK_FAILS(sigsuspend(&old), EINTR, "sigsuspend");
    CHECK(count == 1, "sigsuspend let the signal in");
    raise(SIGUSR1);
    siginfo_t info;
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_signo == SIGUSR1 && count == 1,
          "sigwaitinfo takes it without the handler");
    struct timespec soon = {0, 5 * 1000 * 1000};
    CHECK_FAILS(sigtimedwait(&set, &info, &soon), EAGAIN, "sigtimedwait for none");
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static void realtime(int signal, siginfo_t *info, void *context) {
    (void)context;
    count++;
    depth = depth * 10 + info->si_value.sival_int;
    seen_signal = signal;
    seen_code = info->si_code;
}

static void queued(void) {
    handle(SIGRTMIN, realtime, 0);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, &old);
    count = depth = 0;
    for (int i = 1; i <= 3; i++) sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i});
    sigprocmask(SIG_SETMASK, &old, NULL);
    CHECK(count == 3 && depth == 123, "queued signals come in order with their values");
    CHECK(seen_code == SI_QUEUE, "as SI_QUEUE");
}

static void nest(int signal, siginfo_t *info, void *context) {
    (void)info;
    (void)context;
    count++;
    depth++;
    if (depth > deepest) deepest = depth;
    if (count < 4) raise(signal);
    depth--;
}

static void other(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    (void)context;
    depth++;
    if (depth > deepest) deepest = depth;
    raise(SIGUSR2);
    depth--;
}

static void nested(void) {
    handle(SIGUSR1, nest, 0);
    count = depth = deepest = 0;
    raise(SIGUSR1);
    CHECK(count == 4 && deepest == 1, "a signal waits while its handler runs");
    handle(SIGUSR1, nest, SA_NODEFER);
    count = depth = deepest = 0;
    raise(SIGUSR1);
    CHECK(count == 4 && deepest == 4, "with SA_NODEFER it does not");
    handle(SIGUSR1, other, 0);
    handle(SIGUSR2, note, 0);
    count = depth = deepest = 0;
    raise(SIGUSR1);
    CHECK(count == 1 && deepest == 1, "another signal's handler runs within the first");
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = other;
    action.sa_flags = SA_SIGINFO;
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &action, NULL);
    handle(SIGUSR2, other, SA_RESETHAND);
    count = depth = deepest = 0;
    signal(SIGUSR2, SIG_IGN);
    raise(SIGUSR1);
    CHECK(deepest == 1, "one in sa_mask waits");
    handle(SIGUSR1, note, SA_RESETHAND);
    count = 0;
    raise(SIGUSR1);
    sigaction(SIGUSR1, NULL, &action);
    CHECK(count == 1 && action.sa_handler == SIG_DFL, "SA_RESETHAND sets it back");
}

static void fault(int signal, siginfo_t *info, void *context) {
    ucontext_t *registers = context;
    (void)registers;
    count++;
    seen_signal = signal;
    seen_code = info->si_code;
    seen_address = (uintptr_t)info->si_addr;
    uintptr_t here = (uintptr_t)&registers;
    on_stack = here >= (uintptr_t)alternate && here < (uintptr_t)alternate + sizeof alternate;
    siglongjmp(out, 1);
}

static void allow(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    count++;
    seen_code = info->si_code;
    seen_address = (uintptr_t)info->si_addr;
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
}

// Steps over the instruction that faulted, which is two bytes long, and sets its result.
static void step(int signal, siginfo_t *info, void *context) {
    ucontext_t *registers = context;
    (void)info;
    count++;
    seen_signal = signal;
    seen_code = info->si_code;
    bit = registers->uc_mcontext.gregs[REG_TRAPNO];
    registers->uc_mcontext.gregs[REG_RIP] += 2;
    registers->uc_mcontext.gregs[REG_RAX] = 4242;
}

static void faults(void) {
    page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, old;
    CHECK(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    CHECK(sigaltstack(NULL, &old) == 0 && old.ss_sp == alternate &&
              old.ss_size == sizeof alternate && old.ss_flags == 0,
          "sigaltstack tells what is set");

    handle(SIGSEGV, fault, SA_ONSTACK);
    munmap(page + PAGE, PAGE);
    count = 0;
    if (sigsetjmp(out, 1) == 0) *(volatile char *)(page + PAGE + 5);
    CHECK(count == 1 && seen_signal == SIGSEGV, "a read of nothing is SIGSEGV");
    CHECK(seen_code == SEGV_MAPERR, "it is SEGV_MAPERR");
    CHECK(seen_address == (uintptr_t)page + PAGE + 5, "si_addr is where");
    CHECK(on_stack, "the handler is on its own stack");
    mprotect(page, PAGE, PROT_READ);
    if (sigsetjmp(out, 1) == 0) *(volatile char *)(page + 9) = 1;
    CHECK(count == 2 && seen_code == SEGV_ACCERR, "a write to what is read-only is SEGV_ACCERR");
    CHECK(seen_address == (uintptr_t)page + 9, "si_addr is where");
    if (sigsetjmp(out, 1) == 0) ((void (*)(void))page)();
    CHECK(count == 3 && seen_code == SEGV_ACCERR, "so is running it");
    if (sigsetjmp(out, 1) == 0) *(volatile char *)NULL = 1;
    CHECK(count == 4 && seen_address == 0, "a write to null");
    if (sigsetjmp(out, 1) == 0) *(volatile char *)0x8000000000000000 = 1;
    CHECK(count == 5 && seen_code == SI_KERNEL, "an impossible address is SI_KERNEL");
    volatile int rounds = 0;
    for (volatile int i = 0; i < 2000; i++) {
        if (sigsetjmp(out, 1) == 0) *(volatile char *)NULL = 1;
        else rounds++;
    }
    CHECK(rounds == 2000, "two thousand faults, jumped out of");

    handle(SIGSEGV, allow, SA_ONSTACK);
    count = 0;
    *(volatile char *)(page + 100) = 33;
    CHECK(count == 1 && page[100] == 33, "a handler that fixes it makes the write go on");

    signal(SIGSEGV, SIG_DFL);
    handle(SIGFPE, fault, 0);
    volatile int zero = 0, one = 1, result = 0;
    count = 0;
    if (sigsetjmp(out, 1) == 0) result = one / zero;
    CHECK(count == 1 && seen_signal == SIGFPE && seen_code == FPE_INTDIV, "1 / 0 is FPE_INTDIV");
    CHECK(!on_stack && result == 0, "without SA_ONSTACK the handler is on the same stack");
    handle(SIGFPE, step, 0);
    long quotient;
    __asm__ volatile("idiv %2" : "=a"(quotient) : "a"(1), "r"(0), "d"(0) : "cc");
    CHECK(count == 2 && quotient == 4242, "a handler that changes registers");

    handle(SIGILL, step, 0);
    long value;
    __asm__ volatile("ud2" : "=a"(value) : "a"(0));
    CHECK(value == 4242 && seen_signal == SIGILL && seen_code == ILL_ILLOPN, "ud2 is ILL_ILLOPN");
    CHECK(bit == 6, "the trap's number is in the context");
    handle(SIGTRAP, note, 0);
    count = 0;
    __asm__ volatile("int3");
    CHECK(count == 1 && seen_signal == SIGTRAP, "int3 is SIGTRAP, and goes on after it");
    handle(SIGSEGV, step, 0);
    __asm__ volatile("hlt; nop" : "=a"(value) : "a"(0));
    CHECK(value == 4242 && seen_signal == SIGSEGV && seen_code == SI_KERNEL, "hlt is SIGSEGV");
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0, "sigaltstack switched off");
}

// A handler that runs deep in a stack which is full.
static volatile char sink;
static int overflow(int level) {
    volatile char room[1024];
    room[level % 1024] = (char)level;
    int below = level < 0 ? 0 : overflow(level + 1);
    sink = room[(level + 7) % 1024];
    return below + 1;
}

static void *overflowing(void *argument) {
    (void)argument;
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, NULL);
    if (sigsetjmp(out, 1) == 0) overflow(0);
    return NULL;
}

static void overflows(void) {
    handle(SIGSEGV, fault, SA_ONSTACK);
    count = 0;
    pthread_t thread;
    pthread_create(&thread, NULL, overflowing, NULL);
    pthread_join(thread, NULL);
    CHECK(count == 1 && on_stack, "a thread's stack overflow is caught on the other stack");
    signal(SIGSEGV, SIG_DFL);
}

// Registers of every kind live across a handler that changes them all.
static void clobber(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    (void)context;
    count++;
    volatile double values[16];
    for (int i = 0; i < 16; i++) values[i] = i * 1.5;
    for (int i = 0; i < 16; i++) values[i] = values[i] / 3 + values[15 - i];
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0; movdqa %%xmm0, %%xmm7; movdqa %%xmm0, %%xmm15; fninit; std; cld" ::: "xmm0", "xmm7", "xmm15");
}

static void registers(void) {
    handle(SIGUSR1, clobber, 0);
    count = 0;
    long r12 = 0, number = SYS_tgkill, pid = getpid(), tid = syscall(SYS_gettid);
    double xmm = 0;
    uint16_t control = 0x27f, after = 0;
    double before = 1.25;
    __asm__ volatile(
        "fldcw %[control]\n\t"
        "movsd %[before], %%xmm7\n\t"
        "mov $0x123456789, %%r12\n\t"
        "mov %[pid], %%rdi\n\t"
        "mov %[tid], %%rsi\n\t"
        "mov %[signal], %%rdx\n\t"
        "syscall\n\t"
        "mov %%r12, %[r12]\n\t"
        "movsd %%xmm7, %[xmm]\n\t"
        "fnstcw %[after]\n\t"
        "fninit"
        : [r12] "=m"(r12), [xmm] "=m"(xmm), [after] "=m"(after), "+a"(number)
        : [control] "m"(control), [before] "m"(before), [pid] "m"(pid), [tid] "m"(tid),
          [signal] "i"(SIGUSR1)
        : "rdi", "rsi", "rdx", "rcx", "r11", "r12", "xmm7", "memory");
    CHECK(count == 1 && number == 0, "a handler ran between two instructions");
    CHECK(r12 == 0x123456789 && xmm == 1.25, "registers are as they were");
    CHECK(after == 0x27f, "so is the x87 control word");
}

int main(int argc, char **argv) {
    // Ends by a signal, for its exit status.
    if (argc > 1 && !strcmp(argv[1], "segv")) *(volatile char *)NULL = 1;
    if (argc > 1 && !strcmp(argv[1], "abort")) abort();
    if (argc > 1 && !strcmp(argv[1], "term")) raise(SIGTERM);
    if (argc > 1 && !strcmp(argv[1], "kill")) raise(SIGKILL);
    if (argc > 1 && !strcmp(argv[1], "overflow")) return overflow(0);
    jumps();
    raised();
    masks();
    queued();
    nested();
    faults();
    overflows();
    registers();
    return conclude();
}
