/* Raw threads, one after the other, on the program's own stacks. Eight at most wait in a queue; beyond that the one that has
   waited longest is used again ("reuse"), or unmapped ("unmap").
   Must be found: nothing; the pool of "reuse" is mentioned. What waits at the end of "unmap" is possible. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

int main(int argc, char **argv)
{
    bool reuse = chosen(argc, argv, "reuse", "unmap");
    char *queue[8];
    for (size_t i = 0; i < 12; i++) {
        char **place = &queue[i % COUNT(queue)];
        if (i >= COUNT(queue) && !reuse)
            unmap(*place, STACK_BYTES);
        if (i < COUNT(queue) || !reuse)
            *place = map_stack(STACK_BYTES);
        run_raw(*place, STACK_BYTES);
        settle();
    }
    return 0;
}
