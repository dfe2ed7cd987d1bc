/* Filters of the program's own, see seccomp(2): what they decide about mapping calls. */
#include "conformance.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
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
