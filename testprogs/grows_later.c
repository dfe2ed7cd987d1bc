/* A MAP_GROWSDOWN mapping that was there at "ready" grows at each byte of the input, and then a page is mapped, so that
   a change can be seen. Prints a line for each. Must be found: nothing. */
#include "testprog.h"

int main(void)
{
    char *stack = map_growing();
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
