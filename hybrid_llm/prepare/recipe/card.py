"""The card of a model: where it comes from, what it is made of, what it can do, what it cost, and who may have it.

`card.json` is for programs, `README.md` the same for people, in the form of a model card of Hugging Face.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.edge.folder import MANIFEST_NAME, read_manifest
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.jsontext import parse_json, read_json
from hybrid_llm.prepare.recipe.digests import CARD_NAME, PAGE_NAME, write_text
from hybrid_llm.prepare.recipe.document import Recipe
from hybrid_llm.prepare.recipe.graph import ancestors, order, parents
from hybrid_llm.prepare.recipe.licences import UNKNOWN, combined, stated_in
from hybrid_llm.prepare.recipe.lineage import kept_apart
from hybrid_llm.prepare.recipe.meter import Energy
from hybrid_llm.prepare.recipe.page import model_page
from hybrid_llm.prepare.recipe.record import StepRecord
from hybrid_llm.prepare.step import Makes

VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What `card.json` holds.

    Attributes:
        name: of the recipe and the step.
        licence: the most restrictive of `licences`, or `unknown`.
        licences: what the model is made of -> its licence.
        publishable: whether no metric misses a bound.
        refusals: why it is not.
        lineage: the record of each step that led to the model, the first one first, without their files. A step of
            another recipe has the name of that before its own.
        evaluations: step -> the metrics of each report about the model.
        sections: what its steps report, by section and step: `data`, `parameters`, `training`, `privacy`, ...
        seconds, energy: of the whole lineage.
    """

    name: str
    about: str
    step: str
    licence: str
    licences: Mapping[str, str]
    publishable: bool
    refusals: Sequence[str]
    lineage: Sequence[Mapping[str, Any]]
    evaluations: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    seconds: float
    energy: Energy

    def to_json(self) -> str:
        """The text of `card.json`."""
        fields = {"version": VERSION, **jsonable(self)}  # type: ignore[dict-item]
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def read_card(folder: Path) -> Mapping[str, Any]:
    """What `card.json` in *folder* holds.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = folder / CARD_NAME
    try:
        values = read_json(path)
        if values["version"] == VERSION:
            return dict(values)
    except FileNotFoundError:
        message = f"{folder} has no {CARD_NAME}: it was not made by a recipe or a step of `hybrid-llm models`"
        raise ConfigError(message, path=str(path)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error!r}): run its recipe again", path=str(path)) from None
    raise ConfigError(f"{path} is of another version: run its recipe again", path=str(path))


def write_cards(recipe: Recipe, out: Path) -> None:
    """Write the cards of all models of *recipe* that are in *out*, as far as they differ from what is there.

    What is signed, and what came from a registry, stays as it is: it has the card of the model before.
    """
    records = _records(recipe, out)
    for name, record in records.items():
        if record.makes is Makes.MODEL and not record.sealed:
            write_card(_card(recipe, out, name, records), out / name)


def refusals(recipe: Recipe, out: Path, name: str) -> list[str]:
    """Why what the step *name* reads may not be given out of hand, by the results in *out*; empty where it may."""
    records = {step: record for step, record in _records(recipe, out).items() if step != name}
    return _refusals(recipe, name, records, _older_cards(recipe, out, name))


def _records(recipe: Recipe, out: Path) -> dict[str, StepRecord]:
    found = ((name, StepRecord.read(out / name, sealed=recipe.steps[name].sealed)) for name in order(recipe))
    return {name: record for name, record in found if record is not None}


def write_card(card: Card, folder: Path) -> None:
    """Write both forms of *card* into *folder*; a page that belongs to the model, by its manifest, stays."""
    text = card.to_json()
    if not _is_listed(folder, PAGE_NAME):
        write_text(folder / PAGE_NAME, model_page(parse_json(text), folder))
    write_text(folder / CARD_NAME, text)


def _is_listed(folder: Path, name: str) -> bool:
    return (folder / MANIFEST_NAME).is_file() and name in read_manifest(folder).files


def _card(recipe: Recipe, out: Path, name: str, records: Mapping[str, StepRecord]) -> Card:
    steps = _line(recipe, name, records)
    older = kept_apart(steps, _older_cards(recipe, out, name))
    licences = {**_licences(steps, out, older), **({recipe.name: recipe.licence} if recipe.licence else {})}
    reports = {step: record for step, record in records.items() if record.makes is Makes.REPORT}
    refused = _refusals(recipe, name, records, older)
    lineage = [*(one for card in older.values() for one in card.get("lineage", ())), *map(_entry, steps)]
    return Card(
        name=f"{recipe.name}/{name}" if recipe.name != name else name,
        about=recipe.about,
        step=name,
        licence=combined(licences.values()),
        licences=licences,
        publishable=not refused,
        refusals=refused,
        lineage=lineage,
        evaluations={
            step: record.metrics
            for step, record in reports.items()
            if name in parents(recipe.steps[step], recipe.steps)
        },
        sections=_sections(steps, older.values()),
        libraries={name: version for record in steps for name, version in record.libraries.items()},
        **_total(lineage),
    )


def _line(recipe: Recipe, name: str, records: Mapping[str, StepRecord]) -> list[StepRecord]:
    """The records of the step and of all that it reads, directly or not, in their order."""
    before = ancestors(recipe, name)
    return [record for step, record in records.items() if step in before or step == name]


def _refusals(
    recipe: Recipe, name: str, records: Mapping[str, StepRecord], older: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The bounds that the steps miss, and the reports about their models; and those of what other recipes made."""
    steps = _line(recipe, name, records)
    line = {name, *(record.step for record in steps if record.makes is Makes.MODEL)}
    reports = (record for record in records.values() if record.makes is Makes.REPORT)
    judged = (one for one in reports if line.intersection(parents(recipe.steps[one.step], recipe.steps)))
    breaches = dict.fromkeys(str(breach) for record in (*steps, *judged) for breach in record.breaches)
    return [*breaches, *(f"{text}: {why}" for text, card in older.items() for why in card.get("refusals", ()))]


