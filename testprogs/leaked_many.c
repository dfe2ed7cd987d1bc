/* Joinable pthreads with small stacks that nobody joins: leaked_many COUNT [STACK_KIB]. They end one after the other;
   prints "ready" when all are gone, and waits until the input ends.
   Must be found: one orphaned-stack, unjoined, definite, COUNT regions. */
#include "testprog.h"

static void *end_at_once(void *unused)
{
    return unused;
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 100;
    size_t stack_bytes = (argc > 2 ? (size_t)atoi(argv[2]) : 16) * KIB;
    pthread_attr_t attributes;
    init_sizes(&attributes, stack_bytes, PAGE);
    alarm(240);
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        check_zero(pthread_create(&thread, &attributes, end_at_once, NULL));
    }
    /* All but this thread are gone when the process has one task. */
    for (int tasks = 2; tasks != 1; sleep_ms(1)) {
        FILE *file = fopen("/proc/self/status", "re");
        char line[256];
        require(file != NULL);
        while (fgets(line, sizeof line, file))
            sscanf(line, "Threads: %d", &tasks);
        check(fclose(file));
    }
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return 0;
}
