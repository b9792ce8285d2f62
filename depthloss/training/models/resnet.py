"""ResNet-18/34/50 image encoder with torchvision's parameter names, without the classifier."""

from __future__ import annotations

import logging
import math
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from depthloss.training.errors import counted
from depthloss.training.weights import damage, nonfinite

logger = logging.getLogger("depthloss.models")

IMAGENET_FILES = {
    18: "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    34: "https://download.pytorch.org/models/resnet34-b627a593.pth",
    50: "https://download.pytorch.org/models/resnet50-0676ba61.pth",
}

# Prefix of the encoder's weights in a checkpoint of train.py.
ENCODER = "model.depth_net.encoder."


def _conv_bn(cin: int, cout: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(cout)


def _shortcut(cin: int, cout: int, stride: int) -> nn.Sequential | None:
    return None if stride == 1 and cin == cout else nn.Sequential(*_conv_bn(cin, cout, 1, stride))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: the block of ResNet-18 and ResNet-34."""

    expansion = 1

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv_bn(cin, width, 3, stride)
        self.conv2, self.bn2 = _conv_bn(width, width, 3)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(cin, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, cin, H, W]`` to ``[B, width, H/stride, W/stride]``."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Bottleneck(nn.Module):
    """1×1, strided 3×3, 1×1 convolutions and a shortcut: the block of ResNet-50."""

    expansion = 4

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv_bn(cin, width, 1)
        self.conv2, self.bn2 = _conv_bn(width, width, 3, stride)
        self.conv3, self.bn3 = _conv_bn(width, 4 * width, 1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(cin, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, cin, H, W]`` to ``[B, 4·width, H/stride, W/stride]``."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


_LAYOUTS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def scaled(channels: Sequence[int], width: float) -> tuple[int, ...]:
    """Multiply numbers of channels by a factor, rounded.

    Raises:
        ValueError: a number would be less than 1, or infinite.
    """
    if not 1 <= min(channels) * width < math.inf:
        raise ValueError(f"width={width!r}: expected a factor of {1 / min(channels):g} or more")
    return tuple(round(count * width) for count in channels)


class ResNetEncoder(nn.Module):
    """Feature pyramid of a ResNet (He et al. 2016; stride on the 3×3 convolution, as torchvision has it).

    Args:
        depth: 18, 34 or 50.
        width: factor of all numbers of channels, > 0.

    Attributes:
        channels: channels of the five features, finest first: ``(64, 64, 128, 256, 512)``, the last four ×4
            at depth 50; all × width.

    Raises:
        ValueError: another depth, or a width out of range.
    """

    def __init__(self, depth: int = 18, width: float = 1.0) -> None:
        super().__init__()
        if depth not in _LAYOUTS:
            raise ValueError(
                f"depth={depth!r}: the encoder is built for {', '.join(map(str, _LAYOUTS))} layers"
            )
        block, counts = _LAYOUTS[depth]
        self.depth, self.width = depth, width
        stem, *widths = scaled((64, 64, 128, 256, 512), width)
        self.conv1, self.bn1 = _conv_bn(3, stem, 7, 2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        cin = stem
        for i, (cout, count) in enumerate(zip(widths, counts, strict=True)):
            blocks = []
            for j in range(count):
                blocks.append(block(cin, cout, 2 if i > 0 and j == 0 else 1))
                cin = cout * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.channels = (stem, *(cout * block.expansion for cout in widths))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Encode ``rgb [B, 3, H, W]`` in [0, 1] into five features at 1/2, 1/4, 1/8, 1/16 and 1/32."""
        x = (rgb - 0.45) / 0.225
        features = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(features[0])
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


def load_encoder_weights(encoder: ResNetEncoder, path: str | Path) -> None:
    """Load a local file in torchvision's key names into the encoder, without its classifier (``fc.*``).

    Args:
        encoder: changed in place.
        path: a ``.pth``/``.pt`` (read with ``weights_only=True``) or ``.safetensors`` state dict, or a
            checkpoint of ``train.py``, whose encoder is taken.

    Raises:
        FileNotFoundError: no such file.
        ImportError: a ``.safetensors`` file without the safetensors package.
        ValueError: another kind of file, a damaged one, keys or shapes that are not those of this encoder,
            or values that are not finite; they are named.
    """
    path = Path(path)
    state = _read_state_dict(path, encoder.depth)
    skipped = [key for key in state if key.startswith("fc.")]
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    own = encoder.state_dict()
    # The counter is unused (fixed momentum) and older files lack it.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    mismatched = [
        f"{key} (file {list(state[key].shape)}, network {list(own[key].shape)})"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        f"{what}: {_shorten(keys)}"
        for what, keys in (("missing", missing), ("of another shape", mismatched), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        fits = f"A file that fits: {IMAGENET_FILES[encoder.depth]}"
        if encoder.width != 1:
            fits = f"Files of torchvision are of width 1, the network is of width {encoder.width:g}"
        raise ValueError(
            f"weights={str(path)!r} is not a ResNet-{encoder.depth} in torchvision's key names; "
            f"{'; '.join(problems)}. {fits}"
        )
    if names := nonfinite(state):
        raise ValueError(f"weights={str(path)!r}: not finite: {_shorten(names)}. Take another file")
    encoder.load_state_dict(state, strict=False)
    more = f" ({counted(len(skipped), 'classifier tensor')} skipped)"
    logger.info("loaded %s from %s%s", counted(len(state), "tensor"), path, more)


def _read_state_dict(path: Path, depth: int) -> dict[str, Tensor]:
    if os.path.isdir(path):  # raises no error for an impossible name
        raise FileNotFoundError(f"weights={str(path)!r} is a folder: give a file, such as best.ckpt in it")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"weights={str(path)!r}: no such file. Fetch {IMAGENET_FILES[depth]} and give its path, "
            f'or start from random weights: version="{depth}" without weights'
        )
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise ImportError(
                f"weights={str(path)!r} needs the safetensors package: pip install safetensors, "
                "or give a .pth file"
            ) from error
        return load_file(path)
    if path.suffix not in (".pth", ".pt", ".ckpt"):
        raise ValueError(
            f"weights={str(path)!r}: expected a .pth, .pt, .safetensors or .ckpt file, got {path.suffix!r}"
        )
    if reason := damage(path):
        raise ValueError(f"weights={str(path)!r} is damaged: {reason}. Copy or fetch it again")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"weights={str(path)!r} cannot be read as a plain state dict of tensors "
            f"({type(error).__name__}): give a file such as {IMAGENET_FILES[depth]}"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        trained = state["state_dict"]
        if encoder := {k.removeprefix(ENCODER): v for k, v in trained.items() if k.startswith(ENCODER)}:
            return encoder
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        held = f"the keys {_shorten(map(str, state))}" if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(
            f"weights={str(path)!r} holds {held}, not a mapping of names to tensors: "
            "save the encoder's state_dict() alone"
        )
    return dict(state)


def _shorten(keys: Iterable[str], limit: int = 6) -> str:
    keys = list(keys)
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")
