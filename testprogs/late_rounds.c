/* Rounds without end: a hundred threads are made, end at once, and are joined a while later, detached every other
   round. In between nothing runs, and every stack lies where another thread's has lain in the round before:
   late_rounds PAUSE_MS. Prints "ready" when the first round is over, until the input ends.
   Must be found: nothing. */
#include "testprog.h"

static void *live(void *unused)
{
    return unused;
}

static bool has_ended(void)
{
    char byte;
    return read(STDIN_FILENO, &byte, 1) == 0;
}

int main(int argc, char **argv)
{
    int pause_ms = argc > 1 ? atoi(argv[1]) : 60;
    pthread_t threads[100];
    pthread_attr_t attributes;
    init_sizes(&attributes, 1 * MIB, PAGE);
    alarm(120);
    check(fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK));
    for (int round = 0; round == 0 || !has_ended(); round++) {
        for (size_t i = 0; i < COUNT(threads); i++)
            check_zero(pthread_create(&threads[i], &attributes, live, NULL));
        sleep_ms(pause_ms);
        for (size_t i = 0; i < COUNT(threads); i++) {
            if (round % 2 == 0)
                join(threads[i]);
            else
                check_zero(pthread_detach(threads[i]));
        }
        if (round == 0)
            require(puts("ready") >= 0 && fflush(stdout) == 0);
    }
    return 0;
}
