/* Three places of the program, each of which creates one thread of the same function, on a stack of the program's own that
   is never unmapped.
   Must be found: three orphaned-stacks, unmanaged, one region each. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

__attribute__((noinline)) static void on_open(void)
{
    run_raw(map_stack(STACK_BYTES), STACK_BYTES);
    settle();
}

__attribute__((noinline)) static void on_read(void)
{
    run_raw(map_stack(STACK_BYTES), STACK_BYTES);
    settle();
}

__attribute__((noinline)) static void on_close(void)
{
    run_raw(map_stack(STACK_BYTES), STACK_BYTES);
    settle();
}

int main(void)
{
    on_open();
    on_read();
    on_close();
    return 0;
}
