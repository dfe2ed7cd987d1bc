/* The first thread ends while another one goes on; two threads were never joined. Prints "ready", and waits until the
   input ends.
   Must be found: one orphaned-stack, unjoined, definite, 2 regions. */
#include "testprog.h"

static void *go_on(void *first)
{
    (void)first;
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    _exit(0);
}

int main(void)
{
    alarm(240);
    for (int i = 0; i < 2; i++)
        run_pthread(1 * MIB, PAGE, NEITHER);
    start_pthread(go_on, NULL);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    pthread_exit(NULL); /* not by _exit: the process goes on */
}
