/* Calls that change mappings, at random, in several threads at the same time: each in a range of its own, in
   a range of all, and anywhere: random_calls SEED COUNT [THREADS [fork]], default 1 4000 4. With "fork" every
   hundredth call or so is a fork whose child goes on for a few calls. Calls may fail; memory is never touched.
   Must be found: nothing, and a model that agrees with the kernel at any time. */
#include "testprog.h"

#include <sys/personality.h>
#include <sys/shm.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103

#define RANGE_PAGES 64
#define MOST_THREADS 16
#define LOOSE 12
#define SEGMENT_PAGES 5

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static uintptr_t first_break;
static char *common;
static int segment, file, read_only;
static bool forks;

struct block {
    char *start;
    size_t bytes;
};

struct worker {
    uint32_t random;
    int calls;
    char *range;
    /* Blocks that lie where the kernel put them. Another thread may have changed what lies there since. */
    struct block loose[LOOSE];
    char *attached[4];
};

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
    switch (below(self, 8)) {
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
    case 4:
        flags |= MAP_ANONYMOUS | ONE_OF(self, MAP_GROWSDOWN, 0);
        break;
    default:
        flags |= MAP_ANONYMOUS;
    }
    void *hint = where != 0 || one_in(self, 3) ? at.start : NULL;
    char *start = mmap(hint, unrounded(self, at.bytes), some_prot(self), flags, fd, offset);
    if (where == 0)
        keep_loose(self, start, at.bytes);
}

static void call_mremap(struct worker *self)
{
    struct block from = some_block(self), to = some_pages(self);
    size_t old_bytes = one_in(self, 10) ? 0 : unrounded(self, from.bytes);
    size_t common_bytes = from.bytes < to.bytes ? from.bytes : to.bytes;
    size_t new_bytes = unrounded(self, (1 + below(self, 16)) * PAGE);
    switch (below(self, 6)) {
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
    case 4:
        mremap(from.start, common_bytes, common_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to.start);
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
                        MADV_MERGEABLE, 9999);
    madvise(at.start, unrounded(self, at.bytes), advice);
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

static void call_other(struct worker *self)
{
    struct block at = some_pages(self);
    switch (below(self, 4)) {
    case 0:
        mlock(at.start, at.bytes);
        break;
    case 1:
        munlock(at.start, at.bytes);
        break;
    case 2:
        remap_file_pages(at.start, at.bytes, 0, below(self, 4), 0);
        break;
    default:
        syscall(SYS_brk, first_break + below(self, RANGE_PAGES * PAGE));
    }
}

static void call_any(struct worker *self)
{
    struct block at = some_block(self);
    switch (below(self, 20)) {
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
    default:
        call_mmap(self);
    }
}

/* Not libc's fork: its handlers take locks that other threads may hold. */
static void call_fork(struct worker *self)
{
    pid_t child = (pid_t)check(syscall(SYS_fork));
    if (child == 0) {
        for (int i = 0; i < 20; i++)
            call_any(self);
        syscall(SYS_exit_group, 0);
    }
    await_child(child);
}

static void *work(void *argument)
{
    struct worker *self = argument;
    wait_at_gate(&gate);
    while (self->calls-- > 0)
        if (forks && one_in(self, 100))
            call_fork(self);
        else
            call_any(self);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct worker workers[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    uint32_t seed = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    int count = argc > 2 ? atoi(argv[2]) : 4000;
    int thread_count = argc > 3 ? atoi(argv[3]) : 4;
    forks = argc > 4 && strcmp(argv[4], "fork") == 0;
    require(count > 0 && thread_count > 0 && thread_count <= MOST_THREADS);

    segment = (int)check(shmget(IPC_PRIVATE, SEGMENT_PAGES * PAGE - 100, 0700));
    check(shmat(segment, NULL, 0));
    check(shmctl(segment, IPC_RMID, NULL));
    file = (int)check(memfd_create("random_calls", 0));
    check(ftruncate(file, 16 * PAGE));
    read_only = (int)check(open("/proc/self/exe", O_RDONLY));
    common = map_with(RANGE_PAGES * PAGE, PROT_NONE, MAP_PRIVATE);
    check_zero(pthread_mutex_lock(&gate));
    for (int i = 0; i < thread_count; i++) {
        workers[i] = (struct worker){
            .random = (seed * 64 + (uint32_t)i) * 2654435761u | 1,
            .calls = count / thread_count,
            .range = map_with(RANGE_PAGES * PAGE, PROT_NONE, MAP_PRIVATE),
        };
        threads[i] = start_pthread(work, &workers[i]);
    }
    /* Not before pthread_create has its memory from malloc: the threads move the break unseen by libc. */
    first_break = check(sbrk(0));
    check_zero(pthread_mutex_unlock(&gate));
    for (int i = 0; i < thread_count; i++)
        join(threads[i]);
    check(brk((void *)first_break));
    return 0;
}
