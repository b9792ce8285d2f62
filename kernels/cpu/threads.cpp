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

// The tasks of a call. Each worker has the same range in every call, so that it finds its data in its cache;
// a worker that is done steals from the others.
struct Pieces {
    struct alignas(128) Share {
        std::atomic<int64_t> next;
        int64_t begin, size;
    };
    Share share[MOST_THREADS];
    int shares = 0;
    int step = 1;
    bool backwards = false;

    void divide(int64_t count, bool turns, int workers, bool backwards_) {
        backwards = backwards_;
        shares = workers;
        step = turns ? shares : 1;
        for (int i = 0; i < shares; i++) {
            share[i].next.store(0, std::memory_order_relaxed);
            share[i].begin = turns ? i : count * i / shares;
            share[i].size =
                turns ? (count - i + shares - 1) / shares : count * (i + 1) / shares - share[i].begin;
        }
    }
    void work(const Task& task, int worker) {
        for (int k = 0; k < shares; k++) {
            Share& own = share[(worker + k) % shares];
            while (own.next.load(std::memory_order_relaxed) < own.size) {
                const int64_t next = own.next.fetch_add(1, std::memory_order_relaxed);
                if (next >= own.size) break;
                const int64_t i = backwards ? own.size - 1 - next : next;
                task(own.begin + i * step, worker);
            }
        }
    }
};

struct Pool {
    std::mutex busy;   // one piece of work at a time
    std::mutex mutex;  // guards what follows, but for the atomics
    std::condition_variable wake;
    int workers = 0, wanted = 0;
    const Task* task = nullptr;
    std::fenv_t arithmetic{};  // of the caller: rounding, and whether subnormal numbers are flushed to zero
    Pieces pieces;
    std::atomic<uint64_t> round{0};
    std::atomic<int> running{0};

    void serve(int worker, uint64_t seen) {
        for (;;) {
            // The phases of a call follow each other closely: spin for a while before sleeping.
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
            pieces.work(*work, worker);
            running.fetch_sub(1, std::memory_order_release);
        }
    }
    void spread(int64_t n, bool turns, int threads, bool backwards, const Task& work) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            try {
                for (; workers < threads - 1; workers++)
                    std::thread(&Pool::serve, this, workers + 1, round.load()).detach();
            } catch (const std::system_error&) {
                // No more threads to be had: the result is the same with fewer.
            }
            task = &work;
            pieces.divide(n, turns, threads, backwards);
            wanted = std::min(workers, threads - 1);
            std::fegetenv(&arithmetic);
            running.store(wanted);
            round.fetch_add(1, std::memory_order_release);
        }
        wake.notify_all();
        pieces.work(work, 0);
        while (running.load(std::memory_order_acquire)) std::this_thread::yield();
    }
};

// Never destroyed: its threads wait in it when the process ends. A forked child has none of them and starts
// its own; an OpenMP team does not survive a fork.
std::atomic<Pool*> pool{nullptr};
std::atomic<Team> team{nullptr};
std::atomic<Member> member{nullptr};

// One call of `parallel`, as the members of an OpenMP team see it.
struct Shared {
    const Task& task;
    std::fenv_t arithmetic;
    Pieces pieces;

    void run() {
        const int worker = member.load()();
        if (worker >= pieces.shares) return;
        std::fenv_t own;
        std::fegetenv(&own);
        std::fesetenv(&arithmetic);
        pieces.work(task, worker);
        std::fesetenv(&own);
    }
};

}  // namespace

void set_team(Team function, Member number) {
    member.store(number);
    team.store(function);
}

// Since the library was loaded.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    if (pool.load()) pool.store(new Pool);
    team.store(nullptr);
});

void parallel(int64_t count, bool turns, int threads, bool backwards, const Task& task) {
    static std::once_flag once;
    std::call_once(once, [] { pool.store(new Pool); });
    const int workers = static_cast<int>(std::min<int64_t>({threads, MOST_THREADS, count}));
    const Team function = team.load();
    if (function && workers > 1) {
        Shared shared{task, {}, {}};
        shared.pieces.divide(count, turns, workers, backwards);
        std::fegetenv(&shared.arithmetic);
        // The whole team: a smaller one would end threads that PyTorch's next operation has to start again.
        function([](void* data) { static_cast<Shared*>(data)->run(); }, &shared,
                 static_cast<unsigned>(threads), 0);
        return;
    }
    Pool& here = *pool.load();
    std::unique_lock<std::mutex> lock(here.busy, std::defer_lock);
    if (workers < 2 || !lock.try_lock()) {  // Another thread of the program is using them: do it alone.
        for (int64_t i = 0; i < count; i++) task(backwards ? count - 1 - i : i, 0);
        return;
    }
    here.spread(count, turns, workers, backwards, task);
}
