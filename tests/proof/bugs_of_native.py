"""Bugs of the native engine."""

from __future__ import annotations

from .bug import of

NATIVE = ("native", "ties", "native, hard", "native, random")
BUGS = [
    *of(
        "kernels/cpu/finish.cpp",
        NATIVE,
        ("the slope of a fit has the wrong sign", "c[BY_P] = -2 * a0 * by;", "c[BY_P] = 2 * a0 * by;"),
        (
            "the normaliser of mask residual counts pixels, not cells",
            "cells * (plan.gradient_mask == RESIDUAL ? unit(plan, k) : 1)",
            "cells * (plan.gradient_mask == RESIDUAL ? unit(plan, 0 * k) : 1)",
        ),
        (
            "the eps of a pooled mean is dropped",
            "return eps > 0 ? n + eps : at_least_one(n);",
            "return eps > 0 ? n : at_least_one(n);",
        ),
        (
            "each tie with a median gets the whole gradient",
            "c[TIE_WEIGHT] = shift / image.ties;",
            "c[TIE_WEIGHT] = shift;",
        ),
        (
            "the gradient of a log-variance has the wrong sign",
            "on ? 0.5 - 0.5 * precision * loss : 0",
            "on ? 0.5 * precision * loss - 0.5 : 0",
        ),
    ),
    *of(
        "kernels/cpu/finish.cpp",
        ("ranks",),
        ("the gradient of a joined batch lacks its factor", "for (double& f : factor) f *= call.world;", ""),
    ),
    *of(
        "kernels/cpu/statistics.cpp",
        NATIVE,
        ("the standardisation lacks its eps", ": x + plan.eps;", ": x;"),
        (
            "ties with the threshold of a trim count whole",
            "(kept - static_cast<double>(s.below[0])) / static_cast<double>(s.ties[0])",
            "1 + 0 * kept",
        ),
    ),
    *of(
        "kernels/cpu/align.hpp",
        NATIVE,
        ("the upper median", "middle = n > 0 ? (n - 1) / 2 : 0;", "middle = n > 0 ? n / 2 : 0;"),
    ),
    *of(
        "kernels/cpu/select.hpp",
        NATIVE,
        ("-0 is not 0 in a median", "const Vec<T> x = given + all(T(0));", "const Vec<T> x = given;"),
    ),
    *of(
        "kernels/cpu/moments.hpp",
        NATIVE,
        (
            "the mean of a moments term counts invalid pixels",
            "part = part + weigh(i, here, select(here, load(x + i)));",
            "part = part + weigh(i, here, load(x + i));",
        ),
    ),
    *of(
        "kernels/cpu/penalty.hpp",
        NATIVE,
        (
            "the slope of Huber's penalty beyond δ is 1",
            "select(small, x.r, delta * sign_of(x.r))",
            "select(small, x.r, sign_of(x.r))",
        ),
    ),
    *of(
        "kernels/cpu/forward.hpp",
        ("native, large",),
        (
            "a band does not see the row above it",
            "const int64_t first = y0 > 0 ? y0 - 1 : 0;",
            "const int64_t first = y0;",
        ),
    ),
    *of(
        "kernels/cpu/gradient.hpp",
        NATIVE,
        (
            "the gradient of the coarsest level is dropped",
            "for (int k = plan.levels - 1; k >= 1; k--) {",
            "for (int k = plan.levels - 2; k >= 1; k--) {",
        ),
        (
            "height and width change places in nearest",
            "const int64_t H = work.call->H, h_k = work.layout->h[k], w_k",
            "const int64_t H = work.call->W, h_k = work.layout->h[k], w_k",
        ),
    ),
    *of(
        "kernels/cpu/codes.hpp",
        NATIVE,
        (
            "the valid pixels of a cell are one fewer",
            "((count - (count > 0)) << ADJOINT_BITS));",
            "((count - 1 - (count > 1)) << ADJOINT_BITS));",
        ),
    ),
    *of(
        "kernels/cpu/sobel.hpp",
        ("native, large",),
        (
            "the halo of a band is one row short",
            "const int64_t first = y0 > 0 ? y0 - 1 : 0, last = y1 < h ? y1 : h - 1;",
            "const int64_t first = y0, last = y1 < h ? y1 : h - 1;",
        ),
    ),
    *of(
        "kernels/cpu/threads.cpp",
        NATIVE,
        (
            "a thread leaves its last piece",
            "turns ? (count - i + shares - 1) / shares :",
            "turns ? (count - i) / shares :",
        ),
    ),
]
