/* Tells each signal that arrives as it arrives, a line each: tell_signals [STATUS]. SIGTERM ends it with STATUS;
   without one, so does the end of its input. A terminal may stop it.
   Must be found: nothing. */
#include "testprog.h"

#include <poll.h>

static const struct {
    int number;
    const char *name;
} told[] = {
    {SIGHUP, "SIGHUP\n"},   {SIGINT, "SIGINT\n"},   {SIGQUIT, "SIGQUIT\n"}, {SIGUSR1, "SIGUSR1\n"}, {SIGUSR2, "SIGUSR2\n"},
    {SIGTERM, "SIGTERM\n"}, {SIGCONT, "SIGCONT\n"}, {SIGWINCH, "SIGWINCH\n"},
};

static atomic_bool finished;

static void tell(int signal)
{
    for (size_t i = 0; i < COUNT(told); i++)
        if (told[i].number == signal && write(STDOUT_FILENO, told[i].name, strlen(told[i].name)) == -1)
            _exit(3);
    if (signal == SIGTERM)
        finished = true;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = tell};
    check(sigemptyset(&action.sa_mask));
    for (size_t i = 0; i < COUNT(told); i++)
        check(sigaddset(&action.sa_mask, told[i].number));
    for (size_t i = 0; i < COUNT(told); i++)
        check(sigaction(told[i].number, &action, NULL));
    alarm(60);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    /* They come in while it sleeps alone, so that no SIGTERM is missed between the look and the sleep. */
    sigset_t before;
    check_zero(pthread_sigmask(SIG_BLOCK, &action.sa_mask, &before));
    while (!finished) {
        struct pollfd input = {.fd = argc > 1 ? -1 : STDIN_FILENO, .events = POLLIN};
        char line[256];
        if (ppoll(&input, 1, NULL, &before) == 1 && read(STDIN_FILENO, line, sizeof line) <= 0)
            break;
    }
    return argc > 1 ? atoi(argv[1]) : 0;
}
