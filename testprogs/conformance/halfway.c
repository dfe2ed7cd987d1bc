/* Calls that are refused when a part of what was asked for has been done, and regions of which the kernel knows more than
   their lines show. */
#include "conformance.h"

#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/shm.h>

#define MAYMOVE 1
#define FIXED 2
#define DONTUNMAP 4

/* Lets so much more memory count for RLIMIT_DATA. */
static void limit_data(size_t more)
{
    struct rlimit limit;
    char line[256];
    unsigned long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    require(status != NULL);
    while (fgets(line, sizeof line, status) && sscanf(line, "VmData: %lu kB", &kib) != 1)
        continue;
    require(kib > 0);
    fclose(status);
    check(getrlimit(RLIMIT_DATA, &limit));
    limit.rlim_cur = kib * KIB + more;
    check(setrlimit(RLIMIT_DATA, &limit));
}

/* Two halves of a region, which advice has made two; a limit that lets the first become writable. */
static char *halves(size_t count)
{
    char *at = pages(count);
    check(mprotect(at, count * PAGE, PROT_NONE));
    check(madvise(at + count / 2 * PAGE, count / 2 * PAGE, MADV_DONTDUMP));
    limit_data((count * 3 / 4) * PAGE);
    return at;
}

CASE(mprotect_until_the_limit)
{
    char *at = halves(1024);
    fails(ENOMEM, mprotect(at, 1024 * PAGE, RW));
    require(is_line(at, 512 * PAGE, "rw-p") && is_line(at + 512 * PAGE, 512 * PAGE, "---p"));
}

CASE(mprotect_until_the_limit_before_a_hole)
{
    char *at = halves(1024);
    unmap(at + 1023 * PAGE, PAGE);
    fails(ENOMEM, mprotect(at, 1024 * PAGE, RW));
    require(is_line(at, 512 * PAGE, "rw-p") && is_line(at + 512 * PAGE, 511 * PAGE, "---p"));
}

/* Two pages of a file that show as one line but for who opened it: the second may not become writable. */
static char *opened_twice(void)
{
    char path[64];
    int file = memory_file(2);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int reads = (int)check(open(path, O_RDONLY));
    char *at = pages(2);
    check(mmap(at, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0));
    check(mmap(at + PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, reads, (off_t)PAGE));
    return at;
}

CASE(mprotect_of_a_file_opened_twice)
{
    char *at = opened_twice();
    fails(EACCES, mprotect(at, 2 * PAGE, RW));
    require(is_line(at, PAGE, "rw-s") && is_line(at + PAGE, PAGE, "r--s"));
}

CASE(mprotect_of_a_file_opened_twice_and_moved)
{
    char *to = pages(2);
    check(mremap(opened_twice(), 2 * PAGE, 2 * PAGE, MAYMOVE | FIXED, to));
    fails(EACCES, mprotect(to, 2 * PAGE, RW));
    require(is_line(to, PAGE, "rw-s") && is_line(to + PAGE, PAGE, "r--s"));
}

CASE(mprotect_of_a_file_opened_twice_and_copied)
{
    char *from = opened_twice(), *to = pages(2);
    check(mremap(from, 2 * PAGE, 2 * PAGE, MAYMOVE | FIXED | DONTUNMAP, to));
    fails(EACCES, mprotect(to, 2 * PAGE, RW));
    require(is_line(to, PAGE, "rw-s") && is_line(to + PAGE, PAGE, "r--s"));
    require(is_line(from, PAGE, "r--s") && is_line(from + PAGE, PAGE, "r--s"));
}

