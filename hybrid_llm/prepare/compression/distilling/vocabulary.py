"""Whether two models read text as the same tokens, and the number of each token in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.folders import open_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NONE: Final = -1


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The numbers of the tokens that a teacher and a student share.

    Attributes:
        to_teacher: the student's number -> the teacher's, or -1.
        to_student: the teacher's number -> the student's, or -1.
    """

    to_teacher: NDArray[np.int64]
    to_student: NDArray[np.int64]

    @property
    def shared(self) -> NDArray[np.int64]:
        """The teacher's numbers that the student has too."""
        return np.flatnonzero(self.to_student != _NONE)


def match_vocabularies(teacher: Path, student: Path, texts: Sequence[str]) -> Vocabulary:
    """The tokens that both have, once they read *texts* as the same ones.

    Raises:
        ConfigError: they split a text differently, so that the probabilities of one are none of the other.
    """
    theirs, ours = open_tokenizer(teacher), open_tokenizer(student)
    differ = sum(_tokens(theirs, text) != _tokens(ours, text) for text in texts)
    if differ:
        raise ConfigError(
            f"the vocabularies differ: {teacher} and {student} split {differ} of {len(texts)} texts differently, so "
            "that probabilities of one are none of the other. Use method: sequences, which needs no shared vocabulary"
        )
    return _matched(theirs.get_vocab(with_added_tokens=True), ours.get_vocab(with_added_tokens=True))


def _tokens(tokenizer: Any, text: str) -> list[str]:
    found: list[str] = tokenizer.encode(text, add_special_tokens=False).tokens
    return found


def _matched(theirs: dict[str, int], ours: dict[str, int]) -> Vocabulary:
    to_teacher = np.full(max(ours.values()) + 1, _NONE, dtype=np.int64)
    to_student = np.full(max(theirs.values()) + 1, _NONE, dtype=np.int64)
    for token, number in ours.items():
        if token in theirs:
            to_teacher[number] = theirs[token]
            to_student[theirs[token]] = number
    return Vocabulary(to_teacher, to_student)
