/* Raw threads on stacks with a guard page made by mprotect, as thread libraries do it; never unmapped.
   Must be found: one orphaned-stack, unmanaged, 4 regions, each with a guard of 4,096 bytes. */
#include "testprog.h"

int main(void)
{
    size_t bytes = 64 * KIB + PAGE;
    for (int i = 0; i < 4; i++) {
        char *stack = map_stack(bytes);
        check(mprotect(stack, PAGE, PROT_NONE));
        run_raw(stack, bytes);
    }
    return 0;
}
