"""Takes the text that a model writes apart into reasoning, text and tool calls, as it comes.

The text may be cut anywhere: the pieces add up to the same. What may be the beginning of a mark is held back. A call
that is not as its format has it raises, so that no half of one passes for text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from hybrid_llm.backends.calls.formats import THINK, THOUGHT, CallFormat
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.tools import TOOL_NAME, ToolCallDelta

_SPACE: Final = " \t\r\n"


class MalformedCall(Exception):
    """The model's text is no tool call of a tool that was offered, or ends within one. Quotes nothing."""


class Delta(NamedTuple):
    """What is new of an answer."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """The tokens of *text*, where log-probabilities are asked for."""

    def joined(self, other: Delta) -> Delta:
        """Both, one after the other."""
        logprobs = self.logprobs + other.logprobs
        return Delta(self.text + other.text, self.reasoning + other.reasoning, self.calls + other.calls, logprobs)

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)


class AnswerParser:
    """Parses one answer.

    Args:
        calls: The format of the model's tool calls.
        names: The tools that may be called.
        reasons: Whether the answer may begin with reasoning.
        reasoning: Whether it begins within its reasoning.
        document: Whether the answer is a JSON document where it is no call: then calls only begin it.
    """

    def __init__(
        self,
        calls: CallFormat,
        names: Collection[str],
        *,
        reasons: bool = False,
        reasoning: bool = False,
        document: bool = False,
    ) -> None:
        self._calls, self._names = calls, frozenset(names)
        self._reasons, self._document = reasons, document
        self._buffer = ""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._deltas: list[ToolCallDelta] = []
        self._space = ""
        """White space of the text that is dropped if a call follows."""
        self._count = 0
        self._read = 0
        self._begin: int | None = None
        self._object = _Object()
        self._step: Callable[[], bool] = self._in_reasoning if reasoning else self._at_start

    @property
    def reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._step == self._in_reasoning

    @property
    def begin(self) -> int:
        """Characters that were read before the text, which is one piece; before it begins, the fewest."""
        return self._read - len(self._buffer) if self._begin is None else self._begin

    @property
    def called(self) -> bool:
        """Whether a tool call has begun."""
        return self._count > 0

    def push(self, text: str) -> Delta:
        """Take the next piece; return what is new.

        Raises:
            MalformedCall: it cannot be a call.
        """
        self._buffer += text
        self._read += len(text)
        while self._buffer and self._step():
            pass
        return self._taken()

    def resume(self, text: str) -> None:
        """Go on after *text*, which the app already has.

        Raises:
            MalformedCall: it cannot be the beginning of an answer.
        """
        self.push(text)
        if self._step == self._at_start and self._buffer.strip(_SPACE):
            self._step = self._in_document if self._document or not self._names else self._in_text
        if self._step in (self._in_text, self._in_reasoning, self._in_document):
            self._buffer = self._space = ""
        self._read = 0
        self._begin = 0 if self._step in (self._in_text, self._in_document) else None

    def finish(self, *, cut: bool = False) -> Delta:
        """The answer is over, or *cut* off by a limit; return what was held back.

        Raises:
            MalformedCall: it ends within a call.
        """
        self._begin = self.begin
        if self._step in (self._at_start, self._in_text, self._in_document, self._after_reasoning):
            # Where a limit cut the answer, what may be the beginning of a call is none, and no text either.
            self._text.append(self._space + ("" if cut and self._names else self._buffer))
        elif self._step == self._in_reasoning:
            self._reasoning.append(self._buffer)
        elif self._step == self._after_call:
            if not cut and self._buffer.strip(_SPACE) != self._calls.close:
                raise MalformedCall
        elif not cut:
            raise MalformedCall
        self._buffer = self._space = ""
        return self._taken()

    def _taken(self) -> Delta:
        delta = Delta("".join(self._text), "".join(self._reasoning), tuple(self._deltas))
        self._text.clear()
        self._reasoning.clear()
        self._deltas.clear()
        return delta

    def _at_start(self) -> bool:
        """Before the answer: what it is shows in its first characters."""
        core = self._buffer.lstrip(_SPACE)
        if not core and (self._reasons or self._document):
            return False
        marks = [THINK] * self._reasons + [self._calls.begin] * (self._document and bool(self._names))
        if any(len(core) < len(mark) and mark.startswith(core) for mark in marks):
            return False
        if self._reasons and core.startswith(THINK):
            self._buffer, self._step = core[len(THINK) :], self._in_reasoning
        elif self._document and self._names and core.startswith(self._calls.begin):
            self._buffer = core
            self._begin_calls(len(self._calls.begin))
        else:
            self._step = self._in_document if self._document or not self._names else self._in_text
            self._begin = self._read - len(self._buffer)
        return True

    def _in_reasoning(self) -> bool:
        at = self._buffer.find(THOUGHT)
        if at < 0:
            self._reasoning.append(self._released(THOUGHT))
            return False
        self._reasoning.append(self._buffer[:at])
        self._buffer = self._buffer[at + len(THOUGHT) :]
        self._reasons, self._step = False, self._after_reasoning
        return True

    def _after_reasoning(self) -> bool:
        self._buffer = self._buffer.lstrip(_SPACE)
        if self._buffer:
            self._step = self._at_start
        return bool(self._buffer)

    def _in_document(self) -> bool:
        self._text.append(self._buffer)
        self._buffer = ""
        return False

    def _in_text(self) -> bool:
        at = self._buffer.find(self._calls.begin)
        if at < 0:
            self._add_text(self._released(self._calls.begin))
            return False
        self._add_text(self._buffer[:at])
        self._begin_calls(at + len(self._calls.begin))
        return True

    def _add_text(self, text: str) -> None:
        whole = self._space + text
        core = whole.rstrip(_SPACE)
        self._text.append(core)
        self._space = whole[len(core) :]

    def _begin_calls(self, end: int) -> None:
        self._space = ""
        self._buffer = self._buffer[end:]
        self._expect(self._calls.open + self._calls.head, self._in_name)

    def _expect(self, mark: str, then: Callable[[], bool]) -> None:
        """Wait for *mark*, and go on with *then*."""

        def step() -> bool:
            if self._buffer.startswith(mark):
                self._buffer, self._step = self._buffer[len(mark) :], then
                return True
            if not mark.startswith(self._buffer):
                raise MalformedCall
            return False

        self._step = step if mark else then

    def _in_name(self) -> bool:
        at = self._buffer.find(self._calls.middle)
        name = self._buffer if at < 0 else self._buffer[:at]
        if at < 0:
            if len(name) > 64 + len(self._calls.middle):
                raise MalformedCall
            return False
        if name not in self._names or not TOOL_NAME.fullmatch(name):
            raise MalformedCall
        self._buffer = self._buffer[at + len(self._calls.middle) :]
        self._deltas.append(ToolCallDelta(index=self._count, name=name))
        self._count += 1
        self._object, self._step = _Object(), self._in_arguments
        return True

    def _in_arguments(self) -> bool:
        end = self._object.take(self._buffer)
        piece, self._buffer = self._buffer[:end], self._buffer[end:]
        if piece:
            self._deltas.append(ToolCallDelta(index=self._count - 1, arguments=piece))
        if self._object.is_whole:
            self._expect(self._calls.tail, self._after_call)
        return self._object.is_whole

    def _after_call(self) -> bool:
        between, close = self._calls.between, self._calls.close
        if between and self._buffer.startswith(between):
            self._buffer = self._buffer[len(between) :]
            self._expect(self._calls.head, self._in_name)
            return True
        rest = self._buffer.strip(_SPACE)
        if not between.startswith(self._buffer) and not close.startswith(rest):
            raise MalformedCall
        return False

    def _released(self, mark: str) -> str:
        """What of the buffer is no beginning of *mark*; the rest stays."""
        held = next(
            (n for n in range(min(len(self._buffer), len(mark) - 1), 0, -1) if self._buffer.endswith(mark[:n])), 0
        )
        text, self._buffer = self._buffer[: len(self._buffer) - held], self._buffer[len(self._buffer) - held :]
        return text


class _Object:
    """Finds the end of a JSON object (RFC 8259) that comes in pieces."""

    def __init__(self) -> None:
        self._open: list[str] = []
        """The marks that close what is open."""
        self._inside = self._escaped = False
        self.is_whole = False

    def take(self, text: str) -> int:
        """How many characters of *text* belong to it."""
        for at, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._inside:
                self._escaped, self._inside = character == "\\", character != '"'
            else:
                self._outside(character)
                if self.is_whole:
                    return at + 1
        return len(text)

    def _outside(self, character: str) -> None:
        if character == "{" or (character == "[" and self._open):
            self._open.append("}" if character == "{" else "]")
        elif not self._open or (character in "}]" and self._open.pop() != character):
            raise MalformedCall
        else:
            self.is_whole = not self._open
            self._inside = character == '"'
