"""Restores the values behind pseudonyms in an answer that arrives in pieces.

The pieces may be cut anywhere: together they give the same text as the whole. Only a suffix that could begin a known
pseudonym is held back. A restored value is never scanned again, even if it reads as a pseudonym itself; a pseudonym of
another session stays as it is.

In JSON, such as the arguments of a tool call, a value is written as JSON: escaped inside a string, as a string of its
own elsewhere. JSON nested in a string of other JSON is treated as text of the outer one, which stays valid.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NoReturn

from hybrid_llm.core.generation import AnswerWarning, Chunk
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.request import Request
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.router.privacy.pseudonyms.mangled import mangled
from hybrid_llm.router.privacy.pseudonyms.notation import (
    CUT,
    END,
    ESCAPE,
    HEAD,
    PART,
    QUOTE,
    WHOLE,
    Reading,
    spellings,
)
from hybrid_llm.router.privacy.pseudonyms.table import Entry, PseudonymTable
from hybrid_llm.router.privacy.restored_tokens import Span, TokenRestorer

_log: Final = logging.getLogger("hybrid_llm.privacy")


class Restorer:
    """Restores one answer, with the pseudonyms that its table had when it was created: those that were sent.

    For one stream; not thread-safe.
    """

    __slots__ = (
        "_before", "_given", "_held", "_inside", "_json",
        "_known", "_pieces", "_read", "_search", "_spellings", "_table", "replaced",
    )  # fmt: skip

    def __init__(self, table: PseudonymTable, *, json: bool = False) -> None:
        table.check()
        self._table = table
        self._spellings = spellings(*table.format)
        self._known = len(table)
        self._json = json
        self._search: Callable[[str, int], re.Match[str] | None] | None = None  # compiled when it is needed
        self._pieces: list[str] = []  # as they came
        self._before = ""  # the two characters before what is held
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
            self._before, self._held = given[-2:], ""
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
        if not self._known or not piece:
            return piece
        self._pieces.append(piece)
        certain = self._restore(piece)
        if self._given and certain:
            certain, self._given = certain[self._given :], 0
        return certain

    def _restore(self, piece: str) -> str:
        """What is certain of the text held back and *piece*; the rest is held back."""
        text, at = self._before + self._held + piece, len(self._before)
        match = (self._search or self._begin())(text, at)
        if match is None:  # as with most tokens
            self._before, self._held = text[-2:], ""
            return text[at:]
        return self._restore_from(match, text, at)

    def _restore_from(self, match: re.Match[str] | None, text: str, done: int) -> str:
        """The same from the first *match* on; what is before *done* is out already."""
        search, first, end = self._search or self._begin(), self._read - len(text), len(text)
        parts: list[str] = []
        while match is not None:
            reading, name = self._spellings.read(match)
            if reading is HEAD or (reading is PART and self._table.begins(name)) or (reading is CUT and self._inside):
                end = match.start()  # only the text that follows can decide what this is
                break
            value = self._value(name) if reading is WHOLE else None
            if value is not None:
                parts += (text[done : match.start()], value)
                if self.replaced is not None:
                    self.replaced.append((first + match.start(), first + match.end(), value))
                done = match.end()
            at = match.end() if value is not None or self._lexical(reading) else match.start() + 1
            match = search(text, at)
        self._held = text[end:]
        self._before = text[max(0, end - 2) : end]
        return "".join([*parts, text[done:end]]) if parts else text[done:end]

    def _begin(self) -> Callable[[str, int], re.Match[str] | None]:
        pattern = self._spellings.streamed_json if self._json else self._spellings.streamed
        self._search = pattern.search
        return pattern.search

    @property
    def received(self) -> str:
        """All pieces so far, as they came."""
        return "".join(self._pieces)

    def _value(self, name: str) -> str | None:
        entry = self._table.entry(name)
        return self._written(entry) if entry is not None and entry.ordinal < self._known else None

    def _written(self, entry: Entry) -> str:
        if not self._json:
            return entry.value
        return entry.escaped if self._inside else f'"{entry.escaped}"'

    def _lexical(self, reading: Reading) -> bool:
        """Whether this is a quote or an escape sequence of JSON, which passes whole; a quote toggles the string."""
        if reading is QUOTE:
            self._inside = not self._inside
            return True
        return reading is ESCAPE and self._inside

    def finish(self) -> str:
        """End the answer and return what is still held back; a further piece would begin another answer.

        Raises:
            PrivacyViolation: the table is wiped.
        """
        self._table.check()
        self._read += len(END)
        rest = self._restore(END).removesuffix(END)[self._given :] if self._held else ""
        self._before, self._held, self._inside, self._given = "", "", False, 0
        self._pieces.append(END)
        self._read -= len(END)
        return rest

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Restorer cannot be copied or pickled: it leads to the values of a session")


class AnswerRestorer:
    """Restores the text, the reasoning and each tool call of one answer: a pseudonym never reaches from one to another.

    For one stream; not thread-safe.
    """

    __slots__ = ("_call", "_index", "_reasoning", "_request", "_table", "_text", "_tokens")

    def __init__(self, table: PseudonymTable, request: Request) -> None:
        """The answer to *request*, as it was sent; its partial answer is what the app already has.

        Raises:
            PrivacyViolation: the table is wiped.
        """
        self._table, self._request = table, request
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
            chunk = replace(chunk, warnings=(*chunk.warnings, *self._warnings()))
        return replace(chunk, text=text, reasoning=reasoning, tool_calls=tuple(calls), logprobs=logprobs)

    def _restored_text(self, chunk: Chunk, *, last: bool) -> tuple[str, tuple[TokenLogprob, ...]]:
        if self._tokens is not None:
            return self._tokens.feed(chunk.text, chunk.logprobs, last=last)
        text = self._text.feed(chunk.text)
        if last:
            text += self._text.finish()
        return text, ()

    def _warnings(self) -> list[AnswerWarning]:
        """A warning for each type of pseudonym of which something is left that cannot be restored."""
        found: Counter[str] = Counter()
        for one in (self._text, self._reasoning, self._call):
            found.update(mangled(one.received, self._request.visible_text(), self._table))
        if found:
            _log.warning("pseudonyms in the answer were changed beyond repair: %s", dict(found))
        return [AnswerWarning(code="pseudonym_mangled", kind=kind, count=count) for kind, count in found.items()]

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
