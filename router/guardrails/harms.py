"""What the default guardrail refuses: the rules of `harms.yaml`, compiled.

A rule asks for what is wanted *and* for the wanting: `how do I make ... a pipe bomb`, not `bomb`. What excuses it is
common and harmless where its words stand: a bath bomb, a game, the question why something is illegal.

Slurs stand in `slurs.rot13.txt`, in ROT13: a reviewer reads them with one command, nobody meets them by a search, and
they are matched with their inflections. Hashes would hide them from reviewers alone, for words are quickly guessed.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from hybrid_llm.core.protocols import Verdict

CATEGORIES: Final = (
    "hate",
    "threat",
    "self_harm",
    "weapons",
    "drugs",
    "sexual_minors",
    "doxxing",
    "crime",
    "cybercrime",
)
"""In the order in which they are looked for: of two that a text has, the earlier is reported."""
_AROUND: Final = 120
"""Characters before and behind a passage in which something may excuse it."""
_MEMORY: Final = 64 << 20
_FRAGMENT: Final = re.compile(r"<([a-z]+)>")


@dataclass(frozen=True, slots=True)
class Harm:
    """One rule, compiled."""

    verdict: Verdict
    gate: Any
    """What every match needs: a quick test that spares most searches."""
    pattern: Any
    excuses: Any

    def is_in(self, text: str) -> bool:
        """Whether the pattern matches somewhere in *text*, which is normalised, with no excuse nearby."""
        return self.gate.search(text) is not None and any(
            not self._excused(text, m) for m in self.pattern.finditer(text)
        )

    def _excused(self, text: str, match: re.Match[str]) -> bool:
        if self.excuses is None:
            return False
        return self.excuses.search(text[max(0, match.start() - _AROUND) : match.end() + _AROUND]) is not None


@cache
def rules() -> tuple[Harm, ...]:
    """Every rule, in the order of the file, which is that of `CATEGORIES`."""
    return tuple(_harm(rule) for rule in _written()["rules"])


@cache
def gate() -> Any:
    """What every match of every rule needs, in one search."""
    return _compiled("|".join(f"(?:{_expanded(rule['gate'])})" for rule in _written()["rules"]))


def _harm(rule: dict[str, str]) -> Harm:
    excuses = _expanded(rule["excuses"]) if "excuses" in rule else ""
    return Harm(
        Verdict.refuse(rule["category"], rule["reason"]),
        _compiled(_expanded(rule["gate"])),
        _compiled(_expanded(rule["pattern"])),
        _compiled(excuses) if excuses else None,
    )


@cache
def _written() -> dict[str, Any]:
    import yaml

    document: dict[str, Any] = yaml.safe_load((files("hybrid_llm.router.guardrails") / "harms.yaml").read_text("utf-8"))
    return document


def _expanded(pattern: str) -> str:
    """*pattern* in one line, with the fragments that it names."""
    joined = "".join(line.strip("\n") for line in pattern.splitlines())
    return _FRAGMENT.sub(lambda match: _fragment(match[1]), joined)


@cache
def _fragment(name: str) -> str:
    return _slurs() if name == "slurs" else f"(?:{_expanded(_written()['fragments'][name])})"


def _slurs() -> str:
    text = codecs.decode((files("hybrid_llm.router.guardrails") / "slurs.rot13.txt").read_text("ascii"), "rot13")
    return "|".join(line for line in text.splitlines() if line and not line.startswith("#"))


def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.max_mem = _MEMORY
    return re2.compile(pattern, options)
