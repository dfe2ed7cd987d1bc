/* Prints what a program can see of how it was started: arguments, environment, signals, open files,
   limits, group and session. The same natively and under a tracer, apart from numbers of processes.
   Must be found: nothing. */
#include "testprog.h"

#include <dirent.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>

extern char **environ;

static void print_status(void)
{
    static const char *const kept[] = {
        "Umask:", "Uid:", "Gid:", "Groups:", "Threads:", "SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:",
        "SigCgt:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "Cpus_allowed:", "CoreDumping:",
        "THP_enabled:",
    };
    FILE *file = fopen("/proc/self/status", "re");
    require(file != NULL);
    char line[4096];
    while (fgets(line, sizeof line, file))
        for (size_t i = 0; i < COUNT(kept); i++)
            if (strncmp(line, kept[i], strlen(kept[i])) == 0)
                printf("status %s", line);
    check(fclose(file));
}

static void print_open_files(void)
{
    for (int fd = 0; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFL);
        if (flags != -1)
            printf("file %d: flags %#x, descriptor flags %#x\n", fd, (unsigned)flags, (unsigned)fcntl(fd, F_GETFD));
    }
}

static void print_limits(void)
{
    for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
        struct rlimit limit;
        check(getrlimit(resource, &limit));
        printf("limit %d: %lld %lld\n", resource, (long long)limit.rlim_cur, (long long)limit.rlim_max);
    }
}

static void print_signals(void)
{
    for (int signal = 1; signal < NSIG; signal++) {
        struct sigaction action;
        if (sigaction(signal, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
            printf("signal %d: %s\n", signal, action.sa_handler == SIG_IGN ? "ignored" : "handled");
    }
}

int main(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        printf("argument %d: %s\n", i, argv[i]);
    for (char **variable = environ; *variable != NULL; variable++)
        printf("environment: %s\n", *variable);
    print_status();
    print_open_files();
    print_limits();
    print_signals();
    char folder[4096];
    require(getcwd(folder, sizeof folder) != NULL);
    printf("folder %s\n", folder);
    printf("scheduling %d, nice %d\n", sched_getscheduler(0), getpriority(PRIO_PROCESS, 0));
    printf("personality %#x\n", (unsigned)personality(0xffffffff));
    printf("leads its group: %d, its session: %d\n", getpgrp() == getpid(), getsid(0) == getpid());
    printf("in its parent's group: %d, session: %d\n", getpgrp() == getpgid(getppid()), getsid(0) == getsid(getppid()));
    return 0;
}
