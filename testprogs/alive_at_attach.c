/* Three pthreads with stacks of 1 MiB live until the end of the input, then end, and nobody joins them:
   alive_at_attach GUARD_BYTES. Without guards, or with such as madvise makes, the kernel shows their stacks as one line.
   Prints "ready" when all live. Must be found: one orphaned-stack, unjoined, 3 regions, also when it is attached to
   at "ready". */
#include "testprog.h"

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *live(void *tid)
{
    tell_tid(tid);
    return wait_at_gate(&gate);
}

int main(int argc, char **argv)
{
    require(argc == 2);
    static _Atomic pid_t tids[3];
    pthread_t threads[COUNT(tids)];
    pthread_attr_t attributes;
    init_sizes(&attributes, 1 * MIB, strtoul(argv[1], NULL, 10));
    check_zero(pthread_mutex_lock(&gate));
    for (size_t i = 0; i < COUNT(tids); i++)
        check_zero(pthread_create(&threads[i], &attributes, live, &tids[i]));
    for (size_t i = 0; i < COUNT(tids); i++)
        await(tids[i] != 0);
    check(write(STDOUT_FILENO, "ready\n", 6));
    char rest;
    while (check(read(STDIN_FILENO, &rest, 1)) != 0)
        ;
    check_zero(pthread_mutex_unlock(&gate));
    for (size_t i = 0; i < COUNT(tids); i++)
        await_task_end(tids[i]);
    return 0;
}
