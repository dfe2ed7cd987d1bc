/* What no honest program does, one thing at a time, by the first argument; a thread that nobody joins is left before it,
   so that there is something to report, and names to look up.

   stackless   goes on upon another stack, and unmaps the one that the kernel gave it
   sawn-off    a thread unmaps the stack that it is on, and lives on without one
   cycle, wild, unaligned, huge, zero
               the thread library's list of used stacks leads in a circle, into the wild, to an odd address, to the end of
               the address space, nowhere; the sizes of stacks are damaged too
   names       the thread's name is a sequence for a terminal, and a file of such a name is mapped
   fifo        its program on disk is replaced by a FIFO
   memfd       it runs from memory without a file
   root        its root is a folder in which a FIFO has the name of its program (as root)
   changing    maps, threads' names and the thread lists change all the time

   Prints "ready"; goes on until the input ends. */
#include "testprog.h"

#include <dlfcn.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define NAME "\033]0;x\a\n\177\b"

struct node {
    struct node *next, *prev;
};

static void *left(void *tid)
{
    *(_Atomic pid_t *)tid = (pid_t)syscall(SYS_gettid);
    return NULL;
}

/* Where in a descriptor its node is: {bits, count, offset}, what libthread_db goes by. */
static struct node *node_of(pthread_t thread)
{
    const uint32_t *list = dlsym(RTLD_DEFAULT, "_thread_db_pthread_list");
    require(list != NULL);
    return (struct node *)((char *)thread + list[2]);
}

static void until_the_input_ends(void)
{
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

static void __attribute__((noreturn)) wait_and_end(void)
{
    until_the_input_ends();
    _exit(0);
}

static void __attribute__((noreturn)) go_on_stackless(void)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long start = 0, end = 0;
    require(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL)
        if (strstr(line, "[stack]") != NULL)
            require(sscanf(line, "%lx-%lx", &start, &end) == 2);
    fclose(maps);
    require(start != 0);
    unmap((void *)start, end - start);
    check(write(STDOUT_FILENO, "ready\n", 6));
    wait_and_end();
}

static void change_stack(void)
{
    char *stack = map(MIB);
    __asm__ volatile("mov %0, %%rsp\n\tcall *%1" : : "r"(stack + MIB - 64), "r"(go_on_stackless) : "memory");
    __builtin_unreachable();
}

/* munmap(2) of the own stack, and pause(2) for ever. */
static int saw_off(void *stack)
{
    __asm__ volatile("mov $11, %%eax\n\tsyscall\n1:\tmov $34, %%eax\n\tsyscall\n\tjmp 1b"
                     : : "D"(stack), "S"(MIB) : "rax", "rcx", "r11", "memory");
    return 0;
}

_Noreturn static void *wait_for_ever(void *argument)
{
    (void)argument;
    for (;;)
        pause();
}

/* Damages the descriptor of a thread that is gone, and its links; no thread is made or ends after that. */
static void damage(pthread_t thread, const char *how)
{
    struct node *node = node_of(thread);
    struct node *old = node->next;
    uint64_t *words = (uint64_t *)thread;
    if (strcmp(how, "cycle") == 0)
        node->next = node;
    else if (strcmp(how, "wild") == 0)
        node->next = (struct node *)0x123456789000;
    else if (strcmp(how, "unaligned") == 0)
        node->next = (struct node *)((char *)old + 3);
    else if (strcmp(how, "huge") == 0)
        node->next = (struct node *)UINT64_MAX;
    else
        node->next = NULL;
    for (size_t i = 64; i < 256; i++)
        if (words[i] == MIB + PAGE || words[i] == MIB || words[i] == PAGE)
            words[i] = UINT64_MAX - PAGE + 1;
}

_Noreturn static void *change(void *argument)
{
    struct node *node = node_of(*(pthread_t *)argument);
    for (unsigned i = 0;; i++) {
        char name[16];
        snprintf(name, sizeof name, "\033[%um) %u", i % 50, i);
        prctl(PR_SET_NAME, name);
        struct node *next = node->next;
        *(struct node *volatile *)&node->next = (struct node *)(uintptr_t)(i * 8 * PAGE);
        *(struct node *volatile *)&node->next = next;
        char *region = map((i % 16 + 1) * PAGE);
        region[0] = 1;
        unmap(region, PAGE * (i % 16 + 1));
    }
}

static void replace_program(const char *root)
{
    char path[4096], at[5000];
    ssize_t length = check(readlink("/proc/self/exe", path, sizeof path - 1));
    path[length] = '\0';
    if (root != NULL) {
        for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
            *slash = '\0';
            snprintf(at, sizeof at, "%s%s", root, path);
            mkdir(at, 0700);
            *slash = '/';
        }
        snprintf(at, sizeof at, "%s%s", root, path);
        check(mkfifo(at, 0600));
        check(chroot(root));
        check(chdir("/"));
        return;
    }
    check(unlink(path));
    check(mkfifo(path, 0600));
}

static void run_from_memory(char **argv)
{
    char buffer[65536];
    ssize_t count;
    int from = (int)check(open("/proc/self/exe", O_RDONLY)), to = (int)check(memfd_create(NAME, MFD_CLOEXEC));
    while ((count = check(read(from, buffer, sizeof buffer))) > 0)
        check(write(to, buffer, (size_t)count));
    char *arguments[] = { argv[0], "from memory", NULL }, *environment[] = { NULL };
    check(fexecve(to, arguments, environment));
}

static void map_odd_file(void)
{
    char folder[] = "/tmp/hostile.XXXXXX", path[64];
    require(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/" NAME, folder);
    int file = (int)check(open(path, O_RDWR | O_CREAT, 0600));
    check(ftruncate(file, (off_t)PAGE));
    require(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) != MAP_FAILED);
    check(unlink(path));
    check(rmdir(folder));
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    pthread_attr_t attributes;
    pthread_t gone, other;
    _Atomic pid_t tid = 0;
    alarm(240);
    if (strcmp(what, "memfd") == 0)
        run_from_memory(argv);
    init_sizes(&attributes, MIB, PAGE);
    check_zero(pthread_create(&gone, &attributes, left, &tid));
    await(tid != 0);
    await_task_end(tid);
    if (strcmp(what, "stackless") == 0) {
        change_stack();
    } else if (strcmp(what, "sawn-off") == 0) {
        /* No pthread: the kernel writes to the restartable sequence of one, which is on its stack. */
        char *stack = map(MIB);
        int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
        check(clone(saw_off, stack + MIB, flags, stack));
        await(!is_mapped(stack));
    } else if (strcmp(what, "names") == 0) {
        settle();
        check_zero(pthread_create(&other, &attributes, wait_for_ever, NULL));
        check_zero(pthread_setname_np(other, NAME));
        check(prctl(PR_SET_NAME, NAME));
        map_odd_file();
    } else if (strcmp(what, "fifo") == 0) {
        replace_program(NULL);
    } else if (strcmp(what, "root") == 0) {
        require(argc > 2);
        replace_program(argv[2]);
    } else if (strcmp(what, "changing") == 0) {
        check_zero(pthread_create(&other, &attributes, change, &gone));
    } else if (strcmp(what, "from memory") != 0 && strcmp(what, "leave") != 0) {
        damage(gone, what);
    }
    check(write(STDOUT_FILENO, "ready\n", 6));
    wait_and_end();
}
