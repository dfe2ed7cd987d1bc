/* A crowd: threads that sleep, and threads that without end make and join another one, and map and unmap,
   until the input ends: crowd SLEEPERS MAKERS. Prints "ready" when all run, and at the end how many threads have
   been made; its counters must agree.
   Must be found: nothing. */
#include "testprog.h"

#define MOST 10000

static atomic_bool finished;
static atomic_int running;
static atomic_long made, lived;
/* Held while the sleepers sleep: so many that wake up now and then would leave nobody else a processor. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *sleep_on(void *unused)
{
    (void)unused;
    atomic_fetch_add(&running, 1);
    check_zero(pthread_mutex_lock(&gate));
    check_zero(pthread_mutex_unlock(&gate));
    return NULL;
}

static void *live(void *unused)
{
    (void)unused;
    char *block = map(8 * PAGE);
    block[PAGE] = 1;
    unmap(block, 8 * PAGE);
    atomic_fetch_add(&lived, 1);
    return NULL;
}

static void *make(void *unused)
{
    (void)unused;
    bool first = true;
    while (!finished) {
        join(start_pthread(live, NULL));
        atomic_fetch_add(&made, 1);
        if (first)
            atomic_fetch_add(&running, 1);
        first = false;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int sleepers = argc > 1 ? atoi(argv[1]) : 3;
    int makers = argc > 2 ? atoi(argv[2]) : 2;
    static pthread_t threads[MOST];
    require(sleepers >= 0 && makers >= 0 && sleepers + makers <= MOST);
    alarm(120);
    check_zero(pthread_mutex_lock(&gate));
    pthread_attr_t attributes;
    init_sizes(&attributes, 64 * KIB, PAGE);
    for (int i = 0; i < sleepers + makers; i++)
        check_zero(pthread_create(&threads[i], &attributes, i < sleepers ? sleep_on : make, NULL));
    await(running == sleepers + makers);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    finished = true;
    check_zero(pthread_mutex_unlock(&gate));
    for (int i = 0; i < sleepers + makers; i++)
        join(threads[i]);
    require(made == lived);
    printf("%ld\n", made);
    return 0;
}
