/* Three stacks of the program's own, without a guard, each given to three pthreads one after the other, which are joined.
   Must be found: nothing; the pool is mentioned. */
#include "testprog.h"

#define STACK_BYTES (256 * KIB)

static void run_pthread_on(char *stack)
{
    pthread_attr_t attributes;
    check_zero(pthread_attr_init(&attributes));
    check_zero(pthread_attr_setstack(&attributes, stack, STACK_BYTES));
    run_pthread_with(&attributes, JOINED);
    check_zero(pthread_attr_destroy(&attributes));
}

int main(void)
{
    char *stacks[3];
    for (size_t i = 0; i < 3 * COUNT(stacks); i++) {
        char **stack = &stacks[i % COUNT(stacks)];
        if (i < COUNT(stacks))
            *stack = map(STACK_BYTES);
        run_pthread_on(*stack);
    }
    return 0;
}
