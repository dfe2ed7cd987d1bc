/* The least that ptrace can do for mmap and munmap: minimal [-1] PROGRAM [ARG...] launches a program under a seccomp filter
   that stops these two (and mprotect, madvise, clone, clone3), reads the registers once at each exit, and counts. With -1
   tracer and tracee share one CPU. Every thread is followed. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static void filter_calls(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 6, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
    };
    struct sock_fprog whole = { sizeof program / sizeof *program, program };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole) != 0)
        _exit(126);
}

int main(int argc, char **argv)
{
    int shared = argc > 1 && strcmp(argv[1], "-1") == 0;
    argv += 1 + shared;
    if (*argv == NULL)
        return 2;
    if (shared) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        sched_setaffinity(0, sizeof one, &one);
    }
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        filter_calls();
        execvp(argv[0], argv);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    ptrace(PTRACE_SETOPTIONS, child, 0,
           PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |
               PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, child, 0, 0);
    long seen = 0;
    pid_t task;
    while ((task = waitpid(-1, &status, __WALL)) > 0) {
        if (!WIFSTOPPED(status))
            continue;
        int event = status >> 8;
        struct user_regs_struct registers;
        if (event == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8)) {
            ptrace(PTRACE_SYSCALL, task, 0, 0);
        } else if (event == (SIGTRAP | 0x80)) {
            ptrace(PTRACE_GETREGS, task, 0, &registers);
            seen++;
            ptrace(PTRACE_CONT, task, 0, 0);
        } else {
            int signal = event >> 8 != 0 || event == SIGSTOP ? 0 : event;
            ptrace(PTRACE_CONT, task, 0, signal);
        }
    }
    fprintf(stderr, "%ld calls\n", seen);
    return 0;
}
