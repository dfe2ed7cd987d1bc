/* What splits regions, or keeps them from being changed, without being seen in their lines: mseal(2), userfaultfd(2);
   and what becomes of mappings in children. */
#include "conformance.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/shm.h>
#include <sys/stat.h>

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static long seal(char *start, size_t bytes)
{
    return syscall(SYS_mseal, start, bytes, 0);
}

/* Five pages, the middle one sealed. */
static char *sealed(void)
{
    char *at = pages(5);
    check(seal(at + 2 * PAGE, PAGE));
    /* The seal splits, and maps do not show why. */
    require(lines_of(at, 5 * PAGE) == 3);
    return at;
}

CASE(mseal_errors)
{
    char *at = pages(3);
    fails(EINVAL, seal(at + 1, PAGE));
    fails(EINVAL, syscall(SYS_mseal, at, PAGE, 1));
    fails(ENOMEM, seal(at, 64 * PAGE));
    check(seal(at, 0));
    unmap(at, 3 * PAGE);
    fails(ENOMEM, seal(at, PAGE));
}

CASE(mseal_and_munmap)
{
    char *at = sealed();
    fails(EPERM, munmap(at, 5 * PAGE));
    unmap(at, 2 * PAGE);
    require(is_mapped(at + 2 * PAGE));
}

CASE(mseal_and_mprotect)
{
    char *at = sealed();
    fails(EPERM, mprotect(at, 5 * PAGE, PROT_READ));
    require(is_line(at, 2 * PAGE, "r--p") && is_line(at + 2 * PAGE, PAGE, "rw-p"));
}

CASE(mseal_and_mremap)
{
    char *at = sealed(), *to = pages(8);
    fails(EPERM, mremap(at + 2 * PAGE, PAGE, 2 * PAGE, 1));
    fails(EPERM, mremap(at + 2 * PAGE, PAGE, PAGE, 3, to));
    fails(EPERM, mremap(at, 5 * PAGE, 5 * PAGE, 3, to));
    char *other = sealed();
    fails(EPERM, mremap(to + 6 * PAGE, PAGE, PAGE, 3, other + 2 * PAGE));
}

