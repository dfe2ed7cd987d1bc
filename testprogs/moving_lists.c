/* Forty threads that nobody joins, and before them on glibc's list of used stacks as many that live, whose descriptors
   change their order some million times a second, as no real program's do. Nearly every moment shows a whole list, and no
   walk along it does.
   Prints "ready"; goes on until the input ends.
   Must be found: one orphaned-stack, unjoined, definite, 40 regions. */
#include "testprog.h"

#include <dlfcn.h>
#include <sys/select.h>

struct node {
    struct node *_Atomic next, *_Atomic prev;
};

#define LIVE 40
#define LEFT 40

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

/* Where in a descriptor its node is: {bits, count, offset}, what libthread_db goes by. */
static struct node *node_of(pthread_t thread)
{
    static const uint32_t *list;
    if (list == NULL)
        list = dlsym(RTLD_DEFAULT, "_thread_db_pthread_list");
    require(list != NULL);
    return (struct node *)((char *)thread + list[2]);
}

/* Takes a node out, and puts it behind another one. */
static void move(struct node *node, struct node *prev)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = prev->next;
    node->prev = prev;
    node->next->prev = node;
    prev->next = node;
}

static bool input_has_ended(void)
{
    struct timeval now = { 0, 0 };
    fd_set files;
    FD_ZERO(&files);
    FD_SET(STDIN_FILENO, &files);
    return select(STDIN_FILENO + 1, &files, NULL, NULL, &now) > 0;
}

int main(void)
{
    pthread_t live[LIVE];
    struct node *nodes[LIVE];
    pthread_attr_t attributes;
    alarm(240);
    check_zero(pthread_mutex_lock(&gate));
    init_sizes(&attributes, 64 * KIB, PAGE);
    for (int i = 0; i < LEFT; i++) {
        pthread_t thread;
        _Atomic pid_t tid = 0;
        check_zero(pthread_create(&thread, &attributes, tell_tid, (void *)&tid));
        await(tid != 0);
        await_task_end(tid);
    }
    /* New ones come first. */
    for (int i = 0; i < LIVE; i++) {
        check_zero(pthread_create(&live[i], &attributes, wait_at_gate, &gate));
        nodes[i] = node_of(live[i]);
    }
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    unsigned random = 1;
    do {
        for (int i = 0; i < 100000; i++) {
            random = random * 1103515245 + 12345;
            struct node *node = nodes[i % LIVE], *behind = nodes[random / 65536 % COUNT(nodes)];
            if (node != behind)
                move(node, behind);
            for (volatile int rest = 0; rest < 100; rest++)
                ;
        }
    } while (!input_has_ended());
    check_zero(pthread_mutex_unlock(&gate));
    for (int i = 0; i < LIVE; i++)
        join(live[i]);
    return 0;
}
