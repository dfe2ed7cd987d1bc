/* An unmapping that does not return: what it unmaps is watched by a userfaultfd(2), whose listener is to hear of it first, and
   does not listen. Four threads map and unmap meanwhile: overtaken returns|stays. Prints "ready"; when there is input, or it has
   ended, the unmapping begins. Once the threads have gone on beside it for a while the listener listens, or does not. They go
   on for as long again, "overtaken" is printed, and they go on until the input has ended. Must be found: nothing. */
#include "testprog.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>

#define MAPPERS 4
/* So many rounds of all. */
#define A_WHILE 400

static atomic_bool hurry, finished;
static atomic_long rounds;

static void *unmap_all(void *watched)
{
    unmap(watched, 16 * PAGE);
    return NULL;
}

static void *map_and_unmap(void *seed)
{
    for (uintptr_t size = 1 + (uintptr_t)seed; !finished; size = size * 5 % 61) {
        unmap(map(size * PAGE), size * PAGE);
        atomic_fetch_add(&rounds, 1);
        if (!hurry)
            sleep_ms(1);
    }
    return NULL;
}

static int watcher_of(char *start, size_t bytes)
{
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP };
    int watcher = (int)check(syscall(SYS_userfaultfd, O_CLOEXEC));
    check(ioctl(watcher, UFFDIO_API, &api));
    struct uffdio_register memory = { .range = { (uintptr_t)start, bytes }, .mode = UFFDIO_REGISTER_MODE_MISSING };
    check(ioctl(watcher, UFFDIO_REGISTER, &memory));
    return watcher;
}

static bool is_readable(int fd, int ms)
{
    struct pollfd readable = { .fd = fd, .events = POLLIN };
    return check(poll(&readable, 1, ms)) > 0;
}

/* True when it has ended. */
static bool take_input(void)
{
    char byte;
    return is_readable(STDIN_FILENO, 1) && check(read(STDIN_FILENO, &byte, 1)) == 0;
}

static void say(const char *what)
{
    require(puts(what) >= 0 && fflush(stdout) == 0);
}

int main(int argc, char **argv)
{
    bool returns = chosen(argc, argv, "returns", "stays");
    alarm(60);
    char *watched = map(16 * PAGE);
    int watcher = watcher_of(watched, 16 * PAGE);
    struct uffd_msg message;
    pthread_t mappers[MAPPERS];
    for (size_t i = 0; i < MAPPERS; i++)
        mappers[i] = start_pthread(map_and_unmap, (void *)i);
    say("ready");
    await(is_readable(STDIN_FILENO, 1));

    pthread_t unmapper = start_pthread(unmap_all, watched);
    await(is_readable(watcher, 1));
    hurry = true;
    long before = rounds;
    await(rounds >= before + A_WHILE);
    if (returns) {
        require(read(watcher, &message, sizeof message) == sizeof message && message.event == UFFD_EVENT_UNMAP);
        join(unmapper);
    }
    before = rounds;
    await(rounds >= before + A_WHILE);
    hurry = false;
    say("overtaken");
    while (!take_input())
        ;
    finished = true;
    for (size_t i = 0; i < MAPPERS; i++)
        join(mappers[i]);
    return 0;
}
