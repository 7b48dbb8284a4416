"""Which kinds of finding are names of people, places and organisations: words, which no number of JSON is."""

from __future__ import annotations

from typing import Final

_PEOPLE: Final = (
    "per person people name names person_name given_name first_name middle_name last_name family_name full_name surname"
)
_PLACES: Final = (
    "loc location place address street street_name street_address city state country region gpe fac facility"
)
_OTHERS: Final = "org organisation organization company norp nrp"
_NAMING: Final = frozenset(f"{_PEOPLE} {_PLACES} {_OTHERS}".split())
"""As models call them. Not postal codes and house numbers: whoever maps labels to these asks for numbers."""


def is_naming(kind: str) -> bool:
    """Whether values of *kind* are names. Any other kind may be a number: it is protected wherever it stands."""
    return kind.lower() in _NAMING
