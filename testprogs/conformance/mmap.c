/* mmap(2) and munmap(2). */
#include "conformance.h"

#include <sys/resource.h>

enum file { NO_FILE = -1, BAD_FILE = -2, MEMORY = -3, READ_ONLY = -4, WRITE_ONLY = -5, FOLDER = -6, PIPE = -7, ZERO = -8 };

static int opened(enum file file)
{
    int ends[2];
    switch (file) {
    case MEMORY:
        return memory_file(4);
    case READ_ONLY:
        return (int)check(open("/proc/self/exe", O_RDONLY));
    case WRITE_ONLY:
        return (int)check(open("/dev/zero", O_WRONLY));
    case FOLDER:
        return (int)check(open("/", O_RDONLY | O_DIRECTORY));
    case PIPE:
        check(pipe(ends));
        return ends[0];
    case ZERO:
        return (int)check(open("/dev/zero", O_RDWR));
    case BAD_FILE:
        return 1000;
    default:
        return -1;
    }
}

struct map_row {
    const char *name;
    size_t bytes;
    int prot, flags;
    enum file file;
    long offset;
    /* 0, and what the line of maps shows; or the error. */
    int error;
    const char *rights;
};

#define ANY (MAP_SHARED | MAP_ANONYMOUS)

static const struct map_row map_rows[] = {
    {"mmap_private", 2 * PAGE, RW, PLAIN, NO_FILE, 0, 0, "rw-p"},
    {"mmap_none", 2 * PAGE, PROT_NONE, PLAIN, NO_FILE, 0, 0, "---p"},
    {"mmap_read", 2 * PAGE, PROT_READ, PLAIN, NO_FILE, 0, 0, "r--p"},
    {"mmap_write", 2 * PAGE, PROT_WRITE, PLAIN, NO_FILE, 0, 0, "-w-p"},
    {"mmap_exec", 2 * PAGE, PROT_EXEC, PLAIN, NO_FILE, 0, 0, "--xp"},
    {"mmap_all_rights", 2 * PAGE, RW | PROT_EXEC, PLAIN, NO_FILE, 0, 0, "rwxp"},
    {"mmap_unrounded", PAGE + 1, RW, PLAIN, NO_FILE, 0, 0, "rw-p"},
    {"mmap_shared", 2 * PAGE, RW, ANY, NO_FILE, 0, 0, "rw-s"},
    {"mmap_anonymous_ignores_fd", 2 * PAGE, RW, PLAIN, BAD_FILE, 0, 0, "rw-p"},
    {"mmap_anonymous_ignores_offset", 2 * PAGE, RW, PLAIN, NO_FILE, 8 * PAGE, 0, "rw-p"},
    {"mmap_shared_anonymous_offset", 2 * PAGE, RW, ANY, NO_FILE, 8 * PAGE, 0, "rw-s"},
    {"mmap_noreserve", 2 * PAGE, RW, PLAIN | MAP_NORESERVE, NO_FILE, 0, 0, "rw-p"},
    {"mmap_populate", 2 * PAGE, RW, PLAIN | MAP_POPULATE, NO_FILE, 0, 0, "rw-p"},
    {"mmap_locked", 2 * PAGE, RW, PLAIN | MAP_LOCKED, NO_FILE, 0, 0, "rw-p"},
    {"mmap_stack", 2 * PAGE, RW, PLAIN | MAP_STACK, NO_FILE, 0, 0, "rw-p"},
    {"mmap_growsdown", 2 * PAGE, RW, PLAIN | MAP_GROWSDOWN, NO_FILE, 0, 0, "rw-p"},
    {"mmap_shared_growsdown", 2 * PAGE, RW, ANY | MAP_GROWSDOWN, NO_FILE, 0, EINVAL, NULL},
    {"mmap_droppable", 2 * PAGE, RW, 8 | MAP_ANONYMOUS, NO_FILE, 0, 0, "rw-p"},
    {"mmap_droppable_file", 2 * PAGE, RW, 8, MEMORY, 0, EINVAL, NULL},
    {"mmap_droppable_locked", 2 * PAGE, RW, 8 | MAP_ANONYMOUS | MAP_LOCKED, NO_FILE, 0, EINVAL, NULL},
    {"mmap_no_type", 2 * PAGE, RW, MAP_ANONYMOUS, NO_FILE, 0, EINVAL, NULL},
    {"mmap_two_types", 2 * PAGE, RW, 4 | MAP_ANONYMOUS, NO_FILE, 0, EINVAL, NULL},
    {"mmap_nothing", 0, RW, PLAIN, NO_FILE, 0, EINVAL, NULL},
    {"mmap_all_there_is", (size_t)-1, RW, PLAIN, NO_FILE, 0, ENOMEM, NULL},
    {"mmap_too_much", (size_t)-4 * PAGE, RW, PLAIN, NO_FILE, 0, ENOMEM, NULL},
    {"mmap_offset_unaligned", PAGE, RW, MAP_SHARED, MEMORY, 1, EINVAL, NULL},
    {"mmap_file_private", 2 * PAGE, RW, MAP_PRIVATE, MEMORY, PAGE, 0, "rw-p"},
    {"mmap_file_shared", 2 * PAGE, RW, MAP_SHARED, MEMORY, PAGE, 0, "rw-s"},
    {"mmap_file_validates", 2 * PAGE, RW, MAP_SHARED_VALIDATE | 1 << 22, MEMORY, 0, EOPNOTSUPP, NULL},
    {"mmap_file_not_validated", 2 * PAGE, RW, MAP_SHARED | 1 << 22, MEMORY, 0, 0, "rw-s"},
    {"mmap_sync_without_dax", PAGE, PROT_READ, MAP_SHARED_VALIDATE | 0x80000, READ_ONLY, 0, EOPNOTSUPP, NULL},
    {"mmap_beyond_the_end", 8 * PAGE, RW, MAP_SHARED, MEMORY, 2 * PAGE, 0, "rw-s"},
    {"mmap_bad_fd", PAGE, RW, MAP_SHARED, BAD_FILE, 0, EBADF, NULL},
    {"mmap_no_fd", PAGE, RW, MAP_PRIVATE, NO_FILE, 0, EBADF, NULL},
    {"mmap_read_only_shared", PAGE, PROT_READ, MAP_SHARED, READ_ONLY, 0, 0, "r--s"},
    {"mmap_read_only_written", PAGE, RW, MAP_SHARED, READ_ONLY, 0, EACCES, NULL},
    {"mmap_read_only_private", PAGE, RW, MAP_PRIVATE, READ_ONLY, 0, 0, "rw-p"},
    {"mmap_write_only", PAGE, PROT_WRITE, MAP_SHARED, WRITE_ONLY, 0, EACCES, NULL},
    {"mmap_folder", PAGE, PROT_READ, MAP_PRIVATE, FOLDER, 0, ENODEV, NULL},
    {"mmap_pipe", PAGE, PROT_READ, MAP_PRIVATE, PIPE, 0, ENODEV, NULL},
    {"mmap_file_growsdown", PAGE, PROT_READ, MAP_PRIVATE | MAP_GROWSDOWN, MEMORY, 0, EINVAL, NULL},
    {"mmap_zero_private", 2 * PAGE, RW, MAP_PRIVATE, ZERO, PAGE, 0, "rw-p"},
    {"mmap_zero_shared", 2 * PAGE, RW, MAP_SHARED, ZERO, PAGE, 0, "rw-s"},
};

