/* Raw threads on attached segments of System V that are never detached.
   Must be found: one orphaned-stack, unmanaged, 5 regions. */
#include "testprog.h"

#include <sys/ipc.h>
#include <sys/shm.h>

#define STACK_BYTES (64 * KIB)

int main(void)
{
    for (int i = 0; i < 5; i++) {
        int segment = (int)check(shmget(IPC_PRIVATE, STACK_BYTES, 0600));
        char *stack = shmat(segment, NULL, 0);
        require(stack != (char *)-1);
        check(shmctl(segment, IPC_RMID, NULL));
        run_raw(stack, STACK_BYTES);
        settle();
    }
    return 0;
}
