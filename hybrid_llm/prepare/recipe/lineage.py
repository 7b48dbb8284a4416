"""Keeps the steps of several recipes apart on one card: `base` of the recipe `news` is `news/base` on others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from hybrid_llm.prepare.recipe.record import StepRecord

_DIGITS: Final = 8
"""Of the content hash, where two recipes have the same name too."""

Card = Mapping[str, Any]
"""What `card.json` holds, or a part of it."""


def kept_apart(steps: Iterable[StepRecord], cards: Mapping[str, Card]) -> dict[str, Card]:
    """*cards* with names of their steps that no other card has, nor one of *steps*; a step of several stays on one.

    Args:
        steps: Those of the recipe, which have their plain names.
        cards: Where each comes from -> the card.
    """
    taken = {record.step: record.digest for record in steps}
    listed = set(taken)
    return {text: _renamed(card, taken, listed) for text, card in cards.items()}


def _renamed(card: Card, taken: dict[str, str], listed: set[str]) -> Card:
    names = dict(_names(card, taken))
    lineage = [_entry(one, names) for one in card.get("lineage", ()) if names[one["step"]] not in listed]
    listed.update(names.values())
    sections = {section: _by(names, parts) for section, parts in card.get("sections", {}).items()}
    return {**card, "lineage": lineage, "sections": sections, "licences": _by(names, card.get("licences", {}))}


def _names(card: Card, taken: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each step of the lineage, and its name on other cards, which is *taken* from now on."""
    recipe = str(card.get("name", "")).rpartition("/")[0]
    for entry in card.get("lineage", ()):
        step, digest = str(entry["step"]), str(entry["digest"])
        name = f"{recipe}/{step}" if recipe and "/" not in step else step
        if taken.setdefault(name, digest) != digest:
            name = f"{name}@{digest[:_DIGITS]}"
            taken[name] = digest
        yield step, name


def _entry(entry: Card, names: Mapping[str, str]) -> dict[str, Any]:
    return {**entry, "step": names[entry["step"]], "inputs": _by(names, entry.get("inputs", {}))}


def _by(names: Mapping[str, str], parts: Mapping[str, Any]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in parts.items()}
