"""What the forward leaves for the backward beside the codes: HEAD numbers, then COEFFICIENTS per image."""

import triton.language as tl

from .. import layout

# Of the batch.
KAPPA = tl.constexpr(layout.HEAD["KAPPA"])  # of the levels
LOG_VAR = tl.constexpr(layout.HEAD["LOG_VAR"])  # of the groups: d total/d s
LARGEST = tl.constexpr(
    layout.HEAD["LARGEST"]
)  # of the pixel terms: what their penalties make of the largest r
HEAD = tl.constexpr(layout.HEAD["SIZE"])
# Per image.
ABS_WEIGHT = tl.constexpr(layout.COEFFICIENT["ABS_WEIGHT"])
REL_WEIGHT = tl.constexpr(layout.COEFFICIENT["REL_WEIGHT"])
SCALE = tl.constexpr(layout.COEFFICIENT["SCALE"])
MEAN_WEIGHT = tl.constexpr(layout.COEFFICIENT["MEAN_WEIGHT"])
SIGN_WEIGHT = tl.constexpr(layout.COEFFICIENT["SIGN_WEIGHT"])
TIE_WEIGHT = tl.constexpr(layout.COEFFICIENT["TIE_WEIGHT"])  # of a pixel that equals the median
BY_P = tl.constexpr(layout.COEFFICIENT["BY_P"])  # of a fit, as the next: of p and g about MU_P and MU_G
BY_G = tl.constexpr(layout.COEFFICIENT["BY_G"])
MU_P = tl.constexpr(layout.COEFFICIENT["MU_P"])  # what the residual is made with, as the next three
MU_G = tl.constexpr(layout.COEFFICIENT["MU_G"])
INV_P = tl.constexpr(layout.COEFFICIENT["INV_P"])
INV_G = tl.constexpr(layout.COEFFICIENT["INV_G"])
SHARE = tl.constexpr(layout.COEFFICIENT["SHARE"])  # of a pixel at the threshold of a trim
LEVEL_WEIGHT = tl.constexpr(layout.COEFFICIENT["LEVEL_WEIGHT"])  # of the levels, of a gradient by images
SLOPE = tl.constexpr(layout.COEFFICIENT["MOMENTS_SLOPE"])  # of the moments terms, as the next two
CENTRE = tl.constexpr(layout.COEFFICIENT["MOMENTS_CENTRE"])
SHIFT = tl.constexpr(layout.COEFFICIENT["MOMENTS_SHIFT"])
PIXEL_WEIGHT = tl.constexpr(layout.COEFFICIENT["PIXEL_WEIGHT"])  # of the pixel terms
COEFFICIENTS = tl.constexpr(layout.COEFFICIENT["SIZE"])
