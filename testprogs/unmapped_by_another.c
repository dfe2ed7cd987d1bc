/* Raw threads' stacks are unmapped by another task than the one that mapped them: a pthread, or a child
   process that shares the memory (CLONE_VM).
   Must be found: nothing. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

static void *unmap_in_pthread(void *stack)
{
    unmap(stack, STACK_BYTES);
    return NULL;
}

static int unmap_in_child(void *stack)
{
    unmap(stack, STACK_BYTES);
    return 0;
}

int main(int argc, char **argv)
{
    bool by_pthread = chosen(argc, argv, "pthread", "child");
    char *childs_stack = map_stack(2 * STACK_BYTES);
    for (int i = 0; i < 3; i++) {
        char *stack = map_stack(STACK_BYTES);
        run_raw(stack, STACK_BYTES);
        if (by_pthread)
            join(start_pthread(unmap_in_pthread, stack));
        else
            await_child(start_raw(unmap_in_child, stack, childs_stack, 2 * STACK_BYTES));
    }
    unmap(childs_stack, 2 * STACK_BYTES);
    return 0;
}
