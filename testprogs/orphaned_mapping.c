/* Four threads map a block each, use it and end, joined. Nobody unmaps the blocks ("left"), or the main
   thread does ("unmapped").
   Must be found: "left": one orphaned-mapping, possible, 4 regions; "unmapped": nothing. */
#include "testprog.h"

#define BLOCK_BYTES (1 * MIB + 5 * PAGE)

static void *use_block(void *unused)
{
    (void)unused;
    return memset(map(BLOCK_BYTES), 1, BLOCK_BYTES);
}

int main(int argc, char **argv)
{
    bool left = chosen(argc, argv, "left", "unmapped");
    for (int i = 0; i < 4; i++) {
        void *block = join(start_pthread(use_block, NULL));
        if (!left)
            unmap(block, BLOCK_BYTES);
    }
    return 0;
}
