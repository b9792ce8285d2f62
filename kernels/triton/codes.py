"""The codes that the forward saves for the backward: packed, unpacked and folded here alone.

    pixel        uint16: sx | sy | sign r | sign(p - g) | sign dev_p, each plus 1 in two bits; bit 10 valid,
                 bit 11 read (mask centre), bit 12 a tie with the threshold of a trim, which r is 0 beyond
    coarse cell  byte: sx + 1 | sy + 1 | low 4 bits of (count - 1) (mask support); the high bits of a count
                 that needs them in a byte of their own

Rows have one halo cell on both sides, which holds what the adjoint of the border folds back.
"""

import triton
import triton.language as tl

from .inputs import weighed

VALID_BIT = tl.constexpr(1024)
READ_BIT = tl.constexpr(2048)
TIE_BIT = tl.constexpr(4096)
NO_SIGNS = tl.constexpr(341)  # every sign + 1: 1 + 4 + 16 + 64 + 256
NO_RESPONSE = tl.constexpr(5)
_BIG = tl.constexpr(0x4B000000)  # 2^23 as float32


# ---- packing -----------------------------------------------------------------------------------------------
@triton.jit
def signs_of_pixel(s_r, s_d, s_p):
    """The signs of r, p - g and dev_p as one number; those of the responses follow."""
    four = tl.full(s_r.shape, 4.0, s_r.dtype)
    # Exact products of small integers, here and below: nothing is rounded.
    return tl.fma(tl.fma(s_p, four, s_d), four, s_r)


@triton.jit
def flags_of_pixel(m, keep, tie, PLAN: tl.constexpr):
    """The bits of the valid pixels, of those that are read, and of ties."""
    bits = tl.where(m, VALID_BIT, 0)
    if PLAN.reads_invalid:
        bits = bits | tl.where(keep, READ_BIT, 0)
    if PLAN.trim > 0:
        bits = bits | tl.where(tie, TIE_BIT, 0)
    return bits


@triton.jit
def pack_pixel(sx, sy, signs, flags):
    """The code of a pixel."""
    four = tl.full(sx.shape, 4.0, sx.dtype)
    return tl.fma(tl.fma(signs, four, sy), four, sx).to(tl.int32) + NO_SIGNS + flags


@triton.jit
def pack_cell(sx, sy, more, PLAN: tl.constexpr):
    """The code of a cell; `more`: its count - 1."""
    c = tl.fma(sy, tl.full(sx.shape, 4.0, sx.dtype), sx).to(tl.int32) + NO_RESPONSE
    if PLAN.sobel_mask == "support":
        c = c | (more & 15) << 4
    return c


@triton.jit
def pack_high(more):
    """What of count - 1 a cell's code has no room for."""
    return (more >> 4).to(tl.uint8)


@triton.jit
def folded_edge(c, own, source):
    """Codes [S, 32] of a row with its halo; of border replicate it takes its neighbour's, sx negated."""
    folded = tl.gather(c, source, 1)
    return tl.where(own, c, folded + 2 - 2 * (folded & 3))


# ---- unpacking ---------------------------------------------------------------------------------------------
@triton.jit
def _field(c, MASK: tl.constexpr):
    """2^23 + a field of the code c, in float32; integers that a loop carries LLVM packs in halves."""
    return (c & MASK | _BIG).to(tl.float32, bitcast=True)


@triton.jit
def unpack_row(code, PLAN: tl.constexpr):
    """Of one row of codes: adjoint differences of sx and smooth sums of sy along x, and the codes themselves.

    Sx^T: left neighbour less right; Sy^T: 1 2 1. Of forward differences: left neighbour less own; own. The
    offset of sy cancels between rows.
    """
    c_l = tl.load(code - 1).to(tl.int32)
    c = tl.load(code).to(tl.int32)
    middle = _field(c, 12)
    if PLAN.forward:
        return _field(c_l, 3) - _field(c, 3), middle, c
    else:
        c_r = tl.load(code + 1).to(tl.int32)
        # Multiples of 4, 2^23 above small ones: exact below 2^26.
        ends = _field(c_l, 12) + _field(c_r, 12)
        return _field(c_l, 3) - _field(c_r, 3), ends + (middle + middle), c


