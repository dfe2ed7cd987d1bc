/* Nothing but mmap and munmap: mmap_loop SECONDS [THREADS]. Prints the pairs of all threads per second. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static atomic_bool finished;
static atomic_long iterations;

static void *work(void *unused)
{
    long done = 0;
    (void)unused;
    while (!finished) {
        void *block = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(block, 4096);
        done++;
    }
    atomic_fetch_add(&iterations, done);
    return NULL;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    int count = argc > 2 ? atoi(argv[2]) : 1;
    pthread_t threads[64];
    struct timespec start, end, length = { (time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9) };
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < count && i < 64; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    nanosleep(&length, NULL);
    finished = 1;
    for (int i = 0; i < count && i < 64; i++)
        pthread_join(threads[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.0f\n", iterations / ((double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9));
    return 0;
}
