/* Three threads are alive when their process kills itself.
   Must be found: nothing; the threads did not end, they were killed. */
#include "testprog.h"

_Noreturn static void *wait_forever(void *started)
{
    atomic_fetch_add((atomic_int *)started, 1);
    for (;;)
        pause();
}

int main(void)
{
    atomic_int started = 0;
    for (int i = 0; i < 3; i++)
        start_pthread(wait_forever, &started);
    await(started == 3);
    check(raise(SIGKILL));
}
