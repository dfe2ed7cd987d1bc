/* Calls that are refused when a part of what was asked for has been done, and regions of which the kernel knows more than
   their lines show. */
#include "conformance.h"

#include <linux/if_packet.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>

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

/* ---- the old mapping is gone before the new one is refused ---- */

CASE(remap_file_pages_of_a_removed_segment)
{
    int id = (int)check(shmget(IPC_PRIVATE, 2 * PAGE, 0600));
    char *at = (char *)check(shmat(id, NULL, 0));
    check(shmctl(id, IPC_RMID, NULL));
    fails(EINVAL, remap_file_pages(at, 2 * PAGE, 0, 0, 0));
    require(!is_mapped(at));
}

CASE(remap_file_pages_of_a_packet_ring)
{
    struct tpacket_req ring = {.tp_block_size = PAGE, .tp_block_nr = 2, .tp_frame_size = 2048, .tp_frame_nr = 4};
    int packets = (int)check(socket(AF_PACKET, SOCK_RAW, 0));
    check(setsockopt(packets, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring));
    char *at = (char *)check(mmap(NULL, 2 * PAGE, RW, MAP_SHARED, packets, 0));
    fails(EINVAL, remap_file_pages(at, 2 * PAGE, 0, 1, 0));
    require(!is_mapped(at));
}

static char *huge_file_pages(void)
{
    int file = (int)check(memfd_create("huge", MFD_HUGETLB));
    return (char *)check(mmap(NULL, HUGE_PAGE, RW, MAP_SHARED | MAP_NORESERVE, file, 0));
}

CASE(remap_file_pages_of_part_of_a_huge_page)
{
    char *at = huge_file_pages();
    fails(EINVAL, remap_file_pages(at, HUGE_PAGE, 0, 1, 0));
    require(!is_mapped(at));
}

CASE(remap_file_pages_beginning_inside_a_page)
{
    char *at = huge_file_pages();
    /* There are no huge pages to be had, unless somebody has set some aside. */
    remap_file_pages(at + 5, HUGE_PAGE, 0, HUGE_PAGE / PAGE, 0);
}

