// Runs the phases over the images of a batch: one thread per image, or all threads on a few images at a time,
// so that these stay in the cache.
#include "align.hpp"
#include "penalty.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include <pthread.h>

#include "threads.h"

#define DECLARE(isa)                              \
    namespace isa {                               \
    extern const Phases single, twice;            \
    void log_of(const float*, float*, int64_t);   \
    void log_of(const double*, double*, int64_t); \
    }
DECLARE(base)
#ifdef DL_X86
DECLARE(avx2)
DECLARE(avx512)
#endif

namespace {

#ifndef DL_MAPS  // tests/cpu/proof/sanitize.py takes less, so that small images are worked on like large
                 // ones.
#define DL_MAPS (4 << 20)
#endif
constexpr int64_t CACHE = 3 << 20;  // bytes of inputs of the images in flight
// Of a shared image whose levels' maps take more bytes, the levels follow when every thread has made a band.
constexpr int64_t MAPS = DL_MAPS;
constexpr int64_t ALIGN = APART;

int64_t cell_bytes(const Call& call) { return call.in_double ? 8 : 4; }

int64_t up(int64_t n, int64_t to = ALIGN) { return (n + to - 1) / to * to; }

// The compiled instruction sets, ascending, and the one in use.
const char* const NAMES[] = {"base", "avx2", "avx512"};
int best() {
#ifdef DL_X86
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return avx512 ? 2 : avx2 ? 1 : 0;
#else
    return 0;
#endif
}
std::atomic<int> chosen{-1};
int instruction_set() {
    const int isa = chosen;
    return isa < 0 ? best() : isa;
}

const Phases& phases(bool in_double) {
#ifdef DL_X86
    switch (instruction_set()) {
        case 2:
            return in_double ? avx512::twice : avx512::single;
        case 1:
            return in_double ? avx2::twice : avx2::single;
    }
#endif
    return in_double ? base::twice : base::single;
}

#ifdef __SANITIZE_ADDRESS__
constexpr bool REUSED = false;  // so that it sees the end of what this call asked for
#else
constexpr bool REUSED = true;
#endif

// Reused memory that only grows: fresh pages cost more than the arithmetic on them.
struct Buffer {
    char* data = nullptr;
    int64_t size = 0;
    char* take(int64_t bytes) {
        if (bytes > size || !REUSED) {
            std::free(data);
            size = 0;
            data = static_cast<char*>(std::aligned_alloc(ALIGN, static_cast<size_t>(up(bytes))));
            if (!data) throw std::bad_alloc();
            size = bytes;
        }
        return data;
    }
    void release() {
        std::free(data);
        data = nullptr;
        size = 0;
    }
    ~Buffer() { std::free(data); }
};

struct Workspace {
    Buffer arenas, pyramids;
    std::vector<Image> images;
    std::vector<Band> bands;
    std::vector<LevelBand> levels;
    std::vector<Pyramid> maps;
    std::vector<Selection> selections;
    std::vector<int64_t> histograms;
    std::vector<int> columns[LEVELS];
    Layout layout;
    Work work;
};

std::mutex idle_mutex;
std::vector<std::unique_ptr<Workspace>>& idle() {
    static auto* all = new std::vector<std::unique_ptr<Workspace>>;
    return *all;
}
// A child that is forked while another thread holds the lock could never take it.
[[maybe_unused]] const int at_fork =
    pthread_atfork([] { idle_mutex.lock(); }, [] { idle_mutex.unlock(); }, [] { idle_mutex.unlock(); });
std::unique_ptr<Workspace> take() {
    std::lock_guard<std::mutex> lock(idle_mutex);
    if (idle().empty()) return std::make_unique<Workspace>();
    auto space = std::move(idle().back());
    idle().pop_back();
    return space;
}
void give_back(std::unique_ptr<Workspace> space) {
    std::lock_guard<std::mutex> lock(idle_mutex);
    if (idle().size() < 4) idle().push_back(std::move(space));
}

Layout layout_of(const Plan& plan, int64_t h, int64_t w) {
    Layout layout{};
    if (!plan.codes) return layout;
    const int smallest = plan.border == VALID && !plan.forward ? 3 : 1;
    int64_t o = 0;
    for (int k = 0; k < plan.levels; k++) {
        // A strided level has a cell for what is left of a row too.
        const int64_t rest = plan.downsample == STRIDED ? (int64_t(1) << k) - 1 : 0;
        layout.h[k] = (h + rest) >> k, layout.w[k] = (w + rest) >> k;
        layout.active[k] = std::min(layout.h[k], layout.w[k]) >= smallest;
        if (k < 2) continue;
        layout.cells[k] = o;
        o += 2 * layout.h[k] * layout.w[k];
    }
    layout.code = o;
    layout.adjoint = o + h * w;
    layout.cells[1] = o + 2 * h * w;
    if (plan.levels > 1) o += layout.h[1] * layout.w[1];
    layout.size = up(o + 2 * h * w, 2);
    return layout;
}

void lay_out(Workspace& space, const Plan& plan, const Call& call) {
    Work& work = space.work;
    work = Work{};
    work.plan = &plan;
    work.call = &call;
    space.layout = layout_of(plan, call.H, call.W);
    work.layout = &space.layout;
    work.bands_per_image = static_cast<int>((call.H + BAND - 1) / BAND);
    if (plan.downsample == NEAREST && plan.levels > 1 && !nests(call, plan.levels - 1))
        for (int k = 1; k < plan.levels; k++) {
            auto& columns = space.columns[k];
            const int64_t n = space.layout.w[k];
            columns.resize(static_cast<size_t>(n));
            for (int64_t j = 0; j < n; j++)
                columns[static_cast<size_t>(j)] = static_cast<int>(j * call.W / n);
            work.columns[k] = columns.data();
        }
}

bool has_levels(const Plan& plan) { return plan.has_gradient && plan.levels > 1; }

// How the images of a batch are divided. Their bands are the same in any division, and so are the results.
struct Division {
    int64_t threads;
    int64_t own;     // So many have a thread for themselves: it makes all phases, and waits for no other.
    int64_t images;  // The others at once: as many as the cache holds, and as give every thread a few bands
    int64_t bands;   // before their levels follow: all of them, or of a large image one a thread
    bool turns;      // as of `parallel`, in every phase: each thread finds in its cache what it left there
};
Division division_of(const Plan& plan, const Call& call, int64_t bands) {
    const int64_t threads = std::clamp(call.threads, 1, MOST_THREADS), own = call.B / threads * threads,
                  pixels = call.H * call.W, cell = cell_bytes(call);
    const int64_t maps = pixels * ((plan.alignment != ALIGN_NONE ? 2 : 1) * cell + 3) / 3;
    if (has_levels(plan) && maps > MAPS && bands >= 2 * threads) return {threads, own, 1, threads, true};
    const int64_t fit = CACHE / std::max<int64_t>(pixels * (2 * cell + 1), 1),
                  busy = (3 * threads + bands - 1) / std::max<int64_t>(bands, 1),
                  images = std::max<int64_t>(1, std::min(call.B - own, std::max(fit, busy)));
    return {threads, own, images, images * bands, false};
}

// The maps of the coarse levels of so many images, with room for so many bands.
void lay_out_pyramids(Workspace& space, const Plan& plan, const Call& call, int64_t images, int64_t bands) {
    const int64_t cell = cell_bytes(call);
    space.maps.assign(static_cast<size_t>(images), Pyramid{});
    char* memory = nullptr;
    int64_t o = 0;
    for (int pass = 0; pass < 2; pass++) {
        o = 0;
        for (auto& maps : space.maps)
            for (int k = 1; k < plan.levels; k++) {
                maps.stride[k] = up(space.layout.w[k], 16) + 2 * EDGE;
                // Above those of the bands: the rows that waited, their halo, and what rounding leaves of
                // both.
                maps.rows[k] = std::min(space.layout.h[k], bands * (BAND >> k) + 2 * HALO + 2);
                const int64_t n = maps.stride[k] * maps.rows[k];
                const auto piece = [&](int64_t bytes) {
                    char* p = memory ? memory + o : nullptr;
                    o += up(bytes);
                    return p;
                };
                maps.residual[k] = piece(n * cell);
                if (plan.alignment != ALIGN_NONE) maps.centred[k] = piece(n * cell);
                maps.count[k] = reinterpret_cast<uint16_t*>(piece(2 * n));
                maps.half[k] = reinterpret_cast<uint8_t*>(piece(n));
            }
        if (!pass) memory = space.pyramids.take(std::max<int64_t>(o, 1));
    }
    space.work.pyramids = space.maps.data();
}

// Phase 3 over so many images from `work.first` on; levels follow after so many bands.
void measure_structure(const Phases& run, const Work& work, int64_t images, int64_t few, const Crew& crew) {
    const Plan& plan = *work.plan;
    const int64_t first = work.first * work.bands_per_image, all = images * work.bands_per_image;
    const auto levels = [&](const Work&, int64_t b, int band, char* arena) {
        for (int k = 1; k < plan.levels; k++) run.level(work, b, k, band, arena);
    };
    for (int64_t begin = 0; begin < all; begin += few) {
        const int64_t count = std::min(few, all - begin);
        crew.run(work, first + begin, count, false, run.structure);
        if (has_levels(plan)) crew.run(work, first + begin, count, true, levels);
    }
}

// Everything that the phases write, empty.
void start(Workspace& space, const Plan& plan, const Call& call) {
    lay_out(space, plan, call);
    Work& work = space.work;
    const int64_t bands = work.bands_per_image;
    space.images.assign(static_cast<size_t>(call.B), Image{});
    space.bands.assign(static_cast<size_t>(call.B * bands), Band{});
    space.levels.assign(static_cast<size_t>(call.B * LEVELS * bands), LevelBand{});
    work.images = space.images.data();
    work.bands = space.bands.data();
    work.levels = space.levels.data();
}

void measure(Workspace& space, const Plan& plan, const Call& call) {
    start(space, plan, call);
    Work& work = space.work;
    const int64_t bands = work.bands_per_image;
    const Phases& run = phases(call.in_double);
    const int64_t arena = up(run.arena_bytes(call.W));
    const Division division = division_of(plan, call, bands);
    char* const arenas = space.arenas.take(arena * division.threads);
    const bool batch = plan.relative.trim > 0 && plan.relative.trim_batch,
               selects = plan.alignment == ALIGN_MEDIAN || plan.relative.trim > 0;
    if (selects) {
        const int64_t at_once = batch ? call.B : std::max(division.threads, division.images);
        space.selections.assign(static_cast<size_t>(call.B), Selection{});
        space.histograms.assign(static_cast<size_t>(at_once * 2 * BINS), 0);
        work.selections = space.selections.data();
        work.histograms = space.histograms.data();
    }
    // A trim over the batch needs the residuals of all images before any structure.
    if (batch) {
        const Crew crew{call.threads, false, arenas, arena};
        align(run, work, call.B, crew);
        work.batch_kept = trim_batch(run, work, crew);
    }
    if (division.own) {
        if (has_levels(plan)) lay_out_pyramids(space, plan, call, division.threads, 1);
        parallel(division.own, false, call.threads, false, [&](int64_t b, int worker) {
            Work mine = work;
            mine.first = b;
            if (has_levels(plan)) mine.pyramids += worker;
            if (selects && !batch) mine.histograms += worker * 2 * BINS;
            const Crew alone{1, false, arenas + worker * arena, arena};
            if (!batch) align(run, mine, 1, alone);
            if (plan.codes) measure_structure(run, mine, 1, 1, alone);
        });
    }
    if (division.own < call.B) {
        if (has_levels(plan)) lay_out_pyramids(space, plan, call, division.images, division.bands);
        const Crew crew{call.threads, division.turns, arenas, arena};
        for (work.first = division.own; work.first < call.B; work.first += division.images) {
            const int64_t images = std::min(division.images, call.B - work.first);
            if (!batch) align(run, work, images, crew);
            if (plan.codes) measure_structure(run, work, images, division.bands, crew);
        }
    }
    // With few images these are large: the gradient reuses their memory.
    if (4 * space.pyramids.size > 5 * call.B * call.H * call.W) space.pyramids.release();
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Every function that can run out of memory (std::length_error: of what a vector can count) returns NULL or 1
// then.

// The largest residuals [MOST] of this rank, for the penalties that need them.
EXPORT int dl_largest(const Plan* plan, const Call* call, double* found) {
    try {
        auto space = take();
        start(*space, *plan, *call);
        const Phases& run = phases(call->in_double);
        const int64_t arena = up(run.arena_bytes(call->W)), bands = call->B * space->work.bands_per_image;
        const int64_t threads = std::clamp(call->threads, 1, MOST_THREADS);
        const Crew crew{call->threads, false, space->arenas.take(arena * threads), arena};
        crew.run(space->work, 0, bands, false, run.largest);
        std::fill(found, found + MOST, -INFINITY);
        for (const Band& band : space->bands)
            for (int i = 0; i < MOST; i++) found[i] = larger(found[i], band.largest[i]);
        give_back(std::move(space));
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

// Phases 1 to 3 and the totals of this rank; what `dl_combine` goes on from.
EXPORT void* dl_measure(const Plan* plan, const Call* call, double* totals) {
    try {
        auto space = take();
        measure(*space, *plan, *call);
        collect(space->work, totals);
        return space.release();
    } catch (const std::exception&) {
        return nullptr;
    }
}

// The loss, its metrics and coefficients, from the totals of all ranks.
EXPORT void dl_combine(const Call* call, void* handle) {
    std::unique_ptr<Workspace> space(static_cast<Workspace*>(handle));
    space->work.call = call;
    combine(space->work);
    give_back(std::move(space));
}

EXPORT int dl_backward(const Plan* plan, const Call* call) {
    try {
        auto space = take();
        lay_out(*space, *plan, *call);
        const Phases& run = phases(call->in_double);
        const int64_t arena = up(run.arena_bytes(call->W)), bands = space->work.bands_per_image;
        const Division division = division_of(*plan, *call, bands);
        const Crew crew{call->threads, division.turns, space->arenas.take(arena * division.threads), arena};
        // Starts with the codes that were written last.
        for (int64_t left = call->B - division.own; left > 0;) {
            const int64_t images = (left - 1) % division.images + 1;
            left -= images;
            crew.run(space->work, (division.own + left) * bands, images * bands, true, run.gradient);
        }
        const Crew own{call->threads, false, crew.arenas, arena};
        own.run(space->work, 0, division.own * bands, true, run.gradient);
        give_back(std::move(space));
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

EXPORT int64_t dl_code_bytes(const Plan* plan, int64_t h, int64_t w) { return layout_of(*plan, h, w).size; }

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

// The version it was built from, and the description of the layout: binding.py checks both against its own.
EXPORT const char* dl_version() { return TEXT(DL_VERSION); }
EXPORT uint64_t dl_layout() { return FINGERPRINT; }

// The penalties it knows, in the order of their numbers.
EXPORT const char* dl_penalties() {
#define NAME(name, text) text " "
    return PENALTIES(NAME);
#undef NAME
}

EXPORT const char* dl_instruction_set() { return NAMES[instruction_set()]; }

// Chooses one by name; NULL is the best. 1: this machine or this build does not have it.
EXPORT int dl_choose(const char* name) {
    if (!name) {
        chosen = -1;
        return 0;
    }
    for (int i = 0; i <= best(); i++)
        if (!std::strcmp(name, NAMES[i])) {
            chosen = i;
            return 0;
        }
    return 1;
}

// The threads to run on, as threads.h says; NULL = the engine's own.
EXPORT void dl_team(Team function, Member number) { set_team(function, number); }

// ln of n numbers, a multiple of 16, as the engine computes it.
EXPORT void dl_log(const void* x, void* y, int64_t n, int in_double) {
#define LOG_OF(isa)                                                             \
    if (in_double)                                                              \
        isa::log_of(static_cast<const double*>(x), static_cast<double*>(y), n); \
    else                                                                        \
        isa::log_of(static_cast<const float*>(x), static_cast<float*>(y), n);
    switch (instruction_set()) {
#ifdef DL_X86
        case 2:
            LOG_OF(avx512) break;
        case 1:
            LOG_OF(avx2) break;
#endif
        default:
            LOG_OF(base)
    }
}
