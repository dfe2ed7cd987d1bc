/* mremap in all its ways: shrink, grow in place, grow and move, move over a live mapping, leave the old
   place mapped (MREMAP_DONTUNMAP), duplicate shared memory (old size 0), and fail.
   Must be found: nothing. */
#include "testprog.h"

static char *remap(char *start, size_t old_bytes, size_t new_bytes, int flags, char *target)
{
    return (char *)check(mremap(start, old_bytes, new_bytes, flags, target));
}

static void resize(void)
{
    char *block = map(8 * PAGE);
    require(remap(block, 8 * PAGE, 3 * PAGE - 5, 0, NULL) == block);
    require(is_mapped(block + 2 * PAGE) && !is_mapped(block + 3 * PAGE));
    require(remap(block, 3 * PAGE, 6 * PAGE, 0, NULL) == block);

    map_fixed(block + 6 * PAGE, PAGE, PROT_READ);
    require(mremap(block, 6 * PAGE, 7 * PAGE, 0) == MAP_FAILED && errno == ENOMEM);
    char *moved = remap(block, 6 * PAGE, 7 * PAGE, MREMAP_MAYMOVE, NULL);
    require(moved != block && !is_mapped(block) && is_mapped(block + 6 * PAGE));

    /* One part of three grows: the kernel moves it away and leaves the others. */
    char *middle_moved = remap(moved + 2 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE, NULL);
    require(is_mapped(moved) && !is_mapped(moved + 2 * PAGE) && is_mapped(moved + 3 * PAGE));
    unmap(middle_moved, 2 * PAGE);
}

static void move(void)
{
    char *block = map(4 * PAGE);
    char *target = map(6 * PAGE);
    block[PAGE] = 'x';
    remap(block, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + PAGE);
    require(target[2 * PAGE] == 'x' && !is_mapped(block));

    /* Smaller at the new place: the end of the old one goes too. */
    char *larger = map(6 * PAGE);
    remap(larger, 6 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    require(!is_mapped(larger + 5 * PAGE));

    require(mremap(larger, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
}

static void keep_old_place(void)
{
    char *block = map(4 * PAGE);
    block[PAGE] = 'x';
    char *contents = remap(block + PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    require(contents[0] == 'x' && block[PAGE] == 0);
}

static void duplicate(void)
{
    char *block = map_with(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    char *second = remap(block + PAGE, 0, 2 * PAGE, MREMAP_MAYMOVE, NULL);
    block[PAGE] = 'x';
    require(second[0] == 'x');
    unmap(block, 4 * PAGE);

    char *own = map(PAGE);
    require(mremap(own, 0, PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL);
}

int main(void)
{
    resize();
    move();
    keep_old_place();
    duplicate();
    return 0;
}
