/* Makes threads that stay alive until RLIMIT_AS lets pthread_create have no more stacks, then joins all.
   Must be found: nothing; that a limit was hit is mentioned. */
#include "testprog.h"

#include <sys/resource.h>

int main(void)
{
    struct rlimit limit = {256 * MIB, 256 * MIB};
    check(setrlimit(RLIMIT_AS, &limit));

    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t attributes;
    init_sizes(&attributes, 8 * MIB, PAGE);
    pthread_t threads[64];
    size_t made = 0;
    int error = 0;
    check_zero(pthread_mutex_lock(&gate));
    while (error == 0 && made < COUNT(threads)) {
        error = pthread_create(&threads[made], &attributes, wait_at_gate, &gate);
        if (error == 0)
            made++;
    }
    require(error == EAGAIN && made > 0);
    check_zero(pthread_mutex_unlock(&gate));
    while (made > 0)
        join(threads[--made]);
    return 0;
}
