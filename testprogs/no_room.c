/* Makes threads until there can be no more, and then lets the last SPARE of them go: no_room SPARE. For a PID namespace whose
   pid_max is low. Prints "ready"; goes on until the input ends.
   Must be found: nothing. */
#include "testprog.h"

#define MOST 5000

static struct {
    pthread_t thread;
    pthread_mutex_t gate;
} made[MOST];

static void *wait_at(void *gate)
{
    check_zero(pthread_mutex_lock(gate));
    return NULL;
}

/* Lets those go that were made last, until so many are left. */
static void let_go(int *count, int left)
{
    while (*count > left) {
        --*count;
        check_zero(pthread_mutex_unlock(&made[*count].gate));
        join(made[*count].thread);
    }
}

int main(int argc, char **argv)
{
    require(argc == 2);
    int spare = atoi(argv[1]), count = 0;
    pthread_attr_t attributes;
    init_sizes(&attributes, 64 << 10, 4096);
    for (; count < MOST; count++) {
        check_zero(pthread_mutex_init(&made[count].gate, NULL));
        check_zero(pthread_mutex_lock(&made[count].gate));
        if (pthread_create(&made[count].thread, &attributes, wait_at, &made[count].gate) != 0)
            break;
    }
    require(spare <= count && count < MOST);
    let_go(&count, count - spare);
    settle();
    puts("ready");
    fflush(stdout);
    getchar();
    let_go(&count, 0);
    return 0;
}
