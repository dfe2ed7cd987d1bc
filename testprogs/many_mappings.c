/* COUNT mappings that lie side by side and cannot be merged, and then CHANGES calls at random places among them, each of
   which maps, unmaps or protects a page: many_mappings COUNT CHANGES.
   Must be found: nothing. */
#include "testprog.h"

/* xorshift32 */
static unsigned below(unsigned limit, uint32_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 17;
    *random ^= *random << 5;
    return *random % limit;
}

int main(int argc, char **argv)
{
    require(argc == 3);
    unsigned count = (unsigned)atoi(argv[1]), changes = (unsigned)atoi(argv[2]);
    char *first = map_with(count * PAGE, PROT_READ, MAP_PRIVATE);
    for (unsigned i = 0; i < count; i += 2)
        check(mprotect(first + i * PAGE, PAGE, PROT_READ | PROT_WRITE));
    uint32_t random = 1;
    for (unsigned i = 0; i < changes; i++) {
        char *page = first + below(count, &random) * PAGE;
        /* However they are cut, there are never more mappings than pages. */
        int prot = (page - first) / (long)PAGE % 2 == 0 ? PROT_READ | PROT_WRITE : PROT_READ;
        switch (below(3, &random)) {
        case 0:
            map_fixed(page, PAGE, prot);
            break;
        case 1:
            unmap(page, PAGE);
            break;
        default:
            (void)mprotect(page, PAGE, PROT_NONE);
        }
    }
    return 0;
}
