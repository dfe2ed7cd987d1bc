/* Two plugins, loaded one after the other at the same address: each makes threads that nobody joins, and is unloaded. What
   is built as a plugin is this very file, with the plugin's name.
   Must be found: two orphaned-stacks, unjoined, 2 regions each, with the functions of the right plugin. */
#include "testprog.h"

#include <dlfcn.h>
#include <libgen.h>

#ifdef PLUGIN

/* The plugins differ by this name alone: all offsets are the same in both. */
#define NAMED_(name, part) name##part
#define NAMED(name, part) NAMED_(name, part)

static void *NAMED(PLUGIN, _job)(void *tid)
{
    return tell_tid(tid);
}

__attribute__((noinline)) static void NAMED(PLUGIN, _place)(void *tid)
{
    start_pthread(NAMED(PLUGIN, _job), tid);
    __asm__ volatile("" ::: "memory");
}

void run_plugin(void)
{
    for (int i = 0; i < 2; i++) {
        _Atomic pid_t tid = 0;
        NAMED(PLUGIN, _place)((void *)&tid);
        await(tid != 0);
        await_task_end(tid);
    }
}

#else

static void *use(const char *program, const char *plugin)
{
    char folder[4096], path[5000];
    require(strlen(program) < sizeof folder);
    snprintf(path, sizeof path, "%s/%s", dirname(strcpy(folder, program)), plugin);
    void *library = dlopen(path, RTLD_NOW);
    if (library == NULL)
        die(__FILE__, __LINE__, "dlopen", dlerror());
    void (*run)(void) = (void (*)(void))(uintptr_t)dlsym(library, "run_plugin");
    require(run != NULL);
    run();
    require(dlclose(library) == 0);
    return (void *)(uintptr_t)run;
}

int main(int argc, char **argv)
{
    (void)argc;
    void *red = use(argv[0], "plugins.red.so");
    void *blue = use(argv[0], "plugins.blue.so");
    require(red == blue);
    return 0;
}

#endif
