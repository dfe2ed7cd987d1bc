/* 1,000 threads alive at the same time, then all joined: more stacks than glibc's cache holds.
   Must be found: nothing. */
#include "testprog.h"

int main(void)
{
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t attributes;
    init_sizes(&attributes, 64 * KIB, PAGE);
    pthread_t threads[1000];
    check_zero(pthread_mutex_lock(&gate));
    for (size_t i = 0; i < COUNT(threads); i++)
        check_zero(pthread_create(&threads[i], &attributes, wait_at_gate, &gate));
    check_zero(pthread_mutex_unlock(&gate));
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    return 0;
}