/* What grows down, and behind it what cannot be moved together with others, to where memory that does not grow looks alike. */
static void move_growing(int flags)
{
    char *room = pages(2000), *at = room + 400 * PAGE, *to = room + 1200 * PAGE;
    unmap(room, 2000 * PAGE);
    check(mmap(at, PAGE, RW, PLAIN | MAP_GROWSDOWN | MAP_FIXED, -1, 0));
    int id = (int)check(shmget(IPC_PRIVATE, PAGE, 0600));
    check(shmat(id, at + PAGE, SHM_REMAP));
    check(shmctl(id, IPC_RMID, NULL));
    check(mmap(to, 2 * PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
    fails(EFAULT, mremap(at, 2 * PAGE, 2 * PAGE, MAYMOVE | FIXED | flags, to));
    to[-3 * (ptrdiff_t)PAGE] = 1;
    require(is_line(to - 3 * PAGE, 4 * PAGE, "rw-p") && is_line(to + PAGE, PAGE, "rw-p"));
    check(mprotect(to + PAGE, PAGE, PROT_NONE));
}

CASE(mremap_halfway_of_what_grows)
{
    move_growing(0);
}

CASE(mremap_halfway_of_a_copy_that_grows)
{
    move_growing(DONTUNMAP);
}

CASE(mprotect_halfway_into_a_huge_page)
{
    char *at = (char *)check(mmap(NULL, 2 * HUGE_PAGE, PROT_NONE, PLAIN | MAP_HUGETLB | MAP_NORESERVE, -1, 0));
    check(madvise(at + HUGE_PAGE, HUGE_PAGE, MADV_DONTFORK));
    fails(EINVAL, mprotect(at, HUGE_PAGE + PAGE, PROT_READ));
    require(is_line(at, HUGE_PAGE, "r--p") && is_line(at + HUGE_PAGE, HUGE_PAGE, "---p"));
}

/* mremap takes whole huge pages, whatever was asked for. */
static void remap_huge(char *at)
{
    check(mremap(at, 3 * HUGE_PAGE, 2 * HUGE_PAGE - PAGE, 0));
    require(is_line(at, 2 * HUGE_PAGE, "---p"));
    char *to = (char *)check(mmap(NULL, 3 * HUGE_PAGE, PROT_NONE, PLAIN | MAP_HUGETLB | MAP_NORESERVE, -1, 0));
    check(mremap(at, HUGE_PAGE + PAGE, HUGE_PAGE + PAGE, MAYMOVE | FIXED, to));
    require(is_line(to, 2 * HUGE_PAGE, "---p") && is_line(to + 2 * HUGE_PAGE, HUGE_PAGE, "---p") && !is_mapped(at));
    check(mremap(to + HUGE_PAGE, 2 * PAGE, PAGE, 0));
    check(mremap(to + HUGE_PAGE, PAGE + HUGE_PAGE, PAGE, 0));
    require(is_line(to, 2 * HUGE_PAGE, "---p") && !is_mapped(to + 2 * HUGE_PAGE));
}

CASE(mremap_of_huge_pages)
{
    remap_huge((char *)check(mmap(NULL, 3 * HUGE_PAGE, PROT_NONE, PLAIN | MAP_HUGETLB | MAP_NORESERVE, -1, 0)));
}

CASE(mremap_of_a_huge_file)
{
    int file = (int)check(memfd_create("huge", MFD_HUGETLB));
    remap_huge((char *)check(mmap(NULL, 3 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE, file, 0)));
}

CASE(mremap_of_a_gigantic_file)
{
    /* Mapped in pages of 1 GiB, of which an address or a size in 2 MiB tells nothing. */
    if (sizeof(size_t) < 8)
        return;
    size_t bytes = 1024 * MIB;
    int file = (int)check(memfd_create("gigantic", MFD_HUGETLB | 30 << 26));
    char *room = (char *)check(mmap(NULL, 3 * bytes, PROT_NONE, PLAIN | MAP_NORESERVE, -1, 0));
    unmap(room, 3 * bytes);
    char *at = (char *)check(mmap(NULL, HUGE_PAGE, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, file, 0));
    require(is_line(at, bytes, "r--p"));
    char *to = (char *)(((uintptr_t)room + bytes - 1) / bytes * bytes);
    check(mremap(at, HUGE_PAGE, HUGE_PAGE, MAYMOVE | FIXED, to == at ? to + bytes : to));
    require(!is_mapped(at));
}

/* A file whose pages may not be executed: its file system is mounted so, for this process alone. */
static int file_without_execution(void)
{
    check(unshare(CLONE_NEWNS));
    check(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    check(mount("none", "/tmp", "tmpfs", MS_NOEXEC, NULL));
    int file = (int)check(open("/tmp/file", O_RDWR | O_CREAT, 0600));
    check(ftruncate(file, (off_t)(8 * PAGE)));
    return file;
}

CASE(readable_is_not_executable_without_execution)
{
    int file = file_without_execution(), memory = memory_file(2);
    char *before = (char *)check(mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE, file, 0));
    check(personality(READ_IMPLIES_EXEC));
    char *own = (char *)check(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0));
    char *shared = (char *)check(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, file, 0));
    require(is_line(own, PAGE, "r--p") && is_line(shared, 4 * PAGE, "rw-s"));
    check(mprotect(before, PAGE, PROT_READ));
    require(is_line(before, PAGE, "r--p"));
    fails(EACCES, mprotect(before, PAGE, PROT_READ | PROT_EXEC));
    check(remap_file_pages(shared, PAGE, 0, 2, 0));
    require(is_line(shared, PAGE, "rw-s"));
    char *other = (char *)check(mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, memory, 0));
    require(is_line(other, 2 * PAGE, "r-xp"));
    check(mprotect(other, PAGE, RW));
    require(is_line(other, PAGE, "rwxp"));
}
