/* A child stops this process, in which two threads count, by SIGSTOP, checks that both stand still, and
   lets them go on by SIGCONT; three times.
   Must be found: nothing, and the process must stop and go on. */
#include "testprog.h"

static atomic_int *counts; /* two, shared with the child */
static atomic_bool finished;

static void *count(void *counter)
{
    while (!finished) {
        atomic_fetch_add((atomic_int *)counter, 1);
        sleep_ms(1);
    }
    return NULL;
}

/* Under a tracer any system call stops a thread for a moment, so look twice. */
static bool stands_still(pid_t process)
{
    int before[] = {counts[0], counts[1]};
    for (int look = 0; look < 2; look++) {
        char state = task_state(process);
        if (state != 'T' && state != 't')
            return false;
        settle();
    }
    return before[0] == counts[0] && before[1] == counts[1];
}

static void stop_and_continue(pid_t process)
{
    check(kill(process, SIGSTOP));
    await(stands_still(process));
    int before[] = {counts[0], counts[1]};
    check(kill(process, SIGCONT));
    await(counts[0] > before[0] + 2 && counts[1] > before[1] + 2);
}

int main(void)
{
    counts = (atomic_int *)map_with(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    pid_t process = getpid();
    pid_t controller = check(fork());
    if (controller == 0) {
        for (int i = 0; i < 3; i++)
            stop_and_continue(process);
        _exit(0);
    }
    pthread_t threads[2];
    for (size_t i = 0; i < COUNT(threads); i++)
        threads[i] = start_pthread(count, &counts[i]);
    await_child(controller);
    finished = true;
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    return 0;
}
