// Phase 3 of forward differences: those of two valid cells, and their adjoint.
//
//     x: r[j, i+1] - r[j, i],  y: r[j+1, i] - r[j, i];  a = (signs of the pairs to the left and above) -
//     (signs to the right and below), which adds up to 0
#pragma once
#include "rows.hpp"

namespace DL_ISA {

// The same of forward differences, kept where both cells are valid; their adjoint is (signs of the pairs to
// the left and above) - (signs to the right and below), which adds up to 0.
template <class T, class Source>
void forward_rows(Source& source, int64_t y0, int64_t y1, int64_t h, int64_t w, Arena& arena,
                  LevelBand& out) {
    using V = typename Source::Covered;
    int8_t *sx = arena.row<int8_t>(), *sy[2] = {arena.row<int8_t>(), arena.row<int8_t>()};
    int8_t *adjoint = arena.row<int8_t>(), *all_on = arena.row<int8_t>();
    int8_t* keep[2] = {arena.row<int8_t>(), arena.row<int8_t>()};
    const auto room = static_cast<size_t>(blocks(w));
    memset(sx - 1, 0, room + 1), memset(sy[0], 0, room), memset(sy[1], 0, room);
    memset(all_on, -1, room);
    const int64_t first = y0 > 0 ? y0 - 1 : 0;
    Total<T> response, u_z;
    source.ready(first);
    for (int64_t y = first; y < y1; y++) {
        const bool last = y + 1 == h, own = y >= y0;
        if (!last) source.ready(y + 1);
        const T *r = source.residual(y), *below = last ? r : source.residual(y + 1);
        const uint8_t *m = source.cover(y), *m_below = last ? m : source.cover(y + 1);
        for (int64_t i = 0; i < w; i += static_cast<int64_t>(sizeof(V))) {
            const V here = load_as<V>(m + i);
            store_as<V>(keep[0] + i, V{} - (here & load_as<V>(m + i + 1)));
            store_as<V>(keep[1] + i, V{} - (here & load_as<V>(m_below + i)));
        }
        // The cell behind the last one is none, whatever lies there.
        memset(keep[0] + w - 1, 0, room - static_cast<size_t>(w) + 1);
        clear_end(keep[1], w);
        if (last) memset(keep[1], 0, room);
        int8_t *up = sy[(y + 1) & 1], *down = sy[y & 1];
        for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
            Vec<T> sum_here = all(T(0));
            Bytes n_x{}, n_y{};  // Apart: a byte counts the blocks of a piece once.
            for (int64_t x = o; x < end; x += LANES) {
                const Vec<T> here = load(r + x), gx = select(mask_of<T>(keep[0] + x), load(r + x + 1) - here),
                             gy = select(mask_of<T>(keep[1] + x), load(below + x) - here);
                sum_here = sum_here + (abs(gx) + abs(gy));
                n_x -= load_as<Bytes>(keep[0] + x), n_y -= load_as<Bytes>(keep[1] + x);
                store_signs(sx + x, down + x, gx, gy, all_on + x);
            }
            if (!own) continue;
            response.add(sum_here);
            out.kept += sum(n_x) + sum(n_y);
        }
        if (!own) continue;
        for (int64_t x = 0; x < w; x += LANES)
            store_as<Bytes>(adjoint + x, load_as<Bytes>(sx + x - 1) - load_as<Bytes>(sx + x) +
                                             load_as<Bytes>(up + x) - load_as<Bytes>(down + x));
        clear_end(adjoint, w);
        if (const T* centred = source.centred(y)) {
            for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
                Vec<T> product = all(T(0));
                for (int64_t x = o; x < end; x += LANES)
                    product = product + converted<T>(from_signs<Int<T>>(adjoint + x)) * load(centred + x);
                u_z.add(product);
            }
        }
        source.store(y, adjoint);
    }
    out.response = response, out.u_z = u_z, out.u_one = 0;
}

}  // namespace DL_ISA
