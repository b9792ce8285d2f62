// The phases for one instruction set: compiled once for each, with its flags and its DL_ISA.
#include "gradient.hpp"
#include "moments.hpp"
#include "select.hpp"
#include "sobel.hpp"

namespace DL_ISA {

template <class T>
constexpr Phases phases() {
    return {largest<T>,   moments<T>, deviations<T>, products<T>,   count<T>,
            structure<T>, level<T>,   gradient<T>,   arena_bytes<T>};
}

extern const Phases single, twice;
const Phases single = phases<float>(), twice = phases<double>();

// For the tests.
void log_of(const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store(y + i, log(load(x + i)));
}
void log_of(const double* x, double* y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) store(y + i, log(load(x + i)));
}

}  // namespace DL_ISA
