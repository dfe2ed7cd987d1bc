/* A thread advises the lower half of a mapping and takes that back, again and again: it is two lines of /proc/PID/maps, or
   one. Tells where it lies, and ends when its input does. Must be found: nothing. */
#include "testprog.h"

#define BYTES (32 * PAGE)

static void *split(void *mapping)
{
    for (;;) {
        check(madvise(mapping, BYTES / 2, MADV_DONTFORK));
        check(madvise(mapping, BYTES / 2, MADV_DOFORK));
    }
}

int main(void)
{
    char *mapping = map_with(BYTES, PROT_READ | PROT_EXEC, MAP_PRIVATE);
    start_pthread(split, mapping);
    printf("%p %p\nready\n", (void *)mapping, (void *)(mapping + BYTES));
    check(fflush(stdout));
    char byte;
    require(check(read(STDIN_FILENO, &byte, 1)) == 0);
    return 0;
}
