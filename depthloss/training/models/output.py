"""What a network returns, as maps of inverse depth."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Whether a network's `depth_output`, or the key of the dict that it returns, means depth: m, else 1/m.
_IS_DEPTH = {"depth": True, "inverse_depth": False}


class NetworkError(ValueError):
    """What a network returned is no depth of the images that it was given; the text says what to change."""


def input_parameter(network: Any) -> inspect.Parameter | None:
    """Return the argument ``input_depth`` of the ``forward`` of a network or its class, if it has one."""
    return inspect.signature(network.forward).parameters.get("input_depth")


def inverse_depths(net: nn.Module, output: Any, rgb: Tensor, check_values: bool = False) -> dict[str, Any]:
    """Return the output of a network as a dict with ``inv_depths``: maps in 1/m, finest first.

    Args:
        net: the network. Its attribute ``depth_output``, "depth" (m) or "inverse_depth" (1/m), says what a
            tensor or a list is.
        output: what it returned: ``[B, 1, H, W]`` or ``[B, H, W]``, a list of such from fine to coarse, or a
            dict with one of the two under "depth" or "inverse_depth". A dict with "inv_depths" is taken as
            :class:`ResNetSAN01` gives it, with all its keys.
        rgb: ``[B, 3, H, W]``, the images.
        check_values: whether to check that depth is positive and inverse depth not negative, which waits for
            the device.

    Raises:
        NetworkError: none of these, a shape that does not fit the images, or values that are no depth.
    """
    who = type(net).__name__
    found = dict(output) if isinstance(output, Mapping) else {}
    if "inv_depths" in found:
        return found
    if found:
        kind = next((key for key in _IS_DEPTH if key in found), None)
        if kind is None:
            raise NetworkError(
                f"{who} returned a dict with the keys {', '.join(map(str, found))}: one of them must be "
                f"{' or '.join(map(repr, _IS_DEPTH))}"
            )
        output = found[kind]
    else:
        kind = getattr(net, "depth_output", None)
        if kind not in _IS_DEPTH:
            raise NetworkError(
                f"{who}: its attribute depth_output must be {' or '.join(map(repr, _IS_DEPTH))}, to say what "
                f"it returns; got {kind!r}"
            )
    maps = list(output) if isinstance(output, (list, tuple)) else [output]
    found["inv_depths"] = [_inverse(who, kind, x, rgb, finest=i == 0) for i, x in enumerate(maps)]
    if not maps:
        raise NetworkError(f"{who} returned an empty list: at least one map is needed")
    if check_values:
        _check_values(who, kind, found["inv_depths"])
    return found


def _inverse(who: str, kind: str, x: Any, rgb: Tensor, finest: bool) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise NetworkError(f"{who} returned {got}: a tensor of floats is needed")
    batch, _, *size = rgb.shape
    shape = list(x.shape)
    x = x[:, None] if x.ndim == 3 else x
    if x.ndim != 4 or tuple(x.shape[:2]) != (batch, 1):
        raise NetworkError(f"{who} returned {shape} for images {list(rgb.shape)}: [B, 1, H, W] is needed")
    if finest and list(x.shape[2:]) != size:
        raise NetworkError(
            f"{who} returned {shape} for images {list(rgb.shape)}: the first map must have their H and W; "
            "resize it in forward (torch.nn.functional.interpolate)"
        )
    x = x.float()
    return x.reciprocal() if _IS_DEPTH[kind] else x


@torch.no_grad()
def _check_values(who: str, kind: str, maps: list[Tensor]) -> None:
    # Depth 0 has become infinite by now.
    bad = [(x <= 0) | x.isinf() if _IS_DEPTH[kind] else x < 0 for x in maps]
    share = torch.stack([x.float().mean() for x in bad]).max().item()
    if share > 0:
        raise NetworkError(
            f"{who}: {100 * share:.3g} % of the {kind.replace('_', ' ')} of its first batch is not positive: "
            "end forward with something that is, such as torch.nn.functional.softplus(x) + 1e-3"
        )
