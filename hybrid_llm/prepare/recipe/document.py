"""The recipe file: its keys, and how it is read and checked before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.fields import (
    VERSION,
    Found,
    Kind,
    ListOf,
    MapOf,
    Number,
    OneOf,
    Table,
    Text,
    Variants,
    Whole,
    key,
    keys_of,
    table,
)
from hybrid_llm.policies.reader.fields import alternatives, read_document, read_text
from hybrid_llm.policies.reader.schemas import Json, json_schema
from hybrid_llm.policies.reader.source import Faults
from hybrid_llm.prepare.recipe.graph import check_links
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Step
from hybrid_llm.prepare.steps import STEPS, table_of

_WHAT: Final = "the recipe"
_NAME: Final = r"[a-z0-9][a-z0-9_.-]{0,63}"
_ANY: Final = Number(-math.inf)
_WANTED: Final = {MODEL: Makes.MODEL, DATA: Makes.DATA}


def _name(text: str) -> str:
    if not re.fullmatch(_NAME, text):
        raise ValueError(
            f"`{text}` is no name: write at most 64 of a-z, 0-9, `-`, `_` and `.`, a letter or digit first"
        )
    return text


NAME: Final = Text("a name", f"^{_NAME}$", _name)
"""A name that is also that of a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What each step of a recipe can have besides the options of its kind."""

    seed: int | None = key(Whole(), "The seed of this step; default: that of the recipe.", default=None)
    floors: Mapping[str, float] = key(
        MapOf(_ANY),
        "Metric of the step -> the least that it must reach, or no model of it can be published.",
        default={},
    )
    ceilings: Mapping[str, float] = key(
        MapOf(_ANY), "Metric of the step -> the most that it may reach, such as for perplexity or size.", default={}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One input of a step: the key that names it, what it must be, and the input."""

    key: str
    wants: Makes | None
    input: Input


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeStep:
    """One step of a recipe, checked.

    Attributes:
        name: in the recipe, and of its folder.
        table: the keys of its kind.
        step: its options.
        bounds: its seed and what its metrics must reach.
        found: what the file has, to report at its line.
    """

    name: str
    kind: str
    table: Table
    step: Step
    bounds: Bounds = field(default_factory=Bounds)
    found: Found | None = field(default=None, repr=False, compare=False)

    @property
    def options(self) -> Mapping[str, Any]:
        """The value of each key of the kind, defaults too."""
        attributes = {key.attribute: key.name for key in self.table.keys if hasattr(self.step, key.attribute)}
        return {name: getattr(self.step, attribute) for attribute, name in attributes.items()}

    @property
    def sealed(self) -> bool:
        """Whether nothing of ours is written into its folder."""
        return bool(getattr(self.step, "sealed", False))

    @property
    def releases(self) -> bool:
        """Whether it gives a model out of hand."""
        return bool(getattr(self.step, "releases", False))

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Its inputs, in the order of its keys."""
        kinds = {key.name: key.kind for key in self.table.keys}
        return tuple(
            Reading(key=name, wants=_wants(kinds[name]), input=given)
            for name, value in self.options.items()
            for given in inputs_in(value)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Steps that make models and data of each other. Their order in the file does not matter."""

    name: str = key(NAME, "The name of the recipe, and of the folder of its results.", hint="name: sentiment")
    about: str = key(Text(), "What the recipe is for; it stands on the cards.", default="")
    seed: int = key(Whole(), "The seed of everything that is drawn.", default=0)
    licence: str = key(
        Text("an SPDX identifier"),
        "The licence under which you give the results, where those of what they are made of allow it.",
        default="",
    )
    steps: Mapping[str, RecipeStep] = key(
        MapOf(Variants("step", STEPS.names, lambda kind: step_table(kind)), least=1, name=NAME),
        "Name -> step. A step names what it reads: another step, or a path from the folder of the recipe.",
        hint="each step has a name and a kind",
    )
    folder: Path = Path()
    """What paths are relative to."""


def _wants(kind: Kind) -> Makes | None:
    match kind:
        case ListOf():
            return _wants(kind.item)
        case OneOf():
            found = {_wants(one) for one in kind.kinds} - {None}
            return found.pop() if len(found) == 1 else None
        case Text():
            return _WANTED.get(kind)
    return None


def inputs_in(value: object) -> Iterator[Input]:
    """The inputs in the value of a key: itself, or those of a list or mapping."""
    if isinstance(value, Input):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from inputs_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from inputs_in(item)


def step_table(kind: str) -> Table:
    """The keys of a step of *kind* in a recipe; it is read as a `RecipeStep`, or None where it is incomplete.

    Raises:
        ConfigError: there is no such kind, or its package cannot be imported.
    """
    own = table_of(kind)

    def make(found: Found) -> RecipeStep | None:
        bounds = {key.attribute: found.values[key.attribute] for key in keys_of(Bounds)}
        values = {name: value for name, value in found.values.items() if name not in bounds}
        if found.wrong or not _is_complete(own, found):
            return None
        try:
            step = own.make(replace(found, values=values))
        except ConfigError as error:
            found.reject(str(error))
            return None
        made = RecipeStep(name=found.name, kind=kind, table=own, step=step, bounds=Bounds(**bounds), found=found)
        _check_bounds(made, found)
        return made

    return replace(own, keys=(*own.keys, *keys_of(Bounds)), make=make)


def _check_bounds(step: RecipeStep, found: Found) -> None:
    if step.step.makes is Makes.RECEIPT:
        for name in found.present.intersection(("floors", "ceilings")):
            message = f"`{name}` of a step of kind {step.kind} would be checked when the model is out already"
            found.reject(message, "give them to the step that makes the model, or to a report about it", name)


def _is_complete(own: Table, found: Found) -> bool:
    needed = ([key.name for key in keys] for keys in alternatives(own) if keys[0].required)
    return all(found.present.intersection(names) for names in needed)


def _recipe(found: Found) -> Recipe:
    """The recipe of the steps that are complete; faults of the others are reported already."""
    steps = {name: step for name, step in found.values["steps"].items() if step is not None}
    return Recipe(**{**found.values, "steps": steps})


RECIPE: Final[Table] = table(Recipe, _WHAT, make=_recipe, extra=(VERSION,))


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file at *path*.

    Raises:
        PolicyError: it is no valid recipe; `.errors` has everything that is wrong, each with its line and column.
    """
    return parse_recipe(read_text(path, _WHAT, PolicyError), str(path), path.absolute().parent)


def parse_recipe(text: str, path: str, folder: Path) -> Recipe:
    """The recipe that *text* holds; *path* names it in messages, and *folder* is what its paths are relative to.

    Raises:
        PolicyError: as `read_recipe`.
    """
    faults = Faults(text, path, _WHAT)
    found: Recipe = read_document(text, RECIPE, faults, folder=folder)
    faults.check()  # names can be resolved only where every step could be read
    recipe = replace(found, folder=folder)
    check_links(recipe)
    faults.check()
    return recipe


def recipe_schema() -> Json:
    """The JSON Schema of recipes, for editors."""
    return json_schema(RECIPE, "A recipe of hybrid-llm", "hybrid-llm models run --schema")
