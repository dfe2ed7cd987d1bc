/* The stack of an ended raw thread is moved by mremap, and then left or unmapped at its new place.
   Must be found: "left": one orphaned-stack, unmanaged, 1 region, only possible; "unmapped": nothing. */
#include "testprog.h"

int main(int argc, char **argv)
{
    bool left = chosen(argc, argv, "left", "unmapped");
    size_t bytes = 64 * KIB;
    char *stack = map_stack(bytes);
    char *new_place = map_with(bytes, PROT_NONE, MAP_PRIVATE);
    run_raw(stack, bytes);
    check(mremap(stack, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, new_place));
    require(!is_mapped(stack));
    if (!left)
        unmap(new_place, bytes);
    return 0;
}
