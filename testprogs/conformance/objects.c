/* What can be mapped besides plain memory and files: brk(2), System V shared memory, huge pages, /dev/zero, secret
   memory, remap_file_pages(2), rings of io_setup(2), drivers' rings. */
#include "conformance.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sys/file.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* ---- the break ---- */

static char *set_break(char *to)
{
    return (char *)syscall(SYS_brk, to);
}

/* A break that is free above, page-aligned. */
static char *own_break(void)
{
    char *now = set_break(NULL);
    char *whole = (char *)(((uintptr_t)now + PAGE - 1) / PAGE * PAGE);
    require(set_break(whole) == whole);
    return whole;
}

CASE(brk_grows_and_shrinks)
{
    char *at = own_break();
    require(set_break(at + 3 * PAGE) == at + 3 * PAGE);
    require(is_mapped(at + 2 * PAGE) && !is_mapped(at + 3 * PAGE));
    require(set_break(at + PAGE + 1) == at + PAGE + 1);
    require(is_mapped(at + PAGE) && !is_mapped(at + 2 * PAGE));
    require(set_break(at + PAGE + 2) == at + PAGE + 2);
}

CASE(brk_below_the_start)
{
    char *at = own_break();
    require(set_break((char *)PAGE) == at);
}

CASE(brk_into_something)
{
    char *at = own_break();
    check(mmap(at + 2 * PAGE, PAGE, PROT_NONE, PLAIN | MAP_FIXED_NOREPLACE, -1, 0));
    require(set_break(at + 8 * PAGE) == at);
    unmap(at + 2 * PAGE, PAGE);
}

CASE(brk_over_the_limit)
{
    char *at = own_break();
    struct rlimit limit = {PAGE, RLIM_INFINITY};
    check(setrlimit(RLIMIT_DATA, &limit));
    require(set_break(at + PAGE) == at);
}

CASE(brk_over_what_was_changed)
{
    char *at = own_break();
    require(set_break(at + 6 * PAGE) == at + 6 * PAGE);
    check(mprotect(at + PAGE, PAGE, PROT_READ));
    unmap(at + 2 * PAGE, PAGE);
    map_fixed(at + 4 * PAGE, PAGE, PROT_NONE);
    require(set_break(at) == at);
    require(lines_of(at, 6 * PAGE) == 0);
}

CASE(brk_readable_is_executable)
{
    check(personality(READ_IMPLIES_EXEC));
    char *at = own_break();
    require(set_break(at + PAGE) == at + PAGE);
    char *map = map_with(PAGE, PROT_READ, MAP_SHARED);
    require(is_line(at, PAGE, "rwxp") || lines_of(at, PAGE) == 1);
    check(mprotect(map, PAGE, PROT_READ));
}

/* Whether CAP_SYS_RESOURCE is there: without it each bound is refused, and all together are not. */
static bool may_set_bounds(void)
{
    uint32_t header[2] = {0x20080522, 0}, sets[6];
    check(syscall(SYS_capget, header, sets));
    return sets[0] & 1u << 24;
}

CASE(set_mm_moves_the_break)
{
    char *at = own_break();
    require(set_break(at + 8 * PAGE) == at + 8 * PAGE);
    if (!may_set_bounds()) {
        fails(EPERM, prctl(PR_SET_MM, PR_SET_MM_BRK, at + 4 * PAGE, 0, 0));
        fails(EPERM, prctl(PR_SET_MM, PR_SET_MM_START_BRK, at + PAGE, 0, 0));
        require(set_break(at + 2 * PAGE) == at + 2 * PAGE);
        return;
    }
    check(prctl(PR_SET_MM, PR_SET_MM_BRK, at + 4 * PAGE, 0, 0));
    require(is_mapped(at + 7 * PAGE));
    require(set_break(at + 2 * PAGE) == at + 2 * PAGE);
    require(is_mapped(at + PAGE) && !is_mapped(at + 2 * PAGE) && is_mapped(at + 4 * PAGE));
    check(prctl(PR_SET_MM, PR_SET_MM_START_BRK, at + PAGE, 0, 0));
    require(set_break(at) == at + 2 * PAGE);
    require(set_break(at + PAGE) == at + PAGE);
}

