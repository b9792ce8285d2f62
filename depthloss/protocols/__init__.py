"""Published protocols of evaluation as data: `load_protocol("marigold")`.

A protocol says which pixels count, how a prediction is resized, aligned and clipped, and which metrics are
taken; `Protocol.prepare` and `Protocol.score` do it for one image, or for one clip, `match`, `convert` and
`score_all` faster for many, and `ProtocolMetrics` is a class of torchmetrics. The files beside this one name
their source. Reading them needs PyYAML, which comes with the extra `train`, as torchmetrics does.
"""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import lazily
from .crops import CROPS, Crop
from .frame import Frame, Matched
from .protocol import ALIGNMENTS, KINDS, Protocol

if TYPE_CHECKING:
    from .means import ProtocolMetrics

__all__ = [
    "ALIGNMENTS",
    "CROPS",
    "KINDS",
    "Crop",
    "Frame",
    "Matched",
    "Protocol",
    "ProtocolMetrics",
    "load_protocol",
    "protocol_names",
]


def __getattr__(name: str) -> Any:
    return lazily(__name__, "means", ("ProtocolMetrics",), name)


FOLDER = Path(__file__).parent


def protocol_names() -> list[str]:
    """Return the names of the protocols of this package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_protocol(name: str | Path, **overrides: Any) -> Protocol:
    """Return a protocol, with keys of it replaced.

    Args:
        name: one of `protocol_names()`, or the path of a YAML file.
        overrides: fields of `Protocol`.

    Raises:
        ValueError: there is no such protocol, a key is none of a protocol, or a value is out of range.
        ImportError: PyYAML is missing.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.exists():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise ValueError(
                f"there is no protocol {str(name)!r}; there are {', '.join(protocol_names())}, "
                "or give the path of a YAML file"
            )
    values = {"name": path.stem, **_read(path)}
    known = [field.name for field in fields(Protocol)]
    for key in (*values, *overrides):
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{path.name}: a protocol has no key {key!r}: {fix}")
    published, made = Protocol(**values), Protocol(**{**values, **overrides})
    changed = [key for key in known if getattr(made, key) != getattr(published, key)]
    return replace(made, changed=changed)


def _read(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ImportError("protocols are read with PyYAML: pip install 'depthloss[train]'") from error
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold the keys of a protocol; got {type(values).__name__}")
    return values
