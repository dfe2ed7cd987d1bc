/* The clean twin of unjoined.c: every thread is joined.
   Must be found: nothing. glibc leaves one idle stack, in its cache. */
#include "testprog.h"

int main(void)
{
    for (int i = 0; i < 6; i++)
        run_pthread(10 * MIB, PAGE, JOINED);
    return 0;
}