CASE(mseal_and_mmap)
{
    char *at = sealed();
    fails(EPERM, mmap(at, 5 * PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
    require(is_mapped(at) && is_mapped(at + 4 * PAGE));
}

CASE(mseal_and_madvise)
{
    char *at = pages(5);
    check(mprotect(at, 5 * PAGE, PROT_READ));
    check(seal(at + 2 * PAGE, PAGE));
    fails(EPERM, madvise(at, 5 * PAGE, MADV_DONTNEED));
    /* What comes before has been advised by then. */
    fails(EPERM, madvise(at, 5 * PAGE, MADV_DONTFORK));
    await_child(fork() ?: (_exit(is_mapped(at) || !is_mapped(at + 2 * PAGE) || !is_mapped(at + 4 * PAGE)), 0));
}

CASE(mseal_and_shmdt)
{
    int id = (int)check(shmget(IPC_PRIVATE, 3 * PAGE, 0600));
    char *at = (char *)check(shmat(id, NULL, 0));
    check(shmctl(id, IPC_RMID, NULL));
    check(seal(at + PAGE, PAGE));
    check(shmdt(at));
    require(is_mapped(at + PAGE));
}

CASE(mseal_and_brk)
{
    char *at = (char *)(((uintptr_t)syscall(SYS_brk, 0) + PAGE - 1) / PAGE * PAGE);
    require((char *)syscall(SYS_brk, at + 4 * PAGE) == at + 4 * PAGE);
    check(seal(at + PAGE, PAGE));
    require((char *)syscall(SYS_brk, at) == at + 4 * PAGE);
    require((char *)syscall(SYS_brk, at + 2 * PAGE) == at + 2 * PAGE);
}

CASE(mseal_and_fork)
{
    char *at = sealed();
    await_child(fork() ?: (_exit(munmap(at, 5 * PAGE) != -1 || munmap(at + 3 * PAGE, 2 * PAGE) != 0), 0));
}

CASE(mseal_and_remap_file_pages)
{
    char *at = (char *)check(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, memory_file(8), 0));
    check(seal(at, 4 * PAGE));
    fails(EPERM, remap_file_pages(at, PAGE, 0, 2, 0));
}

/* ---- userfaultfd ---- */

static int fault_file(uint64_t features)
{
    int file = (int)check(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    check(ioctl(file, UFFDIO_API, &api));
    return file;
}

static void watch(int file, char *start, size_t bytes, uint64_t mode)
{
    struct uffdio_register about = {.range = {(uintptr_t)start, bytes}, .mode = mode};
    check(ioctl(file, UFFDIO_REGISTER, &about));
}

CASE(userfaultfd_splits)
{
    char *at = pages(6);
    int file = fault_file(0);
    watch(file, at + 2 * PAGE, 2 * PAGE, UFFDIO_REGISTER_MODE_MISSING);
    require(lines_of(at, 6 * PAGE) == 3);
    struct uffdio_zeropage zero = {.range = {(uintptr_t)at + 2 * PAGE, PAGE}};
    check(ioctl(file, UFFDIO_ZEROPAGE, &zero));
    check(mprotect(at, 6 * PAGE, PROT_READ));
    struct uffdio_range range = {(uintptr_t)at, 6 * PAGE};
    check(ioctl(file, UFFDIO_UNREGISTER, &range));
    require(is_mapped(at + 5 * PAGE));
}

CASE(userfaultfd_write_protects)
{
    char *at = pages(4);
    int file = fault_file(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    memset(at, 1, 4 * PAGE);
    watch(file, at, 2 * PAGE, UFFDIO_REGISTER_MODE_WP);
    struct uffdio_writeprotect protect = {.range = {(uintptr_t)at, PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    check(ioctl(file, UFFDIO_WRITEPROTECT, &protect));
    require(is_line(at, 2 * PAGE, "rw-p"));
    await_child(fork() ?: (_exit(!is_mapped(at)), 0));
}

CASE(userfaultfd_and_mremap)
{
    char *at = pages(4), *to = pages(4);
    watch(fault_file(0), at, 4 * PAGE, UFFDIO_REGISTER_MODE_MISSING);
    check(mremap(at, 4 * PAGE, 4 * PAGE, 3, to));
    check(mremap(to, 2 * PAGE, 2 * PAGE, 7, at));
    unmap(to, PAGE);
}

CASE(userfaultfd_goes_with_its_file)
{
    char *at = pages(4);
    int file = fault_file(0);
    watch(file, at, PAGE, UFFDIO_REGISTER_MODE_MISSING);
    check(close(file));
    map_fixed(at + 3 * PAGE, PAGE, RW);
    require(is_mapped(at));
}

/* ---- children ---- */

CASE(fork_inherits)
{
    int file = memory_file(4);
    char *at = pages(8);
    check(mmap(at, 2 * PAGE, RW, MAP_SHARED | MAP_FIXED, file, PAGE));
    check(mprotect(at + 2 * PAGE, PAGE, PROT_NONE));
    check(madvise(at + 3 * PAGE, PAGE, MADV_WIPEONFORK));
    check(madvise(at + 4 * PAGE, PAGE, MADV_DONTFORK));
    pid_t child = (pid_t)check(fork());
    if (child == 0) {
        unmap(at, PAGE);
        check(mprotect(at + 2 * PAGE, 2 * PAGE, RW));
        map_fixed(at + 4 * PAGE, PAGE, PROT_READ);
        await_child(fork() ?: (_exit(!is_mapped(at + 4 * PAGE)), 0));
        _exit(0);
    }
    await_child(child);
    require(is_line(at, 2 * PAGE, "rw-s"));
}

CASE(vfork_shares)
{
    char *at = pages(4);
    pid_t child = (pid_t)check(vfork());
    if (child == 0) {
        munmap(at, PAGE);
        mprotect(at + PAGE, PAGE, PROT_NONE);
        _exit(0);
    }
    await_child(child);
    require(!is_mapped(at) && is_line(at + PAGE, PAGE, "---p"));
}

CASE(exec_replaces)
{
    pages(4);
    check(mlockall(MCL_CURRENT | MCL_FUTURE));
    execl("/proc/self/exe", "conformance", "munmap_errors", (char *)NULL);
    _exit(1);
}

#ifdef __x86_64__
/* Where the line of maps with a name is. */
static char *find_named(const char *name, size_t *bytes)
{
    uintptr_t from = 0, to = 0;
    char line[256];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps) != NULL)
        if (strstr(line, name) != NULL)
            require(sscanf(line, "%zx-%zx", &from, &to) == 2);
    fclose(maps);
    *bytes = to - from;
    return (char *)from;
}

/* On i386 every call of the C library goes through it. */
CASE(vdso_can_be_moved)
{
    /* The pages of the vDSO are like any other, for who unmaps them. */
    size_t bytes;
    char *from = find_named("[vdso]", &bytes), *place = pages(bytes / PAGE);
    check(mremap(from, bytes, bytes, 3, place));
    unmap(place, bytes);
}

CASE(vdso_once_more)
{
    /* arch_prctl(ARCH_MAP_VDSO_64, ADDRESS): near there, once the one before is gone, with its data below. */
    size_t bytes, other;
    for (const char **name = (const char *[]){"[vdso]", "[vvar]", "[vvar_vclock]", NULL}; *name != NULL; name++) {
        char *at = find_named(*name, &bytes);
        if (at != NULL)
            unmap(at, bytes);
    }
    char *room = pages(64);
    unmap(room, 64 * PAGE);
    require(check(syscall(SYS_arch_prctl, 0x2003, room)) > 0);
    char *at = find_named("[vdso]", &bytes);
    require(at != NULL && find_named("[vvar]", &other) < at);
    /* It is like any other from here on. */
    check(mprotect(at, bytes, PROT_READ));
    fails(EINVAL, mprotect(at, PAGE, PROT_READ | PROT_EXEC));
    unmap(at, bytes);
}

CASE(vdso_once_more_is_moved)
{
    /* With what lies around it, as one: it takes the place of what lies at the target. */
    size_t bytes;
    char *old = find_named("[vdso]", &bytes);
    unmap(old, bytes);
    for (const char **name = (const char *[]){"[vvar]", "[vvar_vclock]", NULL}; *name != NULL; name++) {
        size_t other;
        char *at = find_named(*name, &other);
        if (at != NULL)
            unmap(at, other);
    }
    char *room = pages(64), *to = pages(64);
    unmap(room, 64 * PAGE);
    check(mmap(room + 15 * PAGE, PAGE, RW, PLAIN | MAP_FIXED, -1, 0));
    require(check(syscall(SYS_arch_prctl, 0x2003, room + 16 * PAGE)) > 0);
    /* Only its own size is let through. */
    if (mremap(room + 15 * PAGE, 12 * PAGE, 12 * PAGE, 3, to) == MAP_FAILED)
        require(errno == EINVAL || errno == EFAULT);
}
#endif

/* ---- kept out of children without a call that says so ---- */

CASE(trace_ring_stays_out_of_children)
{
    check(unshare(CLONE_NEWNS));
    check(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    check(mount("none", "/mnt", "tracefs", 0, NULL));
    /* Instances are everybody's. */
    char instance[64], path[128];
    snprintf(instance, sizeof instance, "/mnt/instances/vmtrace_conformance.%d", getpid());
    snprintf(path, sizeof path, "%s/per_cpu/cpu0/trace_pipe_raw", instance);
    check(mkdir(instance, 0700));
    int ring = (int)check(open(path, O_RDONLY | O_NONBLOCK));
    char *at = (char *)check(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ring, 0));
    await_child(fork() ?: (_exit(is_mapped(at)), 0));
    unmap(at, PAGE);
    check(close(ring));
    check(rmdir(instance));
}
