"""Which settings of sampling are sent: those that were named, since a server has recommendations for the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hybrid_llm.core.limits import RECOMMENDED
from hybrid_llm.core.request import GREEDY, Sampling

_SETTINGS: Final = (*RECOMMENDED, "seed")


def named(sampling: Sampling) -> Mapping[str, float]:
    """The numbers that the app or its configuration named, or that are not the defaults."""
    values = {name: getattr(sampling, name) for name in _SETTINGS}
    explicit = (name for name in _SETTINGS if name in sampling.explicit or values[name] != getattr(GREEDY, name))
    return {name: values[name] for name in explicit if values[name] is not None}
