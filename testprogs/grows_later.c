/* A MAP_GROWSDOWN mapping that was there at "ready" grows at each byte of the input, and then a page is mapped, so that
   a change can be seen. Prints a line for each. Must be found: nothing. */
#include "testprog.h"

int main(void)
{
    /* Below it the kernel wants a gap of 256 pages to the next mapping. */
    size_t room_bytes = 8 * MIB;
    char *room = map_with(room_bytes, PROT_NONE, MAP_PRIVATE);
    unmap(room, room_bytes);
    char *stack = room + room_bytes - 2 * PAGE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE;
    require(check(mmap(stack, 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0)) == (intptr_t)stack);
    check(write(STDOUT_FILENO, "ready\n", 6));
    char byte;
    while (check(read(STDIN_FILENO, &byte, 1)) != 0) {
        stack -= PAGE;
        *(volatile char *)stack = 1;
        require(is_mapped(stack) && !is_mapped(stack - PAGE));
        map_with(PAGE, PROT_READ, MAP_SHARED);
        check(write(STDOUT_FILENO, "grown\n", 6));
    }
    return 0;
}
