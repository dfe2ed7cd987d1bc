/* Sends itself and another thread signals of all kinds and checks that each arrives exactly once, in the
   right thread, with its payload: ordinary and real-time ones, timers', and a child's end.
   Must be found: nothing, and every signal must arrive. */
#include "testprog.h"

#include <sys/time.h>

#define SIG_QUEUED SIGRTMIN
#define SIG_QUEUED_TO_THREAD (SIGRTMIN + 1)
#define SIG_TIMER (SIGRTMIN + 2)

struct arrival {
    int signal;
    int code;
    int payload;
    pid_t thread;
};

static struct arrival arrivals[64];
static atomic_int arrived;
static int expected;
static atomic_bool finished;

static int payload_of(const siginfo_t *info)
{
    switch (info->si_code) {
    case SI_USER:
    case SI_TKILL:
        return info->si_pid;
    case SI_QUEUE:
    case SI_TIMER:
        return info->si_value.sival_int;
    case CLD_EXITED:
        return info->si_status;
    default:
        return 0;
    }
}

/* Never runs twice at a time: signals that are under way together all go to one thread. */
static void note_arrival(int signal, siginfo_t *info, void *context)
{
    (void)context;
    require(arrived < (int)COUNT(arrivals));
    arrivals[arrived] = (struct arrival){signal, info->si_code, payload_of(info), gettid()};
    atomic_fetch_add(&arrived, 1);
}

static void expect(int signal, int code, int payload, pid_t thread)
{
    await(arrived > expected);
    struct arrival *next = &arrivals[expected++];
    require(next->signal == signal);
    require(next->code == code);
    require(next->payload == payload);
    require(next->thread == thread);
}

/* Takes only the signals that are sent to it by name. */
static void *receive_signals(void *tid)
{
    sigset_t others;
    check(sigfillset(&others));
    check(sigdelset(&others, SIGUSR2));
    check(sigdelset(&others, SIG_QUEUED_TO_THREAD));
    check_zero(pthread_sigmask(SIG_SETMASK, &others, NULL));
    tell_tid(tid);
    while (!finished)
        sleep_ms(1);
    return NULL;
}

static void send_to_itself(void)
{
    for (int i = 0; i < 3; i++) {
        check(kill(getpid(), SIGUSR1));
        expect(SIGUSR1, SI_USER, getpid(), gettid());
    }
    for (int i = 0; i < 16; i++)
        check(sigqueue(getpid(), SIG_QUEUED, (union sigval){.sival_int = 100 + i}));
    for (int i = 0; i < 16; i++)
        expect(SIG_QUEUED, SI_QUEUE, 100 + i, gettid());
}

static void send_to_thread(pthread_t thread, pid_t tid)
{
    check_zero(pthread_kill(thread, SIGUSR2));
    expect(SIGUSR2, SI_TKILL, getpid(), tid);
    for (int i = 0; i < 16; i++)
        check_zero(pthread_sigqueue(thread, SIG_QUEUED_TO_THREAD, (union sigval){.sival_int = 200 + i}));
    for (int i = 0; i < 16; i++)
        expect(SIG_QUEUED_TO_THREAD, SI_QUEUE, 200 + i, tid);
}

static void let_timers_send(void)
{
    struct itimerval once = {.it_value.tv_usec = 2000};
    for (int i = 0; i < 3; i++) {
        check(setitimer(ITIMER_REAL, &once, NULL));
        expect(SIGALRM, SI_KERNEL, 0, gettid());
    }
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIG_TIMER};
    event.sigev_value.sival_int = 300;
    check(timer_create(CLOCK_MONOTONIC, &event, &timer));
    check(timer_settime(timer, 0, &(struct itimerspec){.it_value.tv_nsec = 2000000}, NULL));
    expect(SIG_TIMER, SI_TIMER, 300, gettid());
    check(timer_delete(timer));
}

static void let_child_send(void)
{
    pid_t child = check(fork());
    if (child == 0)
        _exit(7);
    expect(SIGCHLD, CLD_EXITED, 7, gettid());
    require(check(waitpid(child, NULL, 0)) == child);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = note_arrival, .sa_flags = SA_SIGINFO | SA_RESTART};
    check(sigfillset(&action.sa_mask));
    const int handled[] = {SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIG_QUEUED, SIG_QUEUED_TO_THREAD, SIG_TIMER};
    for (size_t i = 0; i < COUNT(handled); i++)
        check(sigaction(handled[i], &action, NULL));

    _Atomic pid_t tid = 0;
    pthread_t thread = start_pthread(receive_signals, &tid);
    await(tid != 0);
    send_to_itself();
    send_to_thread(thread, tid);
    let_timers_send();
    let_child_send();

    finished = true;
    join(thread);
    require(arrived == expected);
    return 0;
}
