/* Calls as no library makes them: by the other table, with arguments where they are in the way or cannot be read, with a
   number of more bits than count, and with results that look like something else. */
#include "conformance.h"

#include <linux/sched.h>
#include <sys/personality.h>
#include <sys/shm.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

/* Numbers of i386's table. */
enum { OLD_BRK = 45, OLD_MMAP = 90, OLD_IPC = 117, OLD_PERSONALITY = 136 };

/* A call by i386's table, in 64-bit programs too. Its result is the kernel's. */
static long by_old_table(long number, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d)
{
    long result;
#ifdef __x86_64__
    register uintptr_t fifth asm("rdi") = 0;
#else
    register uintptr_t fifth asm("edi") = 0;
#endif
    asm volatile("int $0x80"
                 : "=a"(result)
                 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "r"(fifth)
                 : "memory"
#ifdef __x86_64__
                 , "r8", "r9", "r10", "r11"
#endif
    );
    return result;
}

/* Where both tables' pointers reach. */
static char *low_pages(size_t count)
{
#ifdef __x86_64__
    return (char *)check(mmap(NULL, count * PAGE, RW, PLAIN | MAP_32BIT, -1, 0));
#else
    return (char *)check(mmap(NULL, count * PAGE, RW, PLAIN, -1, 0));
#endif
}

CASE(brk_has_64_bits)
{
    char *end = sbrk(0);
    require((char *)by_old_table(OLD_BRK, 0, 0, 0, 0) == end);
    require(sbrk((intptr_t)PAGE) == end && is_mapped((char *)((uintptr_t)by_old_table & ~(PAGE - 1))));
}

CASE(personality_like_an_error)
{
    require((int)by_old_table(OLD_PERSONALITY, 0xfffffffe, 0, 0, 0) == 0);
    require((int)by_old_table(OLD_PERSONALITY, 0, 0, 0, 0) == -2);
    char *at = (char *)check(mmap(NULL, PAGE, PROT_READ, PLAIN, -1, 0));
    require(is_line(at, PAGE, "r--p"));
}

CASE(personality_like_its_number)
{
    check(personality(SYS_personality));
    require(personality(READ_IMPLIES_EXEC) == SYS_personality);
    char *at = pages(1);
    check(mmap(at, PAGE, PROT_READ, PLAIN | MAP_FIXED, -1, 0));
    require(is_line(at, PAGE, "r-xp"));
}

CASE(shmat_that_cannot_tell_where)
{
    enum { SHMAT = 21 };
    int id = (int)check(shmget(IPC_PRIVATE, 2 * PAGE, 0600));
    struct shmid_ds about;
    require(by_old_table(OLD_IPC, SHMAT, (uintptr_t)id, 0, 8) == -EFAULT);
    check(shmctl(id, IPC_STAT, &about));
    require(about.shm_nattch == 1);
    check(shmctl(id, IPC_RMID, NULL));
}

/* i386's first mmap has its arguments in memory. */
static void old_mmap(char *at, uint32_t addr, size_t bytes, int prot, int flags, int file, char *result)
{
    uint32_t arguments[] = {addr, (uint32_t)bytes, (uint32_t)prot, (uint32_t)flags, (uint32_t)file, 0};
    memcpy(at, arguments, sizeof arguments);
    uint32_t mapped = (uint32_t)by_old_table(OLD_MMAP, (uintptr_t)at, 0, 0, 0);
    require(mapped < -4095u && (result == NULL || mapped == (uintptr_t)result));
}

CASE(old_mmap_over_its_arguments)
{
    char *at = low_pages(3);
    old_mmap(at + PAGE, (uint32_t)(uintptr_t)at + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, memory_file(1), at + PAGE);
    require(at[PAGE] == 0 && is_line(at + PAGE, PAGE, "r--p"));
}

CASE(old_mmap_of_secret_arguments)
{
    int file = (int)check(syscall(SYS_memfd_secret, 0));
    check(ftruncate(file, (off_t)PAGE));
    char *at = low_pages(1);
    check(mmap(at, PAGE, RW, MAP_SHARED | MAP_FIXED, file, 0));
    old_mmap(at, 0, 5 * PAGE, PROT_READ, PLAIN, -1, NULL);
}

CASE(clone3_of_secret_arguments)
{
    int file = (int)check(syscall(SYS_memfd_secret, 0));
    check(ftruncate(file, (off_t)PAGE));
    struct clone_args *arguments = (void *)check(mmap(NULL, PAGE, RW, MAP_SHARED, file, 0));
    arguments->exit_signal = SIGCHLD;
    pid_t child = (pid_t)check(syscall(SYS_clone3, arguments, sizeof *arguments));
    if (child == 0) {
        unmap(pages(4), PAGE);
        _exit(0);
    }
    await_child(child);
}

/* Who is not to be traced is followed all the same, and does not notice. */
static _Noreturn void map_and_end(void)
{
    char *at = map(4 * PAGE);
    unmap(at + PAGE, PAGE);
    syscall(SYS_exit, 0);
    _exit(1);
}

static int map_some(void *with)
{
    (void)with;
    unmap(map(4 * PAGE), PAGE);
    return 0;
}

CASE(clone_untraced)
{
    size_t bytes = 64 * KIB;
    char *stack = map(bytes);
    await_child((pid_t)check(clone(map_some, stack + bytes, CLONE_UNTRACED | SIGCHLD, NULL)));
    await_child((pid_t)check(clone(map_some, stack + bytes, CLONE_VM | CLONE_UNTRACED | SIGCHLD, NULL)));
    unmap(stack, bytes);
}

static const struct clone_args constant_arguments = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};

CASE(clone3_untraced)
{
    struct clone_args arguments = constant_arguments;
    const struct clone_args *either[] = {&constant_arguments, &arguments};
    for (size_t i = 0; i < COUNT(either); i++) {
        pid_t child = (pid_t)check(syscall(SYS_clone3, either[i], sizeof arguments));
        require(either[i]->flags == CLONE_UNTRACED);
        if (child == 0)
            map_and_end();
        await_child(child);
    }
}

#ifdef __x86_64__
/* The arguments of a call are as they were, for the one that made it and for its child. */
CASE(clone_leaves_its_arguments)
{
    struct clone_args arguments = constant_arguments;
    const struct {
        long number;
        uintptr_t first, second;
    } calls[] = {
        {SYS_clone, CLONE_UNTRACED | SIGCHLD, 0},
        {SYS_clone3, (uintptr_t)&constant_arguments, sizeof arguments},
        {SYS_clone3, (uintptr_t)&arguments, sizeof arguments},
        {SYS_fork | 1l << 32, 7, 8},
    };
    for (size_t i = 0; i < COUNT(calls); i++) {
        long child;
        uintptr_t first = calls[i].first, second = calls[i].second;
        asm volatile("xor %%edx, %%edx\n xor %%r10d, %%r10d\n xor %%r8d, %%r8d\n syscall"
                     : "=a"(child), "+D"(first), "+S"(second)
                     : "a"(calls[i].number)
                     : "memory", "rcx", "rdx", "r8", "r10", "r11");
        require(child >= 0 && first == calls[i].first && second == calls[i].second);
        if (child == 0)
            map_and_end();
        await_child((pid_t)child);
    }
}
#endif
