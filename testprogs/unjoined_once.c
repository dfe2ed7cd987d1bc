/* One joinable pthread that nobody joins, and none after it that would show whether its stack is reused.
   Must be found: one orphaned-stack, unjoined, definite, 1 region; by glibc's lists, and with musl because it
   keeps no stacks. Where the lists cannot be read, nothing: no system call tells it from a cached stack. */
#include "testprog.h"

int main(void)
{
    run_pthread(1 * MIB, PAGE, NEITHER);
    return 0;
}
