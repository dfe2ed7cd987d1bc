/* Two places of the program that know nothing of each other: one keeps the stack of its thread for its next one, which never
   comes; the other maps and unmaps its own, of the same size.
   Must be found: nothing; what is kept is possible. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

__attribute__((noinline)) static void run_and_keep(void)
{
    run_raw(map_stack(STACK_BYTES), STACK_BYTES);
    settle();
}

__attribute__((noinline)) static void run_and_unmap(void)
{
    char *stack = map_stack(STACK_BYTES);
    run_raw(stack, STACK_BYTES);
    unmap(stack, STACK_BYTES);
    settle();
}

int main(void)
{
    run_and_keep();
    run_and_unmap();
    return 0;
}
