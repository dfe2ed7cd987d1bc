/* Stacks of one size, made at two places, for threads of two functions.
   Must be found: three orphaned-stacks, unjoined: red_job from red_place (3) and from blue_place (2), blue_job from
   blue_place (4). */
#include "testprog.h"

static void *red_job(void *tid)
{
    return tell_tid(tid);
}

static void *blue_job(void *tid)
{
    return tell_tid(tid);
}

__attribute__((noinline)) static pthread_t red_place(void *(*job)(void *), void *tid)
{
    pthread_t thread = start_pthread(job, tid);
    __asm__ volatile("");
    return thread;
}

__attribute__((noinline)) static pthread_t blue_place(void *(*job)(void *), void *tid)
{
    pthread_t thread = start_pthread(job, tid);
    __asm__ volatile("");
    return thread;
}

static void forget(pthread_t (*place)(void *(*)(void *), void *), void *(*job)(void *), int times)
{
    for (int i = 0; i < times; i++) {
        _Atomic pid_t tid = 0;
        place(job, (void *)&tid);
        await(tid != 0);
        await_task_end(tid);
        settle();
    }
}

int main(void)
{
    static const struct {
        pthread_t (*place)(void *(*)(void *), void *);
        void *(*job)(void *);
        int times;
    } plan[] = { { red_place, red_job, 3 }, { blue_place, red_job, 2 }, { blue_place, blue_job, 4 } };
    for (size_t i = 0; i < COUNT(plan); i++)
        forget(plan[i].place, plan[i].job, plan[i].times);
    return 0;
}