@triton.jit
def beyond(d, s, outside, PLAN: tl.constexpr):
    """The row's d and s; of a row outside the image, which are the edge row's, what stands for it."""
    FIELDS: tl.constexpr = 1.0 if PLAN.forward else 4.0
    NONE: tl.constexpr = FIELDS * (2**23 + 4)  # of signs 0
    if PLAN.edge == "replicate":
        return d, tl.where(outside, 2 * NONE - s, s)
    else:
        return tl.where(outside, 0.0, d), tl.where(outside, NONE, s)


@triton.jit
def adjoint(d0, d1, d2, s0, s1, s2, PLAN: tl.constexpr):
    """Sx^T sx + Sy^T sy from three rows' differences and smooth sums, whole numbers."""
    if PLAN.forward:
        return d1 + 0.25 * (s0 - s1)
    else:
        return (d0 + d2) + (d1 + d1) + 0.25 * (s0 - s2)


@triton.jit
def unpack_count(c, high):
    """The valid pixels of a cell that counts them."""
    return (c >> 4) + 1 + 16 * high


@triton.jit
def unpack_valid(c):
    """The valid pixels."""
    return (c & VALID_BIT) != 0


@triton.jit
def touched(c):
    """The pixels that a term's gradient reaches: valid ones, and those with a sign of p - g."""
    return ((c & VALID_BIT) != 0) | ((c & 192) != 64)


@triton.jit
def part_of_trim(c, share):
    """How much the kept pixels count: those beyond the threshold have no sign of r."""
    return tl.where((c & 48) != 16, tl.where((c & TIE_BIT) != 0, share, 1.0), 0.0)


# ---- folding -----------------------------------------------------------------------------------------------
@triton.jit
def fold(c, u, again, w, of_image, PLAN: tl.constexpr, ACC: tl.constexpr):
    """dL/dd of the structure terms from a code, the sum over levels u, and `again`, what p and g say of it;
    w: (weights,) or ().

    A field of the code is (sign + 1) << bit: with the weight scaled by that power of two, one fused
    multiply-add gives sign * weight exactly.
    """
    zero = tl.zeros_like(u)
    v = unpack_valid(c)
    if PLAN.reads_invalid:
        u = tl.where((c & READ_BIT) != 0, u, 0.0)
    if PLAN.relative is not None and PLAN.of_signs:
        w_r = of_image.relative
        signed = tl.fma((c & 48).to(ACC), zero + w_r * 0.0625, zero - w_r)
        if PLAN.trim > 0:
            signed = tl.where((c & TIE_BIT) != 0, signed * of_image.share, signed)
        u += weighed(signed, v, w)
    if PLAN.aligned:
        w_s = of_image.sign
        of_mean = zero + (of_image.mean - w_s)
        if PLAN.by_median:
            # Of the pixels that equal the median.
            of_mean = tl.where((c & 768) == 256, of_image.mean, 0.0) - w_s
        if PLAN.fits:
            deviation = zero + of_image.mean
        else:
            deviation = tl.fma((c & 768).to(ACC), zero + w_s * 0.00390625, of_mean)
        if PLAN.reads_invalid or len(w) > 0:
            u -= weighed(tl.where(v, deviation, 0.0), v, w)
        else:
            u -= deviation
    if not PLAN.reads_invalid:
        u = tl.where(v, u, 0.0)
    u = u * of_image.scale
    if not PLAN.of_signs:
        u += again
    if PLAN.absolute is not None:
        w_a = of_image.absolute
        u += weighed(tl.fma((c & 192).to(ACC), zero + w_a * 0.015625, zero - w_a), (c & 192) != 64, w)
    return u
