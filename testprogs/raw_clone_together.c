/* Three raw threads alive at the same time, whose stacks are left. No fresh stack is mapped after their
   end, so the program might still have a use for these.
   Must be found: one orphaned-stack, unmanaged, probable, 3 regions. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

int main(void)
{
    pid_t tasks[3];
    for (size_t i = 0; i < COUNT(tasks); i++)
        tasks[i] = start_raw(live_briefly, NULL, map_stack(STACK_BYTES), STACK_BYTES);
    for (size_t i = 0; i < COUNT(tasks); i++)
        await_child(tasks[i]);
    return 0;
}
