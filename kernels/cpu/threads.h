// A pool of a few threads. Results do not depend on their number.
#pragma once
#include <cstdint>
#include <functional>

constexpr int MOST_THREADS = 64;

// Calls task(i, worker) for every i < count on up to `threads` threads, and no more than MOST_THREADS; worker
// is less than both. They take turns, or have one run of tasks each; each goes through its own in order, or
// backwards.
void parallel(int64_t count, bool turns, int threads, bool backwards,
              const std::function<void(int64_t, int)>& task);

// GOMP_parallel(body, data, threads, flags) and omp_get_thread_num() of the OpenMP library that PyTorch uses:
// its threads may still be spinning after the last operation, and a second set beside them would wait for a
// core. Without it, or after a fork, `parallel` runs threads of its own.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);
using Member = int (*)();
void set_team(Team function, Member number);
