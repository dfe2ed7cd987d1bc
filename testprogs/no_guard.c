/* Never joined pthreads without guard pages: their stacks lie side by side and the kernel merges them.
   Must be found: one orphaned-stack, unjoined, 4 regions of 1 MiB. */
#include "testprog.h"

int main(void)
{
    for (int i = 0; i < 4; i++)
        run_pthread(1 * MIB, 0, NEITHER);
    return 0;
}
