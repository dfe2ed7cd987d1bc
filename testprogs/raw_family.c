/* Raw threads, children that share the memory (no CLONE_THREAD), live until the input ends; then they end and
   their stacks are unmapped: raw_family TASKS. Prints "ready" when all run.
   Must be found: nothing; all tasks are part of the address space. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

static atomic_int alive;
static atomic_bool finished;

static int live(void *unused)
{
    (void)unused;
    atomic_fetch_add(&alive, 1);
    while (!finished)
        sleep_ms(1);
    return 0;
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 3;
    pid_t tasks[64];
    char *stacks[64];
    require(count > 0 && count <= (int)COUNT(tasks));
    alarm(60);
    for (int i = 0; i < count; i++) {
        stacks[i] = map_stack(STACK_BYTES);
        tasks[i] = start_raw(live, NULL, stacks[i], STACK_BYTES);
    }
    await(alive == count);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    finished = true;
    for (int i = 0; i < count; i++) {
        await_child(tasks[i]);
        unmap(stacks[i], STACK_BYTES);
    }
    return 0;
}
