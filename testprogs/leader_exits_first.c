/* The main thread exits first. Another one then leaks raw threads' stacks and ends as the last: with
   glibc's exit_group ("exit_group"), or by its own exit alone ("exit").
   Must be found: one orphaned-stack, unmanaged, 3 regions; not the last thread's own stack. */
#include "testprog.h"

static void *leak_after_leader(void *unused)
{
    await(task_state(getpid()) == 'Z');
    for (int i = 0; i < 3; i++)
        run_raw(map_stack(64 * KIB), 64 * KIB);
    return unused;
}

static void *leak_and_exit_alone(void *unused)
{
    leak_after_leader(unused);
    syscall(SYS_exit, 0);
    return unused;
}

int main(int argc, char **argv)
{
    bool by_exit = chosen(argc, argv, "exit", "exit_group");
    start_pthread(by_exit ? leak_and_exit_alone : leak_after_leader, NULL);
    pthread_exit(NULL);
}
