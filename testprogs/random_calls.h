/* The calls of random_calls: one function for each kind, one argument after the other at random. */
#ifndef RANDOM_CALLS_H
#define RANDOM_CALLS_H

#include "testprog.h"

#include <linux/aio_abi.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/uio.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103
#define DROPPABLE 8

#define RANGE_PAGES 64
#define LOOSE 12
#define SEGMENT_PAGES 5
#define HUGE_PAGE (2 * MIB)

struct block {
    char *start;
    size_t bytes;
};

struct worker {
    uint32_t random;
    _Atomic int calls;
    char *range;
    /* Blocks that lie where the kernel put them. Another thread may have changed what lies there since. */
    struct block loose[LOOSE];
    char *attached[4];
    aio_context_t ring;
};

static char *first_break;
static char *common;
static int segment, file, read_only, zero, huge, secret, own_process;

/* xorshift32 */
static unsigned below(struct worker *self, unsigned limit)
{
    self->random ^= self->random << 13;
    self->random ^= self->random >> 17;
    self->random ^= self->random << 5;
    return self->random % limit;
}

static bool one_in(struct worker *self, unsigned many)
{
    return below(self, many) == 0;
}

static int one_of(struct worker *self, const int *values, size_t count)
{
    return values[below(self, (unsigned)count)];
}

#define ONE_OF(self, ...) \
    one_of(self, (const int[]){__VA_ARGS__}, COUNT(((const int[]){__VA_ARGS__})))

static int some_prot(struct worker *self)
{
    return ONE_OF(self, PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC);
}

/* Some pages of the own range or the common one. */
static struct block some_pages(struct worker *self)
{
    char *range = one_in(self, 3) ? common : self->range;
    unsigned first = below(self, RANGE_PAGES);
    unsigned most = RANGE_PAGES - first < 12 ? RANGE_PAGES - first : 12;
    return (struct block){range + first * PAGE, (1 + below(self, most)) * PAGE};
}

static struct block *some_loose(struct worker *self)
{
    return &self->loose[below(self, LOOSE)];
}

static struct block some_block(struct worker *self)
{
    struct block *loose = some_loose(self);
    return loose->start != NULL && one_in(self, 4) ? *loose : some_pages(self);
}

static void keep_loose(struct worker *self, char *start, size_t bytes)
{
    if (start == MAP_FAILED)
        return;
    struct block *place = some_loose(self);
    if (place->start != NULL)
        munmap(place->start, place->bytes);
    *place = (struct block){start, bytes};
}

/* A length that the kernel rounds up to as many pages. */
static size_t unrounded(struct worker *self, size_t bytes)
{
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    return one_in(self, 4) ? whole - below(self, PAGE - 1) : whole;
}

static void call_mmap(struct worker *self)
{
    struct block at = some_pages(self);
    int where = ONE_OF(self, 0, MAP_FIXED, MAP_FIXED, MAP_FIXED, MAP_FIXED_NOREPLACE);
    int flags = where | ONE_OF(self, MAP_PRIVATE, MAP_PRIVATE, MAP_SHARED);
    int fd = -1;
    off_t offset = 0;
    switch (below(self, 12)) {
    case 0: case 1:
        fd = file;
        offset = (off_t)(below(self, 8) * PAGE);
        break;
    case 2: /* may not be shared and written to */
        fd = read_only;
        break;
    case 3:
        flags |= MAP_ANONYMOUS | ONE_OF(self, MAP_NORESERVE, MAP_STACK, MAP_POPULATE, MAP_LOCKED);
        break;
    case 4: case 5:
        flags |= MAP_ANONYMOUS | ONE_OF(self, MAP_GROWSDOWN, 0);
        break;
    case 6:
        fd = zero;
        offset = (off_t)(below(self, 8) * PAGE);
        break;
    case 7:
        fd = secret;
        break;
    case 8:
        flags = where | MAP_ANONYMOUS | DROPPABLE;
        break;
    default:
        flags |= MAP_ANONYMOUS;
    }
    void *hint = where != 0 || one_in(self, 3) ? at.start : NULL;
    char *start = mmap(hint, unrounded(self, at.bytes), some_prot(self), flags, fd, offset);
    if (where == 0)
        keep_loose(self, start, at.bytes);
}

