/* A tree of MEMBERS processes, each of which makes four others until there are enough, and leaves one thread unjoined:
   family MEMBERS. It says "ready", begins to grow when it gets a line or its input ends, says "grown", and lives until its
   input ends.
   Must be found: one orphaned-stack, unjoined, definite, one region, in each of them. */
#include "testprog.h"

static atomic_long *grown;

static bool read_byte(void)
{
    char byte;
    return read(STDIN_FILENO, &byte, 1) > 0;
}

static void be_member(long number, long members)
{
    run_pthread(64 * KIB, PAGE, NEITHER);
    for (long child = 4 * number + 1; child <= 4 * number + 4 && child < members; child++)
        if (check(fork()) == 0) {
            be_member(child, members);
            _exit(0);
        }
    if (atomic_fetch_add(grown, 1) + 1 == members)
        require(puts("grown") >= 0 && fflush(stdout) == 0);
    while (read_byte())
        ;
    int status;
    while (wait(&status) > 0)
        require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv)
{
    require(argc == 2);
    grown = (atomic_long *)map_with(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    read_byte();
    be_member(0, atol(argv[1]));
    return 0;
}
