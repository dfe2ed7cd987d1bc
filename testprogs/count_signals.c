/* Receives real-time signals, each with a number of its own, in three threads, and counts each number. A
   child sends a thousand, and more until its input ends: the receiver then has had each exactly once, and none is left.
   Prints "ready", and at the end how many there were.
   Must be found: nothing. */
#include "testprog.h"

#include <poll.h>

#define MOST (1 << 24)
#define AT_ONCE 128

/* Shared with the sender. */
static struct {
    _Atomic unsigned sent, received;
    atomic_uchar counts[MOST];
} *book;

static atomic_bool finished;

static void count(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    unsigned number = (unsigned)info->si_value.sival_int;
    if (info->si_code != SI_QUEUE || number >= MOST)
        _exit(4);
    atomic_fetch_add(&book->counts[number], 1);
    atomic_fetch_add(&book->received, 1);
}

static void *receive(void *unused)
{
    (void)unused;
    while (!finished)
        sleep_ms(5);
    return NULL;
}

static bool input_ended(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;
    return poll(&input, 1, 0) == 1 && read(STDIN_FILENO, &byte, 1) <= 0;
}

/* Keeps no more than AT_ONCE on their way: the kernel's queue is finite. */
static void send_to(pid_t receiver)
{
    unsigned number = 0;
    for (; number < 1000 || !input_ended(); number++) {
        require(number < MOST);
        await(number - book->received < AT_ONCE);
        int signal = SIGRTMIN + (int)(number % 3);
        check(sigqueue(receiver, signal, (union sigval){.sival_int = (int)number}));
        book->sent = number + 1;
    }
    await(book->received >= book->sent);
}

int main(void)
{
    book = (void *)map_with(sizeof *book, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE);
    struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO | SA_RESTART};
    for (int i = 0; i < 3; i++)
        check(sigaction(SIGRTMIN + i, &action, NULL));
    alarm(120);
    pthread_t threads[2];
    for (size_t i = 0; i < COUNT(threads); i++)
        threads[i] = start_pthread(receive, NULL);
    pid_t receiver = getpid();
    pid_t sender = check(fork());
    if (sender == 0) {
        send_to(receiver);
        _exit(0);
    }
    await(book->received > 0);
    require(puts("ready") >= 0 && fflush(stdout) == 0);
    await_child(sender);
    finished = true;
    for (size_t i = 0; i < COUNT(threads); i++)
        join(threads[i]);
    for (unsigned i = 0; i < book->sent; i++)
        if (book->counts[i] != 1) {
            fprintf(stderr, "signal %u of %u was received %u times\n", i, book->sent, book->counts[i]);
            return 1;
        }
    require(book->received == book->sent);
    printf("%u\n", book->sent);
    return 0;
}