CASE(set_mm_moves_all)
{
    unsigned int size;
    char *at = own_break();
    check(prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0));
    /* struct prctl_mm_map, which has a pointer, as 64 bits have it: the kernel knows no other. */
    uint64_t all[13] = {0};
    require(size == sizeof all);
    /* Bounds that are nothing but in order, in pages of this process. */
    char *place = pages(4);
    for (size_t bound = 0; bound < 11; bound++)
        all[bound] = (uintptr_t)place + (bound % 2) * PAGE;
    all[4] = (uintptr_t)at;
    all[5] = (uintptr_t)at + 2 * PAGE;
    all[6] = all[7] = all[9] = (uintptr_t)place;
    all[8] = all[10] = (uintptr_t)place + PAGE;
    all[12] = (uint64_t)-1 << 32;
    check(prctl(PR_SET_MM, PR_SET_MM_MAP, all, sizeof all, 0));
    require(set_break(at + 3 * PAGE) == at + 3 * PAGE);
    require(!is_mapped(at) && is_mapped(at + 2 * PAGE));
}

CASE(set_mm_errors)
{
    int error = may_set_bounds() ? EINVAL : EPERM;
    fails(error, prctl(PR_SET_MM, PR_SET_MM_BRK, PAGE, 0, 0));
    fails(error, prctl(PR_SET_MM, 99, PAGE * 100, 0, 0));
    fails(EINVAL, prctl(PR_SET_MM, PR_SET_MM_MAP, NULL, 1, 0));
}

CASE(names_are_not_of_this_kernel)
{
    /* CONFIG_ANON_VMA_NAME: where it is set, the name splits the region, and merged it is one again. */
    char *at = pages(4);
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at + PAGE, PAGE, "name") == 0)
        require(lines_of(at, 4 * PAGE) == 3);
    else
        require(errno == EINVAL && lines_of(at, 4 * PAGE) == 1);
}

/* ---- System V shared memory ---- */

static int segment(size_t bytes)
{
    return (int)check(shmget(IPC_PRIVATE, bytes, 0600));
}

CASE(shm_comes_and_goes)
{
    int id = segment(3 * PAGE - 100);
    char *at = (char *)check(shmat(id, NULL, 0));
    require(is_line(at, 3 * PAGE, "rw-s"));
    check(shmctl(id, IPC_RMID, NULL));
    check(shmdt(at));
    require(!is_mapped(at));
    fails(EINVAL, shmdt(at));
    fails(EINVAL, shmat(id, NULL, 0));
}

CASE(shm_rights)
{
    int id = segment(2 * PAGE);
    char *read = (char *)check(shmat(id, NULL, SHM_RDONLY)), *execute = (char *)check(shmat(id, NULL, SHM_EXEC));
    require(is_line(read, 2 * PAGE, "r--s") && is_line(execute, 2 * PAGE, "rwxs"));
    check(shmctl(id, IPC_RMID, NULL));
}

CASE(shm_places)
{
    int id = segment(2 * PAGE);
    char *at = pages(6);
    fails(EINVAL, shmat(id, at + 1, 0));
    fails(EINVAL, shmat(id, at, 0));
    require((char *)check(shmat(id, at + PAGE + 1, SHM_RND | SHM_REMAP)) == at + PAGE);
    require(lines_of(at, 6 * PAGE) == 3);
    fails(EINVAL, shmat(id, NULL, SHM_REMAP));
    check(shmctl(id, IPC_RMID, NULL));
}

