/* Threads that end early and are joined at the very end: a join of a dead thread makes no system call.
   Must be found: nothing, by the thread library's lists. Where these cannot be read it equals four threads
   that are never joined: one orphaned-stack, unjoined, probable, 4 regions. */
#include "testprog.h"

int main(void)
{
    pthread_t threads[4];
    pthread_attr_t attributes;
    init_sizes(&attributes, 256 * KIB, PAGE);
    for (size_t i = 0; i < COUNT(threads); i++) {
        _Atomic pid_t tid = 0;
        check_zero(pthread_create(&threads[i], &attributes, tell_tid, &tid));
        await(tid != 0);
        await_task_end(tid);
        settle();
    }
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    return 0;
}
