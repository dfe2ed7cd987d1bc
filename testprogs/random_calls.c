/* Calls that change mappings, at random, in several threads at the same time: each in a range of its own, in
   a range of all, and anywhere: random_calls SEED COUNT [THREADS [WORD...]], default 1 4000 4. The words:
     fork     now and then a fork, whose child goes on for a few calls, and ends in one way or another
     vfork    now and then a vfork, whose child makes calls in the memory of both, and ends or executes
     exec     now and then a thread executes the program anew for the calls that are left
     deaths   threads end after some calls, and others go on in their place
     adviser  another process advises on the memory of this one
     faults   the kernel touches pages: what grows down may grow
   Calls may fail. Must be found: nothing, and a model that agrees with the kernel at any time. */
#include "random_calls.h"

#include <poll.h>
#include <sys/stat.h>

#define MOST_THREADS 16

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static bool forks, vforks, execs, deaths, advises;
static struct worker workers[MOST_THREADS];
static int thread_count = 4;
static _Atomic int lives;
static atomic_bool executing;

extern char **environ;

/* The program anew, with so many calls, by so many threads. */
static void execute(struct worker *self, int count, int threads, bool as_asked)
{
    char seed[16], calls[16], many[16];
    const char *all[] = {"random_calls", seed, calls, many, forks ? "fork" : "-", vforks ? "vfork" : "-",
                         execs ? "exec" : "-", deaths ? "deaths" : "-", advises ? "adviser" : "-",
                         faults ? "faults" : "-", NULL};
    snprintf(seed, sizeof seed, "%u", below(self, 1000000));
    snprintf(calls, sizeof calls, "%d", count);
    snprintf(many, sizeof many, "%d", threads);
    if (!as_asked)
        all[4] = NULL;
    check(execve("/proc/self/exe", (char **)all, environ));
}

