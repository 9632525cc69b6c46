// What stands around a program: arguments, times, random numbers, streams, limits; and, with
// `refused`, what a sandbox says no to.

#define _GNU_SOURCE
#include "checks.h"

#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int64_t now(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time)) return -1;
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void times(void) {
    int64_t start = now(CLOCK_MONOTONIC), last = start;
    CHECK(start > 0, "the monotonic clock");
    int back = 0;
    for (int i = 0; i < 100000; i++) {
        int64_t next = now(CLOCK_MONOTONIC);
        back += next < last;
        last = next;
    }
    CHECK(!back, "it never goes back");
    CHECK(now(CLOCK_REALTIME) / 1000000000 > 1700000000, "the time of day");
    struct timeval day;
    CHECK(gettimeofday(&day, NULL) == 0 && llabs(day.tv_sec - time(NULL)) <= 1, "gettimeofday");
    CHECK(llabs(now(CLOCK_REALTIME) / 1000000000 - day.tv_sec) <= 1, "as the clock says");
    CHECK(now(CLOCK_BOOTTIME) > 0 && now(CLOCK_MONOTONIC_RAW) > 0 &&
              now(CLOCK_REALTIME_COARSE) > 0 && now(CLOCK_MONOTONIC_COARSE) > 0,
          "the other clocks");
    volatile double work = 0;
    for (int i = 0; i < 20000000; i++) work += i;
    CHECK(now(CLOCK_PROCESS_CPUTIME_ID) > 0 && now(CLOCK_THREAD_CPUTIME_ID) > 0, "time worked");
    struct timespec resolution;
    CHECK(clock_getres(CLOCK_MONOTONIC, &resolution) == 0 && resolution.tv_sec == 0, "clock_getres");
    CHECK_FAILS(clock_gettime(1000, &resolution), EINVAL, "a clock that is none");
    start = now(CLOCK_MONOTONIC);
    struct timespec nap = {0, 20 * 1000 * 1000};
    CHECK(nanosleep(&nap, NULL) == 0, "nanosleep");
    int64_t slept = now(CLOCK_MONOTONIC) - start;
    CHECK(slept >= 20 * 1000 * 1000, "not too short");
    CHECK(slept < 2000000000, "not far too long");
    start = now(CLOCK_MONOTONIC) + 10 * 1000 * 1000;
    struct timespec until = {start / 1000000000, start % 1000000000};
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == 0 &&
              now(CLOCK_MONOTONIC) >= start,
          "a sleep until");
    nap.tv_nsec = 1000000000;
    CHECK_FAILS(nanosleep(&nap, NULL), EINVAL, "a nap of no length");
    CHECK(usleep(1000) == 0, "usleep");
    struct tm calendar;
    time_t zero = 1000000000;
    char text[64];
    gmtime_r(&zero, &calendar);
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &calendar);
    CHECK(!strcmp(text, "2001-09-09 01:46:40"), "%s", text);
}

static void surroundings(int argc, char **argv) {
    for (int i = 1; i < argc; i++) printf("argument %d: %s\n", i, argv[i]);
    CHECK(argv[argc] == NULL, "a null after the arguments");
    const char *greeting = getenv("GREETING");
    printf("GREETING: %s\n", greeting ? greeting : "(none)");
    setenv("OWN", "value", 1);
    CHECK(!strcmp(getenv("OWN"), "value"), "a variable of one's own");
    CHECK(getauxval(AT_PAGESZ) == 4096, "pages have 4096 bytes");
    CHECK(getauxval(AT_RANDOM) != 0, "AT_RANDOM");
    CHECK(getauxval(AT_PHDR) != 0 && getauxval(AT_ENTRY) != 0, "AT_PHDR and AT_ENTRY");
    CHECK(sysconf(_SC_PAGESIZE) == 4096, "sysconf: pages");
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) >= 1, "sysconf: processors");
    cpu_set_t processors;
    CHECK(sched_getaffinity(0, sizeof processors, &processors) == 0 && CPU_COUNT(&processors) >= 1,
          "sched_getaffinity");
    struct utsname name;
    CHECK(uname(&name) == 0 && !strcmp(name.sysname, "Linux") && !strcmp(name.machine, "x86_64"),
          "uname: %s %s", name.sysname, name.machine);
    CHECK(getpid() > 0 && syscall(SYS_gettid) == getpid(), "the first thread is the process");
    CHECK(getuid() == geteuid() && getgid() == getegid(), "who one is");
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= 64 * 1024, "a stack's limit");
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= 16, "a limit of files");
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_maxrss > 0, "getrusage");
    CHECK(!isatty(0) && !isatty(1), "no terminal");
    CHECK_FAILS(isatty(77) - 1, EBADF, "isatty of nothing");
    CHECK(umask(022) <= 0777 && umask(022) == 022, "umask");
    unsigned char a[64] = {0}, b[64] = {0};
    CHECK(getrandom(a, 64, 0) == 64 && getrandom(b, 64, GRND_NONBLOCK) == 64 && memcmp(a, b, 64),
          "getrandom");
    CHECK(getentropy(a, 64) == 0 && memcmp(a, b, 64), "getentropy");
    CHECK_FAILS(syscall(SYS_getrandom, a, 64, 0x1000), EINVAL, "getrandom with unknown flags");
    CHECK_FAILS(syscall(1000), ENOSYS, "an unknown system call");
    CHECK_FAILS(syscall(SYS_write, 1, (void *)8, 10), EFAULT, "write from nowhere");
    CHECK_FAILS(syscall(SYS_read, 0, (void *)(uintptr_t)0xffff800000000000, 10), EFAULT,
                "read to the kernel's half");
    CHECK_FAILS(syscall(SYS_clock_gettime, 1, (void *)8), EFAULT, "a time to nowhere");
    CHECK_FAILS(open((const char *)8, O_RDONLY), EFAULT, "a name from nowhere");
    CHECK(syscall(SYS_write, 1, NULL, 0) == 0, "write of nothing");
    CHECK_FAILS(write(99, "x", 1), EBADF, "write to no file");
}

