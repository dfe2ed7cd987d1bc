/* A MAP_GROWSDOWN mapping grows without a system call when the page below it is touched; then its old
   part is unmapped, and the grown part stays.
   Must be found: nothing. */
#include "testprog.h"

int main(void)
{
    char *stack = map_growing();

    for (int page = 1; page <= 3; page++)
        *(volatile char *)(stack - page * PAGE) = 1;
    require(is_mapped(stack - 3 * PAGE) && !is_mapped(stack - 4 * PAGE));
    unmap(stack, 2 * PAGE);
    require(is_mapped(stack - 3 * PAGE) && !is_mapped(stack));
    return 0;
}