CASE(shm_in_parts)
{
    int id = segment(5 * PAGE);
    char *at = (char *)check(shmat(id, NULL, 0));
    check(shmctl(id, IPC_RMID, NULL));
    unmap(at, PAGE);
    check(mprotect(at + 2 * PAGE, PAGE, PROT_NONE));
    map_fixed(at + 3 * PAGE, PAGE, PROT_READ);
    check(shmdt(at));
    require(lines_of(at, 5 * PAGE) == 1 && is_mapped(at + 3 * PAGE));
}

CASE(shm_moved_and_grown)
{
    int id = segment(3 * PAGE);
    char *at = (char *)check(shmat(id, NULL, 0)), *to = pages(8);
    check(shmctl(id, IPC_RMID, NULL));
    check(mremap(at, 3 * PAGE, 5 * PAGE, 3, to));
    fails(EINVAL, shmdt(at));
    check(shmdt(to));
    require(lines_of(to, 5 * PAGE) == 0 && is_mapped(to + 5 * PAGE));
}

CASE(shm_two_of_one)
{
    int id = segment(2 * PAGE);
    char *at = pages(8);
    unmap(at, 8 * PAGE);
    check(shmat(id, at, 0));
    check(shmat(id, at + 2 * PAGE, 0));
    check(shmctl(id, IPC_RMID, NULL));
    check(shmdt(at));
    require(!is_mapped(at) && is_mapped(at + 2 * PAGE));
    await_child(fork() ?: (_exit(shmdt(at + 2 * PAGE)), 0));
}

