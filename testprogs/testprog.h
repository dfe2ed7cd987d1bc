/* What the test programs share: checked calls, bounded waits, and both kinds of threads:
   those of the thread library (pthread), and those of a bare clone(2) (raw). */
#ifndef TESTPROG_H
#define TESTPROG_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define PAGE (4 * KIB)
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Ends this task alone when it is forked or raw: whoever waits for it sees the failure. */
_Noreturn static inline void die(const char *file, int line, const char *what, const char *why)
{
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, why);
    _exit(EXIT_FAILURE);
}

static inline intptr_t checked(intptr_t result, const char *file, int line, const char *call)
{
    if (result == -1)
        die(file, line, call, strerror(errno));
    return result;
}

static inline void checked_zero(int error, const char *file, int line, const char *call)
{
    if (error != 0)
        die(file, line, call, strerror(error));
}

/* The result of a call that fails with -1 and errno. */
#define check(call) checked((intptr_t)(call), __FILE__, __LINE__, #call)
/* A call that returns 0, or an error number as pthread_* do. */
#define check_zero(call) checked_zero((call), __FILE__, __LINE__, #call)
#define require(condition) \
    ((condition) ? (void)0 : die(__FILE__, __LINE__, #condition, "does not hold"))
/* Waits until the condition holds, and gives up after 10 s. */
#define await(condition)                                              \
    for (int waited_ms = 0; !(condition); waited_ms++) {              \
        if (waited_ms == 10000)                                       \
            die(__FILE__, __LINE__, #condition, "waited in vain");    \
        sleep_ms(1);                                                  \
    }

/* Not a cancellation point, so that raw threads, which share their creator's TLS, may call it. */
static inline void sleep_ms(int ms)
{
    syscall(SYS_poll, NULL, 0, ms);
}

/* Twice the 10 ms after which a fresh stack tells something about those that lie idle. */
static inline void settle(void)
{
    sleep_ms(20);
}

/* True when the only argument is `yes`, false when it is `no`. */
static inline bool chosen(int argc, char **argv, const char *yes, const char *no)
{
    bool is_yes = argc == 2 && strcmp(argv[1], yes) == 0;
    if (!is_yes && !(argc == 2 && strcmp(argv[1], no) == 0)) {
        fprintf(stderr, "usage: %s %s|%s\n", argv[0], yes, no);
        _exit(2);
    }
    return is_yes;
}

/* ---- memory ---- */

static inline char *map_with(size_t bytes, int prot, int flags)
{
    return (char *)check(mmap(NULL, bytes, prot, flags | MAP_ANONYMOUS, -1, 0));
}

static inline char *map(size_t bytes)
{
    return map_with(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static inline char *map_stack(size_t bytes)
{
    return map_with(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_STACK);
}

static inline char *map_fixed(char *at, size_t bytes, int prot)
{
    return (char *)check(mmap(at, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
}

static inline void unmap(void *start, size_t bytes)
{
    check(munmap(start, bytes));
}

/* Two pages that grow down when the page below them is touched, with room for that. Below them the kernel wants a gap of 256
   pages to the next mapping. */
static inline char *map_growing(void)
{
    size_t room_bytes = 8 * MIB;
    char *room = map_with(room_bytes, PROT_NONE, MAP_PRIVATE);
    unmap(room, room_bytes);
    char *stack = room + room_bytes - 2 * PAGE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE;
    require(check(mmap(stack, 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0)) == (intptr_t)stack);
    return stack;
}

static inline bool is_mapped(char *page)
{
    unsigned char resident;
    if (mincore(page, PAGE, &resident) == 0)
        return true;
    require(errno == ENOMEM);
    return false;
}

/* ---- tasks ---- */

/* Waits until the kernel has no such thread: later than pthread_join and CLEARTID tell. */
static inline void await_task_end(pid_t tid)
{
    await(syscall(SYS_tgkill, getpid(), tid, 0) == -1 && errno == ESRCH);
}

/* The third field of /proc/TID/stat: 'R' running, 'T' stopped, 't' stopped by a tracer, 'Z' zombie, ... */
static inline char task_state(pid_t tid)
{
    char path[32], stat[128] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", tid);
    int file = check(open(path, O_RDONLY));
    check(read(file, stat, sizeof stat - 1));
    check(close(file));
    char *name_end = strrchr(stat, ')');
    require(name_end != NULL);
    return name_end[2];
}

/* A child process or a raw thread must have ended well. */
static inline void await_child(pid_t child)
{
    int status;
    require(check(waitpid(child, &status, __WALL)) == child);
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* A raw thread: shares the memory as CLONE_THREAD does, but is a child that can be waited for. */
static inline pid_t start_raw(int (*body)(void *), void *argument, char *stack, size_t stack_bytes)
{
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND;
    return check(clone(body, stack + stack_bytes, flags, argument));
}

static inline int live_briefly(void *argument)
{
    (void)argument;
    sleep_ms(2);
    return 0;
}

/* A raw thread's whole life, and a while after it. */
static inline void run_raw(char *stack, size_t stack_bytes)
{
    await_child(start_raw(live_briefly, NULL, stack, stack_bytes));
    settle();
}

static inline pthread_t start_pthread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    check_zero(pthread_create(&thread, NULL, body, argument));
    return thread;
}

static inline void *join(pthread_t thread)
{
    void *result;
    check_zero(pthread_join(thread, &result));
    return result;
}

enum ending { JOINED, DETACHED, NEITHER };

static inline void *tell_tid(void *tid)
{
    atomic_store((_Atomic pid_t *)tid, gettid());
    return NULL;
}

/* A pthread's whole life until its task is gone, and a while after it. */
static inline void run_pthread_with(pthread_attr_t *attributes, enum ending ending)
{
    pthread_t thread;
    _Atomic pid_t tid = 0;
    if (ending == DETACHED)
        check_zero(pthread_attr_setdetachstate(attributes, PTHREAD_CREATE_DETACHED));
    check_zero(pthread_create(&thread, attributes, tell_tid, &tid));
    if (ending == JOINED)
        join(thread);
    await(tid != 0);
    await_task_end(tid);
    settle();
}

static inline void init_sizes(pthread_attr_t *attributes, size_t stack_bytes, size_t guard_bytes)
{
    check_zero(pthread_attr_init(attributes));
    check_zero(pthread_attr_setstacksize(attributes, stack_bytes));
    check_zero(pthread_attr_setguardsize(attributes, guard_bytes));
}

static inline void run_pthread(size_t stack_bytes, size_t guard_bytes, enum ending ending)
{
    pthread_attr_t attributes;
    init_sizes(&attributes, stack_bytes, guard_bytes);
    run_pthread_with(&attributes, ending);
    check_zero(pthread_attr_destroy(&attributes));
}

/* A thread body that waits until it gets the mutex `gate`. */
static inline void *wait_at_gate(void *gate)
{
    check_zero(pthread_mutex_lock(gate));
    check_zero(pthread_mutex_unlock(gate));
    return NULL;
}

/* A thread body that never leaves mmap and munmap for long, and counts its rounds. */
_Noreturn static inline void *map_forever(void *rounds)
{
    for (;;) {
        unmap(map(3 * PAGE), 3 * PAGE);
        atomic_fetch_add((atomic_int *)rounds, 1);
    }
}

#endif
