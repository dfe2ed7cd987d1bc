/* io_setup maps a ring that no mmap shows; io_destroy unmaps it. One context is left at the end.
   Must be found: nothing. */
#include "testprog.h"

#include <linux/aio_abi.h>

int main(void)
{
    aio_context_t destroyed = 0, left = 0;
    check(syscall(SYS_io_setup, 8, &destroyed));
    check(syscall(SYS_io_setup, 1000, &left));
    require(is_mapped((char *)destroyed) && is_mapped((char *)left));
    check(syscall(SYS_io_destroy, destroyed));
    require(!is_mapped((char *)destroyed));
    return 0;
}
