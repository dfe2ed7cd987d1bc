/* Pthreads that nobody joins, with stacks of a size that is no multiple of a page's: glibc takes it as it is, and the kernel
   rounds it up.
   Must be found: one orphaned-stack, unjoined, 3 regions of 307,200 bytes. */
#include "testprog.h"

int main(void)
{
    for (int i = 0; i < 3; i++)
        run_pthread(300000, PAGE, NEITHER);
    return 0;
}