CASE(shm_below_another_part)
{
    /* The moved second page of one attachment lies where another one of the segment would have its second page. */
    int id = (int)check(shmget(IPC_PRIVATE, PAGE, 0600));
    char *room = pages(4), *at = (char *)check(shmat(id, NULL, 0));
    unmap(room, 4 * PAGE);
    at = (char *)check(mremap(at, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    check(mremap(at + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room + PAGE));
    check(shmat(id, room, 0));
    check(shmctl(id, IPC_RMID, NULL));
    check(shmdt(room));
    require(!is_mapped(room) && is_mapped(room + PAGE));
}

static void *attach_inside(void *with)
{
    char *at = with;
    int id = (int)check(shmget(IPC_PRIVATE, 2 * PAGE, 0600));
    check(shmat(id, at, SHM_REMAP));
    check(shmctl(id, IPC_RMID, NULL));
    check(shmdt(at));
    require(!is_mapped(at) && !is_mapped(at + PAGE));
    return NULL;
}

CASE(shm_inside_a_stack)
{
    size_t bytes = 256 * KIB;
    char *stack = map_stack(bytes);
    pthread_attr_t attributes;
    pthread_t thread;
    check_zero(pthread_attr_init(&attributes));
    check_zero(pthread_attr_setstack(&attributes, stack, bytes));
    check_zero(pthread_create(&thread, &attributes, attach_inside, stack + bytes / 2));
    join(thread);
    unmap(stack, bytes);
}

CASE(shm_of_no_segment)
{
    fails(EINVAL, shmat(-1, NULL, 0));
    fails(EINVAL, shmdt(pages(1)));
}

/* ---- huge pages ---- */

static void write_number(const char *path, int number)
{
    char text[16];
    int file = (int)check(open(path, O_WRONLY));
    check(write(file, text, (size_t)snprintf(text, sizeof text, "%d", number)));
    check(close(file));
}

static int read_number(const char *path)
{
    char text[16] = "";
    int file = (int)check(open(path, O_RDONLY));
    check(read(file, text, sizeof text - 1));
    check(close(file));
    return atoi(text);
}

CASE(huge_without_any)
{
    char *at = (char *)check(mmap(NULL, PAGE, RW, PLAIN | MAP_HUGETLB | MAP_NORESERVE, -1, 0));
    require((uintptr_t)at % HUGE_PAGE == 0 && is_line(at, HUGE_PAGE, "rw-p"));
    fails(EINVAL, munmap(at, PAGE));
    fails(EINVAL, munmap(at + PAGE, HUGE_PAGE - PAGE));
    fails(EINVAL, mprotect(at, PAGE, PROT_READ));
    require(is_line(at, HUGE_PAGE, "rw-p"));
    check(mprotect(at, HUGE_PAGE, PROT_READ));
    unmap(at, HUGE_PAGE);
}

CASE(huge_that_are_touched)
{
    /* Other tests may do the same at the same time. */
    const char *path = "/proc/sys/vm/nr_hugepages";
    int lock = (int)check(open("/proc/sys/vm", O_RDONLY | O_DIRECTORY));
    check(flock(lock, LOCK_EX));
    int before = read_number(path);
    write_number(path, before + 2);
    require(read_number(path) == before + 2);
    char *at = (char *)check(mmap(NULL, 2 * HUGE_PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
    at[0] = at[HUGE_PAGE] = 1;
    check(madvise(at, HUGE_PAGE, MADV_DONTFORK));
    char *to = (char *)check(mremap(at, 2 * HUGE_PAGE, HUGE_PAGE, 0));
    require(to == at);
    unmap(at, HUGE_PAGE);
    write_number(path, before);
}

CASE(huge_of_another_size)
{
    /* 1 GiB: its log2 above the flags. */
    char *at = mmap(NULL, PAGE, RW, PLAIN | MAP_HUGETLB | MAP_NORESERVE | 30 << 26, -1, 0);
    if (sizeof at == 8)
        require(is_line((char *)check(at), 1024 * MIB, "rw-p"));
    fails(EINVAL, mmap(NULL, PAGE, RW, PLAIN | MAP_HUGETLB | MAP_NORESERVE | 13 << 26, -1, 0));
}

CASE(huge_file)
{
    int file = (int)check(memfd_create("huge", MFD_HUGETLB));
    char *at = (char *)check(mmap(NULL, PAGE, RW, MAP_SHARED | MAP_NORESERVE, file, 0));
    require(is_line(at, HUGE_PAGE, "rw-s"));
    char *own = (char *)check(mmap(NULL, HUGE_PAGE + 1, RW, MAP_PRIVATE | MAP_NORESERVE, file, HUGE_PAGE));
    require(is_line(own, 2 * HUGE_PAGE, "rw-p"));
    fails(EINVAL, mmap(NULL, PAGE, RW, MAP_SHARED | MAP_NORESERVE, file, PAGE));
    unmap(own, 2 * HUGE_PAGE);
    unmap(at, HUGE_PAGE);
}

CASE(huge_shm)
{
    int id = (int)check(shmget(IPC_PRIVATE, PAGE, SHM_HUGETLB | SHM_NORESERVE | 0600));
    char *at = (char *)check(shmat(id, NULL, 0));
    check(shmctl(id, IPC_RMID, NULL));
    require(is_line(at, HUGE_PAGE, "rw-s"));
    check(shmdt(at));
}

/* ---- /dev/zero, secret memory ---- */

CASE(zero_is_moved)
{
    int file = (int)check(open("/dev/zero", O_RDWR));
    for (int touched = 0; touched < 2; touched++) {
        char *at = (char *)check(mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, file, 3 * PAGE)), *to = pages(8);
        if (touched)
            *(volatile char *)at = 1;
        check(mremap(at, 4 * PAGE, 6 * PAGE, 3, to));
        check(mremap(to + PAGE, PAGE, PAGE, 3, to + 7 * PAGE));
        unmap(to, 8 * PAGE);
    }
}

CASE(zero_by_another_name_is_moved)
{
    /* Others may do the same at this moment. */
    char name[64];
    snprintf(name, sizeof name, "/tmp/conformance_zero.%d", getpid());
    check(mknod(name, S_IFCHR | 0600, makedev(1, 5)));
    int file = (int)check(open(name, O_RDWR));
    check(unlink(name));
    char *at = (char *)check(mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, file, 0));
    check(mremap(at, 4 * PAGE, 4 * PAGE, 3, pages(4)));
}

CASE(zero_shared_is_a_file)
{
    int file = (int)check(open("/dev/zero", O_RDWR));
    char *at = (char *)check(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, file, PAGE));
    check(mremap(at, 2 * PAGE, 2 * PAGE, 3, pages(4)));
    check(mremap(at + 2 * PAGE, 0, PAGE, 1));
}

CASE(secret_memory)
{
    int file = (int)check(syscall(447 /* memfd_secret */, 0));
    check(ftruncate(file, 4 * PAGE));
    char *at = (char *)check(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, file, 0));
    at[0] = 1;
    fails(EINVAL, mmap(NULL, PAGE, RW, MAP_PRIVATE, file, 0));
    char *place = pages(3);
    fails(EINVAL, mmap(place + PAGE, PAGE, RW, MAP_PRIVATE | MAP_FIXED, file, 0));
    check(mprotect(at + PAGE, PAGE, PROT_READ));
    await_child(fork() ?: (_exit(!is_mapped(at)), 0));
    unmap(at, PAGE);
}