/* Huge pages, of which none need be there as long as nothing is reserved and touched. */
static void call_huge(struct worker *self)
{
    size_t pages = 1 + below(self, 2), bytes = pages * HUGE_PAGE - below(self, HUGE_PAGE);
    int flags = MAP_NORESERVE | ONE_OF(self, MAP_PRIVATE, MAP_SHARED);
    char *start = one_in(self, 2) ? mmap(NULL, bytes, some_prot(self), flags | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0)
                                  : mmap(NULL, bytes, some_prot(self), flags, huge, (off_t)(below(self, 2) * HUGE_PAGE));
    if (start == MAP_FAILED)
        return;
    /* Parts of huge pages are refused. */
    mprotect(start, one_in(self, 2) ? HUGE_PAGE : PAGE, some_prot(self));
    munmap(start + below(self, 3) * PAGE, PAGE);
    mremap(start, HUGE_PAGE, HUGE_PAGE, ONE_OF(self, 0, MREMAP_MAYMOVE));
    munmap(start, pages * HUGE_PAGE);
}

static void call_mremap(struct worker *self)
{
    struct block from = some_block(self), to = some_pages(self);
    size_t old_bytes = one_in(self, 10) ? 0 : unrounded(self, from.bytes);
    size_t common_bytes = from.bytes < to.bytes ? from.bytes : to.bytes;
    size_t new_bytes = unrounded(self, (1 + below(self, 16)) * PAGE);
    switch (below(self, 7)) {
    case 0:
        mremap(from.start, old_bytes, new_bytes, 0);
        break;
    case 1:
        keep_loose(self, mremap(from.start, old_bytes, new_bytes, MREMAP_MAYMOVE), new_bytes);
        break;
    case 2:
        new_bytes = from.bytes;
        keep_loose(self, mremap(from.start, from.bytes, new_bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL), new_bytes);
        break;
    case 3:
        mremap(from.start, common_bytes, common_bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to.start);
        break;
    case 4: /* since Linux 6.17 of several regions, too */
        mremap(from.start, common_bytes, common_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to.start);
        break;
    case 5: /* whatever has no business to succeed */
        mremap(from.start + below(self, 2), old_bytes, one_in(self, 4) ? 0 : new_bytes,
               ONE_OF(self, 0, MREMAP_FIXED, MREMAP_DONTUNMAP, MREMAP_FIXED | MREMAP_DONTUNMAP, 8), to.start + 1);
        break;
    default:
        mremap(from.start, old_bytes, unrounded(self, to.bytes), MREMAP_MAYMOVE | MREMAP_FIXED, to.start);
    }
}

static void call_mprotect(struct worker *self)
{
    struct block at = some_block(self);
    int prot = some_prot(self);
    if (one_in(self, 20))
        prot |= ONE_OF(self, PROT_GROWSDOWN, PROT_GROWSUP);
    if (one_in(self, 10))
        syscall(SYS_pkey_mprotect, at.start, at.bytes, prot, ONE_OF(self, -1, 7));
    else
        mprotect(at.start, one_in(self, 50) ? 0 : unrounded(self, at.bytes), prot);
}

static void call_madvise(struct worker *self)
{
    struct block at = some_block(self);
    int advice = ONE_OF(self, MADV_DONTNEED, MADV_DONTFORK, MADV_DONTFORK, MADV_DOFORK, GUARD_INSTALL, GUARD_REMOVE,
                        MADV_FREE, MADV_RANDOM, MADV_SEQUENTIAL, MADV_DONTDUMP, MADV_NOHUGEPAGE, MADV_REMOVE,
                        MADV_MERGEABLE, MADV_WIPEONFORK, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLD,
                        MADV_COLLAPSE, 9999);
    if (one_in(self, 8)) {
        struct block other = some_pages(self);
        struct iovec blocks[] = {{at.start, unrounded(self, at.bytes)}, {other.start, other.bytes}};
        syscall(SYS_process_madvise, own_process, blocks, (size_t)ONE_OF(self, 1, 2), advice, 0);
    } else {
        madvise(at.start, unrounded(self, at.bytes), advice);
    }
}

static void call_shm(struct worker *self)
{
    char **place = &self->attached[below(self, COUNT(self->attached))];
    if (*place != NULL) {
        /* Anything may lie there by now, also another attachment. */
        shmdt(*place);
        *place = NULL;
        return;
    }
    char *range = one_in(self, 3) ? common : self->range;
    char *at = range + below(self, (RANGE_PAGES - SEGMENT_PAGES) * PAGE);
    int flags = ONE_OF(self, 0, SHM_RDONLY, SHM_EXEC);
    switch (below(self, 3)) {
    case 0:
        *place = shmat(segment, NULL, flags);
        break;
    case 1:
        *place = shmat(segment, at, flags | SHM_RND);
        break;
    default:
        *place = shmat(segment, at, flags | SHM_RND | SHM_REMAP);
    }
    if (*place == (char *)-1)
        *place = NULL;
}

static bool faults;

/* Makes the kernel write a byte: pages come in, and what grows down may grow. It fails where a program would die. */
static void call_fault(struct worker *self)
{
    char *range = one_in(self, 3) ? common : self->range;
    syscall(SYS_read, zero, range + below(self, RANGE_PAGES) * PAGE, 1);
}

