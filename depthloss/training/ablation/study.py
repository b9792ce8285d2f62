"""The study file: a base configuration, variants of it, conditions, seeds, and what is asked.

    base: {...}                       # a configuration as train.py reads it
    seeds: [0, 1, 2]
    baseline: plain                   # the others are compared with it; default: the first variant
    conditions:                       # optional; every variant is trained in each
      dense: {}
      sparse: {datasets.train.gt: 0.05}
    variants:
      plain: {model.loss.supervised_method: sparse-l1}
      other: {model.loss.supervised_method: sparse-mse, conditions: [sparse]}   # there alone
    questions:                        # optional: further comparisons
      Is it better?: {compare: [[other, plain]], metrics: [abs_rel], conditions: [sparse]}
    evaluation: {crop: garg}          # optional: keywords of the evaluation's Protocol

The overrides of a condition come before those of a variant.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from depthloss.metrics import EDGE_METRICS, METRICS
from depthloss.training.errors import ConfigError, did_you_mean
from depthloss.training.files import read_yaml

# Settings of every run, unless the study file or the command line changes them.
DEFAULTS = {
    "profile_loss": True,
    "checkpoint.save_top_k": 0,
    "trainer.enable_progress_bar": False,
    "trainer.num_sanity_val_steps": 0,
}
KEYS = ("name", "base", "seeds", "baseline", "conditions", "variants", "questions", "evaluation")
# A key of a variant that is no override.
ONLY_IN = "conditions"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        condition: its name.
        variant: its name.
        seed: of weights, order and augmentation.
        overrides: what condition and variant change in the base, by dotted key.
        tree: the configuration, as `train.py` reads it.
        directory: of the run.
    """

    condition: str
    variant: str
    seed: int
    overrides: dict[str, Any]
    tree: dict[str, Any]
    directory: Path

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.directory.name


@dataclasses.dataclass(frozen=True)
class Question:
    """What a study is to answer.

    Attributes:
        text: the question.
        compare: pairs (variant, the one it is compared with).
        metrics: names of metrics.
        conditions: where; empty = in every condition that has both variants.
    """

    text: str
    compare: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...]
    conditions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """A study file, read and checked.

    Attributes:
        name: of the study.
        base: the configuration that is varied, a tree.
        variants: what each changes, by dotted key.
        conditions: likewise; a study without any has one of no name that changes nothing.
        only_in: the conditions that a variant is trained in, if not in all.
        baseline: the variant that the others are compared with.
        seeds: of the runs.
        questions: what is asked beside the comparison with the baseline.
        evaluation: keywords of the evaluation's `Protocol`.
    """

    name: str
    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    conditions: dict[str, dict[str, Any]]
    only_in: dict[str, tuple[str, ...]]
    baseline: str
    seeds: tuple[int, ...]
    questions: tuple[Question, ...] = ()
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)

    def variants_in(self, condition: str) -> list[str]:
        """Return the names of the variants that are trained in a condition."""
        return [v for v in self.variants if condition in self.only_in.get(v, (condition,))]

    def trials(
        self,
        root: Path,
        seeds: Sequence[int] | None = None,
        only: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Iterator[Trial]:
        """Return the runs, all of one seed before the next, so that an unfinished study can be compared.

        Args:
            root: where the run directories lie.
            seeds: instead of the study's own.
            only: names of variants; None is all.
            overrides: further changes of every run, by dotted key; they come last.
        """
        for seed in self.seeds if seeds is None else seeds:
            for condition, changes in self.conditions.items():
                for variant in self.variants_in(condition):
                    if only is not None and variant not in only:
                        continue
                    directory = root / "_".join(
                        slug(part) for part in (condition, variant, f"seed{seed}") if part
                    )
                    change = {**changes, **self.variants[variant], **(overrides or {})}
                    where = {
                        "name": directory.name,
                        "seed": seed,
                        "trainer.default_root_dir": str(root),
                    }
                    tree = merged(merged({}, DEFAULTS), self.base)
                    tree = merged(merged(tree, change), where)
                    yield Trial(condition, variant, seed, change, tree, directory)


def read_study(path: str | Path) -> Study:
    """Read a study file.

    Raises:
        ConfigError: it cannot be read, or an entry is invalid.
    """
    path = Path(path)
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a mapping with the keys {', '.join(KEYS)} is needed, got {tree!r}")
    for key in tree:
        if key not in KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}{did_you_mean(key, KEYS)}")

    variants = _named_changes(path, "variants", tree.get("variants"))
    if not variants:
        raise ConfigError(f"{path}: variants: a mapping name -> {{dotted.key: value}} is needed")
    conditions = _named_changes(path, "conditions", tree.get("conditions")) or {"": {}}
    only_in = {}
    for name, changes in variants.items():
        if ONLY_IN in changes:
            only_in[name] = tuple(changes.pop(ONLY_IN))
            for condition in only_in[name]:
                _known(path, f"variants.{name}.{ONLY_IN}", condition, conditions)
    baseline = tree.get("baseline", next(iter(variants)))
    _known(path, "baseline", baseline, variants)
    seeds = tree.get("seeds", [0, 1, 2])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"{path}: seeds: a list of whole numbers is needed, got {seeds!r}")
    for kind, names in (("variants", variants), ("conditions", conditions)):
        if len({slug(name) for name in names}) < len(names):
            raise ConfigError(
                f"{path}: {kind}: two names differ only in characters that a file name cannot hold"
            )
    return Study(
        name=tree.get("name", path.stem),
        base=_changes(path, "base", tree.get("base")),
        variants=variants,
        conditions=conditions,
        only_in=only_in,
        baseline=baseline,
        seeds=tuple(seeds),
        questions=_questions(path, tree.get("questions"), variants, conditions),
        evaluation=_changes(path, "evaluation", tree.get("evaluation")),
    )


