/* Three pthreads that nobody joins, two that are joined, one after the other; then the leader ("leader") or another
   thread ("thread") runs exec while a third one lives. The new image makes no thread. With "refused" exec fails, and
   all are joined after it.
   Must be found: one orphaned-stack, unjoined, 3 regions, and one idle stack in the cache: what was left when exec
   was called. "refused": nothing. */
#include "testprog.h"

static void *execute(void *path)
{
    execl(path, "exec_after_leak", "after", NULL);
    return NULL;
}

static void run_exec(int argc, char **argv)
{
    static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    check_zero(pthread_mutex_lock(&gate));
    start_pthread(wait_at_gate, &gate);
    if (chosen(argc, argv, "leader", "thread"))
        execute("/proc/self/exe");
    else
        join(start_pthread(execute, "/proc/self/exe"));
    require(!"exec succeeds");
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "after") == 0)
        return 0;
    pthread_t left[3];
    pthread_attr_t attributes;
    init_sizes(&attributes, 1 * MIB, PAGE);
    for (size_t i = 0; i < COUNT(left); i++) {
        _Atomic pid_t tid = 0;
        check_zero(pthread_create(&left[i], &attributes, tell_tid, &tid));
        await(tid != 0);
        await_task_end(tid);
    }
    for (int i = 0; i < 2; i++)
        run_pthread(1 * MIB, PAGE, JOINED);
    if (argc == 2 && strcmp(argv[1], "refused") == 0) {
        require(execute("/no/such/program") == NULL);
        for (size_t i = 0; i < COUNT(left); i++)
            join(left[i]);
        return 0;
    }
    run_exec(argc, argv);
}
