/* What a program may do to itself, and is to see no difference of: from_within
     group|count|take SIGNAL | wait | ignored | init | reap | segment | outlive | remain |
     leave | tally.
     count    tells how often a signal has come, and what with it
     take     the same of one that it waits for, without a handler
     group    sends a signal to its process group, and tells how often it has come
     wait     waits two seconds in calls that fail with EINTR whenever something wakes them
     ignored  waits in such calls while signals come that nobody wants
     init     is the first process of a PID namespace, which nothing inside can stop
     reap     waits for children of which a pidfd says that they have ended
     segment  has a segment of System V mapped, until it is killed
     outlive  ends with the status of a thread, some time after its first one
     remain   outlives its first thread, and tells of each SIGCONT, for a minute
     leave    leaves a child behind, in a session of its own, that tells of SIGTERM
     tally    tells how many real-time signals have come so far, and of each number when its input has ended
   Must be found: nothing. */
#include "testprog.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>

static atomic_int times, value = -1;

static void count(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    if (info->si_code == SI_QUEUE)
        atomic_store(&value, info->si_value.sival_int);
    atomic_fetch_add(&times, 1);
}

static void count_signals(int signal)
{
    check(sigaction(signal, &(struct sigaction){.sa_sigaction = count, .sa_flags = SA_SIGINFO}, NULL));
}

/* Until it has come, and a while longer. */
static void tell_times(int signal)
{
    await(atomic_load(&times) > 0);
    for (int left = 60; left > 0; left--)
        sleep_ms(5);
    printf("signal %d: %d times", signal, atomic_load(&times));
    if (atomic_load(&value) >= 0)
        printf(", with %d", atomic_load(&value));
    putchar('\n');
}

static void send_to_group(int signal)
{
    count_signals(signal);
    check(kill(0, signal));
    tell_times(signal);
}

static void count_signal(int signal)
{
    count_signals(signal);
    puts("ready");
    fflush(stdout);
    tell_times(signal);
}

/* Takes it without a handler. */
static void take_signal(int signal)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, signal);
    check(sigprocmask(SIG_BLOCK, &signals, NULL));
    puts("ready");
    fflush(stdout);
    int taken = 0;
    struct timespec patience = {.tv_sec = 60};
    while (sigtimedwait(&signals, NULL, &patience) == signal) {
        taken++;
        patience = (struct timespec){.tv_nsec = 300000000};
    }
    printf("signal %d: %d times\n", signal, taken);
}

/* What a call has come to. */
static void tell(const char *call, long result)
{
    printf("%s: %s\n", call, result >= 0 ? "well" : strerror(errno));
}

static void *wait_for_event(void *with)
{
    struct epoll_event event = {.events = EPOLLIN};
    int timeout = *(int *)with, poll = (int)check(epoll_create1(0)), never = (int)check(eventfd(0, 0));
    check(epoll_ctl(poll, EPOLL_CTL_ADD, never, &event));
    tell("epoll_wait", epoll_wait(poll, &event, 1, timeout));
    return NULL;
}

static void *wait_for_signal(void *with)
{
    sigset_t signals;
    (void)with;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR2);
    tell("sigtimedwait", sigtimedwait(&signals, NULL, &(struct timespec){.tv_sec = 2}));
    return NULL;
}

static void *sleep_for_ever(void *with)
{
    for (;;)
        pause();
    return with;
}

static void wait_in_calls(void)
{
    int timeout = 2000;
    pthread_t thread = start_pthread(wait_for_signal, NULL);
    puts("ready");
    fflush(stdout);
    wait_for_event(&timeout);
    join(thread);
}

/* Children end, and default is that nobody cares; at last one makes the calls return. */
static void wait_with_children(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    struct sembuf down = {.sem_op = -1}, up = {.sem_op = 1};
    int poll = (int)check(epoll_create1(0)), happens = (int)check(eventfd(0, 0));
    int semaphore = (int)check(semget(IPC_PRIVATE, 1, 0600));
    check(epoll_ctl(poll, EPOLL_CTL_ADD, happens, &event));
    for (int i = 1; i <= 4; i++) {
        if (check(fork()) == 0) {
            sleep_ms(i * 150);
            if (i == 2)
                check(eventfd_write(happens, 1));
            if (i == 4)
                check(semop(semaphore, &up, 1));
            _exit(0);
        }
    }
    tell("epoll_wait", epoll_wait(poll, &event, 1, -1));
    tell("semtimedop", semtimedop(semaphore, &down, 1, NULL));
    for (int i = 0; i < 4; i++)
        check(wait(NULL));
    check(semctl(semaphore, 0, IPC_RMID));
}

static void be_first_of_a_namespace(void)
{
    int status;
    check(unshare(CLONE_NEWPID));
    pid_t first = (pid_t)check(fork());
    if (first == 0) {
        check(prctl(PR_SET_PDEATHSIG, SIGKILL));
        pid_t second = (pid_t)check(fork());
        if (second == 0) {
            const int signals[] = {SIGTERM, SIGSTOP, SIGTSTP, SIGKILL};
            for (size_t i = 0; i < COUNT(signals); i++)
                check(kill(1, signals[i]));
            _exit(0);
        }
        await_child(second);
        sleep_ms(100);
        _exit(12);
    }
    check(waitpid(first, &status, WUNTRACED));
    printf("the first process has %s\n", WIFSTOPPED(status) ? "stopped" : WEXITSTATUS(status) == 12 ? "ended well" : "ended");
    if (WIFSTOPPED(status))
        check(kill(first, SIGKILL));
}

