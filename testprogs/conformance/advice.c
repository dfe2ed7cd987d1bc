/* mprotect(2), pkey_mprotect(2), madvise(2), mlock(2), msync(2), and process_madvise(2). */
#include "conformance.h"

#include <sys/uio.h>

#define GUARD_INSTALL 102
#define GUARD_REMOVE 103

struct advice_row {
    const char *name;
    int advice;
    /* Of private memory, 0 or an error. */
    int error;
    /* Into how many lines advice on the middle splits a region. */
    int lines;
};

static const struct advice_row advice_rows[] = {
    {"madvise_normal", MADV_NORMAL, 0, 1},
    {"madvise_random", MADV_RANDOM, 0, 3},
    {"madvise_sequential", MADV_SEQUENTIAL, 0, 3},
    {"madvise_willneed", MADV_WILLNEED, 0, 1},
    {"madvise_dontneed", MADV_DONTNEED, 0, 1},
    {"madvise_free", MADV_FREE, 0, 1},
    {"madvise_remove_private", MADV_REMOVE, EINVAL, 1},
    {"madvise_dontfork", MADV_DONTFORK, 0, 3},
    {"madvise_dofork", MADV_DOFORK, 0, 1},
    {"madvise_mergeable", MADV_MERGEABLE, 0, 3},
    {"madvise_unmergeable", MADV_UNMERGEABLE, 0, 1},
    {"madvise_hugepage", MADV_HUGEPAGE, 0, 3},
    {"madvise_nohugepage", MADV_NOHUGEPAGE, 0, 3},
    {"madvise_dontdump", MADV_DONTDUMP, 0, 3},
    {"madvise_dodump", MADV_DODUMP, 0, 1},
    {"madvise_wipeonfork", MADV_WIPEONFORK, 0, 3},
    {"madvise_keeponfork", MADV_KEEPONFORK, 0, 1},
    {"madvise_cold", MADV_COLD, 0, 1},
    {"madvise_pageout", MADV_PAGEOUT, 0, 1},
    {"madvise_populate_read", MADV_POPULATE_READ, 0, 1},
    {"madvise_populate_write", MADV_POPULATE_WRITE, 0, 1},
    {"madvise_dontneed_locked", 24, 0, 1},
    {"madvise_collapse", 25, EINVAL, 1},
    {"madvise_guard_install", GUARD_INSTALL, 0, 1},
    {"madvise_guard_remove", GUARD_REMOVE, 0, 1},
    {"madvise_unknown", 9999, EINVAL, 1},
};

static void advice_row(const void *with)
{
    const struct advice_row *row = with;
    char *at = pages(6);
    if (row->error != 0)
        fails(row->error, madvise(at + 2 * PAGE, 2 * PAGE, row->advice));
    else
        check(madvise(at + 2 * PAGE, 2 * PAGE, row->advice));
    require(lines_of(at, 6 * PAGE) == row->lines);
    pid_t child = (pid_t)check(fork());
    if (child == 0)
        _exit(is_mapped(at + 2 * PAGE) != (row->advice != MADV_DONTFORK) || !is_mapped(at));
    await_child(child);
    fails(row->advice == 9999 ? EINVAL : EINVAL, madvise(at + 1, PAGE, row->advice));
    if (row->error == 0 && row->advice != MADV_WILLNEED) {
        /* Holes are told of when all else is done. */
        unmap(at + PAGE, PAGE);
        fails(ENOMEM, madvise(at, 6 * PAGE, row->advice));
    }
    unmap(at, 6 * PAGE);
}
ROWS(advice_row, advice_rows)

CASE(madvise_nothing)
{
    check(madvise(pages(1), 0, MADV_DONTFORK));
}

CASE(madvise_takes_back)
{
    char *at = pages(4);
    check(madvise(at, 4 * PAGE, MADV_DONTFORK));
    check(madvise(at + PAGE, PAGE, MADV_DOFORK));
    pid_t child = (pid_t)check(fork());
    if (child == 0)
        _exit(is_mapped(at) || !is_mapped(at + PAGE) || is_mapped(at + 2 * PAGE));
    await_child(child);
}

CASE(madvise_guard_under_rights)
{
    char *at = pages(4);
    check(madvise(at, PAGE, GUARD_INSTALL));
    check(mprotect(at, 2 * PAGE, PROT_READ));
    require(lines_of(at, 4 * PAGE) == 2);
    check(madvise(at, 4 * PAGE, GUARD_REMOVE));
}

CASE(madvise_remove_shared)
{
    char *at = map_with(4 * PAGE, RW, MAP_SHARED);
    check(madvise(at, 2 * PAGE, MADV_REMOVE));
    check(madvise(at, 4 * PAGE, MADV_DONTFORK));
}

CASE(madvise_wipe_shared)
{
    fails(EINVAL, madvise(map_with(PAGE, RW, MAP_SHARED), PAGE, MADV_WIPEONFORK));
}

