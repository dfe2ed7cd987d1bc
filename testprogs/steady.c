/* A service for hours in short: makes RATE threads a second, evenly, and joins all but each FORGOTTEN-th, until the input
   has ended and three are forgotten: steady RATE FORGOTTEN. Prints "ready" when it begins, and at the end how many it has forgotten.
   Must be found: one orphaned-stack, unjoined, definite, with so many regions. */
#include "testprog.h"
#include <poll.h>

static void *live(void *unused)
{
    char *block = map(4 * PAGE);
    block[PAGE] = 1;
    unmap(block, 4 * PAGE);
    return unused;
}

static void await_turn(struct timespec *turn, long nanoseconds)
{
    turn->tv_nsec += nanoseconds;
    if (turn->tv_nsec >= 1000000000) {
        turn->tv_nsec -= 1000000000;
        turn->tv_sec++;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, turn, NULL) == EINTR)
        ;
}

int main(int argc, char **argv)
{
    require(argc == 3);
    long rate = atol(argv[1]), forgotten_every = atol(argv[2]), forgotten = 0;
    require(rate > 1 && forgotten_every > 0);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    pthread_attr_t attributes;
    init_sizes(&attributes, 64 * KIB, PAGE);
    struct timespec turn;
    check(clock_gettime(CLOCK_MONOTONIC, &turn));
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    for (long made = 1; forgotten < 3 || check(poll(&input, 1, 0)) == 0; made++) {
        await_turn(&turn, 1000000000 / rate);
        pthread_t thread;
        check_zero(pthread_create(&thread, &attributes, live, NULL));
        if (made % forgotten_every == 0)
            forgotten++;
        else
            join(thread);
    }
    settle();
    printf("%ld\n", forgotten);
    return 0;
}
