/* The documented reproducer: raw threads, one after the other, each on a fresh mapping that
   nobody ever unmaps. The kernel merges those side by side into one line of /proc/PID/maps.
   Must be found: one orphaned-stack, unmanaged, 5 regions of 40,960 bytes. */
#include "testprog.h"

int main(void)
{
    for (int i = 0; i < 5; i++)
        run_raw(map_stack(40960), 40960);
    return 0;
}
