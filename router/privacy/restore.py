"""Restores the values behind pseudonyms in an answer that arrives in pieces.

The pieces may be cut anywhere: together they give the same text as the whole. Only a suffix that could begin a known
pseudonym is held back. A restored value is never scanned again, even if it reads as a pseudonym itself; a pseudonym of
another session stays as it is.

In JSON, such as the arguments of a tool call, a value is written as JSON: escaped inside a string, as a string of its
own elsewhere. JSON nested in a string of other JSON is treated as text of the outer one, which stays valid.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NoReturn

from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.request import Request
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.router.privacy.pseudonyms.notation import canonical, stream_pattern
from hybrid_llm.router.privacy.pseudonyms.table import Entry, PseudonymTable
from hybrid_llm.router.privacy.restored_tokens import Span, TokenRestorer


class Restorer:
    """Restores one answer, with the pseudonyms that its table had when it was created: those that were sent.

    For one stream; not thread-safe.
    """

    __slots__ = ("_given", "_held", "_inside", "_json", "_known", "_reach", "_read", "_search", "_table", "replaced")

    def __init__(self, table: PseudonymTable, *, json: bool = False) -> None:
        table.check()
        types, alphabet, length = table.format
        self._table = table
        self._known = len(table)
        self._json = json
        self._search = stream_pattern(types, alphabet, length, json=json).search if types else None
        self._reach = max(map(len, types), default=0) + 3  # a type, a space and two backslashes
        self._held = ""
        self._inside = False  # inside a JSON string
        self._given = 0  # leading characters of what is held that the app already has
        self._read = 0
        self.replaced: list[Span] | None = None
        """What is replaced from now on, once a reader sets it; the reader removes what it has seen."""

    def continue_from(self, given: str) -> None:
        """Continue the partial answer *given*, which the app already has; its end gives the position within JSON.

        Raises:
            PrivacyViolation: the table is wiped.
        """
        self.feed(given)
        if not self._held.startswith("\\"):
            self._held = ""
        self._given = len(self._held)  # an escape sequence that was cut
        self._read = 0

    @property
    def settled(self) -> int:
        """Characters of the answer, as the backend wrote it, whose text is final."""
        return self._read - len(self._held)

    def feed(self, piece: str) -> str:
        """Take the next *piece* and return the text that is final now, which may be empty.

        Raises:
            PrivacyViolation: the table is wiped.
        """
        self._table.check()
        self._read += len(piece)
        if self._search is None or not piece:
            return piece
        text, self._held = self._held + piece, ""
        whole_ones = self._json or "_" in text  # else only the end can begin a pseudonym
        certain = self._restore(text, 0 if whole_ones else max(0, len(text) - self._reach))
        if self._given and certain:
            certain, self._given = certain[self._given :], 0
        return certain

    def _restore(self, text: str, at: int) -> str:
        assert self._search is not None
        parts: list[str] = []
        done, before = 0, self._read - len(text)
        while (match := self._search(text, at)) is not None:
            if self._undecided(match):
                self._held, text = text[match.start() :], text[: match.start()]
                break
            value = self._value(match)
            if value is not None:
                parts += [text[done : match.start()], value]
                if self.replaced is not None:
                    self.replaced.append((before + match.start(), before + match.end(), value))
                done = match.end()
            at = match.end() if value is not None or self._lexical(match) else match.start() + 1
        return "".join([*parts, text[done:]]) if parts else text

    def _undecided(self, match: re.Match[str]) -> bool:
        """Whether only the text that follows can decide what this is."""
        if match.lastgroup == "part":
            return self._table.begins(canonical(match))
        return match.lastgroup == "head" or (match.lastgroup == "cut" and self._inside)

    def _value(self, match: re.Match[str]) -> str | None:
        if match.lastgroup != "suffix":
            return None
        entry = self._table.entry(canonical(match))
        return self._written(entry) if entry is not None and entry.ordinal < self._known else None

    def _written(self, entry: Entry) -> str:
        if not self._json:
            return entry.value
        return entry.escaped if self._inside else f'"{entry.escaped}"'

    def _lexical(self, match: re.Match[str]) -> bool:
        """Whether this is a quote or an escape sequence of JSON, which passes whole; a quote toggles the string."""
        if match.lastgroup == "quote":
            self._inside = not self._inside
            return True
        return match.lastgroup == "escape" and self._inside

    def finish(self) -> str:
        """End the answer and return what is still held back; a further piece would begin another answer.

        Raises:
            PrivacyViolation: the table is wiped.
        """
        self._table.check()
        held = self._held[self._given :]
        self._held, self._inside, self._given = "", False, 0
        return held

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Restorer cannot be copied or pickled: it leads to the values of a session")


class AnswerRestorer:
    """Restores the text, the reasoning and each tool call of one answer: a pseudonym never reaches from one to another.

    For one stream; not thread-safe.
    """

    __slots__ = ("_call", "_index", "_reasoning", "_table", "_text", "_tokens")

    def __init__(self, table: PseudonymTable, request: Request) -> None:
        """The answer to *request*, as it was sent; its partial answer is what the app already has.

        Raises:
            PrivacyViolation: the table is wiped.
        """
        self._table = table
        self._text = Restorer(table, json=request.output_schema is not None)
        self._text.continue_from(request.answer_prefix)
        self._tokens = None if request.logprobs is None else TokenRestorer(self._text)
        self._reasoning = Restorer(table)
        self._reasoning.continue_from(request.answer_reasoning)
        self._index = len(request.answer_calls) - 1
        self._call = Restorer(table, json=True)
        if request.answer_calls:
            self._call.continue_from(request.answer_calls[-1].arguments)

    def restore(self, chunk: Chunk) -> Chunk:
        """*chunk* with its texts restored; what is held back comes with a later chunk, at the latest the last."""
        last = chunk.finish_reason is not None
        text, logprobs = self._restored_text(chunk, last=last)
        reasoning = self._reasoning.feed(chunk.reasoning)
        calls = [each for delta in chunk.tool_calls for each in self._restored(delta)]
        if last:
            reasoning += self._reasoning.finish()
            calls += self._rest()
        return replace(chunk, text=text, reasoning=reasoning, tool_calls=tuple(calls), logprobs=logprobs)

    def _restored_text(self, chunk: Chunk, *, last: bool) -> tuple[str, tuple[TokenLogprob, ...]]:
        if self._tokens is not None:
            return self._tokens.feed(chunk.text, chunk.logprobs, last=last)
        text = self._text.feed(chunk.text)
        if last:
            text += self._text.finish()
        return text, ()

    def _restored(self, delta: ToolCallDelta) -> list[ToolCallDelta]:
        rest: list[ToolCallDelta] = []
        if delta.index != self._index:
            rest = self._rest()
            self._index = delta.index
        one = Restorer(self._table)
        name = one.feed(delta.name) + one.finish()
        return [*rest, replace(delta, name=name, arguments=self._call.feed(delta.arguments))]

    def _rest(self) -> list[ToolCallDelta]:
        """What is held back of the call before: its arguments are over."""
        held = self._call.finish()
        return [ToolCallDelta(index=self._index, arguments=held)] if held else []

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an AnswerRestorer cannot be copied or pickled: it leads to the values of a session")
