/* Three programs started by posix_spawn, whose child runs for a moment on a stack of its own in the
   parent's memory.
   Must be found: nothing. */
#include "testprog.h"

#include <spawn.h>

int main(void)
{
    char *const arguments[] = {"true", NULL};
    for (int i = 0; i < 3; i++) {
        pid_t child;
        check_zero(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ));
        await_child(child);
    }
    return 0;
}
