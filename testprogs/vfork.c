/* Children made by vfork, which use the parent's memory and stack until they exit ("exit") or run
   another program ("exec").
   Must be found: nothing. */
#include "testprog.h"

int main(int argc, char **argv)
{
    bool exits = chosen(argc, argv, "exit", "exec");
    for (int i = 0; i < 3; i++) {
        pid_t child = vfork();
        if (child == 0 && exits)
            _exit(0);
        if (child == 0) {
            execl("/bin/true", "true", NULL);
            _exit(127);
        }
        await_child(check(child));
    }
    return 0;
}
