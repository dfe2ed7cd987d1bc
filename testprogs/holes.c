/* mprotect and madvise over a hole fail with ENOMEM, and still have an effect: mprotect on the pages
   before the hole, madvise on both sides of it. munmap does not mind.
   Must be found: nothing. */
#include "testprog.h"

static char *map_with_hole_at_2(void)
{
    char *block = map(5 * PAGE);
    memset(block, 1, 5 * PAGE);
    unmap(block + 2 * PAGE, PAGE);
    return block;
}

int main(void)
{
    char *block = map_with_hole_at_2();
    require(mprotect(block + PAGE, 4 * PAGE, PROT_NONE) == -1 && errno == ENOMEM);
    block[0] = block[3 * PAGE] = 2;
    int null = check(open("/dev/zero", O_RDONLY));
    require(read(null, block + PAGE, 1) == -1 && errno == EFAULT);
    check(close(null));

    block = map_with_hole_at_2();
    require(madvise(block, 5 * PAGE, MADV_DONTNEED) == -1 && errno == ENOMEM);
    require(block[PAGE] == 0 && block[3 * PAGE] == 0);

    unmap(block, 5 * PAGE);
    require(!is_mapped(block) && !is_mapped(block + 4 * PAGE));
    return 0;
}