/* Maps at a place that is free on both sides, where something of other rights lay, and once more wherever there is room. */
static void map_row(const void *with)
{
    const struct map_row *row = with;
    int file = opened(row->file);
    char *at = pages(16);
    size_t whole = (row->bytes + PAGE - 1) / PAGE * PAGE;
    if (row->error != 0) {
        fails(row->error, mmap(NULL, row->bytes, row->prot, row->flags, file, row->offset));
        fails(row->error, mmap(at, row->bytes, row->prot, row->flags | MAP_FIXED, file, row->offset));
        return;
    }
    unmap(at, 16 * PAGE);
    require((char *)check(mmap(at, row->bytes, row->prot, row->flags | MAP_FIXED_NOREPLACE, file, row->offset)) == at);
    require(is_line(at, whole, row->rights));
    char *other = (char *)check(mmap(NULL, row->bytes, row->prot, row->flags, file, row->offset));
    require(other != at);
    unmap(other, row->bytes);
    require((char *)check(mmap(at, row->bytes, row->prot, row->flags | MAP_FIXED, file, row->offset)) == at);
    unmap(at, whole);
    require(lines_of(at, whole) == 0);
}
ROWS(map_row, map_rows)

CASE(mmap_file_validated)
{
    char *at = pages(20);
    unmap(at, 20 * PAGE);
    require((char *)check(mmap(at, 2 * PAGE, RW, MAP_SHARED_VALIDATE, memory_file(4), PAGE)) == at);
    require(is_line(at, 2 * PAGE, "rw-s"));
    /* MAP_FIXED_NOREPLACE is none of the flags that every file knows. */
    fails(EOPNOTSUPP, mmap(at + 16 * PAGE, PAGE, RW, MAP_SHARED_VALIDATE | MAP_FIXED_NOREPLACE, memory_file(4), 0));
}

CASE(mmap_hint_is_taken)
{
    char *at = pages(4);
    unmap(at, 4 * PAGE);
    require((char *)check(mmap(at, PAGE, RW, PLAIN, -1, 0)) == at);
}

