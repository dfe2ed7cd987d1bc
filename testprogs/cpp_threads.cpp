// Threads in C++. `joined`: std::thread, joined: nothing must be found. `leaked`: a class that makes its threads by
// pthread_create and joins none. Must be found: one orphaned-stack, unjoined, 3 regions, with the names of C++.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace jobs {

template <typename Item>
class Runner {
public:
    [[gnu::noinline]] void start()
    {
        std::atomic<pid_t> tid { 0 };
        pthread_t thread;
        if (pthread_create(&thread, nullptr, run, &tid) != 0)
            std::abort();
        while (tid == 0 || syscall(SYS_tgkill, getpid(), tid.load(), 0) == 0)
            usleep(1000);
    }

private:
    [[gnu::noinline]] static void *run(void *tid)
    {
        static_cast<std::atomic<pid_t> *>(tid)->store(gettid());
        return nullptr;
    }
};

}

int main(int argc, char **argv)
{
    const char *ending = argc == 2 ? argv[1] : "";
    if (std::strcmp(ending, "joined") == 0) {
        std::vector<std::thread> threads;
        std::atomic<int> ran { 0 };
        for (int i = 0; i < 4; i++)
            threads.emplace_back([&ran] { ran++; });
        for (auto &thread : threads)
            thread.join();
        return ran == 4 ? 0 : 1;
    }
    if (std::strcmp(ending, "leaked") == 0) {
        jobs::Runner<long> runner;
        for (int i = 0; i < 3; i++)
            runner.start();
        return 0;
    }
    std::cerr << "usage: " << argv[0] << " joined|leaked\n";
    return 2;
}
