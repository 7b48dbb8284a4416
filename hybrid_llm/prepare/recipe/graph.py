"""How the steps of a recipe depend on each other: what each reads, a valid order, and what is wrong with the names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.prepare.step import Makes

if TYPE_CHECKING:
    from hybrid_llm.prepare.recipe.document import Reading, Recipe, RecipeStep

_SOURCE: Final = re.compile(r"(?:pypi|hf|https?|s3|gs|az):", re.IGNORECASE)


def parents(step: RecipeStep, names: Collection[str]) -> tuple[str, ...]:
    """The steps among *names* that *step* reads, each once."""
    return tuple(dict.fromkeys(one.input.text for one in step.readings if one.input.text in names))


def before(step: RecipeStep, steps: Mapping[str, RecipeStep]) -> tuple[str, ...]:
    """The steps that are finished before *step* runs: those that it reads.

    Of one that gives a model out of hand also every report about that model, or about one that it was made of: the card
    has their figures, and a floor that one of them misses holds.
    """
    reads = parents(step, steps)
    if not step.releases:
        return reads
    line = _closure(reads, lambda name: parents(steps[name], steps))
    models = {name for name in line if steps[name].step.makes is Makes.MODEL}
    reports = {name: parents(one, steps) for name, one in steps.items() if one.step.makes is Makes.REPORT}
    return tuple(dict.fromkeys((*reads, *(name for name, about in reports.items() if models.intersection(about)))))


def order(recipe: Recipe) -> tuple[str, ...]:
    """The names of the steps, each after those that it reads; what needs a network comes as early as it can."""
    sorter, found = _sorter(recipe), list[str]()
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda name: not _uses_network(recipe.steps[name]))
        found += ready
        sorter.done(*ready)
    return tuple(found)


def ancestors(recipe: Recipe, name: str) -> frozenset[str]:
    """All steps that *name* reads, directly or not."""
    return _closure(parents(recipe.steps[name], recipe.steps), lambda one: parents(recipe.steps[one], recipe.steps))


def needed(recipe: Recipe, name: str) -> frozenset[str]:
    """All steps that are finished before *name* runs, see `before`."""
    return _closure(before(recipe.steps[name], recipe.steps), lambda one: before(recipe.steps[one], recipe.steps))


def _closure(names: Iterable[str], following: Callable[[str], Iterable[str]]) -> frozenset[str]:
    """*names*, and what follows from them; a cycle, which is reported elsewhere, ends it."""
    found, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += following(name)
    return frozenset(found)


def check_links(recipe: Recipe) -> None:
    """Report, at its line, each input that is no step and no path, or is of the wrong kind, and a cycle."""
    for step in recipe.steps.values():
        for reading in step.readings:
            _check(reading, step, recipe.steps, recipe.folder)
    try:
        _sorter(recipe).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        if len(circle) > 2:  # one that reads itself is reported at its key
            first = min(circle, key=list(recipe.steps).index)
            ring = [*circle[circle.index(first) : -1], *circle[: circle.index(first)], first]
            way = " -> ".join(reversed(ring))
            _reject(recipe.steps[first], f"the steps wait for each other in a cycle: {way}")


def _check(reading: Reading, step: RecipeStep, steps: Mapping[str, RecipeStep], folder: Path) -> None:
    text = reading.input.text
    if text == step.name:
        _reject(step, f"the step `{text}` reads itself", "name another step, or a path", at=reading.key)
    elif text in steps:
        makes = steps[text].step.makes
        if reading.wants is not None and makes is not reading.wants:
            message = f"`{reading.key}` reads {_noun(reading.wants)}, and the step `{text}` makes {_noun(makes)}"
            _reject(step, message, at=reading.key)
    elif _SOURCE.match(text):
        hint = f"write a step `base: {{kind: fetch, source: '{text}'}}`, and name that"
        _reject(step, f"`{text}` is on a network, from which only a step of kind fetch reads", hint, at=reading.key)
    elif not (folder / text).exists():
        _reject_unknown(text, step, set(steps) - {step.name}, folder, at=reading.key)


def _reject_unknown(text: str, step: RecipeStep, others: Collection[str], folder: Path, at: str) -> None:
    """Report a name that is nothing; a step that is a command of its own has no *others*."""
    if others:
        message, known = f"`{text}` is neither a step of this recipe nor a path that exists", others
    else:
        message, known = f"there is no file or folder `{text}`", _beside(folder / text)
    _reject(step, message, did_you_mean(text, known) if known else "", at=at)


def _beside(path: Path) -> Collection[str]:
    """What the name of *path*, which does not exist, may have meant: the nearest name in its folder."""
    names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    return [str(Path(path.parent, near)) for near in get_close_matches(path.name, names, n=1)]


def _reject(step: RecipeStep, message: str, hint: str = "", at: str = "") -> None:
    assert step.found is not None, "it was read"
    step.found.reject(message, hint, at)


def _noun(makes: str) -> str:
    return {"data": "data", "model": "a model", "report": "a report", "receipt": "a receipt"}[makes]


def _uses_network(step: RecipeStep) -> bool:
    return bool(getattr(step.step, "network", False))


def _sorter(recipe: Recipe) -> TopologicalSorter[str]:
    return TopologicalSorter({name: before(step, recipe.steps) for name, step in recipe.steps.items()})