static void *end_with(void *status)
{
    sleep_ms(20);
    exit(*(int *)status);
}

/* Whoever a pidfd says has ended can be waited for at once: an event loop relies on it. */
static void reap_by_pidfd(void)
{
    enum { CHILDREN = 200 };
    int found = 0;
    for (int i = 0; i < CHILDREN; i++) {
        siginfo_t info = {0};
        pid_t child = (pid_t)check(fork());
        if (child == 0) {
            if (i % 3 == 1)
                start_pthread(sleep_for_ever, NULL);
            if (i % 3 == 2) {
                start_pthread(end_with, &i);
                pthread_exit(NULL);
            }
            exit(i);
        }
        struct pollfd pidfd = {.fd = (int)check(syscall(SYS_pidfd_open, child, 0)), .events = POLLIN};
        check(poll(&pidfd, 1, -1));
        check(waitid(P_PIDFD, (id_t)pidfd.fd, &info, WEXITED | WNOHANG));
        found += info.si_pid == child && info.si_status == i;
        if (info.si_pid == 0)
            check(waitpid(child, NULL, 0));
        check(close(pidfd.fd));
    }
    printf("%d of %d were there when their pidfd said so\n", found, CHILDREN);
}

/* A segment that is gone as soon as nobody has it mapped. */
static void keep_segment(void)
{
    int segment = (int)check(shmget(IPC_PRIVATE, PAGE, 0600));
    require(shmat(segment, NULL, 0) != (void *)-1);
    check(shmctl(segment, IPC_RMID, NULL));
    printf("segment %d\n", segment);
    fflush(stdout);
    pause();
}

static void *end_later(void *status)
{
    sleep_ms(400);
    return end_with(status);
}

/* The process outlives its first thread, and ends with the status of another one. */
static void end_by_another(void)
{
    static int status = 7;
    puts("ready");
    fflush(stdout);
    sleep_ms(100);
    start_pthread(end_later, &status);
    pthread_exit(NULL);
}

static void *tell_continuations(void *continuation)
{
    alarm(60);
    for (int signal; sigwait(continuation, &signal) == 0; fflush(stdout))
        puts("SIGCONT");
    return NULL;
}

/* The process goes on without its first thread. */
static void remain_without_first(void)
{
    static sigset_t continuation;
    check(sigemptyset(&continuation));
    check(sigaddset(&continuation, SIGCONT));
    check(sigprocmask(SIG_BLOCK, &continuation, NULL));
    start_pthread(tell_continuations, &continuation);
    puts("ready");
    fflush(stdout);
    pthread_exit(NULL);
}

static void leave_a_child(void)
{
    pid_t child = (pid_t)check(fork());
    if (child > 0)
        exit(3);
    check(setsid());
    count_signals(SIGTERM);
    puts("left");
    fflush(stdout);
    await(atomic_load(&times) > 0);
    puts("child: SIGTERM");
}

static void tally_signals(void)
{
    enum { LAST = 64 };
    int tally[LAST + 1] = {0};
    sigset_t signals;
    sigemptyset(&signals);
    for (int signal = SIGRTMIN; signal <= LAST; signal++)
        sigaddset(&signals, signal);
    check(sigprocmask(SIG_BLOCK, &signals, NULL));
    puts("ready");
    fflush(stdout);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    const struct timespec patience = {.tv_nsec = 300000000};
    for (int all = 0, is_over = 0; ; is_over = poll(&input, 1, 0) == 1) {
        int signal = sigtimedwait(&signals, NULL, &patience);
        if (signal > 0) {
            tally[signal]++;
            printf("%d so far\n", ++all);
            fflush(stdout);
        } else if (is_over) {
            break;
        }
    }
    for (int signal = SIGRTMIN; signal <= LAST; signal++)
        if (tally[signal] > 0)
            printf("signal %d: %d times\n", signal, tally[signal]);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (argc == 3 && strcmp(what, "group") == 0)
        send_to_group(atoi(argv[2]));
    else if (argc == 3 && strcmp(what, "count") == 0)
        count_signal(atoi(argv[2]));
    else if (argc == 3 && strcmp(what, "take") == 0)
        take_signal(atoi(argv[2]));
    else if (strcmp(what, "wait") == 0)
        wait_in_calls();
    else if (strcmp(what, "ignored") == 0)
        wait_with_children();
    else if (strcmp(what, "init") == 0)
        be_first_of_a_namespace();
    else if (strcmp(what, "reap") == 0)
        reap_by_pidfd();
    else if (strcmp(what, "segment") == 0)
        keep_segment();
    else if (strcmp(what, "outlive") == 0)
        end_by_another();
    else if (strcmp(what, "remain") == 0)
        remain_without_first();
    else if (strcmp(what, "leave") == 0)
        leave_a_child();
    else if (strcmp(what, "tally") == 0)
        tally_signals();
    else
        return 2;
    return 0;
}
