/* Mappings of files: shared and private, lengths and files that are no multiple of a page, partial unmaps
   at the front, in the middle and at the end, and neighbours in file and memory, which become one VMA.
   Must be found: nothing. */
#include "testprog.h"

static char *map_file(int file, void *at, size_t bytes, int flags, size_t offset)
{
    int prot = flags & MAP_SHARED ? PROT_READ | PROT_WRITE : PROT_READ;
    return (char *)check(mmap(at, bytes, prot, flags, file, offset));
}

int main(void)
{
    int memory = check(memfd_create("mapped", 0));
    int program = check(open("/proc/self/exe", O_RDONLY));
    check(ftruncate(memory, 10 * PAGE + 123));

    char *whole = map_file(memory, NULL, 10 * PAGE + 123, MAP_SHARED, 0);
    whole[5 * PAGE] = 'x';
    unmap(whole, PAGE);
    unmap(whole + 4 * PAGE, PAGE + 1);
    unmap(whole + 10 * PAGE, 123);
    require(is_mapped(whole + 3 * PAGE) && !is_mapped(whole + 5 * PAGE) && is_mapped(whole + 6 * PAGE));

    /* Back into the hole: the same pages of the file join their neighbours, others do not. */
    require(map_file(memory, whole + 4 * PAGE, PAGE, MAP_SHARED | MAP_FIXED, 4 * PAGE) == whole + 4 * PAGE);
    map_file(memory, whole + 5 * PAGE, PAGE, MAP_SHARED | MAP_FIXED, 7 * PAGE);
    require(whole[5 * PAGE] == 0);

    char *beyond_end = map_file(memory, NULL, 4 * PAGE, MAP_SHARED, 8 * PAGE);
    check(ftruncate(memory, 2 * PAGE));
    unmap(beyond_end + PAGE, PAGE);

    char *text = map_file(program, NULL, 2 * PAGE + 1, MAP_PRIVATE, PAGE);
    check(mprotect(text, PAGE, PROT_READ | PROT_WRITE));
    text[0] = 'x';
    map_file(program, text + PAGE, 2 * PAGE, MAP_PRIVATE | MAP_FIXED, 0);
    unmap(text + 2 * PAGE, PAGE);
    check(close(program));
    check(close(memory));
    return 0;
}
