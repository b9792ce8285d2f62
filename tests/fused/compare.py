"""Evaluate a spec with a backend, hold two evaluations against each other, find the pixels that hang on
rounding.

In float64 the kernels must equal the reference to 1e-12 (loss, metrics) and 1e-10 (gradients). In the other
dtypes the rule is relative to an oracle, the float64 reference on the same values: the error may be twice
that of the reference in the dtype itself, plus a few roundings: 32 ulp of float32 for a number, because the
kernels pool p and g before they subtract them and the reference pools the difference; for a gradient,
relative to its largest entry, the coarser rounding of its dtype and the loss's: two ulp in float32, the one
rounding of the result in half precision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import depthloss as dl
from depthloss import dispatch
from depthloss.maps import convert, log_ratio, select, valid_pixels, working_dtype
from depthloss.reference import pyramid
from depthloss.reference.alignment import aligned_residual
from depthloss.reference.statistics import (
    LOCAL,
    least_squares,
    mean_per_image,
    median_per_image,
    standardise,
    trim_weights,
)
from depthloss.spec import Domain, Gradient, LossSpec, Pixel, Term
from depthloss.spec.penalty import OF_LARGEST

ULPS = 64
OF_A_NUMBER = 2.0**-18
# Triton's interpreter truncates to bfloat16, the compiled kernels round.
ROUNDING = {
    torch.float32: 2.0**-22,
    torch.bfloat16: 2.0**-8 if torch.cuda.is_available() else 2.0**-7,
    torch.float16: 2.0**-11,
}


# The errors that count beside the largest entry, and which number of a result they are of.
_GRADIENTS = {"gradient": "grad", "of_confidence": "of_confidence"}


class Inputs(NamedTuple):
    """What a loss is called with."""

    pred: Tensor
    gt: Tensor
    mask: Tensor | None = None
    abs_mask: Tensor | None = None
    weight: Tensor | None = None
    confidence: Tensor | None = None

    def double(self) -> Inputs:
        floats = {name: getattr(self, name) for name in ("pred", "gt", "weight", "confidence")}
        return self._replace(**{name: x if x is None else x.double() for name, x in floats.items()})

    def to(self, device: str) -> Inputs:
        return Inputs(*(x if x is None else x.to(device) for x in self))

    @property
    def extras(self) -> dict[str, Tensor | None]:
        """The keywords of a call."""
        return {"weight": self.weight, "confidence": self.confidence}


class Result(NamedTuple):
    """What comes of it, detached."""

    total: Tensor
    terms: Tensor
    grad: Tensor
    log_vars: Tensor
    of_confidence: Tensor


def evaluate(
    backend: str, inputs: Inputs, spec: LossSpec, weights: tuple[float, ...], log_vars: tuple[float, ...] = ()
) -> Result:
    """Loss, metrics and all gradients; of a loss of [B], whose images get upstream gradients of their own."""
    pred = inputs.pred.detach().requires_grad_()
    extras = dict(inputs.extras)
    if inputs.confidence is not None:
        extras["confidence"] = inputs.confidence.detach().requires_grad_()
    dtype = working_dtype(pred, inputs.gt)
    parameters = [torch.tensor(v, dtype=dtype, device=pred.device, requires_grad=True) for v in log_vars]
    with dl.use_backend(backend):
        total, terms = dispatch.evaluate(pred, *inputs[1:4], spec, weights, parameters, **extras)
        images = torch.arange(len(pred), dtype=dtype, device=pred.device) - 0.7
        total.backward(images if spec.by_image else None)
    assert (
        total.shape == ((len(pred),) if spec.by_image else ())
        and total.dtype == terms.dtype == dtype
        and not terms.requires_grad
    )
    assert pred.grad.dtype == pred.dtype and pred.grad.shape == pred.shape
    gradients = torch.stack([v.grad for v in parameters]) if parameters else terms[:0]
    of_confidence = pred.new_empty(0)
    if (c := extras["confidence"]) is not None:
        of_confidence = c.grad
        assert of_confidence.dtype == c.dtype and of_confidence.shape == c.shape
    return Result(total.detach(), terms, pred.grad, gradients, of_confidence)


def _largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def _errors(result: Result, oracle: Result, skip: Tensor | None) -> dict[str, Tensor]:
    """Relative errors: of every number by itself, of the gradients by their largest entries."""
    smallest = torch.finfo(torch.float32).smallest_normal

    def of_largest(x: Tensor, expected: Tensor) -> Tensor:
        scale = expected.abs().amax().clamp(min=smallest) if expected.numel() else 1.0
        return (x.double() - expected) / scale

    grad = of_largest(result.grad, oracle.grad)
    errors = {
        "gradient": grad if skip is None else grad.masked_fill(skip, 0.0),
        "of_confidence": of_largest(result.of_confidence, oracle.of_confidence),
    }
    # The derivative by a log-variance, 1/2 - exp(-s)/2 L, is a difference of numbers as large as 1/2.
    for name, least in (("total", 1e-3), ("terms", 1e-3), ("log_vars", 0.5)):
        expected = getattr(oracle, name)
        errors[name] = (getattr(result, name).double() - expected) / expected.abs().clamp(min=least)
    return {name: x.abs() for name, x in errors.items()}


def assert_agrees(
    spec: LossSpec, result: Result, eager: Result, oracle: Result, skip: Tensor | None = None
) -> None:
    """Hold `result` against `oracle`, the float64 reference; `eager` is the reference in the result's dtypes.

    `skip`: pixels whose gradient is not compared.
    """
    finite = (x.isfinite().all() for x in (oracle.total, oracle.grad, oracle.of_confidence))
    assert all(finite), "the oracle itself is not finite"
    least = {torch.float64: 1e-10, **ROUNDING}
    # A gradient is rounded to its own dtype, and computed in that of the loss.
    rounding = {
        name: max(least[getattr(result, field).dtype], least[result.total.dtype])
        for name, field in _GRADIENTS.items()
    }
    names = {"terms": spec.metric_names}
    found = _errors(result, oracle, skip)
    if result.grad.dtype == result.total.dtype == torch.float64:
        limits = {name: torch.full_like(x, rounding.get(name, 1e-12)) for name, x in found.items()}
    else:
        limits = {
            name: torch.zeros_like(x)
            + 2.0 * (_largest(x) if name in _GRADIENTS else x)
            + rounding.get(name, OF_A_NUMBER)
            for name, x in _errors(eager, oracle, skip).items()
        }
    for name, error in found.items():
        # A gradient that does not fit into float16 does not fit in the reference either.
        excess = torch.where(limits[name].isinf(), 0.0, torch.nan_to_num(error - limits[name], nan=torch.inf))
        if error.numel() and _largest(excess.clamp(min=0.0)) > 0:
            worst = excess.argmax().item()
            what = names[name][worst] if name in names else name
            limit = limits[name].flatten()[worst].item()
            raise AssertionError(f"{what}: error {error.flatten()[worst].item():.3e}, allowed {limit:.3e}")


def _near(x: Tensor, magnitude: Tensor | float, eps: float) -> Tensor:
    """Where x is not 0 but so small beside `magnitude` that another rounding may give it another sign."""
    return (x != 0) & (x.abs() < ULPS * eps * magnitude)


def _near_bounds(t: Term, p: Tensor, m: Tensor, eps: float) -> Tensor:
    """Pixels whose prediction lies near a bound of the domain or a clamp, but not on it."""
    free = convert(p, m, Domain(t.domain.conversion))
    near = torch.zeros_like(m)
    for bound in (t.domain.minimum, t.domain.maximum, t.domain.floor):
        if bound is not None:
            near |= m & _near(free - bound, bound, eps)
    return near if t.domain.conversion == "identity" else near | (m & _near(p - 1e-6, 1e-6, eps))


def _near_sobel(spec: dl.GradientSpec, r: Tensor, magnitude: Tensor, m: Tensor, eps: float) -> Tensor:
    """Pixels that a Sobel response near 0 reads, at any level."""
    near = torch.zeros_like(m)
    ones = r.new_tensor([[[[1.0, 0.0, 1.0], [2.0, 0.0, 2.0], [1.0, 0.0, 1.0]]]])
    for level in range(spec.num_scales):
        h, w = r.shape[1] >> level, r.shape[2] >> level
        if min(h, w) < (3 if spec.border == "valid" else 1):
            continue
        cells, sizes = (pyramid.downsample(x, level, spec.downsample) for x in (r, magnitude))
        if spec.mask == "support":
            weight = pyramid.downsample(m.to(r.dtype), level, spec.downsample)
            cells, sizes = (select(weight > 0, x / select(weight > 0, weight, 1.0)) for x in (cells, sizes))
        sizes = pyramid.pad(sizes, spec.border)[:, None]
        # Values of few bits can cancel exactly; once rounded, only equal values still do.
        rounded = pyramid.pad(cells.float() * 0.7, spec.border)
        found = torch.zeros_like(cells, dtype=torch.bool)
        responses = zip(pyramid.sobel(pyramid.pad(cells, spec.border)), pyramid.sobel(rounded), strict=True)
        for (response, again), kernel in zip(responses, (ones, ones.mT), strict=True):
            hit = _near(response, F.conv2d(sizes, kernel)[:, 0], eps)
            hit |= (response.sign() != again.sign()) & (eps > 1e-8)
            found |= F.pad(hit, (1, 1, 1, 1)) if spec.border == "valid" else hit
        # The window of a response, and one more cell: nearest leaves its cell where the factor does not
        # divide.
        reach = F.max_pool2d(found[:, None].to(r.dtype), 5, 1, 2)
        near |= F.interpolate(reach, size=r.shape[1:], mode="nearest")[:, 0] > 0
    return near


def _near_forward(spec: dl.GradientSpec, r: Tensor, magnitude: Tensor, m: Tensor, eps: float) -> Tensor:
    """Pixels whose forward difference, or that of a neighbour, is near 0 at any level."""
    near = torch.zeros_like(m)
    for level in range(spec.num_scales):
        cells, sizes, v = (pyramid.downsample(x, level, "strided") for x in (r, magnitude, m))
        found = torch.zeros_like(v)
        for axis in (1, 2):
            first, second = (slice(None),) * axis + (slice(0, -1),), (slice(None),) * axis + (slice(1, None),)
            pairs = v[first] & v[second]
            hit = pairs & _near(cells[second] - cells[first], sizes[first] + sizes[second], eps)
            found[first] |= hit
            found[second] |= hit
        near[:, :: 1 << level, :: 1 << level] |= found
    return near


def _near_alignment(t: Term, p: Tensor, g: Tensor, m: Tensor, eps: float, w: Tensor | None) -> Tensor:
    """Pixels near what an alignment divides them by, or all of an image whose fit is near a bound."""
    if t.align in ("mean", "median"):
        centre = median_per_image(select(m, p), m) if t.align == "median" else mean_per_image(p, m, w)
        dev = select(m, p - centre[:, None, None])
        near = _near(dev, select(m, p.abs()), eps)
        if t.align == "median" and t.scale_floor == "max":
            scale = dev.abs().sum((1, 2)) / m.sum((1, 2)).clamp(min=1)
            near |= m & _near(scale - t.align_eps, t.align_eps, eps)[:, None, None]
        return near
    fit = t.align == "least-squares"
    scale = least_squares(select(m, p), select(m, g), m, 0.0 if fit else t.align_eps, w)[0]
    bounds = () if fit else (0.1, 10.0)
    near = torch.zeros_like(scale, dtype=torch.bool)
    for bound in bounds:
        near |= _near(scale - bound, bound, eps)
    # A fit of one or two pixels leaves rounding alone.
    near |= m.sum((1, 2)) <= 3
    mean = mean_per_image(select(m, p), m)[:, None, None]
    spread = select(m, p - mean).square().sum((1, 2)) / m.sum((1, 2)).clamp(min=1)
    near |= (spread.sqrt() < 16 * 4 * eps * mean[:, 0, 0].abs()) & (spread > 0)
    return m & near[:, None, None]


def _near_trim(t: Pixel, r: Tensor, magnitude: Tensor, m: Tensor, eps: float) -> Tensor:
    """All pixels of an image (or of the batch) where another one is near the threshold of the trim."""
    if not r.numel():
        return m
    d = select(m, r.abs())
    weights, _ = trim_weights(d, m, t.trim, t.trim_over, LOCAL)
    batch = t.trim_over == "batch"
    kept = select(weights > 0, d, -1.0)
    tau = kept.amax() if batch else kept.flatten(1).amax(1)[:, None, None]
    near = m & _near(d - tau, magnitude, eps)
    return near.any() & m if batch else near.flatten(1).any(1)[:, None, None] & m


def near_kinks(spec: LossSpec, inputs: Inputs) -> Tensor:
    """Pixels [B, H, W] whose gradient hangs on the sign of a number that, in float64, is not 0 but under 64
    ulp of what it was subtracted from; ulp of the dtype that the inputs are evaluated in.
    """
    eps = torch.finfo(working_dtype(inputs.pred, inputs.gt)).eps
    p, g, mask, abs_mask, w, _ = (dispatch.as_maps(x) for x in inputs.double())
    valid = valid_pixels(g, mask, spec.positive_gt)
    m = torch.ones_like(valid) if spec.statistics == "all" else valid
    v_abs = valid if abs_mask is None else valid_pixels(g, abs_mask, spec.positive_gt)
    if w is not None:
        m, v_abs = m & (w != 0), v_abs & (w != 0)
    near = torch.zeros_like(valid)
    for t in spec.terms:
        here = v_abs if t.mask == "abs_mask" else m
        aligned = t.align != "none"
        plain = replace(t.domain, log=None, floor=None)
        p_d, g_d = (convert(x, here, t.domain if aligned else plain) for x in (p, g))
        near |= _near_bounds(t, p, here, eps)
        difference, size = select(here, p_d - g_d), select(here, p_d.abs() + g_d.abs())
        if isinstance(t, Pixel) and t.align == "none" and t.domain.conversion != "identity":
            near |= _near(difference, size, eps)
        if isinstance(t, Pixel) and t.penalty.kind in OF_LARGEST:
            c = t.penalty.a * difference.abs().max() if difference.numel() else 0.0
            near |= here & _near(difference.abs() - c, c, eps)
        if t.align == "none" and not isinstance(t, Gradient) and not (isinstance(t, Pixel) and t.trim):
            continue
        keep = m
        if isinstance(t, Gradient) and t.gradient.mask == "centre":
            keep = m | (p_d.isfinite() & g_d.isfinite())
        r, magnitude = difference, size
        if aligned:
            near |= _near_alignment(t, p_d, g_d, m, eps, w)
            r = aligned_residual(p_d, g_d, m, t.alignment, keep, w)
            z_p, z_g = (standardise(x, m, t.align_eps, keep, w) for x in (p_d, g_d))
            fitted = t.align in ("least-squares", "packnet-trim")
            magnitude = select(keep, g_d.abs()) + r.abs() if fitted else z_p.abs() + z_g.abs() + r.abs()
        elif t.domain.log is not None:
            r = log_ratio(p, g, m, t.domain)
            magnitude = select(m, r.abs() + 1.0)
        else:
            r, magnitude = (select(keep, x) for x in (p_d - g_d, p_d.abs() + g_d.abs()))
        if isinstance(t, Gradient):
            forward = t.gradient.stencil == "forward"
            near |= (_near_forward if forward else _near_sobel)(t.gradient, r, magnitude, m, eps)
            continue
        near |= m & _near(r, magnitude, eps)
        if t.penalty.kind in ("smooth-l1", "huber"):
            near |= m & _near(r.abs() - t.penalty.a, magnitude + t.penalty.a, eps)
        if t.trim:
            near |= _near_trim(t, r, magnitude, m, eps)
    return near