/* ---- remap_file_pages ---- */

CASE(remap_file_pages_in_one)
{
    int file = memory_file(8);
    char *at = (char *)check(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, file, 0));
    check(remap_file_pages(at + PAGE, PAGE, 0, 5, 0));
    require(lines_of(at, 4 * PAGE) == 3);
    check(remap_file_pages(at, PAGE + 100, 0, 2, MAP_NONBLOCK));
    check(remap_file_pages(at + PAGE, PAGE, 0, 1, 0));
    fails(EINVAL, remap_file_pages(at, PAGE, PROT_READ, 0, 0));
    fails(EINVAL, remap_file_pages(at, 0, 0, 0, 0));
    fails(EINVAL, remap_file_pages(pages(2), PAGE, 0, 0, 0));
    fails(EINVAL, remap_file_pages(at, 64 * PAGE, 0, 0, 0));
}

/* ---- rings ---- */

CASE(aio_ring)
{
    aio_context_t ring = 0, bad = 1;
    check(syscall(SYS_io_setup, 32, &ring));
    require(is_mapped((char *)(uintptr_t)ring));
    fails(EINVAL, syscall(SYS_io_setup, 32, &bad));
    fails(EINVAL, syscall(SYS_io_setup, 0, &bad));
    check(syscall(SYS_io_destroy, ring));
    require(!is_mapped((char *)(uintptr_t)ring));
    fails(EINVAL, syscall(SYS_io_destroy, ring));
}

CASE(aio_ring_in_a_child)
{
    aio_context_t ring = 0;
    check(syscall(SYS_io_setup, 32, &ring));
    await_child(fork() ?: (_exit(syscall(SYS_io_destroy, ring) != -1 || !is_mapped((char *)(uintptr_t)ring)), 0));
}

CASE(aio_ring_moved)
{
    aio_context_t ring = 0;
    check(syscall(SYS_io_setup, 1, &ring));
    char *at = (char *)(uintptr_t)ring;
    size_t count = 0;
    while (is_mapped(at + count * PAGE) && lines_of(at, (count + 1) * PAGE) == 1)
        count++;
    char *to = (char *)check(mremap(at, count * PAGE, count * PAGE, 3, pages(count)));
    fails(EINVAL, syscall(SYS_io_destroy, ring));
    check(syscall(SYS_io_destroy, (aio_context_t)(uintptr_t)to));
    require(!is_mapped(to));
}

CASE(aio_ring_replaced)
{
    /* The kernel unmaps the place of the ring, whatever lies there: it knows it by the word at its start. */
    aio_context_t ring = 0;
    check(syscall(SYS_io_setup, 1, &ring));
    char *at = (char *)(uintptr_t)ring;
    uint32_t word = *(uint32_t *)at;
    map_fixed(at, PAGE, RW);
    *(uint32_t *)at = word;
    check(syscall(SYS_io_destroy, ring));
    require(!is_mapped(at));
}

