/* One place that makes ten threads, joins most of them, and forgets every third one.
   Must be found: one orphaned-stack, unjoined, occasional, 3 regions of 10 threads. */
#include "testprog.h"

static void *job(void *tid)
{
    return tell_tid(tid);
}

static void run_job(bool forgotten)
{
    _Atomic pid_t tid = 0;
    pthread_t thread = start_pthread(job, (void *)&tid);
    if (!forgotten)
        join(thread);
    await(tid != 0);
    await_task_end(tid);
    settle();
}

int main(void)
{
    for (int i = 1; i <= 10; i++)
        run_job(i % 3 == 0);
    return 0;
}
