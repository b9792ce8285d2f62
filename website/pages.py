"""The pages that the site makes by itself: losses, recipes, the API, and the files that pages link to."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import latex2mathml.converter

import depthloss
from depthloss import DepthLoss

from . import catalogue, facts, figures

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)#\s]*)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^(```|~~~~).*?^\1\s*$", re.M | re.S)
# Page -> title, and the modules and names whose docstrings it shows.
API: dict[str, tuple[str, tuple[str, ...]]] = {
    "depthloss": (
        "depthloss",
        tuple(
            f"depthloss.{name}"
            for name in (
                *("build_loss", "available_losses", "recipe", "available_recipes", "DepthLoss"),
                *("SupervisedLoss", "explain", "use_backend", "to_depth", "to_inverse_depth"),
                *("GradientSpec", "LossSpec"),
            )
        ),
    ),
    "functional": ("depthloss.functional", ("depthloss.functional",)),
    "align": ("depthloss.align", ("depthloss.align",)),
    "metrics": ("depthloss.metrics", ("depthloss.metrics",)),
    "protocols": ("depthloss.protocols", ("depthloss.protocols",)),
}


def mathml(latex: Iterable[str]) -> str:
    """Formulas as MathML, which browsers show without a script."""
    bar = '<mo stretchy="false">&#x0007C;</mo>'  # of an absolute value, not an operator between two
    lines = (latex2mathml.converter.convert(line, display="block") for line in latex)
    lines = (line.replace(bar, bar.replace("<mo", '<mo lspace="0" rspace="0"')) for line in lines)
    return "\n\n".join(f'<div class="formula">{line}</div>' for line in lines)


def _table(head: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = (f"| {a} | {b} |".replace("|g|", r"\|g\|") for a, b in rows)
    return "\n".join([f"| {head} | value |", "|---|---|", *lines])


def _measured(loss: DepthLoss, picture: str) -> str:
    """What running a loss shows."""
    unit = {"depth": "m", "inverse depth": "1/m", "either": "m"}[loss.input_domain]
    return f"""## Invariances

What a change of the maps does to the value of the loss, found by evaluating it on random maps
(depths of 1 to 9 m, 70% valid, float64); shifts in {unit}. The last row is unchanged
where every image counts the same, and changes where all pixels of the batch do.

{_table("change", facts.invariances(loss))}

## Empty masks and perfect predictions

{_table("case", facts.empty_masks(loss))}

## On an edge

An edge from 2 to 4 m and three predictions of it, all pixels valid. The gradient of −L shows where a step
of gradient descent moves each pixel.

