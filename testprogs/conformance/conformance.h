/* Cases of what the kernel does with mappings: one for each rule of the manual pages, and each error. */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include "../testprog.h"

struct test {
    const char *name;
    void (*run)(const void *row);
    const void *row;
};

void add_case(const char *name, void (*run)(const void *row), const void *row);

/* A case by the name of its function. */
#define CASE(name)                                                    \
    static void name(void);                                           \
    static void run_##name(const void *row)                           \
    {                                                                 \
        (void)row;                                                    \
        name();                                                       \
    }                                                                 \
    __attribute__((constructor)) static void add_##name(void)         \
    {                                                                 \
        add_case(#name, run_##name, NULL);                            \
    }                                                                 \
    static void name(void)

/* A case for each row of a table, by the row's name; `body` gets the row. */
#define ROWS(body, table)                                             \
    __attribute__((constructor)) static void add_##table(void)        \
    {                                                                 \
        for (size_t i = 0; i < COUNT(table); i++)                     \
            add_case(table[i].name, body, &table[i]);                 \
    }

/* The call fails with this error: with -1, which is MAP_FAILED too. */
#define fails(error, call) \
    require((intptr_t)(errno = 0, (call)) == -1 && (errno == (error) || wrong_errno(__FILE__, __LINE__, #call)))

static inline int wrong_errno(const char *file, int line, const char *call)
{
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, call, strerror(errno));
    return 0;
}

#define RW (PROT_READ | PROT_WRITE)
#define PLAIN (MAP_PRIVATE | MAP_ANONYMOUS)
#define HUGE_PAGE (2 * MIB)

/* Pages with free ones on both sides, so that nothing merges with them. */
static inline char *pages(size_t count)
{
    char *all = map_with((count + 32) * PAGE, PROT_NONE, MAP_PRIVATE);
    unmap(all, (count + 32) * PAGE);
    return check(mmap(all + 16 * PAGE, count * PAGE, RW, PLAIN | MAP_FIXED_NOREPLACE, -1, 0)), all + 16 * PAGE;
}

/* A memory file of so many pages. */
static inline int memory_file(size_t count)
{
    int file = (int)check(memfd_create("conformance", MFD_CLOEXEC));
    check(ftruncate(file, (off_t)(count * PAGE)));
    return file;
}

/* How many lines of /proc/self/maps have a part of these pages. */
int lines_of(const char *start, size_t bytes);
/* Whether the pages are one line with these rights, as `rw-p`. */
bool is_line(const char *start, size_t bytes, const char *rights);

#endif
