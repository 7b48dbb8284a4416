"""The licence of what is made of several things: the most restrictive of theirs, or unknown; never one of our own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from hybrid_llm.core.jsontext import read_json

UNKNOWN: Final = "unknown"
_RANKS: Final[Sequence[re.Pattern[str]]] = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"CC0-1\.0|Unlicense|0BSD|public[- ]domain",
        r"MIT(?:-0)?|Apache-2\.0|BSD-[23]-Clause|ISC|Zlib|PSF-2\.0|Python-2\.0|CC-BY-[234]\.\d|ODC-By-1\.0|CDLA-Permissive-[12]\.0",
        r"CC-BY-SA-[234]\.\d|MPL-2\.0|ODbL-1\.0|CDLA-Sharing-1\.0|(?:A|L)?GPL-\d(?:\.\d)?(?:-only|-or-later|\+)?|EPL-2\.0",
        r"CC-BY-NC(?:-SA|-ND)?-[234]\.\d|CC-BY-ND-[234]\.\d",
    )
)
"""From the freest: public domain, attribution, the same licence for what is made of it, no trade or no changes."""
_OTHER: Final = len(_RANKS)
_SPDX_TAIL: Final = re.compile(r"-(?:only|or-later)$|\+$")
_HUB: Final = re.compile(
    r"apache-2\.0|mit|bsd-[23]-clause|isc|zlib|unlicense|cc0-1\.0|cc-by-(?:2\.0|2\.5|3\.0|4\.0)|cc-by-sa-[34]\.0"
    r"|cc-by-nc(?:-sa)?-[234]\.0|cc-by-nd-4\.0|cc-by-nc-nd-[34]\.0|mpl-2\.0|a?gpl-3\.0|gpl-2\.0|lgpl-(?:2\.1|3\.0)"
    r"|epl-2\.0|odbl|llama(?:2|3(?:\.[123])?)|gemma|unknown"
)
"""What the model cards of Hugging Face know by an identifier (the list in the Hub's documentation)."""


def restriction(licence: str) -> int:
    """How restrictive *licence* is: greater is more; one that we do not know is more than all that we do."""
    if not licence or licence.lower() in (UNKNOWN, "other", "none"):
        return _OTHER + 1
    return next((rank for rank, form in enumerate(_RANKS) if form.fullmatch(licence)), _OTHER)


def combined(licences: Iterable[str]) -> str:
    """The most restrictive of *licences*, all of them if several are; unknown if one is, or if there are none."""
    found = list(dict.fromkeys(licences)) or [UNKNOWN]
    most = max(map(restriction, found))
    if most > _OTHER:
        return UNKNOWN
    return " AND ".join(one for one in found if restriction(one) == most)


def hub_identifier(licence: str) -> str:
    """The identifier in the metadata of a model card; `other` for what the Hub does not list."""
    short = _SPDX_TAIL.sub("", licence).lower()
    return short if _HUB.fullmatch(short) else "other"


def stated_in(path: Path, page: str = "README.md") -> str:
    """The licence that a data folder, a model folder, or the *page* of a Hugging Face folder states."""
    for name, key in (("data.json", "licence"), ("manifest.json", "license")):
        try:
            return str(read_json(path / name)[key])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return _front_matter_licence(path / page)


def _front_matter_licence(page: Path) -> str:
    try:
        head = page.read_text(encoding="utf-8").split("---\n")[1]
    except (OSError, ValueError, IndexError):
        return UNKNOWN
    found = (line.partition(":")[2].strip().strip("\"'") for line in head.splitlines() if line.startswith("license:"))
    return next(found, UNKNOWN)
