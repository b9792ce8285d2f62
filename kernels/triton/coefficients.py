"""What the forward leaves for the backward beside the codes: HEAD numbers, then COEFFICIENTS per image."""

import triton.language as tl

# Of the batch.
KAPPA = tl.constexpr(0)  # [8] levels
LOG_VAR = tl.constexpr(8)  # [8] groups: d total/d s
HEAD = tl.constexpr(16)
# Per image.
ABS_WEIGHT = tl.constexpr(0)
REL_WEIGHT = tl.constexpr(1)
SCALE = tl.constexpr(2)
MEAN_WEIGHT = tl.constexpr(3)
SIGN_WEIGHT = tl.constexpr(4)
DIFF_SLOPE = tl.constexpr(5)
DIFF_CENTRE = tl.constexpr(6)
DIFF_SHIFT = tl.constexpr(7)
LOG_SLOPE = tl.constexpr(8)
LOG_CENTRE = tl.constexpr(9)
LOG_SHIFT = tl.constexpr(10)
POINT_WEIGHT = tl.constexpr(11)
POINT_THRESHOLD = tl.constexpr(12)
COEFFICIENTS = tl.constexpr(13)
