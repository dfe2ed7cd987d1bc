/* Raw threads' stacks from mallocs so large that each gets a mapping of its own: never freed ("leaked"),
   or freed after the thread's end ("freed").
   Must be found: "leaked": one orphaned-stack, unmanaged, 4 regions; "freed": nothing. */
#include "testprog.h"

#include <malloc.h>

int main(int argc, char **argv)
{
    bool leaked = chosen(argc, argv, "leaked", "freed");
    size_t bytes = 256 * KIB;
    /* A threshold that is set stays, where free would raise it. */
    require(mallopt(M_MMAP_THRESHOLD, 128 * KIB) == 1);
    for (int i = 0; i < 4; i++) {
        char *stack = malloc(bytes);
        require(stack != NULL);
        run_raw(stack, bytes);
        if (!leaked)
            free(stack);
    }
    return 0;
}
