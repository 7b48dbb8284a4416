"""The rules of gitleaks (https://github.com/gitleaks/gitleaks, MIT) for credentials, as its own scanner applies them.

A rule runs only where one of its keywords stands; its secret must have the entropy that the rule asks for and must not
be on an allowlist. What a rule or an allowlist says about paths of files has no meaning for a prompt: rules apply
everywhere, allowlists that need a path never do. `rules/gitleaks.toml` is the file of the project, unchanged.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from hybrid_llm.router.privacy.detectors.folding import Regex, WordSet, linear
from hybrid_llm.router.privacy.detectors.views import View

_LINE: Final = 1000
"""How much of a line is looked at, at most, on each side of a find, by allowlists for lines."""


@dataclass(frozen=True, slots=True)
class Allowlist:
    """What is no secret: *target* is `secret`, `match` or `line`, the text that *regexes* look at."""

    regexes: tuple[Regex, ...]
    stopwords: tuple[str, ...]
    target: str = "secret"

    def allows(self, texts: Mapping[str, bytes]) -> bool:
        """Is it no secret? *texts* has the secret, the match and the line."""
        secret = texts["secret"].lower().decode("latin-1")
        return any(regex.search(texts[self.target]) for regex in self.regexes) or any(
            w in secret for w in self.stopwords
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of credential. *entropy* is in bits a character, 0 where the rule asks for none."""

    id: str
    regex: Regex
    keywords: tuple[str, ...]
    entropy: float
    group: int
    allowlists: tuple[Allowlist, ...]

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield where in *data* its secrets stand."""
        match = self.regex.search(data)
        while match is not None:
            start, end = self._secret(match)
            if self._is_secret(data, match, start, end):
                yield start, end
            behind = max(end, match.start() + 1)
            match = self.regex.search(data, behind) if behind < len(data) else None

    def _secret(self, match: Any) -> tuple[int, int]:
        """The group that the rule names, else the first that took part, else the whole match."""
        groups = (self.group,) if self.group else range(1, match.re.groups + 1)
        spans = (match.span(group) for group in groups)
        start, end = next((span for span in spans if span[0] >= 0), match.span())
        return start, end

    def _is_secret(self, data: bytes, match: Any, start: int, end: int) -> bool:
        secret = data[start:end]
        if self.entropy and _entropy(secret) <= self.entropy:
            return False
        first = data.rfind(b"\n", max(0, start - _LINE), start) + 1
        last = data.find(b"\n", end, end + _LINE)
        line = data[max(first, start - _LINE) : last if last >= 0 else end + _LINE]
        texts = {"secret": secret, "match": match.group(), "line": line}
        return not any(allowlist.allows(texts) for allowlist in self.allowlists)


class Rules:
    """Many rules, of which one look at the text tells the few that can match."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_keyword: dict[str, list[int]] = defaultdict(list)
        for index, rule in enumerate(rules):
            for keyword in rule.keywords:
                self._by_keyword[keyword].append(index)
        self._keywords = WordSet(list(self._by_keyword))

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield where in *data* secrets stand; spans of different rules may overlap."""
        for index in sorted({i for word in self._keywords.within(data) for i in self._by_keyword[word]}):
            yield from self.rules[index].spans(data)


@cache
def load_rules() -> Rules:
    """The rules that come with the library, read once."""
    text = files("hybrid_llm.router.privacy.detectors").joinpath("rules", "gitleaks.toml").read_text("utf-8")
    document = tomllib.loads(text)
    everywhere = _allowlist(document["allowlist"])
    return Rules([_rule(table, everywhere) for table in document["rules"] if "regex" in table])


def secrets(view: View) -> Iterator[tuple[int, int]]:
    """Yield where in *view* a credential stands that gitleaks would tell."""
    return load_rules().spans(view.data)


def _rule(table: Mapping[str, Any], everywhere: Allowlist | None) -> Rule:
    lists = [everywhere, *(_allowlist(entry) for entry in table.get("allowlists", ()))]
    return Rule(
        id=table["id"],
        regex=linear(table["regex"].encode("utf-8")),
        keywords=tuple(table["keywords"]),
        entropy=table.get("entropy", 0.0),
        group=table.get("secretGroup", 0),
        allowlists=tuple(entry for entry in lists if entry is not None),
    )


def _allowlist(table: Mapping[str, Any]) -> Allowlist | None:
    """None if it depends on the path of a file, or has nothing to say of texts."""
    regexes = tuple(linear(text.encode("utf-8")) for text in table.get("regexes", ()))
    stopwords = tuple(word.lower() for word in table.get("stopwords", ()))
    needs_path = "paths" in table and table.get("condition") == "AND"
    return (
        None
        if needs_path or not (regexes or stopwords)
        else Allowlist(regexes, stopwords, table.get("regexTarget", "secret"))
    )


def _entropy(secret: bytes) -> float:
    """Shannon's entropy, bits a byte."""
    size = len(secret)
    return -sum(n / size * math.log2(n / size) for n in Counter(secret).values()) if size else 0.0
