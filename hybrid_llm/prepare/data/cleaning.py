"""Mends the text of records, and filters records by length and language.

Mending is done by ftfy (Speer, 2019): wrong decoding, HTML entities, control characters. Quotes, ligatures and the
width of characters stay as they are, as a model shall read what people write. The form is Unicode NFC (UAX #15).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.data.records import Record

_PLAIN: Final = re.compile(r"[\t\n\x20-\x25\x27-\x7e]*")
"""ASCII in which ftfy mends nothing."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can hold and UTF-8 cannot."""
_LANGUAGE_CHARACTERS: Final = 4096
"""Characters of a text by which its language is recognised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """What `clean` does: lengths in characters over all texts of a record; *languages* by ISO 639-1."""

    mend: bool = True
    min_chars: int = 1
    max_chars: int = 1_000_000
    languages: tuple[str, ...] = ()

    def clean(self, record: Record) -> tuple[Record, str]:
        """The record with mended texts, and why it is dropped; empty if it stays."""
        tagged = record.format is DataFormat.TAGGED
        texts = tuple([self._cleaned(text) or (text if tagged else "") for text in record.texts])
        if texts != record.texts:
            record = replace(record, texts=texts)
        return record, self._fault(record)

    def _cleaned(self, text: str) -> str:
        if self.mend and _PLAIN.fullmatch(text) is None:
            text = unicodedata.normalize("NFC", _fixer()(text))
        return _SURROGATE.sub("\ufffd", text).strip()

    def _fault(self, record: Record) -> str:
        length = sum(map(len, record.texts))
        if not all(record.texts):
            return "empty"
        if length < self.min_chars:
            return "too_short"
        if length > self.max_chars:
            return "too_long"
        if self.languages and _language(" ".join(record.texts)[:_LANGUAGE_CHARACTERS]) not in self.languages:
            return "language"
        return ""


@cache
def _fixer() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError as error:
        raise ConfigError(f"mending texts needs ftfy: {install_hint('prepare')}, or set `mend: false`") from error
    config = ftfy.TextFixerConfig(
        uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, normalization=None, explain=False
    )

    def fix(text: str) -> str:
        fixed: str = ftfy.fix_text(text, config)
        return fixed

    return fix


def _language(text: str) -> str:
    code: str = _classifier().classify(text)[0]
    return code


@cache
def _classifier() -> Any:
    try:
        import py3langid
    except ImportError as error:
        raise ConfigError("`languages` needs py3langid: pip install 'py3langid>=0.4', or remove the option") from error
    return py3langid
