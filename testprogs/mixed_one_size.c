/* Joined, detached and forgotten threads in turn, all of one size: each forgotten one takes the cached
   stack with it, so that the next thread needs a fresh one.
   Must be found: one orphaned-stack, unjoined, 3 regions of the 3 threads made where none is joined. Without the
   lists it is the place alone that tells the third, which comes last, from a cached stack. */
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
