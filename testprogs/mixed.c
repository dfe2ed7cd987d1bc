/* Joined, detached and forgotten threads in turn. No size fits a request for another (glibc reuses a
   stack for requests from a quarter of its size up), so only the forgotten ones' are never reused;
   these alone exceed glibc's cache.
   Must be found: one orphaned-stack, unjoined, definite, 5 regions of 12 MiB + 4 KiB. */
#include "testprog.h"

int main(void)
{
    for (int i = 0; i < 5; i++) {
        run_pthread(256 * KIB, PAGE, JOINED);
        run_pthread(2 * MIB, PAGE, DETACHED);
        run_pthread(12 * MIB, PAGE, NEITHER);
    }
    return 0;
}
