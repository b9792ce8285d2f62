"""What the forward leaves for the backward beside the codes: HEAD numbers, then COEFFICIENTS per image."""

import triton.language as tl

from ..plan import MOST

# Of the batch.
KAPPA = tl.constexpr(0)  # [8] levels
LOG_VAR = tl.constexpr(8)  # [8] groups: d total/d s
LARGEST = tl.constexpr(16)  # [MOST] pixel terms: what their penalties make of the largest residual
HEAD = tl.constexpr(16 + MOST)
# Per image.
ABS_WEIGHT = tl.constexpr(0)
REL_WEIGHT = tl.constexpr(1)
SCALE = tl.constexpr(2)
MEAN_WEIGHT = tl.constexpr(3)
SIGN_WEIGHT = tl.constexpr(4)
SLOPE = tl.constexpr(5)  # [MOST] moments, as the next two
CENTRE = tl.constexpr(5 + MOST)
SHIFT = tl.constexpr(5 + 2 * MOST)
PIXEL_WEIGHT = tl.constexpr(5 + 3 * MOST)  # [MOST] pixel terms
COEFFICIENTS = tl.constexpr(5 + 4 * MOST)
