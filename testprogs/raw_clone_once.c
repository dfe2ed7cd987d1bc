/* One raw thread whose stack is left: the program may be keeping it for later.
   Must be found: one orphaned-stack, unmanaged, 1 region, only possible. */
#include "testprog.h"

int main(void)
{
    run_raw(map_stack(64 * KIB), 64 * KIB);
    return 0;
}
