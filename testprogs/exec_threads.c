/* While other threads map and unmap, the leader or another thread runs exec, which ends them all. The new
   image, this program again, makes one thread and joins it.
   Must be found: nothing. */
#include "testprog.h"

static void *run_itself_anew(void *unused)
{
    check(execl("/proc/self/exe", "exec_threads", "after", NULL));
    return unused;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "after") == 0) {
        run_pthread(1 * MIB, PAGE, JOINED);
        return 0;
    }
    bool by_leader = chosen(argc, argv, "leader", "thread");
    atomic_int rounds[3] = {0};
    for (size_t i = 0; i < COUNT(rounds); i++)
        start_pthread(map_forever, &rounds[i]);
    for (size_t i = 0; i < COUNT(rounds); i++)
        await(rounds[i] > 10);
    if (by_leader)
        run_itself_anew(NULL);
    else
        join(start_pthread(run_itself_anew, NULL));
}
