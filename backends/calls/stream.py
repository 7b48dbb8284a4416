"""The tokens of one answer become text, reasoning and tool calls: detokenised, parsed, and ended at a stop text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hybrid_llm.backends.calls.formats import THINK, THOUGHT, CallFormat, ModelFormat, answer_text
from hybrid_llm.backends.calls.grammar import offered_tools
from hybrid_llm.backends.calls.parser import AnswerParser, Delta, MalformedCall
from hybrid_llm.backends.calls.visible import VisibleTokens
from hybrid_llm.backends.detokenize import Detokenizer, StopTexts
from hybrid_llm.backends.token_names import TokenNames, TokenScores
from hybrid_llm.core.errors import OutputInvalid
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.request import Request

_NOTHING: Final = Delta()


class AnswerStream:
    """Turns the tokens of the answer to *request* into deltas. Stop texts end the text, and count nowhere else.

    Args:
        detokenizer: Makes text of tokens.
        request: What is answered; its partial answer was given already.
        model: How the model writes tool calls and reasoning.
        controls: The model's control tokens, by their names; the text has those alone that are marks of the format.
        names: The texts of single tokens, if log-probabilities are asked for.

    Raises:
        MalformedCall: the partial answer is none.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        request: Request,
        model: ModelFormat,
        *,
        controls: Mapping[str, int],
        names: TokenNames | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._stop = StopTexts(request.sampling.stop)
        self._parser: AnswerParser | None = None
        self._marks: dict[int, str] = {}
        self._names = names
        self._visible = None if names is None else VisibleTokens()
        self.reasoning_tokens = 0
        """Tokens so far that were reasoning."""
        if request.tools or request.answer_calls or model.reasons or model.begins_reasoning:
            self._parser = _parser(request, model)
            self._marks = _marks(model.of(request), controls)

    @property
    def stopped(self) -> bool:
        """Whether a stop text was found: the answer is over."""
        return self._stop.found

    def push(self, token_id: int, scores: TokenScores | None = None) -> Delta:
        """Take one token, with its *scores* if they are asked for; return what is final now: often nothing.

        Raises:
            MalformedCall: the text cannot be a tool call.
        """
        if self._stop.found:
            return _NOTHING
        if self._parser is None:
            text = self._detokenizer.push(token_id)
            delta = Delta(self._stop.push(text))
        else:
            self.reasoning_tokens += self._parser.reasoning
            mark = self._marks.get(token_id)
            text = self._detokenizer.push(token_id) if mark is None else self._detokenizer.flush() + mark
            delta = self._stopped(self._parser.push(text), over=self._parser.called)
        if self._names is None or scores is None:
            return delta
        return self._listed(delta, self._names.listed(token_id, scores), text)

    def finish(self, reason: FinishReason) -> Delta:
        """The answer is over, for this *reason*: return what was held back.

        Raises:
            MalformedCall: it ends within a tool call, and no limit cut it off.
        """
        if self._stop.found:
            return _NOTHING
        text = self._detokenizer.flush()
        if self._parser is None:
            delta = Delta(self._stop.push(text) + self._stop.flush())
        else:
            delta = self._parser.push(text).joined(self._parser.finish(cut=reason is not FinishReason.STOP))
            delta = self._stopped(delta, over=True)
        return self._listed(delta, None, text, over=True)

    def reason(self, reason: FinishReason) -> FinishReason:
        """*reason*, or `tool_calls` where the model ended its turn with some."""
        called = self._parser is not None and self._parser.called
        return FinishReason.TOOL_CALLS if called and reason is FinishReason.STOP else reason

    def _listed(self, delta: Delta, token: TokenLogprob | None, text: str, *, over: bool = False) -> Delta:
        """*delta* with the tokens of its text; the model wrote *token*, which completed *text*."""
        if self._visible is None:
            return delta
        begin, called = (0, False) if self._parser is None else (self._parser.begin, self._parser.called)
        self._visible.read(token, text)
        shown, tokens = self._visible.show(delta.text, begin, over=over or called or self._stop.found)
        return delta._replace(text=shown, logprobs=tokens)

    def _stopped(self, delta: Delta, *, over: bool) -> Delta:
        """*delta* with what of its text is final; *over*: no more text comes."""
        text = self._stop.push(delta.text)
        if over and not self._stop.found:
            text += self._stop.flush()
        return delta if text == delta.text else delta._replace(text=text)


def malformed(backend: str) -> OutputInvalid:
    """The error of a model whose text is no tool call."""
    return OutputInvalid("the model wrote a tool call that is none", backend=backend, reason="tool_call")


def _parser(request: Request, model: ModelFormat) -> AnswerParser:
    parser = AnswerParser(
        model.of(request),
        [tool.name for tool in offered_tools(request).values()],
        reasons=model.reasons,
        reasoning=model.begins_reasoning,
        document=request.output_schema is not None,
    )
    if request.is_continuation:
        parser.resume(answer_text(model, request))
    return parser


def _marks(calls: CallFormat, controls: Mapping[str, int]) -> dict[int, str]:
    written = "".join(
        (calls.begin, calls.open, calls.head, calls.middle, calls.tail, calls.between, calls.close, THINK, THOUGHT)
    )
    return {token_id: name for name, token_id in controls.items() if name in written}


__all__ = ["AnswerStream", "Delta", "MalformedCall", "malformed"]