def _questions(path: Path, tree: Any, variants: Mapping, conditions: Mapping) -> tuple[Question, ...]:
    questions = []
    for text, parts in _changes(path, "questions", tree).items():
        where = f"questions.{text!r}"
        if not isinstance(parts, dict) or not {"compare", "metrics"} <= set(parts) <= {
            "compare",
            "metrics",
            "conditions",
        }:
            raise ConfigError(f"{path}: {where}: the keys compare, metrics and perhaps conditions are needed")
        pairs = [tuple(pair) for pair in parts["compare"]]
        if any(len(pair) != 2 for pair in pairs):
            raise ConfigError(f"{path}: {where}: compare: a list of [variant, other variant] is needed")
        for variant in (name for pair in pairs for name in pair):
            _known(path, f"{where}.compare", variant, variants)
        for condition in parts.get("conditions", ()):
            _known(path, f"{where}.conditions", condition, conditions)
        metrics = (*METRICS, *EDGE_METRICS, "step_ms", "loss_ms")
        for name in parts["metrics"]:  # such as "abs_rel" or "abs_rel, [0, 1) m"
            _known(path, f"{where}.metrics", name.partition(",")[0], metrics)
        questions.append(
            Question(text, tuple(pairs), tuple(parts["metrics"]), tuple(parts.get("conditions", ())))
        )
    return tuple(questions)


def _named_changes(path: Path, key: str, tree: Any) -> dict[str, dict[str, Any]]:
    named = _changes(path, key, tree)
    return {str(name): _changes(path, f"{key}.{name}", changes) for name, changes in named.items()}


def _changes(path: Path, key: str, tree: Any) -> dict[str, Any]:
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{path}: {key}: a mapping is needed, got {tree!r}")
    return dict(tree or {})


def _known(path: Path, where: str, name: Any, known: Collection[Any]) -> None:
    if name not in known:
        raise ConfigError(f"{path}: {where}: no {name!r}; known: {', '.join(map(str, known))}")


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with changes put in: dotted keys, or mappings, which are merged."""
    out = copy.deepcopy(dict(tree))
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if rest:
            value = {rest: value}
        if isinstance(value, Mapping):
            below = out.get(head)
            out[head] = merged(below if isinstance(below, dict) else {}, value)
        else:
            out[head] = value
    return out


def slug(name: str) -> str:
    """Return a name as part of a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", str(name).lower()).strip("-")
