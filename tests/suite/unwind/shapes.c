/* Call stacks of every shape: each blocks in pause(), with its functions above. Compiled for several machines and
 * libraries. The argument names the shape. */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))
/* What follows a call keeps it from being a jump. */
#define DONE __asm__ volatile("" ::: "memory")

static volatile int sink;

NOINLINE static void block(void) {
    if (write(1, "r", 1) == 1)
        for (;;)
            pause();
}

NOINLINE static int inner(int depth) {
    block();
    DONE;
    return depth;
}
NOINLINE static int middle(int depth) {
    volatile char room[300];
    room[depth] = 1;
    int result = inner(depth + 1) + room[depth];
    DONE;
    return result;
}
NOINLINE static int nested(int depth) {
    int result = middle(depth + 1) * 2;
    DONE;
    return result;
}

NOINLINE static int many_saved(int a, int b, int c, int d, int e) {
    int result = nested(a) + a * b + c * d + e;
    DONE;
    return result + a + b + c + d + e;
}

static void handler(int signal) {
    nested(signal);
    DONE;
}
NOINLINE static int leaf(void) {
    int count = 0;
    while (!sink)
        count++;
    return count;
}
NOINLINE static int interrupted(int flags) {
    static char stack[65536];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    struct itimerval timer = {.it_value = {.tv_usec = 20000}};
    sigaltstack(&other, NULL);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    int result = leaf();
    DONE;
    return result;
}

static int compare(const void *a, const void *b) {
    nested(0);
    DONE;
    return *(const int *)a - *(const int *)b;
}
NOINLINE static int sorted(void) {
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof *numbers, compare);
    DONE;
    return numbers[0];
}

NOINLINE static int realigned(int bytes) {
    _Alignas(64) volatile char aligned[64];
    char *more = alloca(bytes);
    memset(more, 1, bytes);
    aligned[bytes & 63] = 1;
    int result = nested(0) + more[0] + aligned[3];
    DONE;
    return result;
}
__attribute__((noinline, noclone, force_align_arg_pointer)) static int forced(int bytes) {
    int result = realigned(bytes) + 1;
    DONE;
    return result;
}

NOINLINE static int deep(int levels) {
    int result = levels ? deep(levels - 1) + 1 : nested(0);
    DONE;
    return result;
}

static void *thread(void *arg) {
    for (;;)
        pause();
    return arg;
}
NOINLINE static int creates(void) {
    char byte;
    pthread_t id;
    if (write(1, "r", 1) != 1 || read(0, &byte, 1) != 1)
        return 1;
    int result = pthread_create(&id, NULL, thread, NULL);
    DONE;
    return result;
}

/* Code made at run time, which has frame pointers and nothing else. */
NOINLINE static void called_back(void) {
    nested(0);
    DONE;
}
NOINLINE static int makes_code(void) {
#ifdef __x86_64__
    /* push %rbp; mov %rsp,%rbp; sub $32,%rsp; call *%rdi; leave; ret */
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20, 0xff, 0xd7, 0xc9, 0xc3};
#else
    /* push %ebp; mov %esp,%ebp; sub $32,%esp; call *8(%ebp); leave; ret */
    static const unsigned char code[] = {0x55, 0x89, 0xe5, 0x83, 0xec, 0x20, 0xff, 0x55, 0x08, 0xc9, 0xc3};
#endif
    void *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED)
        return 1;
    memcpy(made, code, sizeof code);
    ((void (*)(void (*)(void)))made)(called_back);
    DONE;
    return 0;
}

/* To be run instruction by instruction: the linkage table, the loader, the vDSO, and returns from them. */
NOINLINE static int steps(void) {
    char byte;
    struct timespec now;
    if (write(1, "r", 1) != 1 || read(0, &byte, 1) != 1)
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &now);
    char *copy = strdup("some text");
    int result = realigned(0 & sink) + atoi(copy);
    DONE;
    return result;
}
NOINLINE static int stepped(void) {
    int result = steps();
    DONE;
    return result;
}

int main(int count, char **args) {
    const char *shape = count > 1 ? args[1] : "";
    if (!strcmp(shape, "nested"))
        return many_saved(count, 2, 3, 4, 5);
    if (!strcmp(shape, "signal"))
        return interrupted(0);
    if (!strcmp(shape, "altstack"))
        return interrupted(SA_ONSTACK);
    if (!strcmp(shape, "qsort"))
        return sorted();
    if (!strcmp(shape, "realigned"))
        return forced(count * 100);
    if (!strcmp(shape, "deep"))
        return deep(1000);
    if (!strcmp(shape, "made"))
        return makes_code();
    if (!strcmp(shape, "creates"))
        return creates();
    if (!strcmp(shape, "steps"))
        return stepped();
    return 1;
}
