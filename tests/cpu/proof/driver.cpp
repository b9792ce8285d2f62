// Runs the native CPU engine without Python, for valgrind and the sanitizers: instructions.py and
// sanitize.py compile it.
//
//     driver LIBRARY PLAN B H W DENSITY ISA MODE [THREADS]
//
// LIBRARY is the engine, PLAN a file of tools.write_plan, ISA an instruction set or "best". MODE:
//
//     once      forward and backward on one thread
//     dtypes    the same for every dtype of the maps and of the mask, in rows with gaps
//     threads   with 1..THREADS threads, from three threads at once, in a forked child: the same bits
//     starved   more threads than the system grants: the same bits
//
// Prints the loss and a hash of the gradient of every evaluation that differs in its inputs.
#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "../../../kernels/cpu/engine.h"

namespace {

void* (*measure)(const Plan*, const Call*, double*);
void (*combine_)(const Call*, void*);
int (*backward)(const Plan*, const Call*);
int64_t (*code_bytes)(const Plan*, int64_t, int64_t);
uint64_t (*layout)();
int (*choose)(const char*);

[[noreturn]] void fail(const std::string& why) {
    std::fprintf(stderr, "driver: %s\n", why.c_str());
    std::exit(2);
}
void require(bool holds, const char* what) {
    if (!holds) fail(what);
}

void load(const char* path) {
    void* library = dlopen(path, RTLD_NOW);
    if (!library) fail(dlerror());
    const auto find = [&](auto& function, const char* name) {
        void* found = dlsym(library, name);
        if (!found) fail(dlerror());
        std::memcpy(&function, &found, sizeof found);
    };
    find(measure, "dl_measure");
    find(combine_, "dl_combine");
    find(backward, "dl_backward");
    find(code_bytes, "dl_code_bytes");
    find(layout, "dl_layout");
    find(choose, "dl_choose");
    require(layout() == FINGERPRINT, "the library is of another version");
}

struct Loss {
    Plan plan;
    std::vector<double> weights, log_vars;
    explicit Loss(const char* path) {
        std::ifstream file(path, std::ios::binary);
        const auto read = [&](void* to, size_t bytes) {
            file.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
        };
        read(&plan, sizeof plan);
        for (auto* numbers : {&weights, &log_vars}) {
            int64_t n = 0;
            read(&n, sizeof n);
            require(file && n >= 0 && n < 100, "the plan is of another version");
            numbers->resize(static_cast<size_t>(n));
            read(numbers->data(), 8 * numbers->size());
        }
        require(static_cast<bool>(file), "the plan is of another version");
    }
};

// A map in rows of `step` elements each `item` bytes apart, behind a gap.
struct Storage {
    std::vector<unsigned char> bytes;
    Map map{};
    Storage(int64_t b, int64_t h, int64_t w, int dtype, int64_t step) {
        const int64_t item = dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : dtype <= BFLOAT16 ? 2 : 1;
        const int64_t row = step == 1 ? w : w * step + 3;
        bytes.resize(static_cast<size_t>(b * h * row * item));
        map = {nullptr, {h * row, row, step}, dtype, 0};
    }
    Map described() {
        map.data = bytes.data();  // Not before: a copy has bytes of its own.
        return map;
    }
    void put(int64_t b, int64_t y, int64_t x, float value) {
        const int64_t o = b * map.stride[0] + y * map.stride[1] + x * map.stride[2];
        uint32_t raw;
        std::memcpy(&raw, &value, 4);
        const auto at = [&](auto number) {
            std::memcpy(bytes.data() + o * int64_t(sizeof number), &number, sizeof number);
        };
        if (map.dtype == FLOAT32)
            at(value);
        else if (map.dtype == FLOAT64)
            at(static_cast<double>(value));
        else if (map.dtype == FLOAT16)  // Truncates; for normal numbers and 0.
            at(static_cast<uint16_t>(value == 0 ? 0 : (raw >> 13) - (112u << 10)));
        else if (map.dtype == BFLOAT16)
            at(static_cast<uint16_t>(raw >> 16));
        else
            at(static_cast<uint8_t>(value != 0));
    }
};

struct Maps {
    int64_t b, h, w;
    Storage pred, gt, mask, grad, weight, confidence, grad_confidence;
    // A smooth scene with a step and noise, and a noisy prediction: the same numbers on every machine.
    Maps(int64_t b_, int64_t h_, int64_t w_, double density, int dtype = FLOAT32, int mask_dtype = BOOL,
         int64_t step = 1)
        : b(b_),
          h(h_),
          w(w_),
          pred(b, h, w, dtype, step),
          gt(b, h, w, dtype, step),
          mask(b, h, w, mask_dtype, step),
          grad(b, h, w, dtype, step),
          weight(b, h, w, dtype, step),
          confidence(b, h, w, dtype, step),
          grad_confidence(b, h, w, dtype, step) {
        uint64_t state = 88172645463325252u;
        const auto uniform = [&] {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            return static_cast<double>(state >> 11) / 9007199254740992.0;
        };
        for (int64_t i = 0; i < b; i++)
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = 0; x < w; x++) {
                    const double u = static_cast<double>(x) / 96, v = static_cast<double>(y) / 64;
                    const double scene = 0.4 + 0.1 * (u - int(u)) * (v - int(v)) + (x * 2 > w ? 0.3 : 0);
                    const double g = scene * (0.9 + 0.2 * uniform());
                    gt.put(i, y, x, static_cast<float>(g));
                    pred.put(i, y, x, static_cast<float>(g * (0.7 + 0.8 * uniform()) + 0.02));
                    mask.put(i, y, x, uniform() < density);
                    weight.put(i, y, x, (x + y) % 5 ? 0.5f + static_cast<float>(x % 3) : 0.0f);
                    confidence.put(i, y, x, 0.25f + static_cast<float>((x + 2 * y) % 7));
                }
    }
};

