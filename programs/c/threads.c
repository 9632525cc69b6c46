// Threads of POSIX: locks, waits, barriers, storage of their own, and one that never yields.

#define _GNU_SOURCE
#include "checks.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_rwlock_t readers = PTHREAD_RWLOCK_INITIALIZER;
static sem_t items, slots;
static long total, turn, early, once_runs, destroyed, produced, consumed;
static atomic_long counter, phase_count[50], handled;
static atomic_bool stop, spinning;
static _Thread_local long own = 1000;
static long ring[8];

static void run(void *(*start)(void *)) {
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, start, (void *)i)) abort();
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void *add(void *argument) {
    for (int i = 0; i < 100000; i++) {
        pthread_mutex_lock(&lock);
        total += (long)argument + 1;
        pthread_mutex_unlock(&lock);
        atomic_fetch_add(&counter, 1);
    }
    return NULL;
}

static void *take_turns(void *argument) {
    long self = (long)argument;
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&lock);
        while (turn % THREADS != self) pthread_cond_wait(&changed, &lock);
        turn++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void *phases(void *argument) {
    (void)argument;
    for (int i = 0; i < 50; i++) {
        atomic_fetch_add(&phase_count[i], 1);
        pthread_barrier_wait(&barrier);
        if (atomic_load(&phase_count[i]) != THREADS) atomic_fetch_add((atomic_long *)&early, 1);
    }
    return NULL;
}

static void destroy(void *value) {
    pthread_mutex_lock(&lock);
    destroyed += (long)value;
    pthread_mutex_unlock(&lock);
}

static void run_once(void) {
    once_runs++;
}

static void *storage(void *argument) {
    long self = (long)argument + 1;
    int fine = own == 1000 && pthread_getspecific(key) == NULL;
    pthread_setspecific(key, (void *)self);
    pthread_once(&once, run_once);
    for (int i = 0; i < 1000; i++) {
        own += self;
        if (i % 100 == 0) sched_yield();
    }
    fine &= own == 1000 + 1000 * self && pthread_getspecific(key) == (void *)self;
    if (!fine) atomic_fetch_add((atomic_long *)&early, 1);
    return NULL;
}

static void *produce(void *argument) {
    (void)argument;
    for (long i = 1; i <= 5000; i++) {
        sem_wait(&slots);
        ring[produced++ % 8] = i;
        sem_post(&items);
    }
    return NULL;
}

static void *consume(void *argument) {
    long sum = 0;
    for (int i = 0; i < 5000; i++) {
        sem_wait(&items);
        sum += ring[consumed++ % 8];
        sem_post(&slots);
    }
    *(long *)argument = sum;
    return NULL;
}

static void *read_often(void *argument) {
    static long values[2];
    for (int i = 0; i < 2000; i++) {
        if (argument) {
            pthread_rwlock_rdlock(&readers);
            if (values[0] != values[1]) atomic_fetch_add((atomic_long *)&early, 1);
        } else {
            pthread_rwlock_wrlock(&readers);
            values[0]++;
            values[1]++;
        }
        pthread_rwlock_unlock(&readers);
    }
    return NULL;
}

// Spins without a call of any kind until told to stop: only preemption lets others run.
static void *spin(void *argument) {
    (void)argument;
    atomic_store(&spinning, 1);
    uint64_t rounds = 0;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) rounds++;
    return (void *)(uintptr_t)(rounds > 0);
}

static void *finish(void *argument) {
    while (!atomic_load(&spinning)) sched_yield();
    uint64_t value = 1;
    for (int i = 0; i < 30000000; i++) value = value * 6364136223846793005ull + 1;
    atomic_store(&stop, 1);
    *(uint64_t *)argument = value;
    return argument;
}

static void *sleeper(void *argument) {
    struct timespec time = {0, 1000000};
    while (!atomic_load(&stop)) nanosleep(&time, NULL);
    return argument;
}

static void mark(int signal) {
    (void)signal;
    atomic_fetch_add(&handled, own);
}

static void *leave(void *argument) {
    (void)argument;
    pthread_exit((void *)77);
}

static void cleanup(void *argument) {
    *(int *)argument = 1;
}

static void *cancelled(void *argument) {
    pthread_cleanup_push(cleanup, argument);
    for (;;) {
        struct timespec time = {0, 1000000};
        nanosleep(&time, NULL);
        pthread_testcancel();
    }
    pthread_cleanup_pop(0);
    return NULL;
}

static void *nothing(void *argument) {
    return argument;
}

