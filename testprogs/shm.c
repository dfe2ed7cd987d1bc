/* System V shared memory: attached twice, read-only, over a live mapping, removed while attached, with
   pages unmapped at the front and in the middle before it is detached, and left attached at the end.
   The size is no multiple of a page.
   Must be found: nothing. */
#include "testprog.h"

#include <sys/shm.h>

static char *attach(int segment, void *at, int flags)
{
    return (char *)check(shmat(segment, at, flags));
}

int main(void)
{
    int segment = check(shmget(IPC_PRIVATE, 5 * PAGE - 100, 0600));
    char *first = attach(segment, NULL, 0);
    check(shmctl(segment, IPC_RMID, NULL));
    char *second = attach(segment, NULL, SHM_RDONLY);
    first[4 * PAGE] = 'x';
    require(second[4 * PAGE] == 'x');

    /* shmdt takes what is left of the attachment, on both sides of the hole. */
    unmap(first + PAGE, 2 * PAGE);
    check(shmdt(first));
    require(!is_mapped(first) && !is_mapped(first + 4 * PAGE));

    /* Also when the page is gone that gave the attachment its address. */
    unmap(second, PAGE);
    check(shmdt(second));
    require(!is_mapped(second + PAGE));

    segment = check(shmget(IPC_PRIVATE, 2 * PAGE, 0600));
    char *room = map(6 * PAGE);
    require(attach(segment, room + 2 * PAGE + 100, SHM_REMAP | SHM_RND) == room + 2 * PAGE);
    attach(segment, NULL, 0);
    check(shmctl(segment, IPC_RMID, NULL));
    check(shmdt(room + 2 * PAGE));
    require(is_mapped(room + PAGE) && !is_mapped(room + 3 * PAGE) && is_mapped(room + 4 * PAGE));
    return 0;
}
