"""What a name under `model` means, in APIs where a request has one: a backend, a model, or `auto` for the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hybrid_llm.core.protocols import Backend

AUTO: Final = "auto"
"""The name that is no wish: the policy decides among all backends."""


def backends_of(backends: Sequence[Backend], model: str) -> tuple[str, ...] | None:
    """Those of *backends* that are, or have, *model*; none for `auto`; None if no backend has it."""
    if model == AUTO:
        return ()
    return tuple(each.name for each in backends if model in (each.name, each.capabilities.model)) or None


def model_of(backends: Sequence[Backend], name: str) -> str:
    """The model of the backend *name*, or the backend's name where that is not known."""
    found = next((each for each in backends if each.name == name), None)
    return name if found is None else found.capabilities.model or name