static void waits(void) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 10000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&lock);
    int result;
    do result = pthread_cond_timedwait(&changed, &lock, &until);
    while (result == 0);
    CHECK(result == ETIMEDOUT, "a wait for a condition times out");
    pthread_mutex_unlock(&lock);
    pthread_mutex_lock(&lock);
    CHECK(pthread_mutex_timedlock(&lock, &until) == ETIMEDOUT, "a wait for a lock times out");
    CHECK(pthread_mutex_trylock(&lock) == EBUSY, "a lock that is held");
    pthread_mutex_unlock(&lock);
    sem_t none;
    sem_init(&none, 0, 0);
    CHECK_FAILS(sem_timedwait(&none, &until), ETIMEDOUT, "a wait for a semaphore");
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_t monotonic;
    pthread_cond_init(&monotonic, &attributes);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 5000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&lock);
    do result = pthread_cond_timedwait(&monotonic, &lock, &until);
    while (result == 0);
    pthread_mutex_unlock(&lock);
    CHECK(result == ETIMEDOUT, "a wait by the monotonic clock times out");
}

static void kinds(void) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_t mutex;
    pthread_mutex_init(&mutex, &attributes);
    int fine = !pthread_mutex_lock(&mutex) && !pthread_mutex_lock(&mutex) &&
               !pthread_mutex_unlock(&mutex) && !pthread_mutex_unlock(&mutex);
    CHECK(fine && pthread_mutex_unlock(&mutex) == EPERM, "a recursive lock");
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&mutex, &attributes);
    pthread_mutex_lock(&mutex);
    CHECK(pthread_mutex_lock(&mutex) == EDEADLK, "a checking lock");
    pthread_mutex_unlock(&mutex);
}

int main(void) {
    run(add);
    CHECK(total == 1000000 && counter == 400000, "mutex: %ld, %ld steps", total, counter);
    run(take_turns);
    CHECK(turn == 200 * THREADS, "condition: %ld turns", turn);
    pthread_barrier_init(&barrier, NULL, THREADS);
    run(phases);
    CHECK(early == 0, "barrier: none is early");
    pthread_key_create(&key, destroy);
    run(storage);
    CHECK(early == 0 && own == 1000, "each thread has its own");
    CHECK(destroyed == 1 + 2 + 3 + 4, "destructors ran");
    CHECK(once_runs == 1, "once is once");
    run(read_often);
    CHECK(early == 0, "readers and a writer");

    sem_init(&items, 0, 0);
    sem_init(&slots, 0, 8);
    pthread_t first, second;
    long sum = 0;
    pthread_create(&first, NULL, produce, NULL);
    pthread_create(&second, NULL, consume, &sum);
    pthread_join(first, NULL);
    pthread_join(second, NULL);
    CHECK(sum == 5000L * 5001 / 2, "semaphores: %ld", sum);

    uint64_t value = 0;
    void *result = NULL, *other = NULL;
    pthread_create(&first, NULL, spin, NULL);
    pthread_create(&second, NULL, finish, &value);
    pthread_join(second, &other);
    pthread_join(first, &result);
    CHECK(result == (void *)1 && other == &value, "a spinning thread is preempted, value %llx",
          (unsigned long long)value);

    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = mark;
    sigaction(SIGUSR1, &action, NULL);
    atomic_store(&stop, 0);
    atomic_store(&spinning, 0);
    own = 1;
    pthread_create(&first, NULL, sleeper, NULL);
    pthread_kill(first, SIGUSR1);
    while (!atomic_load(&handled)) sched_yield();
    CHECK(handled == 1000, "a signal to a sleeping thread runs there");
    pthread_create(&second, NULL, spin, NULL);
    while (!atomic_load(&spinning)) sched_yield();
    pthread_kill(second, SIGUSR1);
    while (atomic_load(&handled) == 1000) sched_yield();
    CHECK(handled == 2000, "one to a spinning thread too");
    atomic_store(&stop, 1);
    pthread_join(first, NULL);
    pthread_join(second, NULL);

    pthread_create(&first, NULL, leave, NULL);
    pthread_join(first, &result);
    CHECK(result == (void *)77, "pthread_exit");
    int cleaned = 0;
    pthread_create(&first, NULL, cancelled, &cleaned);
    pthread_cancel(first);
    pthread_join(first, &result);
    CHECK(result == PTHREAD_CANCELED && cleaned, "a cancelled thread");
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    int made = 0;
    for (int i = 0; i < 500; i++) {
        made += !pthread_create(&first, &attributes, nothing, &made) &&
                !pthread_join(first, &result) && result == &made;
    }
    CHECK(made == 500, "five hundred threads, one after the other");
    pthread_t many[40];
    atomic_store(&stop, 0);
    made = 0;
    for (int i = 0; i < 40; i++) made += !pthread_create(&many[i], &attributes, sleeper, NULL);
    atomic_store(&stop, 1);
    for (int i = 0; i < 40; i++) pthread_join(many[i], NULL);
    CHECK(made == 40, "forty threads at once");
    waits();
    kinds();
    return conclude();
}