static void pipes(void) {
    int ends[2];
    CHECK(pipe(ends) == 0, "pipe");
    CHECK(write(ends[1], "through", 7) == 7, "written");
    char text[16] = "";
    struct pollfd ready = {ends[0], POLLIN, 0};
    CHECK(poll(&ready, 1, 1000) == 1 && ready.revents == POLLIN, "poll says it can be read");
    CHECK(read(ends[0], text, sizeof text) == 7 && !strcmp(text, "through"), "and read");
    CHECK(poll(&ready, 1, 5) == 0, "poll times out");
    close(ends[1]);
    CHECK(read(ends[0], text, sizeof text) == 0, "its end");
    close(ends[0]);
}

static void numbers(void) {
    char text[128];
    snprintf(text, sizeof text, "%.17g %a %e %08.3f %lld %#x", 0.1, 1.0 / 3, 6.02214076e23, -3.14159,
             -9007199254740993ll, 48879u);
    printf("numbers: %s\n", text);
    printf("read back: %.10g %ld\n", strtod("1.7976931348623157e308", NULL) / 1e308,
           strtol("-0x7fff", NULL, 0));
    volatile double x = 2;
    printf("functions: %.10f %.10f %.10f %.10f\n", sqrt(x), sin(x), exp(x), pow(x, 0.3));
    long double sum = 0;
    for (int i = 1; i < 100000; i++) sum += 1.0L / i;
    printf("long double: %.15Lf\n", sum);
    int a = 0, b = 0;
    char word[16] = "";
    CHECK(sscanf("12 abc 0x1f", "%d %15s %i", &a, word, &b) == 3 && a == 12 && b == 31, "sscanf");
}

static void input(void) {
    char line[256];
    int lines = 0;
    unsigned long sum = 0;
    while (fgets(line, sizeof line, stdin)) {
        lines++;
        for (char *at = line; *at; at++) sum = sum * 31 + (unsigned char)*at;
    }
    printf("input: %d lines, %lx\n", lines, sum);
    CHECK(feof(stdin) && !ferror(stdin), "its end");
}

// What a sandbox has not. Linux allows most of it, so this isn't compared.
static void refused(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(0);
    CHECK(child == -1, "fork fails");
    CHECK_FAILS(socket(AF_INET, SOCK_STREAM, 0), EAFNOSUPPORT, "socket, AF_INET");
    CHECK_FAILS(socket(AF_INET6, SOCK_DGRAM, 0), EAFNOSUPPORT, "socket, AF_INET6");
    CHECK_FAILS(socket(AF_UNIX, SOCK_STREAM, 0), EAFNOSUPPORT, "socket, AF_UNIX");
    CHECK_FAILS(socket(AF_NETLINK, SOCK_RAW, 0), EAFNOSUPPORT, "socket, AF_NETLINK");
    CHECK(execl("/bin/true", "true", NULL) == -1, "execve fails");
    CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == -1, "ptrace fails");
    CHECK(mount("none", "/tmp", "tmpfs", 0, "") == -1, "mount fails");
    CHECK(chroot("/") == -1, "chroot fails");
    CHECK(kill(1, SIGTERM) == -1, "kill of another fails");
    CHECK(syscall(SYS_bpf, 0, NULL, 0) == -1, "bpf fails");
    CHECK(syscall(SYS_io_uring_setup, 1, NULL) == -1, "io_uring_setup fails");
    CHECK(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0) == -1,
          "process_vm_readv fails");
    CHECK(syscall(SYS_unshare, 0x10000000) == -1, "unshare fails");
    CHECK(syscall(SYS_keyctl, 0, 0, 0, 0, 0) == -1, "keyctl fails");
    CHECK(syscall(SYS_iopl, 3) == -1, "iopl fails");
    CHECK(sethostname("x", 1) == -1, "sethostname fails");
    int64_t later = 0;
    CHECK(syscall(SYS_clock_settime, 0, &later) == -1, "clock_settime fails");
    // Numbers far out, and those of the 32-bit and x32 tables.
    long numbers[] = {-1, 512, 547, 1023, 0x40000000, 0x40000001, 0x7fffffff, 0x100000000};
    int unknown = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        errno = 0;
        unknown += syscall(numbers[i], 0, 0, 0) == -1 && errno == ENOSYS;
    }
    CHECK(unknown == 7, "numbers out of the table are ENOSYS");
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "refused")) {
        refused();
        return conclude();
    }
    if (argc > 2 && !strcmp(argv[1], "exit")) return atoi(argv[2]);
    if (argc > 1 && !strcmp(argv[1], "input")) return input(), conclude();
    setlocale(LC_ALL, "C");
    surroundings(argc, argv);
    times();
    pipes();
    numbers();
    fprintf(stderr, "to standard error\n");
    return conclude();
}