CASE(process_madvise_of_oneself)
{
    char *at = pages(6);
    struct iovec blocks[] = {{at, PAGE}, {at + 2 * PAGE, PAGE}};
    int self = (int)check(syscall(SYS_pidfd_open, getpid(), 0));
    require(check(syscall(SYS_process_madvise, self, blocks, 2, MADV_DONTFORK, 0)) == 2 * PAGE);
    require(lines_of(at, 6 * PAGE) == 4);
    pid_t child = (pid_t)check(fork());
    if (child == 0)
        _exit(is_mapped(at) || !is_mapped(at + PAGE) || is_mapped(at + 2 * PAGE));
    await_child(child);
}

CASE(process_madvise_halfway)
{
    char *at = pages(6);
    unmap(at + 4 * PAGE, PAGE);
    struct iovec blocks[] = {{at, PAGE}, {at + 3 * PAGE, 3 * PAGE}, {at + 2 * PAGE, PAGE}};
    int self = (int)check(syscall(SYS_pidfd_open, getpid(), 0));
    require(check(syscall(SYS_process_madvise, self, blocks, 3, MADV_DONTFORK, 0)) == PAGE);
    await_child(fork() ?: (_exit(is_mapped(at) || is_mapped(at + 3 * PAGE) || !is_mapped(at + 2 * PAGE)), 0));
}

CASE(process_madvise_by_another)
{
    char *at = pages(4);
    struct iovec block = {at, 4 * PAGE};
    pid_t parent = getpid();
    pid_t child = (pid_t)check(fork());
    if (child == 0) {
        int target = (int)check(syscall(SYS_pidfd_open, parent, 0));
        const int harmless[] = {MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED};
        for (size_t i = 0; i < COUNT(harmless); i++)
            check(syscall(SYS_process_madvise, target, &block, 1, harmless[i], 0));
        fails(EINVAL, syscall(SYS_process_madvise, target, &block, 1, MADV_DONTFORK, 0));
        fails(EINVAL, syscall(SYS_process_madvise, target, &block, 1, GUARD_INSTALL, 0));
        fails(EINVAL, syscall(SYS_process_madvise, target, &block, 1, MADV_COLD, 1));
        _exit(0);
    }
    await_child(child);
    require(is_line(at, 4 * PAGE, "rw-p"));
}

struct protect_row {
    const char *name;
    int prot;
    const char *rights;
};

static const struct protect_row protect_rows[] = {
    {"mprotect_none", PROT_NONE, "---p"}, {"mprotect_read", PROT_READ, "r--p"}, {"mprotect_write", PROT_WRITE, "-w-p"},
    {"mprotect_exec", PROT_EXEC, "--xp"}, {"mprotect_all", RW | PROT_EXEC, "rwxp"}, {"mprotect_sem", PROT_READ | 8, "r--p"},
};

static void protect_row(const void *with)
{
    const struct protect_row *row = with;
    char *at = pages(6);
    check(mprotect(at + 2 * PAGE, 2 * PAGE - 1, row->prot));
    require(is_line(at + 2 * PAGE, 2 * PAGE, row->rights) && lines_of(at, 6 * PAGE) == 3);
    check(mprotect(at + PAGE, 4 * PAGE, row->prot));
    require(is_line(at + PAGE, 4 * PAGE, row->rights));
    check(mprotect(at, 6 * PAGE, RW));
    require(is_line(at, 6 * PAGE, "rw-p"));
}
ROWS(protect_row, protect_rows)

CASE(mprotect_errors)
{
    char *at = pages(2);
    fails(EINVAL, mprotect(at + 1, PAGE, PROT_READ));
    fails(EINVAL, mprotect(at, PAGE, 0x1000));
    fails(EINVAL, mprotect(at, PAGE, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP));
    fails(EINVAL, mprotect(at, PAGE, PROT_READ | PROT_GROWSDOWN));
    fails(EINVAL, mprotect(at, PAGE, PROT_READ | PROT_GROWSUP));
    /* i386's sizes are small for the kernel, so that it begins. */
    if (sizeof(void *) == 8)
        fails(ENOMEM, mprotect(at, (size_t)-PAGE, PROT_READ));
    check(mprotect(at, 0, PROT_NONE));
    require(is_line(at, 2 * PAGE, "rw-p"));
}

CASE(mprotect_up_to_a_hole)
{
    char *at = pages(6);
    unmap(at + 3 * PAGE, PAGE);
    fails(ENOMEM, mprotect(at + PAGE, 5 * PAGE, PROT_READ));
    require(is_line(at + PAGE, 2 * PAGE, "r--p") && is_line(at + 4 * PAGE, 2 * PAGE, "rw-p"));
    fails(ENOMEM, mprotect(at + 3 * PAGE, 2 * PAGE, PROT_READ));
    require(is_line(at + 4 * PAGE, 2 * PAGE, "rw-p"));
}