/* Not libc's fork: its handlers take locks that other threads may hold. */
static void call_fork(struct worker *self)
{
    bool killed = one_in(self, 8), executes = execs && one_in(self, 8);
    int status;
    pid_t child = (pid_t)check(syscall(SYS_fork));
    if (child == 0) {
        /* It was the parent that this named. */
        own_process = (int)syscall(SYS_pidfd_open, syscall(SYS_getpid), 0);
        for (int i = 0; i < 20; i++)
            call_any(self);
        if (killed)
            syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        if (executes)
            execute(self, 40, 2, false);
        syscall(SYS_exit_group, 0);
    }
    require(check(waitpid(child, &status, __WALL)) == child);
    require(killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void call_vfork(struct worker *self)
{
    bool executes = one_in(self, 4);
    pid_t child = (pid_t)check(vfork());
    if (child == 0) {
        for (int i = 0; i < 5; i++)
            call_any(self);
        if (executes)
            execute(self, 40, 2, false);
        _exit(0);
    }
    await_child(child);
}

/* One of the threads for all. */
static void execute_the_rest(struct worker *self)
{
    int left = 0;
    if (atomic_exchange(&executing, true))
        return;
    for (int i = 0; i < thread_count; i++)
        left += workers[i].calls > 0 ? workers[i].calls : 0;
    execute(self, left > thread_count ? left : thread_count, thread_count, true);
}

static void *work(void *argument)
{
    struct worker *self = argument;
    int most = deaths ? 1 + (int)below(self, 1000) : INT32_MAX;
    wait_at_gate(&gate);
    while (most-- > 0 && self->calls-- > 0) {
        if (forks && one_in(self, 100))
            call_fork(self);
        else if (vforks && one_in(self, 200))
            call_vfork(self);
        else if (execs && one_in(self, 5000))
            execute_the_rest(self);
        else
            call_any(self);
    }
    return NULL;
}

/* A life of a worker's. Nobody joins it, so that it may end at any moment without leaving anything. */
static void *live(void *argument)
{
    work(argument);
    lives--;
    return NULL;
}

/* Until the pipe has no other end: this process is gone, or another program. */
static void advise(pid_t process, int pipe)
{
    struct worker self = {.random = 4711};
    struct pollfd end = {.fd = pipe, .events = POLLIN};
    int target = (int)check(syscall(SYS_pidfd_open, process, 0));
    while (check(poll(&end, 1, 1)) == 0) {
        struct iovec blocks[4];
        for (size_t i = 0; i < COUNT(blocks); i++) {
            self.range = workers[below(&self, (unsigned)thread_count)].range;
            struct block at = some_pages(&self);
            blocks[i] = (struct iovec){at.start, at.bytes};
        }
        int advice = ONE_OF(&self, MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_COLLAPSE, MADV_DONTFORK, GUARD_INSTALL);
        syscall(SYS_process_madvise, target, blocks, COUNT(blocks), advice, 0);
    }
    _exit(0);
}

static pid_t start_adviser(int *line)
{
    int ends[2];
    pid_t self = getpid();
    check(pipe2(ends, O_CLOEXEC));
    pid_t adviser = (pid_t)check(fork());
    if (adviser == 0) {
        check(close(ends[1]));
        advise(self, ends[0]);
    }
    check(close(ends[0]));
    *line = ends[1];
    return adviser;
}

/* Stacks that glibc keeps for all lives to come: where a block has been, no new stack may be mapped. */
static void keep_stacks(pthread_attr_t *detached)
{
    pthread_mutex_t together = PTHREAD_MUTEX_INITIALIZER;
    struct stat tasks;
    pthread_t thread;
    check_zero(pthread_mutex_lock(&together));
    for (int i = 0; i < 2 * thread_count; i++)
        check_zero(pthread_create(&thread, detached, wait_at_gate, &together));
    check_zero(pthread_mutex_unlock(&together));
    /* ".", ".." and the main thread. */
    await(check(stat("/proc/self/task", &tasks)) == 0 && tasks.st_nlink == 3);
}

static void run_lives(pthread_attr_t *detached)
{
    int next = 0;
    bool left = true;
    while (left) {
        left = false;
        for (int i = 0; i < thread_count; i++)
            left |= workers[i].calls > 0;
        if (!left || lives >= thread_count) {
            sleep_ms(1);
            continue;
        }
        /* Two lives of one worker at a time are none too many. */
        struct worker *worker = &workers[next++ % thread_count];
        pthread_t thread;
        if (worker->calls > 0) {
            lives++;
            int error = pthread_create(&thread, detached, live, worker);
            if (error == EAGAIN && executing) {
                /* Until that is done, nobody shares its file system attributes (copy_fs in kernel/fork.c). */
                lives--;
                sleep_ms(1);
                continue;
            }
            check_zero(error);
        }
    }
    while (lives > 0)
        sleep_ms(1);
}

int main(int argc, char **argv)
{
    pthread_t threads[MOST_THREADS];
    pthread_attr_t detached;
    pid_t adviser = 0;
    int line = -1;
    uint32_t seed = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    int count = argc > 2 ? atoi(argv[2]) : 4000;
    thread_count = argc > 3 ? atoi(argv[3]) : 4;
    for (int i = 4; i < argc; i++) {
        bool *words[] = {&forks, &vforks, &execs, &deaths, &advises, &faults};
        const char *names[] = {"fork", "vfork", "exec", "deaths", "adviser", "faults"};
        bool known = strcmp(argv[i], "-") == 0;
        for (size_t word = 0; word < COUNT(words); word++)
            known |= strcmp(argv[i], names[word]) == 0 && (*words[word] = true);
        require(known);
    }
    /* Whoever executes may find threads that have ended and that nobody has joined yet. */
    bool apart = deaths || execs;
    require(count > 0 && thread_count > 0 && thread_count <= MOST_THREADS);

    make_objects();
    for (int i = 0; i < thread_count; i++) {
        workers[i].random = (seed * 64 + (uint32_t)i) * 2654435761u | 1;
        workers[i].calls = count / thread_count;
        workers[i].range = map_with(RANGE_PAGES * PAGE, PROT_NONE, MAP_PRIVATE);
    }
    if (advises)
        adviser = start_adviser(&line);
    init_sizes(&detached, 256 * KIB, PAGE);
    check_zero(pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED));
    check_zero(pthread_mutex_lock(&gate));
    if (apart)
        keep_stacks(&detached);
    for (int i = 0; i < thread_count && !apart; i++)
        threads[i] = start_pthread(work, &workers[i]);
    /* Not before pthread_create has its memory from malloc: the threads move the break unseen by libc. */
    first_break = (char *)check(sbrk(0));
    check_zero(pthread_mutex_unlock(&gate));
    if (apart)
        run_lives(&detached);
    for (int i = 0; i < thread_count && !apart; i++)
        join(threads[i]);
    set_bounds(&workers[0], first_break, first_break + RANGE_PAGES * PAGE);
    syscall(SYS_brk, first_break);
    if (advises) {
        check(close(line));
        await_child(adviser);
    }
    return 0;
}
