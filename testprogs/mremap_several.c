/* One mremap moves several mappings with a hole between them (Linux 6.17): under the hole the target
   keeps what it had. Another one fails half way at a sealed page, and has moved what lies before it.
   Must be found: nothing. */
#include "testprog.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

int main(void)
{
    char *source = map(5 * PAGE);
    check(mprotect(source + PAGE, PAGE, PROT_READ));
    unmap(source + 2 * PAGE, PAGE);
    source[4 * PAGE] = 'x';
    char *target = map(5 * PAGE);
    target[2 * PAGE] = 'y';
    check(mremap(source, 5 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target));
    require(target[2 * PAGE] == 'y' && target[4 * PAGE] == 'x' && !is_mapped(source + 3 * PAGE));

    char *partly_sealed = map(3 * PAGE);
    char *other_target = map_with(3 * PAGE, PROT_NONE, MAP_PRIVATE);
    partly_sealed[0] = 'z';
    check(syscall(SYS_mseal, partly_sealed + 2 * PAGE, PAGE, 0));
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    require(mremap(partly_sealed, 3 * PAGE, 3 * PAGE, flags, other_target) == MAP_FAILED && errno == EPERM);
    require(other_target[0] == 'z' && !is_mapped(partly_sealed) && is_mapped(partly_sealed + 2 * PAGE));
    return 0;
}
