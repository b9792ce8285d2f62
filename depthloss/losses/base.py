"""What all loss modules share: the spec, the choice of backend and the metrics."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, overload

import torch.distributed as dist
from torch import Tensor, nn
from torch.compiler import is_compiling, is_dynamo_compiling

from .. import dispatch, transforms
from ..checks import check_flag, check_known, check_number
from ..spec import Backend, Gradient, GradientPreset, GradientSpec, Group, GtRange, LossSpec, Term

Metrics: TypeAlias = dict[str, Tensor]


def check_keywords(loss: str, cls: type[DepthLoss], given: Iterable[str]) -> None:
    """Raise a TypeError that names the keywords which a loss does not have, and those it has."""
    known = inspect.signature(cls).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return  # A subclass that checks them itself.
    check_known(loss, known, given, cls._other_names)


def call_keywords(cls: type[nn.Module]) -> list[str]:
    """What the forward of a loss takes, without the keywords that it refuses."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


@transforms.constant  # Dynamo cannot trace the search for the nearest name.
def refuse_unknown(cls: type[nn.Module], unknown: tuple[str, ...]) -> None:
    """Raise a TypeError that names the keywords which a loss's forward does not have, and those it has."""
    check_known(f"a call of {cls.__name__}", call_keywords(cls), unknown)


def resolve_gradient(
    gradient: GradientSpec | None, num_scales: int | None, preset: GradientPreset
) -> GradientSpec:
    """The gradient spec of a loss: `gradient`, else the preset of that name with `num_scales` levels.

    Raises:
        TypeError: `gradient` is not a `GradientSpec`.
        ValueError: `num_scales` is given beside `gradient` and differs from it.
    """
    if gradient is None:
        return GradientSpec.preset(preset, num_scales=4 if num_scales is None else num_scales)
    if not isinstance(gradient, GradientSpec):
        raise TypeError(f"gradient must be a depthloss.GradientSpec or None; got {type(gradient).__name__}")
    if num_scales is not None and num_scales != gradient.num_scales:
        raise ValueError(
            f"num_scales={num_scales} contradicts gradient.num_scales={gradient.num_scales}; give one of them"
        )
    return gradient


def single_group(*terms: Term, **options: Any) -> LossSpec:
    """The spec of a loss whose terms form one group."""
    return LossSpec((Group(terms, **options),))


