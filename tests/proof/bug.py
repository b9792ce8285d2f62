"""What a bug is that mutation.py plants, and the suites that are to notice it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# Arguments of pytest, the quickest first. A bug runs those that its suites name until one fails.
SUITES = {
    "by hand": ("tests/test_by_hand.py",),
    "golden": ("tests/test_golden.py", "tests/test_golden_field.py"),
    "rules": (
        "tests/test_golden_rules.py",
        "tests/test_axes.py",
        "tests/test_spec.py",
        "tests/test_gradcheck.py",
    ),
    "relations": ("tests/test_relations.py",),
    "properties": ("tests/test_properties.py",),
    "reference": ("tests/test_matrix.py", "-k", "reference"),
    "layout": ("tests/triton/test_hard_cases.py", "-k", "fits_no_plan"),
    "lone": ("tests/test_matrix.py", "-k", "lone"),
    "native": ("tests/test_matrix.py", "-k", "agrees and cpu"),
    "ties": ("tests/test_axes.py", "-k", "ties_share"),
    "native, large": ("tests/cpu/test_engine.py", "-k", "band_by_band"),
    "native, hard": ("tests/cpu", "--ignore", "tests/cpu/proof"),
    "native, random": ("tests/cpu/proof/test_proofs.py", "-k", "random_cases_hold"),
    "triton": ("tests/triton/test_equivalence.py", "-k", "modules or six_levels"),
    "triton, matrix": ("tests/triton/test_equivalence.py",),
    "triton, Kendall": ("tests/triton/test_equivalence.py", "-k", "Kendall"),
    "triton, medians": ("tests/triton/test_exact.py", "-k", "median or threshold"),
    "triton, exact": ("tests/triton/test_exact.py", "tests/triton/test_hard_cases.py"),
    "emulator": ("tests/triton/emulator/test_losses.py",),
    "ranks": ("tests/test_distributed.py",),
    "triton ranks": ("tests/triton/test_ranks.py",),
    "alignments": ("tests/test_alignments.py", "tests/training/test_align.py"),
    "metrics": ("tests/training/test_metrics.py", "tests/training/test_edges.py", "tests/test_ibims.py"),
    "protocols": ("tests/test_protocols.py",),
}


class Mutation(NamedTuple):
    """A bug: `old` becomes `new` in the file at `path`, which `suites` are to notice."""

    kind: str
    path: str
    old: str
    new: str
    suites: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file and what is wrong with it."""
        return f"{self.path}: {self.kind}"


def mutated(mutation: Mutation, root: Path = ROOT) -> str:
    """The text of the file with the bug.

    Raises:
        ValueError: `old` is not there, or more than once.
    """
    text = (root / mutation.path).read_text(encoding="utf-8")
    if (found := text.count(mutation.old)) != 1:
        raise ValueError(
            f"{mutation.path} has {found} matches of {mutation.old!r}, which must be 1: bring the mutation "
            f"{mutation.kind!r} in tests/proof up to date"
        )
    return text.replace(mutation.old, mutation.new)


def of(path: str, suites: tuple[str, ...], *bugs: tuple[str, str, str]) -> list[Mutation]:
    return [Mutation(kind, path, old, new, suites) for kind, old, new in bugs]
