/* The process exits while three threads are in the middle of mmap and munmap.
   Must be found: nothing. */
#include "testprog.h"

int main(void)
{
    static atomic_int rounds[3];
    for (size_t i = 0; i < COUNT(rounds); i++)
        start_pthread(map_forever, &rounds[i]);
    for (size_t i = 0; i < COUNT(rounds); i++)
        await(rounds[i] > 20);
    return 0;
}
