/* Programs are executed without end, in every way at the same time, until the input ends: by the child of a vfork, by a
   thread of a forked child that has others, and by posix_spawn. Each ends with a code of its own, or by a signal, and
   its parent gets exactly that. Prints "ready" when all ways run, and at the end how many programs have ended.
   Must be found: nothing. */
#include "testprog.h"

#include <spawn.h>

#define WAYS 3
#define MOST_ROUNDS 100000

static char *self;
static atomic_bool finished;
static atomic_int done[WAYS];

/* The arguments of a program that ends with `code`, or by SIGTERM where that is 0. */
#define ARGUMENTS(code) (char *[]){self, (char[]){(char)('0' + (code) / 10), (char)('0' + (code) % 10), 0}, NULL}

static void expect(pid_t child, int code)
{
    int status;
    require(check(waitpid(child, &status, 0)) == child);
    if (code != 0)
        require(WIFEXITED(status) && WEXITSTATUS(status) == code);
    else
        require(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

static void by_vfork(int code)
{
    char **arguments = ARGUMENTS(code);
    pid_t child = vfork();
    if (child == 0) {
        execv(self, arguments);
        _exit(99);
    }
    expect((pid_t)check(child), code);
}

static void *linger(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void *execute(void *arguments)
{
    execv(self, arguments);
    _exit(99);
}

static void by_thread(int code)
{
    char **arguments = ARGUMENTS(code);
    pid_t child = fork();
    if (child == 0) {
        start_pthread(linger, NULL);
        start_pthread(execute, arguments);
        linger(NULL);
    }
    expect((pid_t)check(child), code);
}

static void by_spawn(int code)
{
    pid_t child;
    check_zero(posix_spawn(&child, self, NULL, NULL, ARGUMENTS(code), environ));
    expect(child, code);
}

static void *storm(void *number)
{
    static void (*const ways[WAYS])(int code) = {by_vfork, by_thread, by_spawn};
    size_t way = (size_t)number;
    for (int round = 0; round < MOST_ROUNDS && !(finished && round >= 5); round++) {
        ways[way](round % 50);
        atomic_fetch_add(&done[way], 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    self = argv[0];
    if (argc == 2) {
        int code = atoi(argv[1]);
        if (code == 0)
            check(raise(SIGTERM));
        return code;
    }
    alarm(240);
    pthread_t threads[WAYS];
    for (size_t way = 0; way < WAYS; way++)
        threads[way] = start_pthread(storm, (void *)way);
    for (size_t way = 0; way < WAYS; way++)
        await(done[way] > 0);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    char byte;
    while (check(read(STDIN_FILENO, &byte, 1)) > 0)
        ;
    finished = true;
    int all = 0;
    for (size_t way = 0; way < WAYS; way++) {
        join(threads[way]);
        all += done[way];
    }
    printf("%d\n", all);
    return 0;
}
