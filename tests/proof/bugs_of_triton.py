"""Bugs of the Triton engine."""

from __future__ import annotations

from .bug import of

TRITON = ("triton", "triton, medians", "triton, exact", "triton, matrix")
BUGS = [
    *of(
        "kernels/triton/gradient.py",
        TRITON,
        ("the gradient of a level is dropped", "                        u += a3\n", ""),
    ),
    *of(
        "kernels/triton/sobel.py",
        TRITON,
        (
            "the halo is one row short",
            "first = tl.maximum(y0 - 1, 0).to(tl.int64)",
            "first = tl.maximum(y0, 0).to(tl.int64)",
        ),
    ),
    *of(
        "kernels/triton/rows.py",
        TRITON,
        (
            "the standardisation lacks its eps",
            "inv_p = divide(1.0, spread_p + PLAN.eps)",
            "inv_p = divide(1.0, spread_p)",
        ),
    ),
    *of(
        "kernels/triton/levels.py",
        TRITON,
        (
            "a cell of an average has 2^k pixels",
            "divide(one, (1 << (2 * k)).to(ACC))",
            "divide(one, (1 << k).to(ACC))",
        ),
    ),
    *of(
        "kernels/triton/levels.py",
        TRITON,
        (
            "height and width change places in the place of a level",
            "next_first += tl.cdiv(w_k, COLUMNS) * tl.cdiv(h_k, TH)",
            "next_first += tl.cdiv(h_k, COLUMNS) * tl.cdiv(w_k, TH)",
        ),
    ),
    *of(
        "kernels/triton/pyramid.py",
        TRITON,
        (
            "the deviations of mask centre count invalid pixels",
            "sum_p += _fours(weighed(tl.where(m, tl.abs(dev_p), 0.0), m, w))",
            "sum_p += _fours(weighed(tl.abs(dev_p), m, w))",
        ),
    ),
    *of(
        "kernels/triton/finish.py",
        TRITON,
        (
            "each tie with a median gets the whole gradient",
            "tl.store(row + TIE_WEIGHT, _over(of_centre, ties), mask=here)",
            "tl.store(row + TIE_WEIGHT, of_centre + 0.0 * ties, mask=here)",
        ),
    ),
    *of(
        "kernels/triton/finish.py",
        ("emulator",),
        (
            "a barrier is missing",
            "        tl.debug_barrier()  # The totals are read by threads that did not write them.\n",
            "        pass\n",
        ),
    ),
    *of(
        "kernels/triton/histogram.py",
        TRITON,
        ("the upper median", "return tl.maximum(n - 1, 0) // 2", "return n // 2"),
        ("-0 is not 0 in a median", "x = tl.where(x == 0, 0.0, x).to(x.dtype)", "x = x.to(x.dtype)"),
    ),
    *of(
        "kernels/triton/codes.py",
        TRITON,
        (
            "the statistics' share has the wrong sign",
            "            u -= deviation\n",
            "            u += deviation\n",
        ),
        (
            "ties with the threshold of a trim count whole",
            "(c & TIE_BIT) != 0, signed * of_image.share, signed)",
            "(c & TIE_BIT) != 0, signed * 1.0, signed)",
        ),
        ("the fold of a border keeps its sign", "folded + 2 - 2 * (folded & 3)", "folded"),
        ("the high byte of a count weighs 8", "(c >> 4) + 1 + 16 * high", "(c >> 4) + 1 + 8 * high"),
    ),
    *of(
        "kernels/triton/totals.py",
        TRITON,
        (
            "the spread between programs is left out",
            "spread = tl.sum(programs(moments, SPREAD + i, b, B, NP, R, NPP) + n_j * d * d, 1)",
            "spread = tl.sum(programs(moments, SPREAD + i, b, B, NP, R, NPP) + 0.0 * n_j, 1)",
        ),
        (
            "n/(n - 1) is n/n",
            "divide(n, tl.where(n > 2, n - 1.0, 1.0))",
            "divide(n, tl.where(n > 2, n, 1.0))",
        ),
    ),
    *of(
        "kernels/triton/combine.py",
        ("triton, Kendall",),
        (
            "the log-variance counts twice",
            "0.5 * precision * loss + 0.5 * v, 0.0)",
            "0.5 * precision * loss + v, 0.0)",
        ),
    ),
    *of(
        "kernels/triton/penalty.py",
        TRITON,
        (
            "large residuals count once",
            "tl.where(large, _sign(r) + 2.0 * r, _sign(r)), large",
            "tl.where(large, _sign(r) + 2.0 * r, _sign(r)), r != r",
        ),
    ),
    *of(
        "kernels/triton/joined.py",
        ("triton ranks",),
        (
            "the spread between ranks is left out",
            "spread_about(tl.sum(spread_r + n_r * d * d), n, shift)",
            "spread_about(tl.sum(spread_r), n, shift)",
        ),
    ),
]
