/* Raw threads on stacks whose guard page is made by madvise (Linux 6.13), which leaves the mapping
   in one piece; never unmapped.
   Must be found: one orphaned-stack, unmanaged, 4 regions, each with a guard of 4,096 bytes. */
#include "testprog.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_GUARD_REMOVE
#define MADV_GUARD_REMOVE 103
#endif

int main(void)
{
    size_t bytes = 64 * KIB + PAGE;
    for (int i = 0; i < 4; i++) {
        char *stack = map_stack(bytes);
        check(madvise(stack, 2 * PAGE, MADV_GUARD_INSTALL));
        check(madvise(stack + PAGE, PAGE, MADV_GUARD_REMOVE));
        run_raw(stack, bytes);
    }
    return 0;
}