struct Result {
    double total;
    uint64_t gradient;
    bool operator==(const Result& other) const {
        return !std::memcmp(&total, &other.total, 8) && gradient == other.gradient;
    }
};

Result run(const Loss& loss, Maps& maps, int threads, bool saves = true) {
    // Twice the coefficients: Python counts them in float32.
    std::vector<double> coefficients(static_cast<size_t>(HEAD + maps.b * COEFFICIENTS)),
        terms(static_cast<size_t>(loss.plan.num_metrics)), totals(TOTALS);
    std::vector<uint8_t> codes(
        static_cast<size_t>(saves ? maps.b * code_bytes(&loss.plan, maps.h, maps.w) : 0));
    Call call{};
    call.pred = maps.pred.described(), call.gt = maps.gt.described();
    call.mask = maps.mask.described(), call.grad = maps.grad.described();
    call.abs_mask.dtype = call.weight.dtype = call.confidence.dtype = call.grad_confidence.dtype = NONE;
    // A loss with a confidence also runs with a weight.
    if (loss.plan.confident) {
        call.weight = maps.weight.described(), call.confidence = maps.confidence.described();
        call.grad_confidence = maps.grad_confidence.described();
    }
    call.B = maps.b, call.H = maps.h, call.W = maps.w;
    call.in_double = maps.pred.map.dtype == FLOAT64;
    call.saves = saves, call.threads = threads, call.world = 1;
    call.weights = loss.weights.data(), call.log_vars = loss.log_vars.data();
    double total = 0;
    require(!loss.plan.by_image, "a loss of [B]");
    call.terms = terms.data(), call.total = &total, call.codes = codes.data(),
    call.coefficients = coefficients.data();
    void* state = measure(&loss.plan, &call, totals.data());
    require(state, "no memory for the forward");
    call.totals = totals.data();
    combine_(&call, state);
    float narrow;
    std::memcpy(&narrow, &total, sizeof narrow);
    Result result{call.in_double ? total : static_cast<double>(narrow), 0};
    if (!saves) return result;
    const double one = 1;
    call.grad_output = &one;
    require(!backward(&loss.plan, &call), "no memory for the backward");
    result.gradient = 14695981039346656037u;
    for (const auto* grad : {&maps.grad, &maps.grad_confidence})
        if (grad == &maps.grad || loss.plan.confident)
            for (unsigned char byte : grad->bytes)
                result.gradient = (result.gradient ^ byte) * 1099511628211u;
    return result;
}

void print(const Result& result) {
    std::printf("%.17g %016llx\n", result.total, static_cast<unsigned long long>(result.gradient));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 9) fail("LIBRARY PLAN B H W DENSITY ISA MODE [THREADS]");
    load(argv[1]);
    const Loss loss(argv[2]);
    const int64_t b = std::atoll(argv[3]), h = std::atoll(argv[4]), w = std::atoll(argv[5]);
    const double density = std::atof(argv[6]);
    const std::string isa = argv[7], mode = argv[8];
    require(!choose(isa == "best" ? nullptr : isa.c_str()), "this machine does not have the instruction set");
    Maps maps(b, h, w, density);
    if (mode == "once") {
        print(run(loss, maps, 1));
    } else if (mode == "dtypes") {
        for (int dtype : {FLOAT32, FLOAT64, FLOAT16, BFLOAT16})
            for (int mask : {BOOL, BYTE, FLOAT32, FLOAT64, FLOAT16})
                for (int step : {1, 2}) {
                    Maps other(b, h, w, density, dtype, mask, step);
                    run(loss, other, 1, false);
                    print(run(loss, other, 1));
                }
    } else if (mode == "threads") {
        const int most = argc > 9 ? std::atoi(argv[9]) : 4;
        const Result expected = run(loss, maps, 1);
        print(expected);
        for (int threads = 1; threads <= most; threads++) {
            for (int i = 0; i < 3; i++)
                require(run(loss, maps, threads) == expected, "another number of threads, other bits");
            // Each caller writes its own gradient.
            std::vector<Maps> own(3, Maps(b, h, w, density));
            std::vector<std::thread> callers;
            std::vector<Result> found(own.size());
            for (size_t i = 0; i < own.size(); i++)
                callers.emplace_back([&, i] {
                    for (int j = 0; j < 3; j++) found[i] = run(loss, own[i], threads);
                });
            for (auto& caller : callers) caller.join();
            for (const Result& result : found) require(result == expected, "callers at once, other bits");
            const pid_t child = fork();
            if (!child) _exit(run(loss, maps, threads) == expected ? 0 : 1);
            int status = 0;
            require(child > 0 && waitpid(child, &status, 0) == child && status == 0,
                    "a forked child, other bits");
        }
    } else if (mode == "starved") {
        const Result expected = run(loss, maps, 1);
        print(expected);
        long pages = 0;
        std::ifstream("/proc/self/statm") >> pages;
        const rlim_t bytes = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE)) + (6 << 20);
        const rlimit limit{bytes, bytes};
        require(pages && !setrlimit(RLIMIT_AS, &limit), "the limit of memory cannot be set");
        for (int i = 0; i < 2; i++)
            require(run(loss, maps, 3) == expected, "threads that the system does not give, other bits");
        bool refused = false;
        try {
            std::thread([] {}).join();
        } catch (const std::exception&) {
            refused = true;
        }
        require(refused, "the system gave a thread all the same");
    } else
        fail("an unknown mode: " + mode);
}
