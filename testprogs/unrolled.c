/* Raw threads, one after the other, each on a fresh stack of the program's own that is never unmapped, created in a loop
   that the compiler unrolls: each thread has a return address, and so a call stack, of its own.
   Must be found: one orphaned-stack, unmanaged, 8 regions; as many findings where no lines tell that the place is one. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

int main(void)
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        run_raw(map_stack(STACK_BYTES), STACK_BYTES);
        settle();
    }
    return 0;
}
