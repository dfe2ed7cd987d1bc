/* A child made by vfork lives until the input ends, and its parent sleeps in the call, uninterruptibly, while
   a second thread of the parent counts on. Prints "ready" from within the child.
   Must be found: nothing. */
#include "testprog.h"

static atomic_bool finished;
static atomic_int rounds;

static void *count_rounds(void *unused)
{
    (void)unused;
    while (!finished) {
        unmap(map(4 * PAGE), 4 * PAGE);
        atomic_fetch_add(&rounds, 1);
        sleep_ms(1);
    }
    return NULL;
}

int main(void)
{
    alarm(60);
    pthread_t thread = start_pthread(count_rounds, NULL);
    await(rounds > 0);
    pid_t child = vfork();
    if (child == 0) {
        /* The parent's memory: nothing but system calls here. */
        char byte;
        if (write(STDOUT_FILENO, "ready\n", 6) != 6)
            _exit(1);
        while (read(STDIN_FILENO, &byte, 1) > 0)
            ;
        _exit(0);
    }
    await_child(check(child));
    finished = true;
    join(thread);
    return 0;
}
