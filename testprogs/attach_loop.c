/* A target that lives for a while, or, for 0 seconds, until its input has ended:
   attach_loop [SECONDS [WORKERS [LEAK_INTERVAL_MS]]], default 5 2 500.
   Workers map and unmap without end; the main thread makes one pthread per interval that nobody joins.
   Prints "ready" when all run; at the end it checks its counters.
   Must be found: one orphaned-stack, unjoined, recurrent, regions of 1 MiB + 4 KiB; that an attached
   tracer changes nothing shows in exit status 0. */
#include "testprog.h"

#include <poll.h>
#include <time.h>

#define MOST_WORKERS 64

struct worker {
    atomic_long mapped, unmapped;
};

static atomic_bool finished;

static void *map_and_unmap(void *argument)
{
    struct worker *worker = argument;
    while (!finished) {
        char *block = map(16 * PAGE);
        atomic_fetch_add(&worker->mapped, 1);
        block[3 * PAGE] = 1;
        sleep_ms(1);
        unmap(block, 16 * PAGE);
        atomic_fetch_add(&worker->unmapped, 1);
    }
    return NULL;
}

static void *count_life(void *lived)
{
    atomic_fetch_add((atomic_long *)lived, 1);
    return NULL;
}

static long now_ms(void)
{
    struct timespec now;
    check(clock_gettime(CLOCK_MONOTONIC, &now));
    return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

static bool is_over(long end_ms)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    return end_ms ? now_ms() >= end_ms : check(poll(&input, 1, 0)) > 0;
}

static long number(int argc, char **argv, int index, long otherwise)
{
    return argc > index ? strtol(argv[index], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    long seconds = number(argc, argv, 1, 5);
    long workers_wanted = number(argc, argv, 2, 2);
    long interval_ms = number(argc, argv, 3, 500);
    require(seconds >= 0 && interval_ms > 0 && workers_wanted >= 0 && workers_wanted <= MOST_WORKERS);

    long end_ms = seconds ? now_ms() + seconds * 1000 : 0;
    static struct worker workers[MOST_WORKERS];
    pthread_t threads[MOST_WORKERS];
    for (long i = 0; i < workers_wanted; i++)
        threads[i] = start_pthread(map_and_unmap, &workers[i]);
    for (long i = 0; i < workers_wanted; i++)
        await(workers[i].unmapped > 0);
    require(puts("ready") >= 0 && fflush(stdout) == 0);

    pthread_attr_t attributes;
    init_sizes(&attributes, 1 * MIB, PAGE);
    static atomic_long lived;
    long leaked = 0;
    do {
        pthread_t never_joined;
        check_zero(pthread_create(&never_joined, &attributes, count_life, &lived));
        leaked++;
        sleep_ms(interval_ms);
    } while (!is_over(end_ms));

    finished = true;
    for (long i = 0; i < workers_wanted; i++) {
        join(threads[i]);
        require(workers[i].mapped == workers[i].unmapped && workers[i].unmapped > 0);
    }
    await(lived == leaked);
    return 0;
}
