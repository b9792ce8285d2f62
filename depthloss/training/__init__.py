"""Training of depth networks with the losses of `depthloss`; needs the extra `depthloss[train]`."""

from importlib.util import find_spec

NEEDED = (
    *("lightning", "jsonargparse", "docstring_parser", "filelock", "h5py", "torchmetrics", "tensorboard"),
    *("matplotlib", "numpy", "PIL", "yaml", "safetensors", "tqdm"),
)
if _missing := [name for name in NEEDED if find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"depthloss.training needs packages that are not installed ({', '.join(_missing)}): "
        "pip install 'depthloss[train]'",
        name=_missing[0],
    )
