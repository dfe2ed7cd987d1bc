/* Joined, detached and forgotten threads in turn, all of one size: each forgotten one takes the cached
   stack with it, so that the next thread needs a fresh one.
   Must be found: one orphaned-stack, unjoined, 3 regions of 9 threads; without the lists 2, as the third
   forgotten one comes last and no system call tells it from a cached stack. */
#include "testprog.h"

int main(void)
{
    for (int i = 0; i < 3; i++) {
        run_pthread(1 * MIB, PAGE, JOINED);
        run_pthread(1 * MIB, PAGE, DETACHED);
        run_pthread(1 * MIB, PAGE, NEITHER);
    }
    return 0;
}