/* Free room where huge pages may begin. */
static char *huge_room(size_t bytes)
{
    char *room = (char *)check(mmap(NULL, bytes + 2 * HUGE_PAGE, PROT_NONE, PLAIN | MAP_NORESERVE, -1, 0));
    unmap(room, bytes + 2 * HUGE_PAGE);
    return (char *)(((uintptr_t)room + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
}

CASE(shmat_of_huge_pages_inside_a_page)
{
    char *at = huge_room(HUGE_PAGE);
    check(mmap(at, 4 * PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
    int id = (int)check(shmget(IPC_PRIVATE, HUGE_PAGE, 0600 | SHM_HUGETLB | SHM_NORESERVE));
    shmat(id, at + 5, SHM_RND | SHM_REMAP);
    check(shmctl(id, IPC_RMID, NULL));
}

/* What lies behind the part that was asked for goes too. */
CASE(mmap_of_huge_pages_that_are_lacking)
{
    char *at = huge_room(HUGE_PAGE);
    int files[] = {-1, (int)check(memfd_create("huge", MFD_HUGETLB))};
    for (size_t i = 0; i < COUNT(files); i++) {
        int flags = files[i] == -1 ? PLAIN | MAP_HUGETLB : MAP_SHARED;
        check(mmap(at + PAGE, PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
        mmap(at, PAGE, RW, flags | MAP_FIXED, files[i], 0);
        unmap(at, HUGE_PAGE);
    }
}

/* ---- not for the hole behind it ---- */

CASE(mprotect_without_execution_before_a_hole)
{
    int file = file_without_execution();
    char *at = pages(2);
    unmap(at, 2 * PAGE);
    check(mmap(at, PAGE, PROT_NONE, MAP_PRIVATE | MAP_FIXED, file, 0));
    check(personality(READ_IMPLIES_EXEC));
    fails(ENOMEM, mprotect(at, 2 * PAGE, PROT_READ));
    require(is_line(at, PAGE, "r--p"));
}

CASE(mprotect_of_one_region_too_many)
{
    size_t most = 0;
    FILE *limit = fopen("/proc/sys/vm/max_map_count", "r");
    require(limit != NULL && fscanf(limit, "%zu", &most) == 1);
    fclose(limit);
    if (most > 100000)
        return;
    char *at = pages(4), *many = (char *)check(mmap(NULL, 2 * most * PAGE, PROT_NONE, PLAIN | MAP_NORESERVE, -1, 0));
    check(mprotect(at, 3 * PAGE, PROT_NONE));
    unmap(at + 3 * PAGE, PAGE);
    for (size_t i = 0; i < most && madvise(many + 2 * i * PAGE, PAGE, MADV_DONTDUMP) == 0; i++)
        continue;
    fails(ENOMEM, mprotect(at + PAGE, 3 * PAGE, PROT_READ));
    unmap(many, 2 * most * PAGE);
    require(is_line(at, 3 * PAGE, "---p"));
}

CASE(mprotect_downwards_into_a_huge_page)
{
    char *at = huge_room(2 * HUGE_PAGE) + HUGE_PAGE;
    check(mmap(at, HUGE_PAGE, PROT_NONE, PLAIN | MAP_FIXED | MAP_HUGETLB | MAP_NORESERVE, -1, 0));
    check(mmap(at - PAGE, PAGE, RW, PLAIN | MAP_FIXED | MAP_GROWSDOWN, -1, 0));
    fails(EINVAL, mprotect(at - PAGE, 2 * PAGE, PROT_READ | PROT_GROWSDOWN));
    require(is_line(at - PAGE, PAGE, "r--p"));
}

/* ---- what arguments say of huge pages ---- */

CASE(mmap_of_a_huge_file_by_flags_of_another_size)
{
    int file = (int)check(memfd_create("huge", MFD_HUGETLB));
    int flags = MAP_PRIVATE | MAP_NORESERVE | MAP_HUGETLB | 30 << MAP_HUGE_SHIFT;
    char *at = (char *)check(mmap(NULL, HUGE_PAGE, PROT_NONE, flags, file, 0));
    require(is_line(at, HUGE_PAGE, "---p"));
    check(mremap(at, HUGE_PAGE, HUGE_PAGE, MAYMOVE | FIXED, huge_room(HUGE_PAGE)));
}

CASE(mmap_of_a_huge_file_over_shared_memory)
{
    char *at = huge_room(HUGE_PAGE);
    int file = (int)check(memfd_create("huge", MFD_HUGETLB));
    check(mmap(at, HUGE_PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    check(mmap(at, PAGE, RW, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, (off_t)HUGE_PAGE));
    require(is_line(at, HUGE_PAGE, "rw-s"));
}

#ifdef __x86_64__
/* A task that ends without touching its stack. */
static void run_on(char *stack_top)
{
    long child;
    asm volatile("xor %%r10d, %%r10d\n xor %%r8d, %%r8d\n syscall\n test %%rax, %%rax\n jnz 1f\n"
                 "xor %%edi, %%edi\n mov $60, %%eax\n syscall\n 1:"
                 : "=a"(child)
                 : "a"(SYS_clone), "D"(CLONE_VM | SIGCHLD), "S"(stack_top), "d"(0)
                 : "memory", "rcx", "r8", "r10", "r11");
    require(child > 0);
    await_child((pid_t)child);
}

CASE(ordinary_pages_in_a_stack_of_huge_ones)
{
    char *at = (char *)check(mmap(NULL, 3 * HUGE_PAGE, RW, PLAIN | MAP_HUGETLB | MAP_NORESERVE, -1, 0));
    run_on(at + 3 * HUGE_PAGE);
    check(mmap(at + HUGE_PAGE, HUGE_PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
    check(mremap(at + HUGE_PAGE, 2 * PAGE, PAGE, 0));
    require(!is_mapped(at + HUGE_PAGE + PAGE) && is_mapped(at + HUGE_PAGE + 2 * PAGE));
    unmap(at, 3 * HUGE_PAGE);
}
#endif
