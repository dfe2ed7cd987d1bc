/* A loop makes twenty threads and then joins them, again and again, until another thread ends the process between the
   ends of some and their joins.
   Must be found: nothing that is sure enough to be listed. */
#include "testprog.h"

static atomic_int rounds;

static void *live(void *unused)
{
    return unused;
}

static void *end_process(void *unused)
{
    (void)unused;
    await(rounds == 10);
    settle();
    exit(EXIT_SUCCESS);
}

int main(void)
{
    pthread_t threads[20];
    pthread_attr_t attributes;
    init_sizes(&attributes, 1 * MIB, PAGE);
    start_pthread(end_process, NULL);
    for (;;) {
        for (size_t i = 0; i < COUNT(threads); i++)
            check_zero(pthread_create(&threads[i], &attributes, live, NULL));
        /* The round in which the process ends. */
        if (atomic_fetch_add(&rounds, 1) == 9)
            sleep_ms(10000);
        for (size_t i = 0; i < COUNT(threads); i++)
            join(threads[i]);
    }
}
