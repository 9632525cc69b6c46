// Memory: the heap under load, mappings and their protection, brk, mremap.

#define _GNU_SOURCE
#include "checks.h"

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define MIB (1024 * 1024)

static sigjmp_buf out;

static void fault(int signal) {
    (void)signal;
    siglongjmp(out, 1);
}

static int can_read(volatile char *at) {
    if (sigsetjmp(out, 1)) return 0;
    (void)*at;
    return 1;
}

static int can_write(volatile char *at) {
    if (sigsetjmp(out, 1)) return 0;
    *at = *at;
    *at = 1;
    return 1;
}

static int can_run(void *at) {
    if (sigsetjmp(out, 1)) return 0;
    return ((int (*)(void))at)() == 42;
}

static uint64_t state = 88172645463325252ull;
static uint64_t number(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void sorting(void) {
    size_t count = 64 * MIB / sizeof(uint64_t);
    uint64_t *values = malloc(count * sizeof *values);
    uint64_t sum = 0, after = 0;
    for (size_t i = 0; i < count; i++) sum += values[i] = number();
    qsort(values, count, sizeof *values, compare);
    int sorted = 1;
    for (size_t i = 0; i < count; i++) {
        after += values[i];
        if (i && values[i - 1] > values[i]) sorted = 0;
    }
    CHECK(sorted && sum == after, "64 MiB sorted, sum %llx", (unsigned long long)after);
    free(values);
}

static void churn(void) {
    enum { SLOTS = 512 };
    static unsigned char *slots[SLOTS];
    static size_t sizes[SLOTS];
    int broken = 0;
    size_t resized = 0, total = 0;
    for (int round = 0; round < 20000; round++) {
        size_t slot = number() % SLOTS;
        unsigned char mark = (unsigned char)slot;
        // Mostly small ones; at times some that have a mapping of their own.
        size_t size = number() % 20 ? number() % 2000 + 1 : number() % (1 * MIB) + 1;
        if (slots[slot] && number() % 3) {
            size_t kept = size < sizes[slot] ? size : sizes[slot];
            unsigned char *moved = realloc(slots[slot], size);
            if (moved[0] != mark || moved[kept - 1] != mark || moved[kept / 2] != mark) broken++;
            memset(moved, mark, size);
            slots[slot] = moved;
            sizes[slot] = size;
            resized++;
        } else {
            if (slots[slot] && slots[slot][sizes[slot] - 1] != mark) broken++;
            free(slots[slot]);
            slots[slot] = malloc(size);
            memset(slots[slot], mark, size);
            sizes[slot] = size;
        }
        total += size;
    }
    for (int i = 0; i < SLOTS; i++) free(slots[i]);
    CHECK(!broken, "malloc, realloc, free: %zu resized, %zu MiB in all", resized, total / MIB);

    size_t size = 8 * MIB;
    unsigned char *grown = malloc(size);
    memset(grown, 5, size);
    for (; size < 128 * MIB; size *= 2) {
        grown = realloc(grown, size * 2);
        if (grown[size - 1] != 5 || grown[size] != 0) broken++;
        memset(grown + size, 5, size);
    }
    grown = realloc(grown, 3 * MIB);
    CHECK(!broken && grown[3 * MIB - 1] == 5, "a block grown to 128 MiB and shrunk");
    free(grown);
    unsigned char *zeroed = calloc(32, MIB);
    for (size_t i = 0; i < 32 * MIB; i += 512) broken += zeroed[i];
    CHECK(!broken, "calloc gives zeros");
    free(zeroed);
    void *aligned = NULL;
    CHECK(posix_memalign(&aligned, 65536, 100) == 0 && (uintptr_t)aligned % 65536 == 0,
          "posix_memalign");
    free(aligned);
    errno = 0;
    volatile size_t huge = SIZE_MAX / 4;
    void *none = malloc(huge);
    CHECK(!none && errno == ENOMEM, "too much is ENOMEM");
}

static char *map(size_t pages, int protection) {
    char *at = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void mappings(void) {
    int all = PROT_READ | PROT_WRITE;
    char *at = map(8, all);
    CHECK(at && (uintptr_t)at % PAGE == 0, "mmap");
    int zero = 1;
    for (int i = 0; i < 8 * PAGE; i++) zero &= at[i] == 0;
    CHECK(zero, "new memory is zero");
    memset(at, 7, 8 * PAGE);
    CHECK(mprotect(at + PAGE, PAGE, PROT_READ) == 0, "a page made read-only");
    CHECK(can_read(at + PAGE) && !can_write(at + PAGE), "it can be read and not written");
    CHECK(can_write(at) && can_write(at + 2 * PAGE), "its neighbours can");
    CHECK(mprotect(at + PAGE, PAGE, PROT_NONE) == 0 && !can_read(at + PAGE), "and not read");
    CHECK(mprotect(at + PAGE, PAGE, all) == 0 && at[PAGE] == 7 && can_write(at + PAGE),
          "made writable again, it holds what it held");
    CHECK(munmap(at + 3 * PAGE, 2 * PAGE) == 0 && !can_read(at + 3 * PAGE) &&
              !can_read(at + 5 * PAGE - 1),
          "unmapped pages can't be read");
    CHECK(at[3 * PAGE - 1] == 7 && at[5 * PAGE] == 7, "those around them can");
    char *again = mmap(at + 3 * PAGE, PAGE, all, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(again == at + 3 * PAGE && again[0] == 0 && again[PAGE - 1] == 0,
          "a new one in the same place is zero");
    CHECK(!can_read(at + 4 * PAGE), "the other is still not there");
    char *over = mmap(at, 2 * PAGE, all, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(over == at && at[0] == 0 && at[PAGE] == 0 && at[2 * PAGE + 9] == 7,
          "MAP_FIXED over others takes their place");
    CHECK(munmap(at + 4 * PAGE, PAGE) == 0, "unmapping nothing is no error");
    CHECK_FAILS(mprotect(at + 3 * PAGE, 2 * PAGE, PROT_READ), ENOMEM, "mprotect of a hole");
    CHECK(munmap(at, 8 * PAGE) == 0 && !can_read(at) && !can_read(at + 7 * PAGE), "all unmapped");
    CHECK_FAILS(munmap(at + 1, PAGE), EINVAL, "munmap off a page's border");
    CHECK_FAILS(mmap(NULL, 0, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL, "mmap of nothing");
    CHECK_FAILS(mmap(NULL, PAGE, all, MAP_ANONYMOUS, -1, 0), EINVAL, "mmap of no kind");
    CHECK_FAILS(mmap(NULL, PAGE, all, MAP_PRIVATE, -1, 0), EBADF, "mmap of no file");
    CHECK_FAILS(mmap(NULL, (size_t)1 << 47, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM,
                "mmap of all there is");
    char *held = map(1, PROT_READ);
    CHECK_FAILS(mmap(held, PAGE, all, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
                EEXIST, "MAP_FIXED_NOREPLACE of a taken place");
    munmap(held, PAGE);

    // A reservation, of which parts are used: as allocators and Go do.
    char *reserved = mmap(NULL, (size_t)1 << 32, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(reserved != MAP_FAILED && !can_read(reserved), "4 GiB reserved");
    CHECK(mprotect(reserved + ((size_t)1 << 31), PAGE, all) == 0 &&
              can_write(reserved + ((size_t)1 << 31)),
          "a page in the middle used");
    CHECK(munmap(reserved, (size_t)1 << 32) == 0, "given back");

    at = map(64, all);
    memset(at, 9, 64 * PAGE);
    CHECK(madvise(at + PAGE, PAGE, MADV_DONTNEED) == 0 && at[PAGE] == 0 && at[2 * PAGE] == 9,
          "MADV_DONTNEED leaves zeros");
    CHECK(madvise(at, 64 * PAGE, MADV_FREE) == 0 && can_write(at), "MADV_FREE");
    memset(at, 4, 64 * PAGE);
    char *moved = mremap(at, 64 * PAGE, 256 * PAGE, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved[64 * PAGE - 1] == 4 && moved[64 * PAGE] == 0 &&
              can_write(moved + 256 * PAGE - 1),
          "mremap to more");
    char *same = mremap(moved, 256 * PAGE, 2 * PAGE, 0);
    CHECK(same == moved && moved[2 * PAGE - 1] == 4 && !can_read(moved + 2 * PAGE),
          "mremap to less");
    char *target = map(4, PROT_NONE);
    char *fixed = mremap(moved, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    CHECK(fixed == target && fixed[5] == 4 && !can_read(moved) && !can_read(target + 2 * PAGE),
          "mremap to a place");
    munmap(target, 4 * PAGE);
    CHECK_FAILS(mremap(target, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT, "mremap of nothing");

    // mov eax, 42; ret
    char *code = map(1, all);
    memcpy(code, "\xb8\x2a\0\0\0\xc3", 6);
    CHECK(!can_run(code), "data can't be run");
    CHECK(mprotect(code, PAGE, PROT_READ | PROT_EXEC) == 0 && can_run(code), "made code, it can");
    CHECK(!can_write(code), "and not be written");
    munmap(code, PAGE);

    char *shared = mmap(NULL, PAGE, all, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED && can_write(shared), "shared anonymous memory");
    munmap(shared, PAGE);
    int mapped = 0;
    static char *many[1000];
    for (int i = 0; i < 1000; i++) mapped += (many[i] = map(1 + i % 5, all)) && can_write(many[i]);
    for (int i = 0; i < 1000; i += 2) munmap(many[i], (size_t)(1 + i % 5) * PAGE);
    for (int i = 1; i < 1000; i += 2) mapped += can_read(many[i]);
    for (int i = 1; i < 1000; i += 2) munmap(many[i], (size_t)(1 + i % 5) * PAGE);
    CHECK(mapped == 1500, "a thousand mappings");
}

static void program_break(void) {
    // musl's sbrk only tells; the call itself is what malloc uses.
    char *start = (char *)sbrk(0);
    CHECK(start != (char *)-1, "the break is somewhere");
#ifdef __GLIBC__
    int moves = sbrk(4 * PAGE) == start && sbrk(0) == start + 4 * PAGE;
    int zero = start[0] == 0 && start[4 * PAGE - 1] == 0;
    start[4 * PAGE - 1] = 1;
    int back = brk(start) == 0 && sbrk(0) == start;
#else
    int moves = 1, zero = 1, back = 1;
#endif
    CHECK(moves && zero, "moved up, with zeros below it");
    CHECK(back, "and down");
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = fault;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    program_break();
    mappings();
    sorting();
    churn();
    return conclude();
}
