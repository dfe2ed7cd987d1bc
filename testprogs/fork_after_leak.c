/* The parent leaks three stacks, then forks. The child inherits copies of them, which its thread library
   reuses for the joined threads that the child makes.
   Must be found: one orphaned-stack, unjoined, 3 regions, in the parent alone. */
#include "testprog.h"

int main(void)
{
    for (int i = 0; i < 3; i++)
        run_pthread(1 * MIB, PAGE, NEITHER);
    pid_t child = check(fork());
    if (child == 0) {
        for (int i = 0; i < 2; i++)
            run_pthread(1 * MIB, PAGE, JOINED);
        return 0;
    }
    await_child(child);
    return 0;
}
