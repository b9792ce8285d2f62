// The codes that the forward saves for the backward: packed, unpacked and folded here alone.
//
//     pixel         sign r + 1, sign(p - g) + 1, sign(p - mu_p) + 1, two bits each; valid; read
//     beside it     the adjoint of level 0, a byte
//     coarse cell   adjoint + 16 in six bits; above them, of mask support, its valid pixels - 1
//
// read: a pixel that mask centre reads; of a trim, which goes with no such mask, a tie with the threshold.
#pragma once
#include "rows.hpp"

namespace DL_ISA {

// Where the codes of image b lie: the first pixel, the first adjoint, the first cell of level k.
INLINE uint8_t* pixel_codes(const Work& work, int64_t b) {
    return work.call->codes + b * work.layout->size + work.layout->code;
}
INLINE int8_t* adjoint_codes(const Work& work, int64_t b) {
    return reinterpret_cast<int8_t*>(work.call->codes + b * work.layout->size + work.layout->adjoint);
}
INLINE uint8_t* cell_codes(const Work& work, int64_t b, int k) {
    return work.call->codes + b * work.layout->size + work.layout->cells[k];
}

// Calls f with row y of the cells of level k in their type: the counts of level 1 fit in a byte.
template <class Byte, class F>
INLINE void with_cells(Byte* cells, int k, int64_t y, int64_t w, const F& f) {
    using Word = std::conditional_t<std::is_const<Byte>::value, const uint16_t, uint16_t>;
    if (k == 1)
        f(cells + y * w);
    else
        f(reinterpret_cast<Word*>(cells) + y * w);
}

// The code without a sign or a flag.
constexpr int NO_SIGN = (1 << SIGN_R) + (1 << SIGN_D) + (1 << SIGN_P);

// The codes of a block. READ is whether `read` differs from `valid` (both 0 or -1).
template <bool READ, class T>
INLINE Bytes pack(const Sign<T>& r, const Sign<T>& d, const Sign<T>& p, const Bytes& valid,
                  const Bytes& read) {
    Small<T> signs(NO_SIGN);
    signs.add(r, SIGN_R);
    signs.add(d, SIGN_D);
    signs.add(p, SIGN_P);
    return signs.bytes() + (READ ? (valid & all_bytes(VALID_BIT)) | (read & all_bytes(READ_BIT))
                                 : valid & all_bytes(VALID_BIT | READ_BIT));
}

// The codes of a block of a trim: only kept pixels have a sign of r, and ties have the read bit.
INLINE Bytes pack_trim(const Bytes& code, const Bytes& kept, const Bytes& tie) {
    const Bytes sign = all_bytes(3 << SIGN_R), read = all_bytes(READ_BIT);
    return (code & ~(sign | read)) | (code & sign & kept) | (all_bytes(1 << SIGN_R) & ~kept) | (tie & read);
}

// The code of a cell: its adjoint, and of mask support the valid pixels that it counts.
template <class Cell>
INLINE Cell pack_cell(int32_t adjoint) {
    return static_cast<Cell>(adjoint + ADJOINT_ZERO);
}
template <class Cell>
INLINE Cell pack_cell(int32_t adjoint, int32_t count) {
    return static_cast<Cell>(adjoint + ADJOINT_ZERO + ((count - (count > 0)) << ADJOINT_BITS));
}

// What was packed, where the cell is read at all: a cell without pixels has adjoint 0.
INLINE int32_t unpack_adjoint(int32_t cell) { return (cell & ((1 << ADJOINT_BITS) - 1)) - ADJOINT_ZERO; }
INLINE int32_t unpack_count(int32_t cell) { return (cell >> ADJOINT_BITS) + 1; }

// Of a block of codes the pixels that a term's gradient reaches: those with a sign of p - g, and valid ones.
template <class T>
INLINE Mask<T> touched(const Bytes& code) {
    uint8_t bits[LANES];
    store_as<Bytes>(bits, code ^ all_bytes(1 << SIGN_D));
    return mask_of<T>(bits, VALID_BIT | 3 << SIGN_D);
}

// What the backward adds for the signs and flags of a pixel, of an image with coefficients c: numbers of all
// combinations, looked up by half a code.
template <class T>
class Fold {
    // Lower half: signs of r and p - g; what a tie has less of. Upper half: sign of p - mu_p, valid.
    Table<T> lower, upper, tie_;

public:
    // signs_of_r: the gradient of the relative term is its sign.
    Fold(const double* c, bool aligned, bool signs_of_r) {
        for (int i = 0; i < 16; i++) {
            const int first = (i & 3) - 1, second = (i >> 2 & 3) - 1;
            const double r = first && signs_of_r ? first * c[REL_WEIGHT] * c[SCALE] : 0,
                         d = second ? second * c[ABS_WEIGHT] : 0;
            const double mean =
                first ? c[MEAN_WEIGHT] + first * c[SIGN_WEIGHT] : c[MEAN_WEIGHT] + c[TIE_WEIGHT];
            lower.value[i] = static_cast<T>(r + d);
            tie_.value[i] = static_cast<T>(r * (c[SHARE] - 1));
            upper.value[i] = static_cast<T>(aligned && i & VALID_BIT >> 4 ? -mean * c[SCALE] : 0);
        }
    }
    INLINE Vec<T> of(const Bytes& code) const {
        return look_up<0>(lower, code) + look_up<4, true>(upper, code);
    }
    // Of a trim, what ties are to get beside it.
    INLINE Vec<T> tie(const uint8_t* code) const {
        return select(mask_of<T>(code, READ_BIT), look_up<0>(tie_, load_as<Bytes>(code)));
    }
};

}  // namespace DL_ISA
