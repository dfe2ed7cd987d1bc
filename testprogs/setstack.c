/* Joined pthreads on stacks that the program maps itself (pthread_attr_setstack): after the join it
   leaves them ("leaked") or unmaps them ("freed").
   Must be found: "leaked": one orphaned-stack, unmanaged, 4 regions of 256 KiB; "freed": nothing. */
#include "testprog.h"

int main(int argc, char **argv)
{
    bool leaked = chosen(argc, argv, "leaked", "freed");
    size_t bytes = 256 * KIB;
    for (int i = 0; i < 4; i++) {
        char *stack = map(bytes);
        pthread_attr_t attributes;
        check_zero(pthread_attr_init(&attributes));
        check_zero(pthread_attr_setstack(&attributes, stack, bytes));
        run_pthread_with(&attributes, JOINED);
        check_zero(pthread_attr_destroy(&attributes));
        if (!leaked)
            unmap(stack, bytes);
    }
    return 0;
}
