"""A guardrail that refuses words, phrases and expressions of the integrator's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import File, ListOf, Text, Whole, key
from hybrid_llm.core.protocols import ALLOW, Direction, Verdict
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.router.guardrails.normal import normalised, pieces, readings

_SPACES: Final = re.compile(r"\s+")
_PIECE: Final = 1 << 16
"""Characters that are searched at once, in a millisecond or two."""
_REGEX_WINDOW: Final = 120
_LONGEST_WORD: Final = 10_000


class Denylist:
    """Refuses texts that have one of *words*, as a whole word or phrase, or match one of the *expressions* (RE2).

        Denylist(["project falcon", "globex"], category="competitors")

    Case, accents, look-alikes, invisible characters, digits for letters and letters with something between them do not
    matter. An expression is searched in the text in lower case; what it matches in an answer is at most *window*
    characters long.
    """

    quick: Final = True

    def __init__(
        self,
        words: Iterable[str] = (),
        *,
        expressions: Iterable[str] = (),
        category: str = "denylist",
        name: str = "denylist",
        window: int = _REGEX_WINDOW,
    ) -> None:
        """Compile the lists.

        Raises:
            ConfigError: there is neither word nor expression, or one is not usable.
        """
        listed = {_phrase(word) for word in words} - {""}
        self._expressions = [_compiled(expression) for expression in expressions]
        if not listed and not self._expressions:
            raise ConfigError("a denylist needs `words` or `expressions`")
        longest = max(map(len, listed), default=0)
        if longest > _LONGEST_WORD:
            raise ConfigError(f"a word of a denylist has {longest:,} characters, the limit is {_LONGEST_WORD:,}")
        self.name = name
        self._verdict = _verdict(category)
        self._words = _automaton(listed) if listed else None
        self.window = max(2 * longest + 2, window if self._expressions else 0)  # letters with something between them

    def check(self, text: str, direction: Direction, metadata: RequestMetadata) -> Verdict:  # noqa: ARG002  # the Protocol's signature
        """Refuse *text* if it holds something listed."""
        return self._verdict if any(map(self._finds, pieces(text, _PIECE, self.window))) else ALLOW

    def _finds(self, text: str) -> bool:
        for reading in readings(text):
            if any(expression.search(reading) is not None for expression in self._expressions):
                return True
            if self._words is not None and _has_word(self._words, _SPACES.sub(" ", reading)):
                return True
        return False


def _phrase(word: str) -> str:
    if not isinstance(word, str):
        raise ConfigError("the words of a denylist are texts")
    return _SPACES.sub(" ", normalised(word)).strip()


def _compiled(expression: str) -> Any:
    import re2

    try:
        return re2.compile(expression)
    except (re2.error, TypeError):
        raise ConfigError(f"a denylist's expression is not valid RE2: {expression!r}") from None


def _verdict(category: str) -> Verdict:
    try:
        return Verdict.refuse(category, "listed")
    except (ValueError, TypeError):
        raise ConfigError("a category is a code of lower-case letters, digits and underscores") from None


def _automaton(words: Iterable[str]) -> Any:
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for word in words:
        automaton.add_word(word, word)
    automaton.make_automaton()
    return automaton


def _has_word(automaton: Any, text: str) -> bool:
    return any(_is_whole(text, end + 1 - len(word), end + 1) for end, word in automaton.iter(text))


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no letter or digit goes on before or behind, where such a word would go on: not in Chinese, for one."""
    return not (
        (start > 0 and _joins(text[start - 1], text[start])) or (end < len(text) and _joins(text[end - 1], text[end]))
    )


def _joins(one: str, other: str) -> bool:
    return one.isalnum() and other.isalnum() and one < _UNSPACED and other < _UNSPACED


_UNSPACED: Final = "\u2e80"
"""From here on come the scripts of East Asia, which write words without spaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenylistSpec:
    """Refuses listed words and expressions."""

    name: str
    words: tuple[str, ...] = key(ListOf(Text("a word or phrase")), "Words and phrases that are refused.", default=())
    words_file: Path | None = key(File(), "A file with one word or phrase a line; `#` begins a comment.", default=None)
    expressions: tuple[str, ...] = key(
        ListOf(Text("an RE2 expression")), "Expressions (RE2), searched in the text in lower case.", default=()
    )
    expressions_file: Path | None = key(File(), "A file with one expression a line.", default=None)
    category: str = key(
        Text("a code such as `competitors`", r"^[a-z][a-z0-9_]*$"), "What the refusal is called.", default="denylist"
    )
    window: int = key(Whole(1, 10_000), "The longest match of an expression, in characters.", default=_REGEX_WINDOW)

    def open(self) -> Denylist:
        """Read the files and compile the lists; ConfigError if one is unusable."""
        return Denylist(
            [*self.words, *_lines(self.words_file)],
            expressions=[*self.expressions, *_lines(self.expressions_file)],
            category=self.category,
            name=self.name,
            window=self.window,
        )


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})", path=str(path)) from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
