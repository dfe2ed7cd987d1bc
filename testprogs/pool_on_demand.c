/* A pool of raw threads' stacks that maps a fresh one only when all are in use: 1, then 2, then 4 threads
   at a time, twice. Every stack has had two owners or more at the end, and is kept.
   Must be found: nothing; the pool is mentioned. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

int main(void)
{
    static const size_t at_a_time[] = {1, 2, 4, 4};
    char *stacks[4] = {NULL};
    for (size_t round = 0; round < COUNT(at_a_time); round++) {
        pid_t tasks[COUNT(stacks)];
        for (size_t i = 0; i < at_a_time[round]; i++) {
            if (stacks[i] == NULL)
                stacks[i] = map_stack(STACK_BYTES);
            tasks[i] = start_raw(live_briefly, NULL, stacks[i], STACK_BYTES);
        }
        for (size_t i = 0; i < at_a_time[round]; i++)
            await_child(tasks[i]);
        settle();
    }
    return 0;
}