class DepthLoss(nn.Module):
    """A masked loss between two maps of depth or inverse depth.

    Calling the module returns a 0-dim tensor: float32, or float64 for float64 inputs, also under autocast.

    Args:
        gt_range: (low, high): a pixel whose gt lies outside this closed interval, or is not finite, is
            invalid whatever the masks say; None at an end = open. In the units of the gt that is passed:
            `SupervisedLoss` and the training pass 1/m.

    Attributes:
        spec: what the loss computes.
        input_domain: what `pred` and `gt` hold: ``"depth"`` (metres), ``"inverse depth"`` (1/metre) or
            ``"either"``.
        metrics: after each call without `return_metrics`, detached 0-dim tensors under the names that each
            class lists.
        backend: ``"auto"``, ``"reference"``, ``"cpu"`` or ``"triton"``.
        process_group: if set, the loss of the joined batch of these ranks; gradients with respect to `pred`
            then carry a factor world size, so that DistributedDataParallel's mean equals one process on the
            joined batch.
    """

    input_domain = "inverse depth"
    # Keywords of other projects -> what to give here.
    _other_names: ClassVar[dict[str, str]] = dict.fromkeys(("min_depth", "max_depth"), "gt_range=(low, high)")

    def __new__(cls, *args: object, **kwargs: object) -> DepthLoss:
        """Refuse unknown keywords, and name those there are, which Python's own error does not."""
        check_keywords(cls.__name__, cls, kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        spec: LossSpec,
        weights: tuple[float, ...] = (),
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.spec = replace(spec, gt_range=gt_range)
        self._weights = tuple(check_number("weights", w) for w in weights) or (1.0,) * spec.num_weights
        self.backend: Backend = dispatch.check_backend(backend)
        self.process_group = process_group
        self._metrics: Metrics | Tensor = {}  # or the vector that they are made of when asked for

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """The ranks whose joined batch the loss is of, or None."""
        return self._process_group

    @process_group.setter
    def process_group(self, process_group: dist.ProcessGroup | None) -> None:
        self._process_group = dispatch.check_group(process_group)

    @property
    def metrics(self) -> Metrics:
        """Metrics of the last call, detached 0-dim tensors under their names; empty before the first."""
        self._metrics = found = self._named(self._metrics)
        return found

    @metrics.setter
    def metrics(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def _named(self, found: Metrics | Tensor) -> Metrics:
        if not isinstance(found, Tensor):
            return found
        return dict(zip(self.spec.metric_names, found.unbind(), strict=True))

    def __deepcopy__(self, memo: dict) -> DepthLoss:
        """A copy that works with the same ranks: a process group itself cannot be copied."""
        memo[id(self.process_group)] = self.process_group
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__dict__, memo))
        return new

    def extra_repr(self) -> str:
        """The spec, so that printing a module shows what it computes."""
        return f"input_domain={self.input_domain!r}, backend={self.backend!r}, spec={self.spec}"

    def weights(self, progress: float | None, epoch: int) -> tuple[float, ...]:
        """The weights of the terms, then of the groups, at this point of the training."""
        return self._weights

    def term_weights(self, progress: float | None = 0.0, epoch: int = 0) -> dict[str, float]:
        """The factor of each term in the total at this point of the training, by its name in the metrics.

        Waits for the device where the weights are learnt.
        """
        of_terms, bounds = self.weights(progress, epoch), self.spec.log_var_bounds
        of_groups = of_terms[len(self.spec.terms) :]
        if bounds is not None:
            log_vars = [min(max(v.item(), bounds[0]), bounds[1]) for v in self.log_vars()]
            of_groups = tuple(0.5 * math.exp(-v) for v in log_vars)
        groups = [w for group, w in zip(self.spec.groups, of_groups, strict=True) for _ in group.terms]
        return {t.name: w * g for t, w, g in zip(self.spec.terms, of_terms, groups, strict=False)}

    def gradient_weight(self, progress: float | None = 0.0, epoch: int = 0) -> float:
        """The factor of the gradient term in the total at this point of the training; 0 = there is none."""
        weights = self.term_weights(progress, epoch)
        return sum(weights[term.name] for term in self.spec.terms if isinstance(term, Gradient))

    def log_vars(self) -> tuple[Tensor, ...]:
        """The learnable log-variances, one per group; empty for all but the adaptive loss."""
        return ()

    def clamp_parameters_(self) -> None:
        """Bring learnable parameters back into their bounds, in place. Call it after each optimiser step."""

    def require_positive_gt(self) -> None:
        """Count a pixel as valid only where gt is positive and finite as well, in addition to the mask."""
        self.spec = replace(self.spec, positive_gt=True)

    def accept_inverse_depth(self) -> None:
        """From now on `pred` and `gt` are inverse depth (1/m), also for a loss of depth, which then converts
        them.
        """
        if self.input_domain == "depth":
            self.spec, self.input_domain = self.spec.on_inverse_depth(), "inverse depth"

    if TYPE_CHECKING:  # nn.Module's own returns Any.

        @overload
        def __call__(
            self,
            pred: Tensor,
            gt: Tensor,
            mask: Tensor | None = None,
            *,
            progress: float | None = 0.0,
            epoch: int = 0,
            weight: Tensor | None = None,
            confidence: Tensor | None = None,
            return_metrics: Literal[False] = False,
        ) -> Tensor: ...
        @overload
        def __call__(
            self,
            pred: Tensor,
            gt: Tensor,
            mask: Tensor | None = None,
            *,
            progress: float | None = 0.0,
            epoch: int = 0,
            weight: Tensor | None = None,
            confidence: Tensor | None = None,
            return_metrics: Literal[True],
        ) -> tuple[Tensor, Metrics]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: D102

    def forward(
        self,
        pred: Tensor,
        gt: Tensor,
        mask: Tensor | None = None,
        *,
        progress: float | None = 0.0,
        epoch: int = 0,
        weight: Tensor | None = None,
        confidence: Tensor | None = None,
        return_metrics: bool = False,
        **unknown: Any,
    ) -> Tensor | tuple[Tensor, Metrics]:
        """Evaluate the loss.

        Args:
            pred: [B, 1, H, W] or [B, H, W], float16, bfloat16, float32 or float64, any strides.
            gt: the shape of `pred`. Invalid pixels may hold anything, NaN included.
            mask: [B, 1, H, W] or [B, H, W] bool, uint8 or float, non-zero = valid; None = every pixel.
            progress: fraction of the training done, 0 to 1, a plain number.
            epoch: epoch of the training.
            weight: [B, 1, H, W] or [B, H, W] floating point, >= 0: how much a pixel counts; it gets no
                gradient. A pixel of weight 0 is invalid. Means, and the statistics of an alignment by mean or
                least squares, are weighted; gradient terms count pixels. Not with a median, a trim,
                statistics ``"all"`` or an unbiased variance.
            confidence: [B, 1, H, W] or [B, H, W] floating point, > 0, for a loss that asks for it (the
                recipes ``"vggt-depth"`` and ``"dust3r-confidence"``); gets a gradient.
            return_metrics: return the metrics beside the loss, and leave `metrics` as it is: the call then
                changes nothing of the module, which graphs, checkpoints and transforms like better.
            **unknown: refused, with the keywords there are.

        Returns:
            The loss, 0-dim ([B] where its reduction is ``"none"``); with `return_metrics` (loss, metrics),
            the latter detached 0-dim tensors under their names.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit.
            TypeError: something that is no tensor, or an unknown keyword.
            RuntimeError: a backend asked for by name that cannot run this loss here.
        """
        if unknown:
            refuse_unknown(type(self), tuple(unknown))
        own = self.log_vars(), self.process_group
        result = self._evaluate(pred, gt, mask, None, progress, epoch, *own, weight, confidence)
        return self._finish(result, return_metrics)

    def _finish(
        self, result: tuple[Tensor, Metrics | Tensor], return_metrics: bool
    ) -> Tensor | tuple[Tensor, Metrics]:
        """What `forward` returns of the loss and its metrics, keeping the latter where it does not."""
        total, found = result
        if return_metrics is not False and check_flag("return_metrics", return_metrics):
            return total, self._named(found)
        if is_compiling() and not is_dynamo_compiling():
            return total  # torch.export: a program has no attributes, and torch 2.6 refuses to write one.
        # nn.Module's own setattr looks for parameters first: 5 µs
        object.__setattr__(self, "_metrics", transforms.plain(found))
        return total

    def _evaluate(
        self,
        pred: Tensor,
        gt: Tensor,
        mask: Tensor | None,
        abs_mask: Tensor | None,
        progress: float | None,
        epoch: int,
        log_vars: tuple[Tensor, ...],
        process_group: dist.ProcessGroup | None,
        weight: Tensor | None = None,
        confidence: Tensor | None = None,
    ) -> tuple[Tensor, Metrics | Tensor]:
        """The loss, and its metrics: named, or the vector that `spec.metric_names` names. Writes nothing."""
        return dispatch.evaluate(
            pred,
            gt,
            mask,
            abs_mask,
            self.spec,
            self.weights(progress, epoch),
            log_vars,
            process_group,
            self.backend,
            weight,
            confidence,
        )