![Three predictions of an edge, the gradient along a row, and the value as they get worse]({picture})
"""


def _summary(name: str) -> str:
    """What a loss computes: its row in docs/use.md, or where losses share one its docstring's beginning."""
    for line in (DOCS / "use.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"| `{name}` |"):
            return line.split(" | ")[2].strip() + "."
    paragraph = (inspect.getdoc(type(depthloss.build_loss(name))) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).partition(" Metrics:")[0]


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def loss_page(name: str) -> str:
    """The page of a loss."""
    formulas, source = catalogue.LOSSES[name]
    loss = depthloss.build_loss(name)
    recipes = ", ".join(f"[`{r}`](../recipes/{r}.md)" for r in facts.used_by(name)) or "none"
    return f"""# {name}

{_first_upper(_summary(name))}

```python
loss = depthloss.build_loss("{name}")  # a depthloss.{type(loss).__name__}
value = loss(pred, gt, mask)  # maps of {_holds(loss)}
```

## Formula

{mathml(formulas)}

[What every loss computes](../losses.md) has the symbols, the rules for all losses, and every variant.

**Source:** {source}. **Input:** {_holds(loss)}. **Recipes:** {recipes}. **Backends:** {_backends(loss)}.

{_measured(loss, f"pictures/{name}.svg")}
## Class

::: depthloss.{type(loss).__name__}
    options:
      show_root_heading: false
      show_root_toc_entry: false
      members: false
"""


def _holds(loss: DepthLoss) -> str:
    either = "depth in metres, or inverse depth in 1/m"
    return {"depth": "depth in metres", "inverse depth": "inverse depth in 1/m", "either": either}[
        loss.input_domain
    ]


def _backends(loss: DepthLoss) -> str:
    return ", ".join(f"`{name}`" for name in ("reference", *sorted(loss.spec.fused)))


def recipe_page(name: str) -> str:
    """The page of a recipe."""
    found, loss = depthloss.RECIPES[name], depthloss.recipe(name)
    options = "".join(f", {key}={value!r}" for key, value in found.options.items())
    built = (
        f'the loss [`{found.loss}`](../losses/{found.loss}.md), as `build_loss("{found.loss}"{options})`'
        if isinstance(found.loss, str)
        else "a loss of its own"
    )
    keywords = ", ".join(f"`{key}`" for key in found.parameters)
    call = "".join(f", {x}={x}" for x in found.inputs)
    source = f"{found.source} @ `{found.commit[:10]}`" if found.commit else found.source
    return f"""# {name}

{_first_upper(html.escape(found.formula, quote=False))}. It is {built}.

```python
loss = depthloss.recipe("{name}")
value = loss(pred, gt, mask{call})  # maps of {_holds(loss)}
```

## Formula

{mathml(catalogue.RECIPES[name])}

**Source:** {source}. **Ours differs:** {html.escape(found.deviates, quote=False) or "nowhere"}.
**Input:** {_holds(loss)}.
**Keywords:** {keywords}. **Backends:** {_backends(loss)}.

[All recipes](../recipes.md); [coming from another project](../migration/README.md).

{_measured(loss, f"pictures/{name}.svg")}"""


def api_page(name: str) -> str:
    """The docstrings of a module, or of names."""
    title, objects = API[name]
    whole = objects == (title,)
    options = f"    options:\n      show_root_heading: {'false' if whole else 'true'}\n"
    blocks = (f"::: {x}\n{options}" for x in objects)
    more = "\n\nEach loss has [a page](../losses.md) of its own, with its class." * (name == "depthloss")
    return "\n\n".join([f"# {title}{more}", *blocks])


def place(path: Path) -> str:
    """Where a file or folder of the repository lies in the site, as a source of MkDocs."""
    inside = path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
    if path.is_dir():
        return f"{inside}/README.md"
    if path.is_relative_to(DOCS):
        return inside
    if inside == "README.md":
        return "index.md"
    return inside if path.suffix in (".md", ".png", ".svg") else f"{inside}.md"


def links(path: Path) -> list[Path]:
    """The files and folders that a page links to."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    targets = (target for _, target, _, _ in LINK.findall(text) if target and "://" not in target)
    return [(path.parent / target).resolve() for target in targets]


def relative(markdown: str, path: Path) -> str:
    """The text of a page with its links led to where the site has the files."""
    here = Path(place(path)).parent

    def lead(found: re.Match) -> str:
        begin, target, anchor, end = found.groups()
        if not target or "://" in target:
            return found[0]
        there = place((path.parent / target).resolve())
        up = Path(*[".."] * len(here.parts))
        return f"{begin}{(up / there).as_posix()}{anchor or ''}{end}"

    parts, at = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(lead, markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, LINK.sub(lead, markdown[at:])])


def with_pages(markdown: str, folder: str, names: tuple[str, ...]) -> str:
    """The text of a page, the losses or recipes in the first column of its tables linked to their pages."""

    def link(row: re.Match) -> str:
        return re.sub(
            r"`([a-z0-9-]+)`", lambda x: f"[{x[0]}]({folder}/{x[1]}.md)" if x[1] in names else x[0], row[0]
        )

    return re.sub(r"^\| `[^|]*\|", link, markdown, flags=re.M)


def outside() -> dict[str, str | bytes]:
    """What pages link to outside docs/, by its place in the site: pages, pictures, listings, sources."""
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    seen, found = set(pages), {}
    while pages:
        path = pages.pop()
        if not path.is_relative_to(DOCS):
            found[place(path)] = _outside_page(path)
        if path.suffix == ".md" or path.is_dir() and (path / "README.md").exists():
            new = set(links(path / "README.md" if path.is_dir() else path)) - seen
            new = {x for x in new if not x.is_relative_to(DOCS)}
            seen |= new
            pages += new
    return found


def _outside_page(path: Path) -> str | bytes:
    inside = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        if (path / "README.md").exists():
            return relative((path / "README.md").read_text(encoding="utf-8"), path / "README.md")
        names = sorted(x.name for x in path.iterdir() if not x.name.startswith(("_", ".")))
        return "\n".join([f"# {inside}/", "", *(f"* `{name}`" for name in names)])
    if path.suffix in (".png", ".svg"):
        return path.read_bytes()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return relative(text, path)
    kind = {".py": "python", ".yaml": "yaml", ".json": "json"}.get(path.suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {inside}\n\n~~~~{kind}\n{text}\n~~~~\n"


def pictures() -> dict[str, str]:
    """The picture of every loss and recipe, by its place in the site."""
    losses = {
        f"losses/pictures/{name}.svg": depthloss.build_loss(name) for name in depthloss.available_losses()
    }
    recipes = {
        f"recipes/pictures/{name}.svg": depthloss.recipe(name) for name in depthloss.available_recipes()
    }
    return {place: figures.loss_on_an_edge(loss) for place, loss in (losses | recipes).items()}
