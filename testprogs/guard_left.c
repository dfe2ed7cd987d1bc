/* After each raw thread its stack is unmapped, but the guard page below it is forgotten.
   Must be found: one orphaned-stack, partly-unmapped, 3 regions of which 4,096 bytes each remain. */
#include "testprog.h"

int main(void)
{
    size_t bytes = 64 * KIB + PAGE;
    for (int i = 0; i < 3; i++) {
        char *guard = map_stack(bytes);
        check(mprotect(guard, PAGE, PROT_NONE));
        run_raw(guard, bytes);
        unmap(guard + PAGE, bytes - PAGE);
    }
    return 0;
}
