/* Six threads at the same time use malloc, so that each gets an arena, and end, joined. In the first round
   they free all they have; in the second each hands a block on, which the main thread frees.
   Must be found: nothing; the arenas stay for the threads to come. */
#include "testprog.h"

#define THREADS 6

static pthread_barrier_t all_use_malloc;

static char *filled_block(size_t bytes)
{
    char *block = malloc(bytes);
    require(block != NULL);
    return memset(block, 1, bytes);
}

static void *hand_on_block(void *unused)
{
    (void)unused;
    char *block = filled_block(10000);
    for (size_t bytes = 100; bytes < 100000; bytes *= 3)
        free(filled_block(bytes));
    pthread_barrier_wait(&all_use_malloc);
    return block;
}

static void *free_all(void *unused)
{
    free(hand_on_block(unused));
    return NULL;
}

static void run_round(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_pthread(body, NULL);
    for (int i = 0; i < THREADS; i++)
        free(join(threads[i]));
}

int main(void)
{
    check_zero(pthread_barrier_init(&all_use_malloc, NULL, THREADS));
    run_round(free_all);
    run_round(hand_on_block);
    return 0;
}
