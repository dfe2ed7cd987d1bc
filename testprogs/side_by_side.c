/* All kinds of stacks in one process at once: 3 of threads that were never joined, 2 cached, 4 of live threads, one given by
   the program, and, with "raw", 4 of raw threads that are gone, with guards. Prints "ready" and waits until the input ends.
   Must be found: one orphaned-stack, unjoined, definite, 3 regions; with "raw" one more, unmanaged, possible, 4 regions. */
#include "testprog.h"

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

int main(int argc, char **argv)
{
    bool raw = argc > 1 && strcmp(argv[1], "raw") == 0;
    pthread_attr_t attributes;
    pthread_t live[5];
    alarm(240);
    check_zero(pthread_mutex_lock(&gate));
    for (int i = 0; i < 3; i++)
        run_pthread(1 * MIB, PAGE, NEITHER);
    init_sizes(&attributes, 256 * KIB, PAGE);
    for (int i = 0; i < 4; i++)
        check_zero(pthread_create(&live[i], &attributes, wait_at_gate, &gate));
    char *given = map_stack(512 * KIB);
    check_zero(pthread_attr_setstack(&attributes, given, 512 * KIB));
    check_zero(pthread_create(&live[4], &attributes, wait_at_gate, &gate));
    pthread_t cached[2];
    _Atomic pid_t tids[2];
    init_sizes(&attributes, 2 * MIB, PAGE);
    for (int i = 0; i < 2; i++)
        check_zero(pthread_create(&cached[i], &attributes, tell_tid, &tids[i]));
    for (int i = 0; i < 2; i++)
        join(cached[i]);
    for (int i = 0; raw && i < 4; i++) {
        char *stack = map_stack(128 * KIB + PAGE);
        check(mprotect(stack, PAGE, PROT_NONE));
        run_raw(stack, 128 * KIB + PAGE);
    }
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    check_zero(pthread_mutex_unlock(&gate));
    for (int i = 0; i < 5; i++)
        join(live[i]);
    return 0;
}
