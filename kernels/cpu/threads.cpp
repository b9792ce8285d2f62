#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

using Task = std::function<void(int64_t, int)>;

struct Pool {
    std::mutex busy;   // one piece of work at a time
    std::mutex mutex;  // guards what follows, but for the atomics
    std::condition_variable wake;
    int workers = 0, wanted = 0;
    const Task* task = nullptr;
    std::fenv_t arithmetic{};  // of the caller: rounding, and whether subnormal numbers are flushed to zero
    int64_t count = 0;
    std::atomic<uint64_t> round{0};
    std::atomic<int64_t> next{0};
    std::atomic<int> running{0};

    void run(const Task& work, int worker) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(i, worker);
    }
    void serve(int worker, uint64_t seen) {
        for (;;) {
            // The phases of a call follow each other closely: look for a while before going to sleep.
            for (int i = 0; i < 4000 && round.load(std::memory_order_acquire) == seen; i++) {
#if defined(__x86_64__) || defined(__i386__)
                __builtin_ia32_pause();
#endif
            }
            std::unique_lock<std::mutex> lock(mutex);
            wake.wait(lock, [&] { return round.load(std::memory_order_relaxed) != seen; });
            seen = round.load(std::memory_order_relaxed);
            if (worker > wanted) continue;
            const Task* work = task;
            std::fesetenv(&arithmetic);
            lock.unlock();
            run(*work, worker);
            running.fetch_sub(1, std::memory_order_release);
        }
    }
    void spread(int64_t n, int threads, const Task& work) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            try {
                for (; workers < threads - 1; workers++)
                    std::thread(&Pool::serve, this, workers + 1, round.load()).detach();
            } catch (const std::system_error&) {
                // The system gives no more threads: the result is the same with those there are.
            }
            task = &work;
            count = n;
            wanted = std::min(workers, threads - 1);
            std::fegetenv(&arithmetic);
            next.store(0);
            running.store(wanted);
            round.fetch_add(1, std::memory_order_release);
        }
        wake.notify_all();
        run(work, 0);
        while (running.load(std::memory_order_acquire)) std::this_thread::yield();
    }
};

// Never destroyed: its threads wait in it when the process ends. A forked child has none of them, and starts
// anew.
std::atomic<Pool*> pool{nullptr};

}  // namespace

void parallel(int64_t count, int threads, const Task& task) {
    static std::once_flag once;
    std::call_once(once, [] {
        pool.store(new Pool);
        pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); });
    });
    if (threads > count) threads = static_cast<int>(count);
    Pool& here = *pool.load();
    std::unique_lock<std::mutex> lock(here.busy, std::defer_lock);
    if (threads < 2 || !lock.try_lock()) {  // Another thread of the program is using them: do it alone.
        for (int64_t i = 0; i < count; i++) task(i, 0);
        return;
    }
    here.spread(count, threads, task);
}