def _older_cards(recipe: Recipe, out: Path, name: str) -> dict[str, Mapping[str, Any]]:
    """The cards of what the line of the step *name* begins with: of paths, and of what came whole, from a registry."""
    before = ancestors(recipe, name)
    names = [one for one in order(recipe) if one in before or one == name]
    brought = [one for one in names if recipe.steps[one].sealed and not recipe.steps[one].readings]
    cards = {text: _older_card(recipe.folder / text) for text in _paths(recipe, names)}
    return {**cards, **{one: _older_card(out / one) for one in brought if (out / one / CARD_NAME).is_file()}}


def _paths(recipe: Recipe, names: Iterable[str]) -> Iterator[str]:
    """The inputs of the steps *names* that are paths, each once."""
    texts = (one.input.text for name in names for one in recipe.steps[name].readings)
    yield from dict.fromkeys(text for text in texts if text not in recipe.steps)


def _older_card(path: Path) -> Mapping[str, Any]:
    """The card of what another recipe has made; without one, what is known of the licence."""
    try:
        return read_card(path)
    except ConfigError:
        return {"licences": {path.name: stated_in(path)}}


def _licences(steps: Sequence[StepRecord], out: Path, older: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What begins outside the recipe, with its licence: what a step states, and what paths come with.

    What a step states of the data that it prepares holds for a path that states nothing itself.
    """
    stated = {record.step: _stated(record, out) for record in steps}
    told = {text for record in steps if stated[record.step] not in (None, UNKNOWN) for text in record.inputs}
    told -= {text for record in steps if stated[record.step] in (None, UNKNOWN) for text in record.inputs}
    brought = ((text, *one) for text, card in older.items() for one in card.get("licences", {}).items())
    named = [(name, licence) for text, name, licence in brought if licence != UNKNOWN or text not in told]
    named += [(name, licence) for name, licence in stated.items() if licence is not None]
    found: dict[str, str] = {}
    for name, licence in named:  # what other recipes name may have the names of steps here
        found[name] = combined([found[name], licence]) if name in found else licence
    return found


def _stated(record: StepRecord, out: Path) -> str | None:
    """The licence of what a step brings in or prepares; None of what it makes of its inputs."""
    stated = record.card.get("licence")
    if stated is None and record.makes is Makes.DATA:
        stated = stated_in(out / record.step)
    if stated is None:
        return None if record.inputs else UNKNOWN
    return str(stated.get("id", UNKNOWN)) if isinstance(stated, Mapping) else str(stated)


def _entry(record: StepRecord) -> dict[str, Any]:
    left_out = ("files", "parts", "card", "breaches", "libraries")
    fields: Any = jsonable(record)
    return {"digest": record.digest, **{name: value for name, value in fields.items() if name not in left_out}}


def _sections(steps: Iterable[StepRecord], older: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for card in older:
        for section, parts in card.get("sections", {}).items():
            found.setdefault(section, {}).update(parts)
    for record in steps:
        for section, value in record.card.items():
            if section != "licence":
                found.setdefault(section, {})[record.step] = value
    return found


def _total(lineage: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds and energy; one estimate among them makes the sum an estimate."""
    costs = [entry["cost"] for entry in lineage]
    seconds = sum(cost["seconds"] for cost in costs)
    energies = [Energy(**cost["energy"]) for cost in costs]
    weakest = min(energies, key=lambda energy: energy.how)  # "estimate" before "measured"
    joules = round(sum(energy.joules for energy in energies), 1)
    return {"seconds": round(seconds, 3), "energy": Energy(joules=joules, how=weakest.how, by=weakest.by)}