/* All rings are of one size: a page of a larger one, moved onto the first of a smaller one, is taken for that by io_destroy(2),
   which then unmaps as much as the larger one had, and with that whatever lies behind. */
static void call_ring(struct worker *self)
{
    if (self->ring != 0) {
        syscall(SYS_io_destroy, self->ring);
        self->ring = 0;
    } else {
        syscall(SYS_io_setup, 100, &self->ring);
    }
}

/* Sets the bounds in the address space's description: one needs CAP_SYS_RESOURCE, all at once do not. */
static void set_bounds(struct worker *self, char *start_brk, char *to)
{
    /* struct prctl_mm_map as 64 bits have it: bounds of code, data, break, stack, arguments, environment; no file. */
    uintptr_t place = (uintptr_t)self->range, end = place + PAGE;
    uint64_t all[13] = {place, end, place, end, (uintptr_t)start_brk, (uintptr_t)to, place, place, end, place, end,
                        0, (uint64_t)-1 << 32};
    prctl(PR_SET_MM, PR_SET_MM_BRK, to, 0, 0);
    prctl(PR_SET_MM, PR_SET_MM_MAP, all, sizeof all, 0);
}

/* The break, by brk(2), and by whoever sets it as it likes. */
static void call_brk(struct worker *self)
{
    char *to = first_break + below(self, RANGE_PAGES * PAGE);
    if (one_in(self, 4))
        set_bounds(self, one_in(self, 2) ? first_break : to, to);
    else
        syscall(SYS_brk, to);
}

static void call_other(struct worker *self)
{
    struct block at = some_pages(self);
    switch (below(self, 6)) {
    case 0:
        mlock(at.start, at.bytes);
        break;
    case 1:
        munlock(at.start, at.bytes);
        break;
    case 2:
        remap_file_pages(at.start, at.bytes, 0, below(self, 4), 0);
        break;
    case 3:
        call_ring(self);
        break;
    case 4:
        prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at.start, at.bytes, one_in(self, 2) ? "named" : NULL);
        break;
    default:
        call_brk(self);
    }
}

/* Nothing undoes mseal(2), so only a block of its own is sealed, and seldom. */
static void call_mseal(struct worker *self)
{
    bool attached = one_in(self, 2);
    size_t pages = attached ? SEGMENT_PAGES : 4;
    char *sealed = attached ? shmat(segment, NULL, 0)
                            : mmap(NULL, pages * PAGE, some_prot(self), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sealed == MAP_FAILED)
        return;
    syscall(SYS_mseal, sealed + PAGE, PAGE, 0);
    mprotect(sealed, pages * PAGE, some_prot(self));
    madvise(sealed, pages * PAGE, MADV_DONTNEED);
    mremap(sealed, pages * PAGE, PAGE, 0);
    mmap(sealed, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    shmdt(sealed);
    munmap(sealed, pages * PAGE);
    munmap(sealed + 2 * PAGE, (pages - 2) * PAGE);
    munmap(sealed, PAGE);
}

static void call_any(struct worker *self)
{
    struct block at = some_block(self);
    switch (below(self, 22)) {
    case 0: case 1: case 2:
        munmap(at.start, unrounded(self, at.bytes));
        break;
    case 3: case 4: case 5: case 6:
        call_mremap(self);
        break;
    case 7: case 8: case 9:
        call_mprotect(self);
        break;
    case 10: case 11: case 12:
        call_madvise(self);
        break;
    case 13:
        call_shm(self);
        break;
    case 14:
        call_other(self);
        break;
    case 15: case 16:
        if (faults)
            call_fault(self);
        else
            call_mmap(self);
        break;
    case 17:
        if (one_in(self, 8))
            call_huge(self);
        else if (one_in(self, 1000))
            call_mseal(self);
        break;
    default:
        call_mmap(self);
    }
}

/* What the calls work on. */
static void make_objects(void)
{
    segment = (int)check(shmget(IPC_PRIVATE, SEGMENT_PAGES * PAGE - 100, 0700));
    check(shmat(segment, NULL, 0));
    check(shmctl(segment, IPC_RMID, NULL));
    file = (int)check(memfd_create("random_calls", MFD_CLOEXEC));
    check(ftruncate(file, 16 * PAGE));
    read_only = (int)check(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    zero = (int)check(open("/dev/zero", O_RDWR | O_CLOEXEC));
    huge = (int)check(memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
    secret = (int)check(syscall(SYS_memfd_secret, O_CLOEXEC));
    check(ftruncate(secret, 16 * PAGE));
    own_process = (int)check(syscall(SYS_pidfd_open, getpid(), 0));
    common = map_with(RANGE_PAGES * PAGE, PROT_NONE, MAP_PRIVATE);
}

#endif