CASE(perf_ring_stays_out_of_children)
{
    struct perf_event_attr about = {.type = PERF_TYPE_SOFTWARE, .size = sizeof about, .disabled = 1};
    int event = (int)check(syscall(SYS_perf_event_open, &about, 0, -1, -1, 0));
    char *ring = (char *)check(mmap(NULL, 3 * PAGE, RW, MAP_SHARED, event, 0));
    await_child(fork() ?: (_exit(is_mapped(ring)), 0));
    unmap(ring, 3 * PAGE);
}

/* ---- rings of io_uring: they can be given madvise(2), which nobody sees being called ---- */

/* A ring whose memory is a file's, so that it can be had from there after execve; and that memory. */
struct ring {
    int file, ring;
    struct io_uring_params about;
};

#define NO_MMAP (1u << 14)

static struct ring open_ring(void)
{
    struct ring ring = {.file = memory_file(2), .about = {.flags = NO_MMAP}};
    char *memory = (char *)check(mmap(NULL, 2 * PAGE, RW, MAP_SHARED, ring.file, 0));
    /* user_addr of both parts; older headers call it otherwise. */
    ring.about.cq_off.resv2 = (uintptr_t)memory;
    ring.about.sq_off.resv2 = (uintptr_t)memory + PAGE;
    ring.ring = (int)check(syscall(SYS_io_uring_setup, 1, &ring.about));
    return ring;
}

/* Advises a page by the ring; then a child must not have it. */
static void advise_by(const struct ring *ring)
{
    char *memory = (char *)check(mmap(NULL, 2 * PAGE, RW, MAP_SHARED, ring->file, 0)), *at = pages(4);
    struct io_uring_sqe *entry = (void *)(memory + PAGE);
    *entry = (struct io_uring_sqe){.opcode = IORING_OP_MADVISE, .addr = (uintptr_t)at, .len = PAGE};
    entry->fadvise_advice = MADV_DONTFORK;
    *(uint32_t *)(memory + ring->about.sq_off.array) = 0;
    __atomic_store_n((uint32_t *)(memory + ring->about.sq_off.tail), 1, __ATOMIC_RELEASE);
    require(check(syscall(SYS_io_uring_enter, ring->ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0)) == 1);
    await_child(fork() ?: (_exit(is_mapped(at) || !is_mapped(at + PAGE)), 0));
}

CASE(io_uring_advises)
{
    struct ring ring = open_ring();
    advise_by(&ring);
}

/* By whoever enters it: the child has it from its parent, by pidfd_getfd(2). */
CASE(io_uring_of_another_advises)
{
    int pipes[2];
    struct ring ring;
    check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pipes));
    pid_t child = (pid_t)check(fork());
    if (child == 0) {
        require(check(read(pipes[1], &ring, sizeof ring)) == sizeof ring);
        int parent = (int)check(syscall(434 /* pidfd_open */, getppid(), 0));
        ring.ring = (int)check(syscall(438 /* pidfd_getfd */, parent, ring.ring, 0));
        ring.file = (int)check(syscall(438, parent, ring.file, 0));
        advise_by(&ring);
        _exit(0);
    }
    ring = open_ring();
    require(check(write(pipes[0], &ring, sizeof ring)) == sizeof ring);
    await_child(child);
}

/* Where it is kept open: the other program is this one. */
CASE(io_uring_kept_by_execve)
{
    const char *kept = getenv("KEPT_RING");
    struct ring ring;
    if (kept != NULL) {
        require(sscanf(kept, "%d %d %u %u", &ring.file, &ring.ring, &ring.about.sq_off.array, &ring.about.sq_off.tail) == 4);
        return advise_by(&ring);
    }
    char text[64];
    ring = open_ring();
    check(fcntl(ring.file, F_SETFD, 0));
    check(fcntl(ring.ring, F_SETFD, 0));
    snprintf(text, sizeof text, "%d %d %u %u", ring.file, ring.ring, ring.about.sq_off.array, ring.about.sq_off.tail);
    check(setenv("KEPT_RING", text, 1));
    check(execl("/proc/self/exe", "conformance", "io_uring_kept_by_execve", NULL));
}
