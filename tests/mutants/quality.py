"""Planted faults of the quality by task: figures of another model, another task, or out of their range."""

from __future__ import annotations

from tests.mutants.changes import drop_operand, never, swap
from tests.mutants.mutant import Mutant

_QUALITY = "hybrid_llm.router.config.quality"
_FLEET = "hybrid_llm.router.fleet"

MUTANTS = (
    Mutant(
        "the figures of another model are used",
        f"{_QUALITY}:figures_for",
        swap("by_digest.get(digest)", "by_digest.get(digest) or by_name.get(spec.name)"),
    ),
    Mutant("a stale figure is not reported", f"{_QUALITY}:figures_for", never("spec.name in by_name")),
    Mutant(
        "figures of a policy are those of a backend",
        f"{_QUALITY}:_evaluated",
        swap("about['backend']", "next(iter(about['digests']))"),
    ),
    Mutant(
        "the figure is not scaled",
        f"{_QUALITY}:_qualities",
        swap("float(value) / float(task['scale'])", "float(value)"),
    ),
    Mutant("a figure out of its range is used", f"{_QUALITY}:_qualities", drop_operand("not 0.0 <= share <= 1.0")),
    Mutant(
        "tasks count the same whatever their items",
        f"{_QUALITY}:_qualities",
        swap("(task['items'], share)", "(1, share)"),
    ),
    Mutant("another version is read", f"{_QUALITY}:read_evaluated", never("plain['version'] != VERSION")),
    Mutant(
        "every task of a request gets the same figure",
        f"{_FLEET}:Fleet._quality",
        swap("known.get(task)", "next(iter(known.values()))"),
    ),
    Mutant(
        "a file about other backends is accepted",
        f"{_QUALITY}:check_figures",
        swap("figures.qualities or figures.stale", "evaluated"),
    ),
)
