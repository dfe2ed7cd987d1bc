/* Cases of what the kernel does with mappings, each in a process of its own: conformance [NAME... | --list].
   Whatever a case needs it makes; where this kernel lacks something, the case is the error that it gives.
   Must be found: nothing, and a model that agrees with the kernel at any time. */
#include "conformance.h"

static struct test tests[512];
static size_t count;

void add_case(const char *name, void (*run)(const void *row), const void *row)
{
    require(count < COUNT(tests));
    tests[count++] = (struct test){name, run, row};
}

static void each_line(void (*line)(void *, uintptr_t, uintptr_t, const char *), void *with)
{
    static char text[1 << 18];
    size_t length = 0;
    int file = (int)check(open("/proc/self/maps", O_RDONLY));
    for (ssize_t part; (part = check(read(file, text + length, sizeof text - 1 - length))) > 0;)
        length += (size_t)part;
    check(close(file));
    text[length] = 0;
    for (char *at = text, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        unsigned long long from, to;
        char rights[8];
        require(sscanf(at, "%llx-%llx %7s", &from, &to, rights) == 3);
        line(with, (uintptr_t)from, (uintptr_t)to, rights);
    }
}

struct wanted {
    uintptr_t start, end;
    const char *rights;
    int parts;
    bool is_exact;
};

static void look(void *with, uintptr_t from, uintptr_t to, const char *rights)
{
    struct wanted *wanted = with;
    wanted->parts += from < wanted->end && to > wanted->start;
    if (from == wanted->start && to == wanted->end && wanted->rights != NULL)
        wanted->is_exact = strcmp(rights, wanted->rights) == 0;
}

int lines_of(const char *start, size_t bytes)
{
    struct wanted wanted = {.start = (uintptr_t)start, .end = (uintptr_t)start + bytes};
    each_line(look, &wanted);
    return wanted.parts;
}

bool is_line(const char *start, size_t bytes, const char *rights)
{
    struct wanted wanted = {.start = (uintptr_t)start, .end = (uintptr_t)start + bytes, .rights = rights};
    each_line(look, &wanted);
    return wanted.is_exact;
}

static bool run(const struct test *test)
{
    int status;
    pid_t child = (pid_t)check(fork());
    if (child == 0) {
        test->run(test->row);
        _exit(0);
    }
    require(check(waitpid(child, &status, 0)) == child);
    bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!good)
        fprintf(stderr, "%s: failed with status %#x\n", test->name, status);
    return good;
}

int main(int argc, char **argv)
{
    size_t failed = 0, done = 0;
    for (size_t i = 0; i < count; i++) {
        bool chosen = argc == 1;
        for (size_t other = 0; other < i; other++)
            require(strcmp(tests[other].name, tests[i].name) != 0);
        for (int name = 1; name < argc; name++)
            chosen |= strcmp(argv[name], tests[i].name) == 0;
        if (argc == 2 && strcmp(argv[1], "--list") == 0)
            puts(tests[i].name);
        if (chosen) {
            failed += !run(&tests[i]);
            done++;
        }
    }
    printf("%zu cases, %zu failed\n", done, failed);
    return failed != 0;
}
