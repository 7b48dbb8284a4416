"""Writes what an encoder found as the answer that a generator would give: JSON that follows the output schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from hybrid_llm.core.taskform import LABEL


def classification(shares: Mapping[str, float]) -> str:
    """The answer of the label with the largest of *shares*."""
    return json.dumps({LABEL: max(shares, key=shares.__getitem__)}, ensure_ascii=False)


def extraction(kinds: Mapping[str, bool], found: Iterable[tuple[str, str]]) -> str:
    """The answer with what was *found*, pairs of a kind in lower case and a text, each text once.

    *kinds* is a property -> whether it lists texts; one that does not has the first text, or null.
    """
    texts: dict[str, dict[str, None]] = {}
    for kind, text in found:
        texts.setdefault(kind, {})[text] = None
    lists = {name: list(texts.get(name.lower(), ())) for name in kinds}
    answer = {name: lists[name] if listed else next(iter(lists[name]), None) for name, listed in kinds.items()}
    return json.dumps(answer, ensure_ascii=False)
