/* remap_file_pages puts other pages of the file into parts of a shared mapping.
   Must be found: nothing. */
#include "testprog.h"

int main(void)
{
    enum { PAGES = 8 };
    int file = check(memfd_create("remapped", 0));
    check(ftruncate(file, PAGES * PAGE));
    char *view = (char *)check(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    for (int page = 0; page < PAGES; page++)
        view[page * PAGE] = page;
    check(remap_file_pages(view, 2 * PAGE, 0, 5, 0));
    check(remap_file_pages(view + 6 * PAGE, PAGE, 0, 0, 0));
    const char now[PAGES] = {5, 6, 2, 3, 4, 5, 0, 7};
    for (int page = 0; page < PAGES; page++)
        require(view[page * PAGE] == now[page]);
    return 0;
}
