/* A file system that is served by a program: fuse(4), the protocol of linux/fuse.h, without a library. It has one file.

   fuse FOLDER PROGRAM [ARGUMENT...]

   serves a copy of PROGRAM as FOLDER/program, in a mount namespace of its own, and has that run with the arguments in a
   child, whose end and status are its own. For each request it maps a page and unmaps it, so that whoever traces it has to
   let it go on before there is an answer. SIGUSR1 makes the kernel forget what it has of the file, and stops the server:
   until SIGCONT nobody gets an answer. As root. */
#include "testprog.h"

#include <linux/fuse.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define FILE_NODE 2
#define LARGEST_WRITE (128 * KIB)
/* How long the kernel may believe what it was told, in seconds. */
#define VALID 0

static char *contents;
static size_t length;
static int device;
static volatile sig_atomic_t asked_to_stop;

static void ask_to_stop(int signal)
{
    (void)signal;
    asked_to_stop = 1;
}

static void load(const char *path)
{
    struct stat of;
    int file = (int)check(open(path, O_RDONLY));
    check(fstat(file, &of));
    length = (size_t)of.st_size;
    contents = map(length);
    for (size_t at = 0; at < length;)
        at += (size_t)check(read(file, contents + at, length - at));
    check(close(file));
}

static struct fuse_attr attributes(uint64_t node)
{
    bool is_file = node == FILE_NODE;
    return (struct fuse_attr){
        .ino = node, .size = is_file ? length : 0, .blocks = (length + 511) / 512, .blksize = PAGE,
        .mode = is_file ? S_IFREG | 0755 : S_IFDIR | 0755, .nlink = 1,
    };
}

static void reply(uint64_t unique, int error, const void *payload, size_t bytes)
{
    static char buffer[sizeof(struct fuse_out_header) + LARGEST_WRITE];
    struct fuse_out_header header = { .len = (uint32_t)(sizeof header + bytes), .error = error, .unique = unique };
    memcpy(buffer, &header, sizeof header);
    if (bytes > 0)
        memcpy(buffer + sizeof header, payload, bytes);
    /* Whoever has asked may not be interested any more. */
    require(write(device, buffer, header.len) == (ssize_t)header.len || errno == ENOENT);
}

static void answer(const struct fuse_in_header *request, const void *argument)
{
    uint64_t unique = request->unique;
    unmap(map(PAGE), PAGE);
    switch (request->opcode) {
    case FUSE_INIT: {
        const struct fuse_init_in *wanted = argument;
        struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
                                      .max_readahead = wanted->max_readahead, .max_write = LARGEST_WRITE };
        return reply(unique, 0, &init, sizeof init);
    }
    case FUSE_LOOKUP: {
        struct fuse_entry_out entry = { .nodeid = FILE_NODE, .entry_valid = VALID, .attr_valid = VALID };
        entry.attr = attributes(FILE_NODE);
        if (strcmp(argument, "program") != 0)
            return reply(unique, -ENOENT, NULL, 0);
        return reply(unique, 0, &entry, sizeof entry);
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out of = { .attr_valid = VALID, .attr = attributes(request->nodeid) };
        return reply(unique, 0, &of, sizeof of);
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out opened = { .open_flags = FOPEN_KEEP_CACHE };
        return reply(unique, 0, &opened, sizeof opened);
    }
    case FUSE_READ: {
        const struct fuse_read_in *wanted = argument;
        size_t from = wanted->offset < length ? wanted->offset : length;
        size_t bytes = wanted->size < length - from ? wanted->size : length - from;
        return reply(unique, 0, contents + from, bytes);
    }
    case FUSE_STATFS: {
        struct fuse_statfs_out of = { .st = { .bsize = PAGE, .namelen = 255 } };
        return reply(unique, 0, &of, sizeof of);
    }
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_ACCESS:
        return reply(unique, 0, NULL, 0);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        return;
    default:
        return reply(unique, -ENOSYS, NULL, 0);
    }
}

static void stop(void)
{
    struct {
        struct fuse_out_header header;
        struct fuse_notify_inval_inode_out what;
    } notice = {
        .header = { .len = sizeof notice, .error = FUSE_NOTIFY_INVAL_INODE, .unique = 0 },
        .what = { .ino = FILE_NODE, .off = 0, .len = 0 },
    };
    asked_to_stop = 0;
    require(write(device, &notice, sizeof notice) == sizeof notice);
    raise(SIGSTOP);
}

static void serve(pid_t child)
{
    static char buffer[LARGEST_WRITE + PAGE];
    for (;;) {
        struct pollfd requests = { .fd = device, .events = POLLIN };
        int status;
        if (asked_to_stop)
            stop();
        if (child != 0 && check(waitpid(child, &status, WNOHANG)) == child)
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        if (poll(&requests, 1, 10) == 1 && read(device, buffer, sizeof buffer) > 0)
            answer((void *)buffer, buffer + sizeof(struct fuse_in_header));
    }
}

int main(int argc, char **argv)
{
    char options[64], path[4096];
    require(argc > 2);
    alarm(240);
    load(argv[2]);
    device = (int)check(open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    check(unshare(CLONE_NEWNS));
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    check(mount("withheld", argv[1], "fuse.withheld", MS_NOSUID | MS_NODEV | MS_RDONLY, options));
    snprintf(path, sizeof path, "%s/program", argv[1]);
    signal(SIGUSR1, ask_to_stop);
    pid_t child = check(fork());
    if (child == 0) {
        signal(SIGUSR1, SIG_DFL);
        argv[2] = path;
        check(execv(path, argv + 2));
    }
    serve(child);
}
