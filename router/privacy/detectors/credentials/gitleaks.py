"""The rules of gitleaks (https://github.com/gitleaks/gitleaks, MIT), applied as its own scanner applies them.

A rule runs only where one of its keywords occurs, and its secret must have the entropy that the rule requires and match
no allowlist. Conditions on file paths do not apply to prompts: rules apply everywhere, allowlists that require a path
never do. `rules/gitleaks.toml` is the project's own file, unchanged.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from hybrid_llm.core.looks import look
from hybrid_llm.router.privacy.detectors.text import Regex, re2_options

_MAX_LINE: Final = 1000
"""How many bytes of a line, on each side of a find, an allowlist for lines sees."""


@dataclass(frozen=True, slots=True)
class Allowlist:
    """What is not a secret: where *regex* matches *target* (`secret`, `match` or `line`), or with a stopword in it.

    Each is one expression for all of a list: there are lists of a thousand.
    """

    regex: Regex | None
    stopwords: Regex | None
    target: str = "secret"

    def allows(self, texts: Mapping[str, bytes]) -> bool:
        """Whether this is no secret; *texts* has the secret, the match and the line."""
        if self.stopwords is not None and self.stopwords.search(texts["secret"].lower()) is not None:
            return True
        return self.regex is not None and self.regex.search(texts[self.target]) is not None


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One kind of credential. A secret must have more than *entropy* bits per byte; 0 requires none."""

    id: str
    regex: Regex
    keywords: tuple[str, ...]
    entropy: float
    group: int
    allowlists: tuple[Allowlist, ...]

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the spans of its secrets in *data*."""
        match = self.regex.search(data)
        while match is not None:
            look()
            start, end = self._secret(match)
            if self._is_secret(data, match, start, end):
                yield start, end
            behind = max(end, match.start() + 1)
            match = self.regex.search(data, behind) if behind < len(data) else None

    def _secret(self, match: Any) -> tuple[int, int]:
        """The group that the rule names, else the first that matched, else the whole match."""
        groups = (self.group,) if self.group else range(1, match.re.groups + 1)
        spans = (match.span(group) for group in groups)
        start, end = next((span for span in spans if span[0] >= 0), match.span())
        return start, end

    def _is_secret(self, data: bytes, match: Any, start: int, end: int) -> bool:
        secret = data[start:end]
        if self.entropy and entropy(secret) <= self.entropy:
            return False
        first = data.rfind(b"\n", max(0, start - _MAX_LINE), start) + 1
        last = data.find(b"\n", end, end + _MAX_LINE)
        line = data[max(first, start - _MAX_LINE) : last if last >= 0 else end + _MAX_LINE]
        texts = {"secret": secret, "match": match.group(), "line": line}
        return not any(allowlist.allows(texts) for allowlist in self.allowlists)


class Rules:
    """Many rules; one search for all keywords selects the few that can match a text."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        import re2

        self.rules = tuple(rules)
        by_keyword: dict[str, list[Rule]] = defaultdict(list)
        for rule in self.rules:
            for keyword in rule.keywords:
                by_keyword[keyword].append(rule)
        options = re2_options(re2)
        options.case_sensitive = False
        self._keywords = re2.Set.SearchSet(options)
        for keyword in by_keyword:
            self._keywords.Add(re2.escape(keyword.encode("ascii")))
        self._keywords.Compile()
        self._by_keyword = list(by_keyword.values())

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the spans of secrets in *data*; those of different rules may overlap."""
        for _, start, end in self.finds(data):
            yield start, end

    def finds(self, data: bytes) -> Iterator[tuple[str, int, int]]:
        """Like `spans`, with the name of the rule."""
        keywords = self._keywords.Match(data) or ()
        for rule in {rule for keyword in keywords for rule in self._by_keyword[keyword]}:
            for start, end in rule.spans(data):
                yield rule.id, start, end


@cache
def load_rules() -> Rules:
    """The rules shipped with the library, read once."""
    text = files("hybrid_llm.router.privacy.detectors").joinpath("rules", "gitleaks.toml").read_text("utf-8")
    document = tomllib.loads(text)
    everywhere = _allowlist(document["allowlist"])
    return Rules([_rule(table, everywhere) for table in document["rules"] if "regex" in table])


def _rule(table: Mapping[str, Any], everywhere: Allowlist | None) -> Rule:
    lists = [everywhere, *(_allowlist(entry) for entry in table.get("allowlists", ()))]
    return Rule(
        id=table["id"],
        regex=Regex(table["regex"].encode("utf-8")),
        keywords=tuple(table["keywords"]),
        entropy=table.get("entropy", 0.0),
        group=table.get("secretGroup", 0),
        allowlists=tuple(entry for entry in lists if entry is not None),
    )


def _allowlist(table: Mapping[str, Any]) -> Allowlist | None:
    """None if it requires a file path or has no condition on text."""
    regexes = [f"(?:{text})" for text in table.get("regexes", ())]
    stopwords = [re.escape(word.lower()) for word in table.get("stopwords", ())]
    needs_path = "paths" in table and table.get("condition") == "AND"
    return (
        None
        if needs_path or not (regexes or stopwords)
        else Allowlist(_one_of(regexes), _one_of(stopwords), table.get("regexTarget", "secret"))
    )


def _one_of(expressions: Sequence[str]) -> Regex | None:
    return Regex("|".join(expressions).encode("utf-8")) if expressions else None


def entropy(secret: bytes) -> float:
    """Shannon entropy, bits per byte."""
    size = len(secret)
    return math.log2(size) - math.fsum(map(_weight, Counter(secret).values())) / size if size else 0.0


@cache
def _weight(count: int) -> float:
    return count * math.log2(count)
