/* A forked child leaks three stacks while the parent waits for it.
   Must be found: one orphaned-stack, unjoined, 3 regions, in the child. */
#include "testprog.h"

int main(void)
{
    pid_t child = check(fork());
    if (child == 0) {
        for (int i = 0; i < 3; i++)
            run_pthread(1 * MIB, PAGE, NEITHER);
        return 0;
    }
    await_child(child);
    return 0;
}
