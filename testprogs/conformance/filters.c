/* Filters of the program's own, see seccomp(2): what they decide about mapping calls. */
#include "conformance.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <ucontext.h>

struct filter_row {
    const char *name;
    uint32_t action;
    /* Of munmap, mprotect and getppid. */
    int error;
};

/* The messages are for a tracer that is not there: nothing, the numbers of munmap and read, everything. */
static const struct filter_row filter_rows[] = {
    {"filter_errno", SECCOMP_RET_ERRNO | EDOM, EDOM},
    {"filter_trap", SECCOMP_RET_TRAP, EDOM},
    {"filter_log", SECCOMP_RET_LOG, 0},
    {"filter_trace", SECCOMP_RET_TRACE, ENOSYS},
    {"filter_trace_itself", SECCOMP_RET_TRACE | SYS_munmap, ENOSYS},
    {"filter_trace_another", SECCOMP_RET_TRACE | SYS_read, ENOSYS},
    {"filter_trace_everything", SECCOMP_RET_TRACE | SECCOMP_RET_DATA, ENOSYS},
};

static void trapped(int signal, siginfo_t *about, void *context);

/* Its own number stands where the former personality would: that is no success. */
CASE(filter_traps_personality)
{
    struct sigaction trap = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_personality, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {COUNT(filter), filter};
    check(sigaction(SIGSYS, &trap, NULL));
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    fails(EDOM, syscall(SYS_personality, READ_IMPLIES_EXEC));
    char *at = (char *)check(mmap(NULL, PAGE, PROT_READ, PLAIN, -1, 0));
    require(is_line(at, PAGE, "r--p"));
}

/* A call that was trapped fails, by the program's own will. */
static void trapped(int signal, siginfo_t *about, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)about;
    require(signal == SIGSYS);
#ifdef __x86_64__
    registers[REG_RAX] = -EDOM;
#else
    registers[REG_EAX] = -EDOM;
#endif
}

static void filter_row(const void *with)
{
    struct sigaction trap = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    const struct filter_row *row = with;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, row->action),
    };
    struct sock_fprog program = {COUNT(filter), filter};
    char *at = pages(4);
    check(sigaction(SIGSYS, &trap, NULL));
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    for (int round = 0; round < 2; round++) {
        if (row->error == 0) {
            check(mprotect(at + 2 * PAGE, PAGE, round ? PROT_READ : PROT_NONE));
            check(munmap(at + 3 * PAGE, PAGE));
            require(syscall(SYS_getppid) > 0 && !is_mapped(at + 3 * PAGE));
            continue;
        }
        fails(row->error, mprotect(at, 2 * PAGE, PROT_READ));
        fails(row->error, munmap(at + PAGE, PAGE));
        fails(row->error, syscall(SYS_getppid));
        require(is_line(at, 4 * PAGE, "rw-p"));
        /* What the filter lets pass. */
        check(madvise(at, PAGE, MADV_DONTFORK));
        require(check(mmap(at, PAGE, RW, PLAIN | MAP_FIXED, -1, 0)) == (intptr_t)at);
    }
}
ROWS(filter_row, filter_rows)

/* ---- another process decides ---- */

/* Answers calls: to munmap that it is done, although it is not, to mprotect that it is refused; others are let go on. */
static _Noreturn void supervise(int listener)
{
    for (;;) {
        struct seccomp_notif call = {0};
        struct seccomp_notif_resp answer = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == -1)
            _exit(errno != ENOENT);
        answer.id = call.id;
        switch (call.data.nr) {
        case SYS_munmap: break;
        case SYS_mprotect: answer.error = -EDOM; break;
        default: answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        }
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static int let_another_decide(unsigned flags)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    struct sock_fprog program = {COUNT(filter), filter};
    int pipes[2], listener;
    check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pipes));
    pid_t supervisor = (pid_t)check(fork());
    if (supervisor == 0) {
        require(check(read(pipes[1], &listener, sizeof listener)) == sizeof listener);
        int filtered = (int)check(syscall(434 /* pidfd_open */, getppid(), 0));
        listener = (int)check(syscall(438 /* pidfd_getfd */, filtered, listener, 0));
        require(check(write(pipes[1], "", 1)) == 1);
        supervise(listener);
    }
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    listener = (int)check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, &program));
    require(check(write(pipes[0], &listener, sizeof listener)) == sizeof listener);
    require(check(read(pipes[0], &listener, 1)) == 1);
    return supervisor;
}

static void be_supervised(char *at)
{
    char *to = at + 4 * PAGE;
    check(munmap(at, PAGE));
    require(is_mapped(at));
    fails(EDOM, mprotect(at, PAGE, PROT_READ));
    check(mremap(at, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
    require(!is_mapped(at) && is_mapped(to + 3 * PAGE) && syscall(SYS_getppid) > 0);
    check(madvise(to, PAGE, MADV_DONTFORK));
    await_child(fork() ?: (_exit(is_mapped(to) || munmap(to + PAGE, PAGE) != 0 || !is_mapped(to + PAGE)), 0));
}

CASE(filter_of_another)
{
    char *at = pages(8);
    pid_t supervisor = let_another_decide(0);
    be_supervised(at);
    check(kill(supervisor, SIGKILL));
}

static atomic_int stage;

static void *be_supervised_too(void *with)
{
    await(atomic_load(&stage) == 1);
    be_supervised(with);
    return NULL;
}

/* Of all threads. */
CASE(filter_of_another_for_all)
{
    char *at = pages(8);
    pthread_t thread = start_pthread(be_supervised_too, pages(8));
    pid_t supervisor = let_another_decide(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH);
    atomic_store(&stage, 1);
    join(thread);
    be_supervised(at);
    check(kill(supervisor, SIGKILL));
}
