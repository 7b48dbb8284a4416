"""The work of each task: prompts, answers, and how the answers about pieces of a long text become one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from hybrid_llm.core.request import GenerateOptions, Message, OutputSchema
from hybrid_llm.core.taskform import closing_mark
from hybrid_llm.router.output import OutputParser
from hybrid_llm.router.tasks import prompts
from hybrid_llm.router.tasks.pieces import Piece, asked_in_pieces, estimated_tokens
from hybrid_llm.router.tasks.results import Extraction, Reply, Summary, Translation
from hybrid_llm.router.tasks.session import Session

_SUMMARY_TOKENS: Final = 60
"""Tokens of answer for each sentence of a summary."""
_LEAST_TOKENS: Final = 64
_PENALTY: Final = 1.1
"""Without it SmolLM2-135M repeats the items of its lists without end, in 1 of 2 texts; with it, in none of 8."""
_EXTRACT_TOKENS: Final = 384
_ANSWER_TOKENS: Final = 160
_ANSWER_CHARACTERS: Final = 300
"""Of an answer at most; a small model would not end it."""
_GROWTH: Final = 1.5
"""Tokens of a translation for each token of its text, as both are estimated."""
_MOST_ROUNDS: Final = 5
"""How often summaries of pieces are summarised again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summarise:
    """A summary; of a long text, the summary of the summaries of its pieces."""

    text: str
    sentences: int

    async def __call__(self, session: Session) -> Summary:
        """Do it with the answers of *session*."""
        text, pieces = self.text, list[Piece]()
        for _ in range(_MOST_ROUNDS):
            found = await asked_in_pieces(session, text, self._request)
            pieces += found
            if len(found) == 1:
                break
            text = "\n\n".join(piece.generation.text.strip() for piece in found)
        return Summary(text=pieces[-1].generation.text.strip(), generations=_generations(pieces))

    def _request(self, part: str) -> tuple[list[Message], GenerateOptions]:
        own: GenerateOptions = {"task": "summarise", "max_tokens": _SUMMARY_TOKENS * self.sentences}
        return prompts.summarise(part, self.sentences), own | {"stop": [closing_mark(part)]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Translate:
    """A translation; of a long text, those of its pieces one after the other."""

    text: str
    language: str
    source: str

    async def __call__(self, session: Session) -> Translation:
        """Do it with the answers of *session*."""
        pieces = await asked_in_pieces(session, self.text, self._request, growth=_GROWTH)
        texts = [piece.generation.text.strip() + _space_after(piece.text) for piece in pieces]
        return Translation(text="".join(texts).strip(), language=self.language, generations=_generations(pieces))

    def _request(self, part: str) -> tuple[list[Message], GenerateOptions]:
        tokens = estimated_tokens(part)
        own: GenerateOptions = {"task": "translate", "max_tokens": _LEAST_TOKENS + int(_GROWTH * tokens)}
        return prompts.translate(part, self.language, self.source), own | {"stop": [closing_mark(part)]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """What a schema asks for; of a long text, what its pieces have, put together."""

    text: str
    schema: OutputSchema
    names: tuple[str, ...] = ()
    verbatim: bool = False
    """The schema lists texts that stand in the text, by their kinds."""

    async def __call__(self, session: Session) -> Extraction:
        """Do it with the answers of *session*."""
        own: GenerateOptions = {"task": "extract", "max_tokens": _EXTRACT_TOKENS, "output_schema": self.schema}
        own |= {"temperature": 0.0, "repetition_penalty": _PENALTY}
        pieces = await asked_in_pieces(session, self.text, lambda part: (prompts.extract(part, self.names), own))
        values = [piece.generation.parsed for piece in pieces]
        value = values[0] if len(values) == 1 else self._merged(pieces)
        if self.verbatim:
            value = self._said(cast("dict[str, list[str]]", value))
        return Extraction(value=value, generations=_generations(pieces))

    def _said(self, value: dict[str, list[str]]) -> dict[str, list[str]]:
        """*value* without what the text does not say: small models invent most of what they list."""
        text = _plain(self.text)
        return {name: [each for each in found if _plain(each) in text] for name, found in value.items()}

    def _merged(self, pieces: Sequence[Piece]) -> object:
        values = [json.loads(piece.generation.text) for piece in pieces]
        merged = values[0]
        for value in values[1:]:
            merged = merge(merged, value)
        return OutputParser(self.schema)(json.dumps(merged), pieces[-1].generation.backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a question; of a long text, one from the answers that its pieces give."""

    text: str
    question: str

    async def __call__(self, session: Session) -> Reply:
        """Do it with the answers of *session*."""
        found = await self._asked(session, self.text)
        answers = [each for each in map(_answer_of, found) if each is not None]
        if len(found) == 1 or not answers:
            return Reply(text=answers[0] if answers else None, generations=_generations(found))
        last = await self._asked(session, "\n".join(dict.fromkeys(answers)))
        return Reply(text=_answer_of(last[-1]) or answers[0], generations=_generations([*found, *last]))

    async def _asked(self, session: Session, text: str) -> list[Piece]:
        schema = {
            "type": "object",
            "properties": {
                "answer": {"anyOf": [{"type": "string", "maxLength": _ANSWER_CHARACTERS}, {"type": "null"}]}
            },
            "required": ["answer"],
            "additionalProperties": False,
        }
        own: GenerateOptions = {"task": "answer", "max_tokens": _ANSWER_TOKENS, "output_schema": schema}
        own |= {"temperature": 0.0, "repetition_penalty": _PENALTY}
        return await asked_in_pieces(session, text, lambda part: (prompts.answer(part, self.question), own))


def _answer_of(piece: Piece) -> str | None:
    text = cast("dict[str, str | None]", piece.generation.parsed)["answer"]
    return text.strip() or None if text is not None else None


def _plain(text: str) -> str:
    """*text* as it is compared: letters in one case, white space as one space."""
    return " ".join(text.casefold().split())


def merge(one: Any, other: Any) -> Any:
    """What two pieces of a text have, put together.

    Lists are joined, each value once; objects are merged name by name; of two other values the first counts that is not
    null or empty.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        names = dict.fromkeys((*one, *other))
        return {name: merge(one.get(name), other.get(name)) for name in names}
    if isinstance(one, list) and isinstance(other, list):
        joined = one + other
        return [value for i, value in enumerate(joined) if value not in joined[:i]]
    return other if one in (None, "", [], {}) else one


def _space_after(text: str) -> str:
    """The white space at the end of *text*, which a translation of it lacks."""
    return text[len(text.rstrip()) :]


def _generations(pieces: Sequence[Piece]) -> tuple[Any, ...]:
    return tuple(piece.generation for piece in pieces)
