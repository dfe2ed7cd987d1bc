/* Three raw threads alive at the same time, whose stacks are left. No fresh stack is mapped after their
   end, so the program might still have a use for these.
   Must be found: one orphaned-stack, unmanaged, probable, 3 regions. */
#include <linux/futex.h>

#include "testprog.h"

#define STACK_BYTES (64 * KIB)

/* One call and nothing to be kept over it, so that the function's own address stays on the stack, where it is read. */
static int live_until(void *all_are_there)
{
    syscall(SYS_futex, all_are_there, FUTEX_WAIT, false, NULL);
    return 0;
}

int main(void)
{
    pid_t tasks[3];
    atomic_int all_are_there = false;
    for (size_t i = 0; i < COUNT(tasks); i++)
        tasks[i] = start_raw(live_until, &all_are_there, map_stack(STACK_BYTES), STACK_BYTES);
    all_are_there = true;
    syscall(SYS_futex, &all_are_there, FUTEX_WAKE, COUNT(tasks));
    for (size_t i = 0; i < COUNT(tasks); i++)
        await_child(tasks[i]);
    return 0;
}
