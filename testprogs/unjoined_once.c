/* One joinable pthread that nobody joins, and none after it that would show whether its stack is reused.
   Must be found: with glibc nothing, as no system call tells it from a cached stack; with musl, which
   keeps no stacks, one orphaned-stack, unjoined, definite, 1 region. */
#include "testprog.h"

int main(void)
{
    run_pthread(1 * MIB, PAGE, NEITHER);
    return 0;
}
