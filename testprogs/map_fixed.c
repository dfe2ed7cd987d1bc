/* MAP_FIXED over live mappings: a whole one, the middle of one, several at once with a hole between them,
   and the end of one with the start of the next.
   Must be found: nothing. */
#include "testprog.h"

int main(void)
{
    char *room = map_with(32 * PAGE, PROT_NONE, MAP_PRIVATE);
    map_fixed(room, 4 * PAGE, PROT_READ);
    map_fixed(room, 4 * PAGE, PROT_READ | PROT_WRITE);

    map_fixed(room + 8 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE);
    room[8 * PAGE] = room[10 * PAGE] = room[15 * PAGE] = 1;
    map_fixed(room + 10 * PAGE, 2 * PAGE, PROT_READ);
    require(room[8 * PAGE] == 1 && room[10 * PAGE] == 0 && room[15 * PAGE] == 1);

    map_fixed(room + 16 * PAGE, 2 * PAGE, PROT_READ);
    unmap(room + 18 * PAGE, 2 * PAGE);
    map_fixed(room + 20 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE);
    map_fixed(room + 15 * PAGE, 8 * PAGE - 100, PROT_READ | PROT_WRITE);
    require(is_mapped(room + 18 * PAGE) && room[15 * PAGE] == 0);

    map_fixed(room + 24 * PAGE, 2 * PAGE, PROT_READ);
    map_fixed(room + 26 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE);
    map_fixed(room + 25 * PAGE, 2 * PAGE, PROT_NONE);
    return 0;
}
