// What the programs of checks share: a line for each check, and how many failed.

#ifndef CHECKS_H
#define CHECKS_H

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int failures;

// Says what was checked and if it holds. Nothing that differs from run to run is printed.
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        int holds = !!(condition);                                                                 \
        failures += !holds;                                                                        \
        printf("%s: ", holds ? "ok" : "FAILED");                                                   \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
        fflush(stdout);                                                                            \
    } while (0)

// Checks that a call fails, and with which error. The names are those of errno(3), since strerror's
// texts differ between C libraries.
#define CHECK_FAILS(call, error, name)                                                             \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long result = (long)(call);                                                                \
        int found = errno;                                                                         \
        CHECK(result == -1 && found == (error), name " fails with " #error);                       \
        if (result == -1 && found != (error)) printf("    with %s\n", strerror(found));            \
    } while (0)

static inline int conclude(void) {
    printf("%d failed\n", failures);
    return failures != 0;
}

#endif
