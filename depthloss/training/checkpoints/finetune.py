"""Starting a network from the weights of another run, or of any file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from depthloss.training.checkpoints.stored import choose_checkpoint, read_checkpoint
from depthloss.training.errors import ConfigError
from depthloss.training.weights import nonfinite

KEY = "model.init_from"
# Prefixes of a network's own names in a checkpoint: of train.py, of other Lightning modules, of DDP.
PREFIXES = ("model.depth_net.", "depth_net.", "model.", "module.", "")
LEAST_SHARE = 0.01  # A file with a smaller share of the network's values is of another network.
SHOWN = 3


def init_from(network: nn.Module, source: str) -> str:
    """Give a network the weights of a file that have its names and shapes.

    Args:
        network: changed in place; what the file lacks stays as it is.
        source: a checkpoint of train.py or a run directory (its best, else its last); else a state dict, or a
            dict with one under "state_dict", written by torch.save, or a .safetensors file.

    Returns:
        A table: what was loaded, is missing, unexpected or of another shape.

    Raises:
        ConfigError: there is no such file, it holds no weights, none of them fits, or one is not finite.
    """
    path, state = _read(Path(source))
    weights = state.get("state_dict", state)
    named = weights.items() if isinstance(weights, Mapping) else ()
    weights = {str(key): value for key, value in named if isinstance(value, Tensor)}
    if not weights:
        raise ConfigError(
            f"{KEY} {path}: it holds no weights: neither a state dict, nor one under state_dict"
        )
    own = network.state_dict()
    prefix = max(PREFIXES, key=lambda p: sum(p + name in weights for name in own))
    given = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    wrong = [name for name in own if name in given and given[name].shape != own[name].shape]
    loaded = {name: given[name] for name in own if name in given and name not in wrong}
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    values = {name: value.numel() for name, value in own.items() if value.is_floating_point()}
    share = sum(values.get(name, 0) for name in loaded) / max(sum(values.values()), 1)
    if share < LEAST_SHARE:  # Single numbers fit any network of a kind.
        shapes = f"; of another shape: {_shapes(wrong, given, own)}" if wrong else ""
        raise ConfigError(
            f"{KEY} {path}: nothing in it fits the network {type(network).__name__}: "
            f"it has {_some(list(weights))}; the network has {_some(list(own))}{shapes}"
        )
    if names := nonfinite(loaded):
        raise ConfigError(f"{KEY} {path}: its weights are not finite, such as {names[0]}: take other ones")
    network.load_state_dict(loaded, strict=False)
    rows = [
        ("loaded", loaded, f"{share:.0%} of the network's values"),
        ("missing", missing, f"as at the start of a new run: {_some(missing)}"),
        ("unexpected", unexpected, f"left out: {_some(unexpected)}"),
        ("wrong shape", wrong, f"as at the start of a new run: {_shapes(wrong, given, own)}"),
    ]
    lines = [f"{KEY}: the network starts from {path}{_described(state)}"]
    lines += [f"  {name:<11} {len(x):>5} tensors{', ' + text if x else ''}" for name, x, text in rows]
    return "\n".join(lines)


def _read(source: Path) -> tuple[Path, dict[str, Any]]:
    try:
        path = choose_checkpoint(source)
        if path.suffix == ".safetensors":
            return path, load_file(path)
        return path, read_checkpoint(path, f"{KEY} ")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{KEY} {source}: it cannot be read: {error}") from error
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(KEY) else f"{KEY} {text}") from error


def _described(state: Mapping[str, Any]) -> str:
    if "global_step" not in state:
        return ""
    averaged = ", running average" if state.get("weights") == "averaged" else ""
    return f" ({state['global_step']} steps{averaged})"


def _some(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _shapes(names: list[str], given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    return _some([f"{n} (file {[*given[n].shape]}, network {[*own[n].shape]})" for n in names])
