/* Memory that is mapped, but never supplied: pages that are not there, watched by a userfaultfd(2) to which nobody listens.
   Whoever touches one waits until this program ends. By the first argument, these are

   deep        the middle of the stack of a thread that makes threads
   raw         what lies below the uppermost bytes of stacks of raw threads
   lists       the descriptor of a thread that has ended and was not joined
   library     what tells in libc where its thread lists are
   lowest      the first page that is mapped at all
   clone3      what clone3(2) is given

   A thread that nobody joins is left first, so that there is something to report. Prints "ready"; goes on, making threads
   in the first two cases, until the input ends. It needs the right to have faults of the kernel wait (root has it). */
#include "testprog.h"

#include <dlfcn.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>

#define STACK (64 * PAGE)
/* What a raw thread's stack has above the withheld pages. */
#define ABOVE 256
/* One that leads into the withheld memory. */
#define GAP (32 * PAGE)

static char *page_of(const void *at)
{
    return (char *)((uintptr_t)at & ~(PAGE - 1));
}

static void withhold(char *start, size_t bytes)
{
    static int watcher = -1;
    if (watcher < 0) {
        struct uffdio_api api = { .api = UFFD_API };
        watcher = (int)check(syscall(SYS_userfaultfd, O_CLOEXEC));
        check(ioctl(watcher, UFFDIO_API, &api));
    }
    struct uffdio_register memory = { .range = { (uintptr_t)start, bytes }, .mode = UFFDIO_REGISTER_MODE_MISSING };
    check(ioctl(watcher, UFFDIO_REGISTER, &memory));
    check(madvise(start, bytes, MADV_DONTNEED));
}

/* Neither calls anything nor needs more of its stack than its return address. */
__attribute__((noreturn)) static int end_at_once(void *argument)
{
    (void)argument;
    __asm__ volatile("1:\tmov $60, %%eax\n\txor %%edi, %%edi\n\tsyscall\n\tjmp 1b" : : : "rax", "rcx", "rdi", "r11", "memory");
    __builtin_unreachable();
}

static bool input_has_ended(int ms)
{
    struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
    char byte;
    return poll(&input, 1, ms) == 1 && read(STDIN_FILENO, &byte, 1) <= 0;
}

/* Its stack stays. */
__attribute__((noinline)) static void run_raw_thread(bool withheld)
{
    char *stack = map_stack(STACK);
    char *top = stack + STACK - PAGE + ABOVE;
    top[0] = 1;
    if (withheld)
        withhold(stack, STACK - PAGE);
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    await_task_end((pid_t)check(clone(end_at_once, top, flags, NULL)));
}

static void run_threads(bool withheld)
{
    int rounds = 0;
    do
        run_raw_thread(withheld);
    while (++rounds < 5 || (rounds < 10000 && !input_has_ended(5)));
}

/* Nothing but the lowest bytes of `gap` is ever touched, and those by calls. */
__attribute__((noinline)) static void run_below_a_gap(char *gap)
{
    withhold(page_of(gap) + 2 * PAGE, GAP - 4 * PAGE);
    check(write(STDOUT_FILENO, "ready\n", 6));
    run_threads(false);
}

static void *run_in_the_deep(void *argument)
{
    char gap[GAP];
    run_below_a_gap(gap);
    __asm__ volatile("" : : "r"(gap) : "memory");
    return argument;
}

static void *left(void *tid)
{
    *(_Atomic pid_t *)tid = (pid_t)syscall(SYS_gettid);
    return NULL;
}

/* Puts memory that nobody supplies in the place of the library's. What else lies there is not needed any more. */
static void withhold_library(void)
{
    char *page = page_of(dlsym(RTLD_DEFAULT, "_thread_db_sizeof_pthread"));
    require(page != NULL);
    withhold(map_fixed(page, PAGE, PROT_READ), PAGE);
}

static void withhold_lowest(void)
{
    char *lowest = (char *)0x10000;
    require(!is_mapped(lowest));
    withhold(map_fixed(lowest, PAGE, PROT_READ | PROT_WRITE), PAGE);
}

static _Atomic pid_t caller;

/* clone3(2) takes from it what it wants: more than a byte, or it fails at once. */
static void *clone_from(void *arguments)
{
    require(syscall(SYS_clone3, arguments, 1) == -1 && errno == EINVAL);
    atomic_store(&caller, gettid());
    syscall(SYS_clone3, arguments, 64);
    die(__FILE__, __LINE__, "clone3", "it had nothing to read");
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    pthread_attr_t attributes;
    pthread_t gone;
    _Atomic pid_t tid = 0;
    alarm(240);
    init_sizes(&attributes, MIB, PAGE);
    check_zero(pthread_create(&gone, &attributes, left, &tid));
    await(tid != 0);
    await_task_end(tid);
    if (strcmp(what, "deep") == 0) {
        pthread_t deep;
        check_zero(pthread_create(&deep, &attributes, run_in_the_deep, NULL));
        join(deep);
        _exit(0);
    } else if (strcmp(what, "raw") == 0) {
        check(write(STDOUT_FILENO, "ready\n", 6));
        run_threads(true);
        _exit(0);
    } else if (strcmp(what, "clone3") == 0) {
        char *arguments = map(PAGE);
        withhold(arguments, PAGE);
        start_pthread(clone_from, arguments);
        await(caller != 0);
        settle();
        check(write(STDOUT_FILENO, "ready\n", 6));
    } else {
        if (strcmp(what, "lists") == 0)
            withhold(page_of((char *)gone), PAGE);
        else if (strcmp(what, "library") == 0)
            withhold_library();
        else if (strcmp(what, "lowest") == 0)
            withhold_lowest();
        else
            return 2;
        check(write(STDOUT_FILENO, "ready\n", 6));
    }
    while (!input_has_ended(-1))
        ;
    _exit(0);
}
