"""ResNetSAN01: depth from an image, and from a sparse sweep if there is one.

After the sparse auxiliary networks of Guizilini et al. 2021 (PackNet-SAN), with a ResNet in PackNet's place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decoder import NUM_SCALES, BoundedHead, Decoder
from .resnet import IMAGENET_FILES, ResNetEncoder, load_encoder_weights
from .sparse import SparseBranch

logger = logging.getLogger("depthloss.models")

STRIDE = 32


def pad_to_multiple(x: Tensor, multiple: int = STRIDE, mode: str = "replicate") -> Tensor:
    """Pad an image or a depth map at the bottom and the right until H and W are multiples of ``multiple``.

    Crop the network's full-resolution output back with ``[..., :H, :W]``.

    Args:
        x: ``[B, C, H, W]``.
        multiple: what H and W must become multiples of.
        mode: "replicate" for images; "zeros" for depth maps, in which 0 means none.

    Returns:
        ``[B, C, H', W']``; ``x`` itself if nothing is missing.

    Raises:
        ValueError: an unknown mode or a multiple below 1.
    """
    if mode not in ("replicate", "zeros"):
        raise ValueError(f'mode={mode!r}: expected "replicate" (images) or "zeros" (depth maps)')
    if multiple < 1:
        raise ValueError(f"multiple={multiple!r}: expected a whole number of pixels, at least 1")
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if bottom == 0 and right == 0:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="constant" if mode == "zeros" else mode)


class Fusion(nn.Module):
    """Blend image features with sparse-depth features, scale by scale.

    ``fused = α(γ f + β) + (1 − α) s + b`` with ``α = sigmoid(w)``; γ, β from the mean of s at the FiLM
    scales, else 1, 0. ``residual="rezero"`` returns ``f + ρ (fused − f)``, ρ = 0 at the start.

    Args:
        channels: channels per scale, of f and of s alike.
        film_scales: scales with FiLM.
        residual: "standard" or "rezero".
    """

    def __init__(self, channels: Sequence[int], film_scales: Sequence[int], residual: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((len(channels),), 0.5))
        self.bias = nn.Parameter(torch.zeros(len(channels)))
        self.film = nn.ModuleDict({str(i): nn.Conv2d(channels[i], 2 * channels[i], 1) for i in film_scales})
        for conv in self.film.values():  # γ = 1 + 0, β = 0: starts as the identity
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.rho = nn.Parameter(torch.zeros(len(channels))) if residual == "rezero" else None

    def forward(
        self, features: Sequence[Tensor], sparse: Sequence[Tensor], has_sweep: Tensor
    ) -> list[Tensor]:
        """Fuse lists of ``[B, C, H, W]``; where ``has_sweep [B]`` is false, a sample keeps its features."""
        has_sweep = has_sweep.view(-1, 1, 1, 1)
        fused = []
        for i, (f, s) in enumerate(zip(features, sparse, strict=True)):
            x = f
            if str(i) in self.film:
                gamma, beta = self.film[str(i)](s.mean((2, 3), keepdim=True)).chunk(2, 1)
                x = torch.addcmul(f + beta, f, gamma)
            alpha = torch.sigmoid(self.weight[i])
            x = alpha * x + (1 - alpha) * s + self.bias[i]
            if self.rho is not None:
                x = f + self.rho[i] * (x - f)
            fused.append(torch.where(has_sweep, x, f))
        return fused

    def consistency(self, features: Sequence[Tensor], fused: Sequence[Tensor]) -> Tensor:
        """Mean over scales of ``softmax(|w|)_i · mean((fused_i.detach() − f_i)²)``, a 0-dim fp32 tensor."""
        share = torch.softmax(self.weight.abs(), 0)
        errors = [F.mse_loss(f.float(), x.detach().float()) for f, x in zip(features, fused, strict=True)]
        return (share * torch.stack(errors)).mean()


class ResNetSAN01(nn.Module):
    """ResNet encoder, sparse-depth branch and Monodepth2 decoder with bounded inverse depth.

    With ResNet-18: 14,329,236 parameters without the sparse branch; 49,024,350 with it and FiLM at scale 0.
    The network keeps its weights and activations in ``torch.channels_last``, which is faster on CPUs and on
    tensor cores.

    DistributedDataParallel: some uses leave parameters without a gradient, which it must know of
    (``find_unused_parameters=True``, or freeze them first); :meth:`parameters_without_gradient` names them.

    Args:
        version: ResNet depth "18", "34" or "50". "18pt" insists on pretrained weights and "18A", a name of
            older configurations, is "18".
        min_depth: metres; inverse depth stays at or below its reciprocal.
        max_depth: metres.
        depth_head: "log" or "linear" interpolation between the two.
        margin: share of that range left free at both ends, in [0, 0.5).
        sparse_branch: build the branch that reads ``input_depth``.
        use_film: let the sparse branch modulate the image features at ``film_scales``; no effect without the
            branch.
        film_scales: scales among 0 (1/2) … 4 (1/32).
        residual: "standard", or "rezero" to start with the RGB-D pass equal to the RGB pass.
        activation: of the decoder: "relu", "elu", "gelu".
        dropout: channel dropout on the coarsest feature as the decoder reads it.
        weights: local ``.pth``/``.safetensors`` file with encoder weights in torchvision's key names, or a
            checkpoint of ``train.py``, whose encoder is taken. Nothing is downloaded.
        width: factor of the encoder's and decoder's numbers of channels; the sparse branch keeps its own. At
            0.25 a step on a CPU takes about a fifth of the time.

    Raises:
        ValueError: an argument out of range, a "pt" version without ``weights``, or weights that do not fit.
        FileNotFoundError: no file at ``weights``.
    """

    size_multiple = STRIDE

    def __init__(
        self,
        version: str = "18",
        min_depth: float = 0.05,
        max_depth: float = 100.0,
        depth_head: str = "log",
        margin: float = 0.01,
        sparse_branch: bool = True,
        use_film: bool = True,
        film_scales: Sequence[int] = (0,),
        residual: str = "standard",
        activation: str = "relu",
        dropout: float = 0.0,
        weights: str | Path | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        depth, pretrained = _parse_version(version)
        if pretrained and weights is None:
            raise ValueError(
                f"version={version!r} asks for pretrained weights, and none are downloaded here: fetch "
                f"{IMAGENET_FILES[depth]} and give its path as weights=, "
                f'or use version="{depth}" to start from random weights'
            )
        if len(set(film_scales)) != len(film_scales) or not set(film_scales) <= set(range(5)):
            raise ValueError(
                f"film_scales={tuple(film_scales)!r}: expected distinct scales among 0, 1, 2, 3, 4"
            )
        if residual not in ("standard", "rezero"):
            raise ValueError(f'residual={residual!r}: expected "standard" or "rezero"')
        self.encoder = ResNetEncoder(depth, width)
        channels = self.encoder.channels
        self.sparse = SparseBranch(channels) if sparse_branch else None
        self.fusion = Fusion(channels, film_scales if use_film else (), residual) if sparse_branch else None
        self.decoder = Decoder(
            channels, BoundedHead(min_depth, max_depth, depth_head, margin), activation, dropout, width
        )
        # Reflection needs two rows and columns at 1/32.
        self._min_size = 2 * STRIDE if activation == "elu" else STRIDE
        if weights is not None:
            load_encoder_weights(self.encoder, weights)
        self.to(memory_format=torch.channels_last)

    def forward(self, rgb: Tensor, input_depth: Tensor | None = None) -> dict[str, list[Tensor] | Tensor]:
        """Predict inverse depth (1/m).

        Args:
            rgb: ``[B, 3, H, W]`` in [0, 1], H and W multiples of 32.
            input_depth: ``[B, 1, H, W]`` metres, 0 = none. Samples without any depth get the RGB pass's
                features.

        Returns:
            In training ``inv_depths``: four maps ``[B, 1, H/2^i, W/2^i]`` of the RGB pass and, with
            ``input_depth``, ``inv_depths_rgbd``: four of the RGB-D pass, and ``depth_loss``: the 0-dim
            consistency of the two passes' features. In evaluation ``inv_depths``: one full-resolution map, of
            the RGB-D pass if ``input_depth`` is given.

        Raises:
            ValueError: a wrong shape or size, or ``input_depth`` for a network without a sparse branch.
        """
        self._check(rgb, input_depth)
        features = self.encoder(rgb.contiguous(memory_format=torch.channels_last))
        if input_depth is None:
            return {"inv_depths": self.decoder(features, NUM_SCALES if self.training else 1)}
        fused = self.fusion(features, *self.sparse(input_depth))
        if not self.training:
            return {"inv_depths": self.decoder(fused, 1)}
        return {
            "inv_depths": self.decoder(features),
            "inv_depths_rgbd": self.decoder(fused),
            "depth_loss": self.fusion.consistency(features, fused),
        }

    def parameters_without_gradient(
        self, num_scales: int = NUM_SCALES, input_depth: bool = True
    ) -> list[str]:
        """Name the parameters that get no gradient in training.

        Args:
            num_scales: how many of the four maps the loss reads, finest first: the other scales' heads get
                none.
            input_depth: whether ``forward`` is given ``input_depth``; if not, the sparse branch and the
                fusion get none.

        Returns:
            Names as in ``named_parameters()``.
        """
        idle = [f"decoder.logits.{i}." for i in range(num_scales, NUM_SCALES)]
        if not input_depth:
            idle += ["sparse.", "fusion."]
        return [name for name, _ in self.named_parameters() if name.startswith(tuple(idle))]

    def _check(self, rgb: Tensor, input_depth: Tensor | None) -> None:
        if rgb.ndim != 4 or rgb.shape[1] != 3:
            raise ValueError(f"rgb has shape {list(rgb.shape)}: expected [B, 3, H, W]")
        height, width = rgb.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"rgb is {height}×{width}: H and W must be multiples of {STRIDE}. Pad with "
                "depthloss.training.models.pad_to_multiple and crop the output back with "
                f"[..., :{height}, :{width}]"
            )
        if min(height, width) < self._min_size:
            raise ValueError(
                f'rgb is {height}×{width}: activation="elu" pads by reflection and needs H and W of at least '
                f"{self._min_size}; use a larger image or another activation"
            )
        if input_depth is None:
            return
        if self.sparse is None:
            raise ValueError(
                "input_depth was given, but this network was built with sparse_branch=False: build it with "
                "sparse_branch=True, or leave input_depth out of the batch"
            )
        if input_depth.shape != (rgb.shape[0], 1, height, width):
            raise ValueError(
                f"input_depth has shape {list(input_depth.shape)}: "
                f"expected {[rgb.shape[0], 1, height, width]}, as rgb has"
            )


def _parse_version(version: str) -> tuple[int, bool]:
    depth, suffix = str(version)[:2], str(version)[2:]
    if depth not in map(str, IMAGENET_FILES) or suffix not in ("", "pt", "A"):
        raise ValueError(
            f"version={version!r}: expected a ResNet depth of {', '.join(map(str, IMAGENET_FILES))}, "
            'with the suffix "pt" if it must start from pretrained weights'
        )
    if suffix == "A":
        logger.info("version=%r: the letter has no meaning here, same as %r", version, depth)
    return int(depth), suffix == "pt"
