/* Threads that without end make and join others as fast as they can, on stacks of several sizes, so that some are fresh and
   some come from the cache, joined at once or after more threads have been made, and some detached; beside them threads
   that nobody joins: thread_storm MAKERS UNJOINED. Prints "ready" when all of it goes on, until the input ends.
   Must be found: one orphaned-stack, unjoined, definite, UNJOINED regions. */
#include "testprog.h"

#define MOST 64

static atomic_bool finished;
static atomic_int running;

static void *live(void *unused)
{
    return unused;
}

static pthread_t make_one(size_t stack_bytes, int detached)
{
    pthread_attr_t attributes;
    pthread_t thread;
    init_sizes(&attributes, stack_bytes, PAGE);
    if (detached)
        check_zero(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED));
    check_zero(pthread_create(&thread, &attributes, live, NULL));
    check_zero(pthread_attr_destroy(&attributes));
    return thread;
}

static void *make(void *number)
{
    /* Sizes from 64 KiB, which come from the cache, to 16 MiB, which the cache cannot hold for long. */
    for (unsigned round = (unsigned)(uintptr_t)number; !finished; round++) {
        size_t stack_bytes = (64 * KIB) << (round % 9);
        pthread_t first = make_one(stack_bytes, 0), second = make_one(64 * KIB, 0);
        join(first);
        join(second);
        if (round % 16 == 0)
            make_one(64 * KIB, 1);
        if (round == (unsigned)(uintptr_t)number)
            atomic_fetch_add(&running, 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int makers = argc > 1 ? atoi(argv[1]) : 4;
    int unjoined = argc > 2 ? atoi(argv[2]) : 5;
    pthread_t threads[MOST];
    require(makers >= 0 && makers <= MOST);
    alarm(600);
    for (int i = 0; i < unjoined; i++)
        run_pthread(256 * KIB, PAGE, NEITHER);
    for (int i = 0; i < makers; i++)
        threads[i] = start_pthread(make, (void *)(uintptr_t)i);
    await(running == makers);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    finished = true;
    for (int i = 0; i < makers; i++)
        join(threads[i]);
    return 0;
}
