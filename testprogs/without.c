/* Runs a program as on a kernel that lacks something: without THING... -- PROGRAM [ARG...]. Each call that would use the
   thing fails as it does where there is no such thing, by a seccomp filter. A simulation: nothing else of an old kernel
   is like this. */
#include "testprog.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

static const struct thing {
    const char *name;
    int call;
    /* Which argument tells that it is about this thing, and its value; -1 where every call is. */
    int argument;
    uint32_t value;
    int error;
} things[] = {
    {"syscall_info", SYS_ptrace, 0, 0x420e, EIO},          /* PTRACE_GET_SYSCALL_INFO: Linux 5.3 */
    {"procmap_query", SYS_ioctl, 1, 0xc0686611, ENOTTY},   /* PROCMAP_QUERY: Linux 6.11 */
    {"pagemap_scan", SYS_ioctl, 1, 0xc0606610, ENOTTY},    /* PAGEMAP_SCAN: Linux 6.7 */
    {"perf", SYS_perf_event_open, -1, 0, ENOSYS},          /* CONFIG_PERF_EVENTS */
    {"kcmp", SYS_kcmp, -1, 0, ENOSYS},                     /* CONFIG_KCMP */
    {"process_vm_readv", SYS_process_vm_readv, -1, 0, ENOSYS}, /* CONFIG_CROSS_MEMORY_ATTACH */
    {"userfaultfd", SYS_userfaultfd, -1, 0, ENOSYS},       /* CONFIG_USERFAULTFD */
    {"openat2", SYS_openat2, -1, 0, ENOSYS},               /* Linux 5.6 */
    {"execveat", SYS_execveat, -1, 0, EACCES},             /* a policy that forbids it */
    {"ptrace", SYS_ptrace, -1, 0, EPERM},                  /* a container whose filter forbids it */
};

static void take_away(const struct thing *thing)
{
    uint32_t low_half = (uint32_t)(offsetof(struct seccomp_data, args) + 8 * (size_t)(thing->argument & 7));
    bool every = thing->argument < 0;
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)thing->call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, every ? (uint32_t)offsetof(struct seccomp_data, nr) : low_half),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, every ? (uint32_t)thing->call : thing->value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)thing->error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog whole = {COUNT(program), program};
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole));
}

int main(int argc, char **argv)
{
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    int next = 1;
    for (; next < argc && strcmp(argv[next], "--") != 0; next++) {
        size_t thing = 0;
        while (thing < COUNT(things) && strcmp(things[thing].name, argv[next]) != 0)
            thing++;
        require(thing < COUNT(things));
        take_away(&things[thing]);
    }
    require(next + 1 < argc);
    execvp(argv[next + 1], argv + next + 1);
    die(__FILE__, __LINE__, argv[next + 1], strerror(errno));
}
