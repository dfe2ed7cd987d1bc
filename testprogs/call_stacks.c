/* Threads that nobody joins, each made where a call stack is hard to read: below functions without frame pointers, in
   a signal handler, on an alternate signal stack, in a callback of the C library's, below a function that aligns its
   stack anew, and below more frames than anybody wants to read.
   Must be found: six orphaned-stacks, unjoined, one region each, each with the functions that led to it. */
#include "testprog.h"

#include <alloca.h>

static void *job(void *tid)
{
    return tell_tid(tid);
}

/* Nothing is called last in any function here, so that no frame is given up for the next. */
#define STAYS __asm__ volatile("" ::: "memory")

__attribute__((noinline)) static void leak(void)
{
    _Atomic pid_t tid = 0;
    start_pthread(job, (void *)&tid);
    await(tid != 0);
    await_task_end(tid);
    STAYS;
}

__attribute__((noinline)) static void inner(void)
{
    leak();
    STAYS;
}

__attribute__((noinline)) static void outer(void)
{
    inner();
    STAYS;
}

static void in_handler(int signal)
{
    (void)signal;
    leak();
    STAYS;
}

static void on_alternate_stack(int signal)
{
    (void)signal;
    leak();
    STAYS;
}

__attribute__((noinline)) static void interrupted(int signal)
{
    raise(signal);
    STAYS;
}

static bool leaked_in_callback;

static int in_callback(const void *a, const void *b)
{
    if (!leaked_in_callback) {
        leaked_in_callback = true;
        leak();
    }
    return *(const int *)a - *(const int *)b;
}

__attribute__((noinline)) static void sorting(void)
{
    int numbers[] = { 5, 3, 9, 1 };
    qsort(numbers, COUNT(numbers), sizeof *numbers, in_callback);
    STAYS;
}

/* A frame aligned to 64 bytes and of a size unknown before: what called it is found by way of a saved register. */
__attribute__((noinline)) static void realigned(size_t bytes)
{
    _Alignas(64) volatile char aligned[64] = { 0 };
    volatile char *unknown = alloca(bytes);
    unknown[0] = aligned[0];
    leak();
    STAYS;
}

__attribute__((noinline)) static void recursing(int depth)
{
    if (depth == 0)
        leak();
    else
        recursing(depth - 1);
    STAYS;
}

int main(int argc, char **argv)
{
    (void)argv;
    static char alternate[256 * 1024];
    stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate };
    struct sigaction handler = { .sa_handler = in_handler };
    struct sigaction on_stack = { .sa_handler = on_alternate_stack, .sa_flags = SA_ONSTACK };
    check(sigaltstack(&stack, NULL));
    check(sigaction(SIGUSR1, &handler, NULL));
    check(sigaction(SIGUSR2, &on_stack, NULL));
    outer();
    interrupted(SIGUSR1);
    interrupted(SIGUSR2);
    sorting();
    realigned(100 * (size_t)argc);
    recursing(500);
    return 0;
}
