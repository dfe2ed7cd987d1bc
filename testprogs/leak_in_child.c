/* A forked child leaks three stacks while the parent waits for it: leak_in_child [upper-bits|secret].
   Told so, it is forked by a number of which the kernel looks at the lower half, or with arguments that nobody else can read.
   Must be found: one orphaned-stack, unjoined, 3 regions, in the child. */
#include "testprog.h"

#include <linux/sched.h>

static pid_t fork_secretly(void)
{
    int file = (int)check(syscall(447 /* memfd_secret */, 0));
    check(ftruncate(file, (off_t)PAGE));
    struct clone_args *arguments = (void *)check(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    arguments->exit_signal = SIGCHLD;
    return (pid_t)check(syscall(SYS_clone3, arguments, sizeof *arguments));
}

#ifdef __x86_64__
static pid_t fork_by_upper_bits(void)
{
    long result;
    asm volatile("syscall" : "=a"(result) : "a"(1l << 32 | SYS_fork) : "memory", "rcx", "r11");
    require(result >= 0);
    return (pid_t)result;
}
#else
#define fork_by_upper_bits fork
#endif

int main(int argc, char **argv)
{
    pid_t child;
    if (argc == 1)
        child = (pid_t)check(fork());
    else if (chosen(argc, argv, "secret", "upper-bits"))
        child = fork_secretly();
    else
        child = fork_by_upper_bits();
    if (child == 0) {
        for (int i = 0; i < 3; i++)
            run_pthread(1 * MIB, PAGE, NEITHER);
        return 0;
    }
    await_child(child);
    return 0;
}
