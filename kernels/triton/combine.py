"""From the values of the terms to the total: weights, groups, learnable variances, metrics.

    group: L = sum w value;   total = sum W L,   or sum exp(-s)/2 L + s/2 with d total/d s = 1/2 - exp(-s)/2 L

A group below its `min_valid` counts nothing. Runs inside the finishing kernel.
"""

import triton
import triton.language as tl

from .. import plan as p
from .coefficients import LOG_VAR
from .device import divide

GRADIENT = tl.constexpr(p.GRADIENT)


@triton.jit
def _weight(weights, WHICH: tl.constexpr, N: tl.constexpr, BY_POINTER: tl.constexpr, ACC: tl.constexpr):
    """Weight WHICH of N: from memory, or an argument, whose bits come in float64 as three whole numbers."""
    if BY_POINTER:
        return tl.load(weights[0] + WHICH).to(ACC)
    elif ACC == tl.float64:
        zero = tl.full((), 0.0, tl.float32)
        high = (zero + weights[WHICH]).to(tl.int64) << 42
        middle = (zero + weights[N + WHICH]).to(tl.int64) << 21
        return (high | middle | (zero + weights[2 * N + WHICH]).to(tl.int64)).to(tl.float64, bitcast=True)
    else:
        return tl.full((), 0.0, ACC) + weights[WHICH]


@triton.jit
def _entry(terms, weights, value, shown, levels, kept, open_, GROUP: tl.constexpr, E: tl.constexpr,
           PLAN: tl.constexpr, BY_POINTER: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Store one term's metrics; return its gated value and its weight."""
    ENTRY: tl.constexpr = PLAN.groups[GROUP].entries[E]
    weight = _weight(weights, ENTRY.weight, PLAN.num_weights, BY_POINTER, ACC)
    gate = open_ | ENTRY.always
    value = tl.where(gate, value, 0.0)
    tl.store(terms + ENTRY.slot, tl.where(gate, shown, 0.0))
    if ENTRY.weight_slot >= 0:
        tl.store(terms + ENTRY.weight_slot, weight)
    if ENTRY.place == GRADIENT and PLAN.parts:
        part = terms + (ENTRY.slot + 1 + (ENTRY.weight_slot >= 0))
        k = tl.arange(0, 8)
        tl.store(part + k, tl.where(gate, levels, 0.0), mask=k < PLAN.levels)
        if PLAN.sobel_mask != "residual":
            kept = tl.where(gate, kept, 0.0)
        tl.store(part + PLAN.levels + k, kept, mask=k < PLAN.levels)
    return value, tl.where(gate, weight, 0.0)


@triton.jit
def _add(loss, factors, factor, terms, weights, values, shown, levels, kept, open_, GROUP: tl.constexpr,
         E: tl.constexpr, PLAN: tl.constexpr, BY_POINTER: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """The group's loss with this term, and the factors with its own."""
    AT: tl.constexpr = PLAN.groups[GROUP].entries[E].place
    value, weight = _entry(
        terms, weights, values[AT], shown[AT], levels, kept, open_, GROUP, E, PLAN, BY_POINTER, ACC
    )
    return loss + weight * value, factors[:AT] + (factor * weight,) + factors[AT + 1 :]


@triton.jit
def _clamped_log_var(log_vars, GROUP: tl.constexpr, PLAN: tl.constexpr, ACC: tl.constexpr):
    v = tl.load(log_vars[GROUP]).to(ACC)
    BOUNDS: tl.constexpr = PLAN.log_var_bounds
    v = tl.where(v < BOUNDS[0], BOUNDS[0], v)
    return tl.where(v > BOUNDS[1], BOUNDS[1], v)


@triton.jit
def combine(terms, total_out, coefficients, weights, log_vars, n, values, shown, levels, kept,
            PLAN: tl.constexpr, BY_POINTER: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """The total from the terms' values; return the factor of each of them in it. Metrics are `shown`."""
    zero = tl.full((), 0.0, ACC)
    factors = ()
    for _ in tl.static_range(len(values)):
        factors = factors + (zero,)
    total = zero
    precisions = zero
    if PLAN.log_var_bounds is not None:
        for i in tl.static_range(len(PLAN.groups)):
            precisions += tl.exp(-_clamped_log_var(log_vars, i, PLAN, ACC))
    for i in tl.static_range(len(PLAN.groups)):
        loss = zero
        factor = zero
        gate = n >= PLAN.groups[i].min_valid
        if PLAN.log_var_bounds is not None:
            v = _clamped_log_var(log_vars, i, PLAN, ACC)
            precision = tl.exp(-v)
            factor = tl.where(gate & (n >= 1), 0.5 * precision, 0.0)
        else:
            factor = _weight(weights, PLAN.groups[i].weight, PLAN.num_weights, BY_POINTER, ACC)
        for e in tl.static_range(len(PLAN.groups[i].entries)):
            loss, factors = _add(
                loss,
                factors,
                factor,
                terms,
                weights,
                values,
                shown,
                levels,
                kept,
                gate,
                i,
                e,
                PLAN,
                BY_POINTER,
                ACC,
            )
        if PLAN.groups[i].slot >= 0:
            tl.store(terms + PLAN.groups[i].slot, loss)
        if PLAN.log_var_bounds is not None:
            on = gate & (n >= 1)
            total += tl.where(on, 0.5 * precision * loss + 0.5 * v, 0.0)
            tl.store(coefficients + LOG_VAR + i, tl.where(on, 0.5 - 0.5 * precision * loss, 0.0))
            tl.store(terms + PLAN.groups[i].sigma_slot, tl.exp(0.5 * v))
            tl.store(terms + PLAN.groups[i].weight_slot, divide(precision, precisions))
        else:
            total += factor * loss
    tl.store(terms + PLAN.count_slot, n)
    tl.store(terms + PLAN.total_slot, total)
    if not PLAN.by_image:
        tl.store(total_out, total)
    return factors
