// A few threads that wait for work. What they compute does not depend on how many there are.
#pragma once
#include <cstdint>
#include <functional>

// Calls task(i, worker) for every i < count on up to `threads` threads; worker < threads.
void parallel(int64_t count, int threads, const std::function<void(int64_t, int)>& task);
