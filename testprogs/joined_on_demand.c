/* Threads that end early. Prints "ready"; joins them at the first line of input, and prints "joined"; waits for the end
   of the input.
   Must be found: nothing, in the end; a look in between sees one orphaned-stack, unjoined, 3 regions so far. */
#include "testprog.h"

int main(void)
{
    pthread_t threads[3];
    pthread_attr_t attributes;
    char byte;
    alarm(240);
    init_sizes(&attributes, 256 * KIB, PAGE);
    for (size_t i = 0; i < COUNT(threads); i++) {
        _Atomic pid_t tid = 0;
        check_zero(pthread_create(&threads[i], &attributes, tell_tid, (void *)&tid));
        await(tid != 0);
        await_task_end(tid);
    }
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    bool more = read(STDIN_FILENO, &byte, 1) > 0;
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    require(puts("joined") >= 0 && fflush(stdout) == 0);
    while (more && read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return 0;
}
