/* Raw threads' stacks from small mallocs that are never freed: parts of the heap ("brk"), or of the
   malloc arena of a thread ("arena"). The heap goes on living.
   Must be found: nothing. */
#include "testprog.h"

static void *run_on_small_mallocs(void *unused)
{
    size_t bytes = 32 * KIB;
    for (int i = 0; i < 3; i++) {
        char *stack = malloc(bytes);
        require(stack != NULL);
        run_raw(stack, bytes);
    }
    return unused;
}

int main(int argc, char **argv)
{
    if (chosen(argc, argv, "brk", "arena"))
        run_on_small_mallocs(NULL);
    else
        join(start_pthread(run_on_small_mallocs, NULL));
    return 0;
}
