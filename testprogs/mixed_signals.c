/* Signals of all kinds, each of which has to arrive once, until the input ends: ordinary ones that another thread sends,
   one-shot timers, SIGCHLD of children that end, and a synchronous fault. In one thread each, which goes on only when the
   signal has come, so that none is merged with another. Prints "ready" when all have come once, and at the end how many
   came.
   Must be found: nothing. */
#include "testprog.h"

#include <time.h>

#define KINDS 4

static atomic_bool finished;
static atomic_int sent[KINDS], received[KINDS];
static char *guarded;

/* Of the signal that belongs to each kind one more has come. */
static void receive(int signal, siginfo_t *info, void *context)
{
    (void)context;
    int kind = signal == SIGUSR1 ? 0 : signal == SIGUSR2 ? 1 : signal == SIGCHLD ? 2 : 3;
    int code = kind == 0 ? SI_TKILL : kind == 1 ? SI_TIMER : kind == 2 ? CLD_EXITED : SEGV_ACCERR;
    if (info->si_code != code)
        _exit(4);
    if (kind == 3)
        mprotect(guarded, PAGE, PROT_READ | PROT_WRITE);
    atomic_fetch_add(&received[kind], 1);
}

static bool has_come(int kind)
{
    await(received[kind] >= sent[kind]);
    require(received[kind] == sent[kind]);
    return !(finished && sent[kind] >= 20);
}

static void *send_each(void *to)
{
    do {
        atomic_fetch_add(&sent[0], 1);
        check_zero(pthread_kill(*(pthread_t *)to, SIGUSR1));
    } while (has_come(0));
    return NULL;
}

static void *set_timers(void *unused)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
    check(timer_create(CLOCK_MONOTONIC, &event, &timer));
    do {
        atomic_fetch_add(&sent[1], 1);
        struct itimerspec once = {.it_value.tv_nsec = 200000};
        check(timer_settime(timer, 0, &once, NULL));
    } while (has_come(1));
    check(timer_delete(timer));
    return unused;
}

static void *make_children(void *unused)
{
    do {
        atomic_fetch_add(&sent[2], 1);
        pid_t child = (pid_t)check(fork());
        if (child == 0)
            _exit(7);
        int status;
        await(received[2] >= sent[2]);
        require(check(waitpid(child, &status, 0)) == child && WEXITSTATUS(status) == 7);
    } while (has_come(2));
    return unused;
}

static void *touch_guarded(void *unused)
{
    do {
        check(mprotect(guarded, PAGE, PROT_READ));
        atomic_fetch_add(&sent[3], 1);
        *(volatile char *)guarded = 1;
    } while (has_come(3));
    return unused;
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = receive, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NOCLDSTOP};
    static const int signals[KINDS] = {SIGUSR1, SIGUSR2, SIGCHLD, SIGSEGV};
    for (size_t i = 0; i < KINDS; i++)
        check(sigaction(signals[i], &action, NULL));
    alarm(240);
    guarded = map(PAGE);
    static pthread_t self;
    self = pthread_self();
    pthread_t threads[KINDS] = {
        start_pthread(send_each, &self),
        start_pthread(set_timers, NULL),
        start_pthread(make_children, NULL),
        start_pthread(touch_guarded, NULL),
    };
    for (int kind = 0; kind < KINDS; kind++)
        await(received[kind] > 0);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    char byte;
    while (check(read(STDIN_FILENO, &byte, 1)) > 0)
        ;
    finished = true;
    int all = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        join(threads[kind]);
        all += received[kind];
    }
    printf("%d\n", all);
    return 0;
}
