/* The production case: joinable pthreads with stacks of 10 MiB + 4 KiB guard, one after the other,
   which nobody joins or detaches. Together they are more than glibc would keep for reuse (40 MiB).
   Must be found: one orphaned-stack, unjoined, definite, 6 regions. */
#include "testprog.h"

int main(void)
{
    for (int i = 0; i < 6; i++)
        run_pthread(10 * MIB, PAGE, NEITHER);
    return 0;
}
