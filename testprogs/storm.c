/* Four threads at the same time map, unmap, protect, move and advise, each within a range of its own;
   they map and unmap blocks anywhere, so that an address goes from thread to thread; and all move the
   program break.
   Must be found: nothing. */
#include "testprog.h"

#define ITERATIONS 2000
#define RANGE_PAGES 64

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static uintptr_t first_break;

/* xorshift32 */
static unsigned below(unsigned limit, uint32_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 17;
    *random ^= *random << 5;
    return *random % limit;
}

static void change_range(char *range, uint32_t *random)
{
    static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
    char *start = range + below(RANGE_PAGES, random) * PAGE;
    size_t most = (size_t)(range + RANGE_PAGES * PAGE - start) / PAGE;
    size_t bytes = (1 + below(most, random)) * PAGE;
    int prot = protections[below(COUNT(protections), random)];
    char *target = range + below(RANGE_PAGES / 4, random) * PAGE;
    char *source = range + (RANGE_PAGES / 2 + below(RANGE_PAGES / 4, random)) * PAGE;

    switch (below(7, random)) {
    case 0:
        unmap(start, bytes);
        break;
    case 1: /* may meet a hole: then it changes what is before it */
        require(mprotect(start, bytes, prot) == 0 || errno == ENOMEM);
        break;
    case 2: /* may meet a hole: then it works on both sides of it */
        require(madvise(start, bytes, MADV_DONTNEED) == 0 || errno == ENOMEM);
        break;
    case 3:
        map_fixed(source, 8 * PAGE, prot);
        bytes = (4 + below(8, random)) * PAGE;
        check(mremap(source, 8 * PAGE, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target));
        break;
    default:
        map_fixed(start, bytes, prot);
        break;
    }
}

static void *storm(void *seed)
{
    wait_at_gate(&gate);
    uint32_t random = *(uint32_t *)seed;
    /* The outermost pages stay, so that no hole is as large as a block that may lie anywhere. */
    char *reserved = map_with((RANGE_PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE);
    for (int i = 0; i < ITERATIONS; i++) {
        change_range(reserved + PAGE, &random);
        if (i % 4 == 0) {
            size_t bytes = (RANGE_PAGES + 1 + below(RANGE_PAGES, &random)) * PAGE;
            unmap(map(bytes), bytes);
        }
        if (i % 16 == 0)
            syscall(SYS_brk, first_break + below(RANGE_PAGES, &random) * PAGE);
    }
    unmap(reserved, (RANGE_PAGES + 2) * PAGE);
    return NULL;
}

int main(void)
{
    uint32_t seeds[] = {1, 22, 333, 4444};
    pthread_t threads[COUNT(seeds)];
    check_zero(pthread_mutex_lock(&gate));
    for (size_t i = 0; i < COUNT(seeds); i++)
        threads[i] = start_pthread(storm, &seeds[i]);
    /* Not before pthread_create has its memory from malloc: the threads move the break unseen by libc. */
    first_break = check(sbrk(0));
    check_zero(pthread_mutex_unlock(&gate));
    for (size_t i = 0; i < COUNT(seeds); i++)
        join(threads[i]);
    check(brk((void *)first_break));
    return 0;
}
