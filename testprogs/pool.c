/* A pool of raw threads' stacks, made at the start: by one mapping each ("separate"), or by one big
   mapping that is divided up ("carved"). Every stack is used three times, and kept to the end.
   Must be found: nothing; the pool is mentioned. */
#include "testprog.h"

#define STACK_BYTES (64 * KIB)

int main(int argc, char **argv)
{
    bool separate = chosen(argc, argv, "separate", "carved");
    char *stacks[4];
    char *pool = separate ? NULL : map_stack(COUNT(stacks) * STACK_BYTES);
    for (size_t i = 0; i < COUNT(stacks); i++)
        stacks[i] = separate ? map_stack(STACK_BYTES) : pool + i * STACK_BYTES;
    for (int round = 0; round < 3; round++) {
        pid_t tasks[COUNT(stacks)];
        for (size_t i = 0; i < COUNT(stacks); i++)
            tasks[i] = start_raw(live_briefly, NULL, stacks[i], STACK_BYTES);
        for (size_t i = 0; i < COUNT(stacks); i++)
            await_child(tasks[i]);
        settle();
    }
    return 0;
}