CASE(mmap_hint_is_in_use)
{
    char *at = pages(4);
    require((char *)check(mmap(at, PAGE, RW, PLAIN, -1, 0)) != at);
}

CASE(mmap_hint_is_rounded)
{
    char *at = pages(4);
    unmap(at, 4 * PAGE);
    require((uintptr_t)check(mmap(at + 1, PAGE, RW, PLAIN, -1, 0)) % PAGE == 0);
}

CASE(mmap_fixed_replaces)
{
    char *at = pages(5);
    map_fixed(at + PAGE, 3 * PAGE, PROT_READ);
    require(lines_of(at, 5 * PAGE) == 3 && is_line(at + PAGE, 3 * PAGE, "r--p"));
}

CASE(mmap_fixed_unaligned)
{
    fails(EINVAL, mmap(pages(2) + 1, PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
}

CASE(mmap_fixed_too_low)
{
    /* Root may map page 0. */
    fails(ENOMEM, mmap((void *)-PAGE, 2 * PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
}

CASE(mmap_noreplace_over_something)
{
    char *at = pages(4);
    unmap(at, 2 * PAGE);
    fails(EEXIST, mmap(at, 3 * PAGE, RW, PLAIN | MAP_FIXED_NOREPLACE, -1, 0));
    require((char *)check(mmap(at, 2 * PAGE, PROT_READ, PLAIN | MAP_FIXED_NOREPLACE, -1, 0)) == at);
}

CASE(mmap_noreplace_wins_over_fixed)
{
    fails(EEXIST, mmap(pages(2), PAGE, RW, PLAIN | MAP_FIXED | MAP_FIXED_NOREPLACE, -1, 0));
}

CASE(mmap_fixed_fails_and_keeps)
{
    char *at = pages(3);
    fails(EBADF, mmap(at + PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED, 1000, 0));
    require(is_line(at, 3 * PAGE, "rw-p"));
}

CASE(mmap_parts_of_a_file_merge)
{
    int file = memory_file(4);
    char *at = pages(4);
    check(mmap(at, 2 * PAGE, RW, MAP_SHARED | MAP_FIXED, file, 0));
    check(mmap(at + 2 * PAGE, 2 * PAGE, RW, MAP_SHARED | MAP_FIXED, file, 2 * PAGE));
    require(lines_of(at, 4 * PAGE) == 1);
    check(mmap(at + 2 * PAGE, 2 * PAGE, RW, MAP_SHARED | MAP_FIXED, file, 0));
    require(lines_of(at, 4 * PAGE) == 2);
}

CASE(mmap_sealed_memory_file)
{
    int file = (int)check(memfd_create("sealed", MFD_ALLOW_SEALING));
    check(ftruncate(file, 2 * PAGE));
    check(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE));
    fails(EPERM, mmap(NULL, PAGE, RW, MAP_SHARED, file, 0));
    check(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0));
    check(mmap(NULL, PAGE, RW, MAP_PRIVATE, file, 0));
}


CASE(mmap_over_the_limit)
{
    struct rlimit limit = {MIB, RLIM_INFINITY};
    char *at = pages(2);
    check(setrlimit(RLIMIT_AS, &limit));
    fails(ENOMEM, mmap(NULL, PAGE, RW, PLAIN, -1, 0));
    fails(ENOMEM, mremap(at, 2 * PAGE, 3 * PAGE, 0));
    fails(ENOMEM, mmap(at + 8 * PAGE, PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
    unmap(at, 2 * PAGE);
}

CASE(munmap_middle)
{
    char *at = pages(5);
    unmap(at + 2 * PAGE, PAGE);
    require(lines_of(at, 5 * PAGE) == 2 && !is_mapped(at + 2 * PAGE));
}

CASE(munmap_head_and_tail)
{
    char *at = pages(5);
    unmap(at, PAGE);
    unmap(at + 4 * PAGE, PAGE);
    require(is_line(at + PAGE, 3 * PAGE, "rw-p"));
}

CASE(munmap_over_holes)
{
    char *at = pages(5);
    unmap(at + PAGE, PAGE);
    unmap(at + 3 * PAGE, PAGE);
    unmap(at, 5 * PAGE);
    unmap(at, 5 * PAGE);
    require(lines_of(at, 5 * PAGE) == 0);
}

CASE(munmap_unrounded)
{
    char *at = pages(3);
    unmap(at, PAGE + 1);
    require(is_line(at + 2 * PAGE, PAGE, "rw-p"));
}

CASE(munmap_errors)
{
    char *at = pages(2);
    fails(EINVAL, munmap(at, 0));
    fails(EINVAL, munmap(at + 1, PAGE));
    fails(EINVAL, munmap(at, (size_t)-1));
    fails(EINVAL, munmap((void *)-PAGE, 2 * PAGE));
    require(is_line(at, 2 * PAGE, "rw-p"));
}
