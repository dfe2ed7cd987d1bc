/* A MAP_GROWSDOWN mapping grows without a system call when the page below it is touched; then its old
   part is unmapped, and the grown part stays.
   Must be found: nothing. */
#include "testprog.h"

int main(void)
{
    /* Below it the kernel wants a gap of 256 pages to the next mapping. */
    size_t room_bytes = 4 * MIB;
    char *room = map_with(room_bytes, PROT_NONE, MAP_PRIVATE);
    unmap(room, room_bytes);
    char *stack = room + room_bytes - 2 * PAGE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE;
    require(check(mmap(stack, 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0)) == (intptr_t)stack);

    for (int page = 1; page <= 3; page++)
        *(volatile char *)(stack - page * PAGE) = 1;
    require(is_mapped(stack - 3 * PAGE) && !is_mapped(stack - 4 * PAGE));
    unmap(stack, 2 * PAGE);
    require(is_mapped(stack - 3 * PAGE) && !is_mapped(stack));
    return 0;
}
