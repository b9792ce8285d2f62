"""The layers: each imports only lower ones, and `import depthloss` needs torch only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The public modules of the package: the training may import from them as from the package itself.
OPEN = ("align", "metrics", "protocols")
LAYERS = ("scripts", "training", "front", "losses", "dispatch", "kernels", "maps", "spec")
# The packages and files of `depthloss.training`, the highest first.
TRAINING = (
    *("ablate", "ablation", "cli", "loop", "prediction", "evaluation.cli"),
    *("evaluation.folders_cli", "evaluation.report", "evaluation"),
    *("checkpoints", "configuration", "drawing", "data", "models", "rendering"),
    *("command", "files", "errors", "progress", "seeds", "weights"),
)


def layer(module: str) -> str | None:
    """The layer of one of our modules, None for anything else."""
    parts = module.split(".")
    if parts[0] in ("train", "evaluate", "predict"):
        return "scripts"
    if parts[0] != "depthloss":
        return None
    name = parts[1] if len(parts) > 1 else "front"
    return {
        "align": "front",
        "fits": "front",
        "extras": "spec",
        "arrays": "maps",
        "metrics": "front",
        "protocols": "front",
        "kernels": "kernels",
        "reference": "kernels",
        "version": "spec",
        "text": "spec",
        "checks": "spec",
        "files": "spec",
        "functional": "front",
        "env": "front",
        "doctor": "front",
        "benchmark": "scripts",
        "cli": "scripts",
        "__main__": "scripts",
        "explanation": "front",
        "inverse": "front",
        "autograd": "dispatch",
        "transforms": "dispatch",
    }.get(name, name)


def imports(path: Path, package: list[str], of: tuple[str, ...] = ()) -> set[str]:
    """The modules that a file imports when it runs (not for type checkers), as absolute dotted names: those
    that have a layer, or whose first name is in `of`.
    """
    found = set()
    tree = ast.parse(path.read_text())
    for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return {name for name in found if (name.split(".")[0] in of if of else layer(name))}


def files() -> list[tuple[Path, str]]:
    found = []
    for folder, prefix in (("depthloss", "depthloss"), ("kernels", "depthloss.kernels")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found.append((path, ".".join([prefix, *parts])))
    return found + [(path, path.stem) for path in ROOT.glob("*.py") if path.stem != "setup"]


def test_each_layer_imports_only_lower_ones():
    seen = set()
    for path, module in files():
        if module == "depthloss.__init__":
            continue  # The public names, nothing else: it imports from the layers above the losses too.
        package = module.split(".")[:-1]
        own = layer(module.removesuffix(".__init__"))
        assert own in LAYERS, f"{module} has no layer"
        seen.add(own)
        for name in imports(path, package):
            # The public names of the package itself are open to the layers above the losses.
            target = "losses" if name.count(".") <= 1 and layer(name) not in LAYERS else layer(name)
            same = target == own
            if own == "kernels" and module.startswith("depthloss.kernels"):
                assert target == "spec" or name.startswith("depthloss.kernels"), f"{module} imports {name}"
            elif own == "training":
                public = name.count(".") <= 1 or (name.count(".") == 2 and name.split(".")[1] in OPEN)
                assert target == "training" or public, f"{module} reaches past the public names: {name}"
            else:
                assert same or LAYERS.index(target) > LAYERS.index(own), (
                    f"{module} imports {name}, which is higher"
                )
            if own == "losses":
                assert target in ("losses", "dispatch", "maps", "spec"), (
                    f"{module} imports the backend {name}"
                )
    assert seen == set(LAYERS)


def part(module: str) -> int | None:
    """The place in `TRAINING` of a module, None for one that is not of the training."""
    name = module.removeprefix("depthloss.training.")
    found = [i for i, p in enumerate(TRAINING) if name == p or name.startswith(f"{p}.")]
    return min(found) if name != module and found else None


def test_the_parts_of_the_training_import_only_lower_ones():
    found = {module.removesuffix(".__init__"): path for path, module in files()}
    modules = {module: path for module, path in found.items() if module.startswith("depthloss.training.")}
    seen = {module: part(module) for module in modules}
    assert set(seen.values()) == set(range(len(TRAINING))), "TRAINING names other parts than there are"
    for module, path in modules.items():
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        for name in imports(path, package):
            other = part(name)
            assert other is None or other >= seen[module], f"{module} imports {name}, which is higher"


def test_no_circles():
    graph = {}
    for path, module in files():
        package = module.split(".")[:-1]
        graph[module.removesuffix(".__init__")] = imports(path, package)
    graph.pop("depthloss")
    known = set(graph)
    edges = {
        m: {n if n in known else n.rpartition(".")[0] for n in names} & known - {m}
        for m, names in graph.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"circle: {' -> '.join((*trail, module))}"
        if module not in done:
            for target in edges[module]:
                # A package's file and the modules inside it are one room.
                if not module.startswith(f"{target}."):
                    visit(target, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_the_benchmarks_share_their_ground_only():
    """A folder of bench/ imports itself and what lies directly in bench/, which imports no folder."""
    folders = {path.parent.name for path in (ROOT / "bench").glob("*/__init__.py")}
    assert folders == {"speed", "gpu", "training", "migration"}
    for path in (ROOT / "bench").rglob("*.py"):
        for name in imports(path, [], ("bench", "tests")):
            other = name.split(".")[1]
            own = path.parent.name in folders and other == path.parent.name
            assert own or other not in folders | {"tests"}, f"{path.relative_to(ROOT)} imports {name}"


def test_import_needs_torch_only():
    code = (
        "import sys, torch; before = set(sys.modules); "
        "import depthloss; "
        "assert not {'depthloss.align', 'depthloss.metrics', 'depthloss.protocols'} & set(sys.modules); "
        "depthloss.align, depthloss.metrics, depthloss.protocols; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    foreign = {name for name in out.split() if name != "depthloss" and name not in sys.stdlib_module_names}
    assert not foreign


def test_specs_need_no_torch():
    package = ROOT / "depthloss"
    specs = {path.stem for path in (package / "spec").glob("*.py")}
    for path in (
        *(package / "spec").glob("*.py"),
        *(package / f"{name}.py" for name in ("text", "checks", "files", "extras")),
    ):
        tree = ast.parse(path.read_text())
        names = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        ours = {"text", "checks"} | specs if path.parent.name == "spec" else set()
        assert names <= set(sys.stdlib_module_names) | {"__future__"} | ours, path
