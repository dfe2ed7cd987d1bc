/* Mappings that a fork leaves out (MADV_DONTFORK), whole and in part; the child maps and unmaps in the
   holes. With "wait" it prints "ready" when the advice is given, and forks at the end of its input.
   Must be found: nothing. */
#include "testprog.h"

int main(int argc, char **argv)
{
    char *whole = map(4 * PAGE);
    char *part = map(4 * PAGE);
    char *taken_back = map(4 * PAGE);
    check(madvise(whole, 4 * PAGE, MADV_DONTFORK));
    check(madvise(part + PAGE, PAGE, MADV_DONTFORK));
    check(madvise(taken_back, 4 * PAGE, MADV_DONTFORK));
    check(madvise(taken_back, 4 * PAGE, MADV_DOFORK));
    if (argc > 1 && strcmp(argv[1], "wait") == 0) {
        require(puts("ready") >= 0 && fflush(stdout) == 0);
        char byte;
        while (read(STDIN_FILENO, &byte, 1) > 0)
            ;
    }
    pid_t child = check(fork());
    if (child == 0) {
        require(!is_mapped(whole) && !is_mapped(part + PAGE) && is_mapped(part + 2 * PAGE));
        require(is_mapped(taken_back));
        map_fixed(part + PAGE, PAGE, PROT_READ);
        unmap(whole, 4 * PAGE);
        unmap(part, 4 * PAGE);
        return 0;
    }
    await_child(child);
    unmap(whole, 4 * PAGE);
    return 0;
}
