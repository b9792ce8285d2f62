"""Decoder of Monodepth2 (Godard et al. 2019) and the heads that bound its output as inverse depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .resnet import scaled

WIDTHS = (16, 32, 64, 128, 256)
NUM_SCALES = 4
# name: (module, keywords, padding mode)
_ACTIVATIONS = {
    "relu": (nn.ReLU, {"inplace": True}, "zeros"),
    "elu": (nn.ELU, {"inplace": True}, "reflect"),
    "gelu": (nn.GELU, {}, "zeros"),
}


def _conv_block(cin: int, cout: int, activation: str) -> nn.Sequential:
    module, keywords, padding = _ACTIVATIONS[activation]
    conv = nn.Conv2d(cin, cout, 3, padding=1, padding_mode=padding)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, module(**keywords))


class BoundedHead(nn.Module):
    """Map logits to inverse depth (1/m) inside [1/max_depth, 1/min_depth], in fp32 whatever the input's type.

    With σ = sigmoid(logit) and ``f = margin + (1 − 2·margin)·σ``, ``"log"`` interpolates ln(inverse depth)
    between its bounds by f, ``"linear"`` the inverse depth itself. At 0.05–80 m a zero logit is 2.0 m (log)
    or 0.1 m (linear).

    Args:
        min_depth: metres, > 0.
        max_depth: metres, > min_depth.
        depth_head: "log" or "linear".
        margin: share of the range left free at both ends, in [0, 0.5).

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, min_depth: float, max_depth: float, depth_head: str = "log", margin: float = 0.01
    ) -> None:
        super().__init__()
        if not 0 < min_depth < max_depth < math.inf:
            raise ValueError(
                f"min_depth={min_depth!r}, max_depth={max_depth!r}: expected 0 < min_depth < max_depth, in m"
            )
        if depth_head not in ("log", "linear"):
            raise ValueError(f'depth_head={depth_head!r}: expected "log" or "linear"')
        if not 0 <= margin < 0.5:
            raise ValueError(f"margin={margin!r}: expected a share of the range in [0, 0.5)")
        self.low, self.high = 1 / max_depth, 1 / min_depth
        self.log, self.margin = depth_head == "log", margin

    def forward(self, logits: Tensor) -> Tensor:
        """Map ``[B, 1, H, W]`` logits to inverse depth of the same shape."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        span = high - low
        x = torch.sigmoid(logits.float()) * (span * (1 - 2 * self.margin)) + (low + span * self.margin)
        # Rounding, of exp above all, may step over a bound.
        return (x.exp() if self.log else x).clamp(self.low, self.high)


class Decoder(nn.Module):
    """Five upsampling levels with skip connections and an inverse-depth head at each of the four finest.

    Level i = 4 … 0: 3×3 conv to ``WIDTHS[i]``, nearest ×2, concatenate feature i − 1 (if i > 0), 3×3 conv.

    Args:
        channels: channels of the five encoder features, finest first.
        head: maps logits to inverse depth.
        activation: "relu" or "gelu" (zero padding), "elu" (reflection padding).
        dropout: probability of dropping a channel of the coarsest feature in training.
        width: factor of ``WIDTHS``, > 0.

    Raises:
        ValueError: an unknown activation or a dropout outside [0, 1).
    """

    def __init__(
        self,
        channels: Sequence[int],
        head: nn.Module,
        activation: str = "relu",
        dropout: float = 0.0,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: expected one of {', '.join(_ACTIVATIONS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout!r}: expected a probability in [0, 1)")
        self.dropout = nn.Dropout2d(dropout)
        widths = scaled(WIDTHS, width)
        incoming, skips = (*widths[1:], channels[4]), (0, *channels[:4])
        self.reduce = nn.ModuleList(_conv_block(incoming[i], widths[i], activation) for i in range(5))
        self.merge = nn.ModuleList(_conv_block(widths[i] + skips[i], widths[i], activation) for i in range(5))
        self.logits = nn.ModuleList(nn.Conv2d(widths[i], 1, 3, padding=1) for i in range(NUM_SCALES))
        for conv in self.logits:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.head = head

    def forward(self, features: Sequence[Tensor], num_scales: int = NUM_SCALES) -> list[Tensor]:
        """Decode features at 1/2 … 1/32 into the first ``num_scales`` maps (1/m) at 1, 1/2, 1/4, 1/8."""
        x = self.dropout(features[4])
        maps = []
        for i in range(4, -1, -1):
            x = F.interpolate(self.reduce[i](x), scale_factor=2, mode="nearest")
            if i > 0:
                x = torch.cat((x, features[i - 1]), 1)
            x = self.merge[i](x)
            if i < num_scales:
                maps.append(self.head(self.logits[i](x)))
        return maps[::-1]