CASE(mprotect_refused_halfway)
{
    char *at = pages(4);
    int file = (int)check(open("/proc/self/exe", O_RDONLY));
    check(mmap(at + 2 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0));
    check(mprotect(at, 2 * PAGE, PROT_READ));
    fails(EACCES, mprotect(at, 4 * PAGE, RW));
    require(is_line(at, 2 * PAGE, "rw-p") && is_line(at + 2 * PAGE, PAGE, "r--s"));
}

CASE(mprotect_growsdown)
{
    char *at = pages(16);
    unmap(at, 16 * PAGE);
    check(mmap(at + 8 * PAGE, 4 * PAGE, RW, PLAIN | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0));
    check(mprotect(at + 11 * PAGE, PAGE, PROT_READ | PROT_GROWSDOWN));
    require(is_line(at + 8 * PAGE, 4 * PAGE, "r--p"));
}

CASE(mprotect_keys)
{
    char *at = pages(4);
    check(syscall(SYS_pkey_mprotect, at, PAGE, PROT_READ, -1));
    fails(EINVAL, syscall(SYS_pkey_mprotect, at, PAGE, PROT_READ, 15));
    int key = (int)syscall(SYS_pkey_alloc, 0, 0);
    /* A processor may have none. */
    bool has_keys = key >= 0;
    require(has_keys || errno == EINVAL || errno == ENOSPC);
    check(syscall(SYS_pkey_mprotect, at, 2 * PAGE, RW, has_keys ? key : -1));
    /* The key splits, and maps do not show it. */
    require(lines_of(at, 4 * PAGE) == (has_keys ? 2 : 1));
    check(mprotect(at, 4 * PAGE, RW));
    check(syscall(SYS_pkey_mprotect, at, 4 * PAGE, RW, has_keys ? 0 : -1));
    require(lines_of(at, 4 * PAGE) == 1);
    if (has_keys)
        check(syscall(SYS_pkey_free, key));
}

CASE(mlock_splits)
{
    char *at = pages(6);
    check(mlock(at + PAGE, 2 * PAGE));
    require(lines_of(at, 6 * PAGE) == 3);
    check(syscall(SYS_mlock2, at, PAGE, 1));
    check(munlock(at, 6 * PAGE));
    require(lines_of(at, 6 * PAGE) == 1);
    unmap(at + 5 * PAGE, PAGE);
    fails(ENOMEM, mlock(at, 6 * PAGE));
    fails(EINVAL, syscall(SYS_mlock2, at, PAGE, 2));
}

CASE(mlockall_and_what_comes_after)
{
    check(mlockall(MCL_CURRENT | MCL_FUTURE));
    char *at = pages(4);
    require(is_line(at, 4 * PAGE, "rw-p"));
    check(munlockall());
    map_fixed(at + PAGE, PAGE, RW);
}

CASE(msync_and_mincore)
{
    char *at = map_with(4 * PAGE, RW, MAP_SHARED);
    unsigned char resident[4];
    check(msync(at, 4 * PAGE, MS_SYNC | MS_INVALIDATE));
    fails(EINVAL, msync(at + 1, PAGE, MS_SYNC));
    fails(EINVAL, msync(at, PAGE, MS_SYNC | MS_ASYNC));
    check(mincore(at, 4 * PAGE, resident));
}

CASE(memory_policy_splits)
{
    char *at = pages(6);
    const unsigned long node = 1;
    check(syscall(SYS_mbind, at + 2 * PAGE, 2 * PAGE, 2 /* MPOL_BIND */, &node, 8 * sizeof node, 0));
    require(lines_of(at, 6 * PAGE) == 3);
    check(syscall(SYS_mbind, at, 6 * PAGE, 0, NULL, 0, 0));
    require(lines_of(at, 6 * PAGE) == 1);
}

CASE(stacks_grow)
{
    char *at = pages(512);
    unmap(at, 512 * PAGE);
    char *low = at + 400 * PAGE;
    check(mmap(low, 4 * PAGE, RW, PLAIN | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0));
    low[-1] = 1;
    require(is_line(low - PAGE, 5 * PAGE, "rw-p"));
    *(low - 8 * PAGE) = 1;
    require(is_line(low - 8 * PAGE, 12 * PAGE, "rw-p"));
    unmap(low - 4 * PAGE, PAGE);
    check(mprotect(low - 2 * PAGE, PAGE, PROT_NONE));
    (low - 8 * PAGE)[-1] = 1;
    require(is_line(low - 9 * PAGE, 5 * PAGE, "rw-p"));
}

CASE(main_stack_grows)
{
    volatile char deep[256 * KIB];
    deep[0] = 1;
    require(deep[0] == 1);
}
