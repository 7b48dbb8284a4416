"""One answer on the device, token by token: waiting for a slot, prefill, decoding. Starts no thread."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from hybrid_llm.backends.calls.stream import AnswerStream, Delta, MalformedCall, malformed
from hybrid_llm.backends.edge.model import EdgeModel, EdgeSequence, Logits
from hybrid_llm.backends.edge.sampling import Grammar, Sampler
from hybrid_llm.backends.edge.scheduling import EndCause, Entry, Prefix, PrefixCache, Ticket, Watchdog
from hybrid_llm.backends.edge.scoring import Scoring
from hybrid_llm.backends.edge.speculation import Speculation
from hybrid_llm.backends.repetition import RepetitionWatch
from hybrid_llm.backends.schema import SchemaNotFollowed, UnusableSchema
from hybrid_llm.core.errors import (
    BackendError,
    BackendUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Timings, Usage
from hybrid_llm.core.request import Request
from hybrid_llm.core.threads import in_thread


class Run:
    """The generation of one answer. `chunks` runs in one thread; `end` may be called from any."""

    def __init__(
        self,
        request: Request,
        ticket: Ticket,
        watchdog: Watchdog,
        prefixes: PrefixCache | None = None,
        *,
        backend: str,
        speculate: bool = False,
    ) -> None:
        self._request, self._backend, self._speculate = request, backend, speculate
        self._ticket, self._watchdog, self._prefixes = ticket, watchdog, prefixes
        self._speculation: Speculation | None = None
        self._cause: EndCause | None = None
        self._sequence: EdgeSequence | None = None
        self._tokens: list[int] = []
        self._prompt_tokens = 0
        self._prefix: Prefix | None = None
        self._size = 0
        self._text: AnswerStream | None = None
        self.begun = time.perf_counter()
        self._first = 0.0
        self._queued = 0.0

    @property
    def request_id(self) -> str:
        """The id of its request."""
        return self._request.request_id

    def end(self, cause: EndCause) -> None:
        """Stop during the current step of the model. The first cause counts."""
        self._cause = self._cause or cause
        self._ticket.cancel()
        if (sequence := self._sequence) is not None:
            sequence.terminate()

    def wait_for(self, work: Future[Any]) -> None:
        """Block until *work*, such as loading the model, is done; raise what ends this run before."""
        if not self._ticket.wait_for(work, self._request.expires):
            self._check_end()

    def leave(self) -> None:
        """Release slot and memory; what was computed goes to the prefix cache."""
        sequence, self._sequence = self._sequence, None
        if sequence is None or self._prefixes is None:
            return self._ticket.leave()
        if self._speculation is not None:
            self._speculation.settle()
        buffers = sequence.release()
        entry = Entry(
            tenant=self._request.tenant,
            session_id=self._request.session_id,
            tokens=self._tokens[: sequence.reusable],
            buffers=buffers,
            size=sum(buffer.nbytes for buffer in buffers),
        )
        return self._ticket.leave(partial(self._prefixes.put, entry))

    def chunks(self, model: EdgeModel, context_window: int) -> Generator[Chunk, None, None]:
        """Yield the answer; *context_window* is what both the model and the memory limit allow, in tokens.

        Raises:
            BackendError: the request was rejected, or ended early.
        """
        prompt = self._encode(model, context_window)
        capacity = len(prompt) + self._request.max_tokens
        grammar = self._grammar(model)
        self._size = capacity * model.kv_bytes_per_token
        self._wait(prompt)
        sampler = self._sampler(model, prompt)
        if grammar is not None and grammar.complete:  # the partial answer to be continued is whole
            reason = FinishReason.TOOL_CALLS if self._request.answer_calls else FinishReason.STOP
            yield replace(self._last_chunk(Delta(), reason, len(prompt), 0), tokens=0)
            return
        self._tokens, self._prompt_tokens = list(prompt), len(prompt)
        sequence = self._sequence = model.sequence(capacity, self._prefix)
        if self._speculate and model.row_runs is not None:
            self._speculation = Speculation(sequence, model.row_runs, prompt, grammar)
        with self._watchdog.alarm(self._request.expires, partial(self.end, EndCause.DEADLINE)):
            try:
                yield from self._decode(model, sequence, prompt, sampler, grammar)
            except MalformedCall:
                raise malformed(self._backend) from None

    def _decode(
        self, model: EdgeModel, sequence: EdgeSequence, prompt: list[int], sampler: Sampler, grammar: Grammar | None
    ) -> Generator[Chunk, None, None]:
        text = self._text = model.tokenizer.answer_stream(self._request, prompt)
        eos_ids = model.tokenizer.eos_ids
        pending, count = prompt[sequence.length :], 0
        repetition = RepetitionWatch(self._request.max_tokens)
        alternatives = self._request.logprobs
        while True:
            logits = self._append(sequence, pending)
            scoring = None if alternatives is None else Scoring(logits, alternatives)
            token = self._draw(sampler, logits, grammar)
            self._first = self._first or time.perf_counter()
            new = token not in eos_ids  # the end-of-turn token is neither part of the answer nor counted
            count += new
            scores = None if scoring is None or not new else scoring.of(token)
            delta = text.push(token, scores) if new else Delta()
            stop = not new or text.stopped or (grammar is not None and grammar.complete)
            reason = FinishReason.STOP if stop else self._reason(repetition.push(token), count)
            if reason is not None:
                delta = delta.joined(text.finish(reason))
                yield replace(self._last_chunk(delta, text.reason(reason), len(prompt), count), tokens=int(new))
                return
            yield Chunk(text=delta.text, reasoning=delta.reasoning, tool_calls=delta.calls, logprobs=delta.logprobs)
            pending = [token]
            self._tokens.append(token)

    def _sampler(self, model: EdgeModel, prompt: list[int]) -> Sampler:
        sampling = self._request.sampling.completed(model.tokenizer.recommended)
        count = model.tokenizer.partial_tokens(self._request, prompt) if sampling.penalises_answer else 0
        return Sampler(sampling, prompt, model.layout.vocab_size, prompt[len(prompt) - count :])

    def _reason(self, repeated: bool, count: int) -> FinishReason | None:  # noqa: FBT001 - what the watch returns
        """Why the answer ends after *count* tokens though the model has not ended it; None if it goes on."""
        if repeated:
            return FinishReason.REPETITION
        return FinishReason.LENGTH if count >= self._request.max_tokens else None

    def _append(self, sequence: EdgeSequence, ids: list[int]) -> Logits:
        self._check_end()
        try:
            return (self._speculation or sequence).append(ids)
        except Exception as error:
            # onnxruntime has one unrelated exception class per status; a terminated run raises one of them too.
            self._check_end()
            raise self._failed(type(error).__name__) from error

    def _draw(self, sampler: Sampler, logits: Logits, grammar: Grammar | None) -> int:
        try:
            token = sampler.draw(logits, None if grammar is None else grammar.allowed())
            if grammar is not None:
                grammar.take(token)
        except FloatingPointError as error:
            raise self._failed(str(error)) from error
        except SchemaNotFollowed:
            text = "the output_schema, or that of a tool, grew too complex to be followed"
            raise RequestRejected(text, backend=self._backend, reason="unsupported") from None
        return token

    def _failed(self, what: str) -> BackendError:
        self._sequence = None  # the state of its cache is unknown: it must not be stored as a prefix
        text, received = f"the model failed: {what}", len(self._tokens) - self._prompt_tokens
        if received:
            return StreamInterrupted(text, backend=self._backend, received_tokens=received)
        return BackendUnavailable(text, backend=self._backend, reason="failed")

    def _grammar(self, model: EdgeModel) -> Grammar | None:
        """Compile the grammar in a thread, so that this run ends at its deadline however long that takes."""
        request = self._request
        if request.output_schema is None and not request.tools:
            return None
        compiling = in_thread("hybrid-llm-edge-grammar", partial(model.tokenizer.matcher, model.schemas, request))
        self.wait_for(compiling)
        try:
            return Grammar(compiling.result(), model.layout.vocab_size)
        except UnusableSchema as error:
            raise RequestRejected(str(error), backend=self._backend, reason=error.reason) from None

    def _overflow(self, prompt_tokens: str, least: int, window: int, model: EdgeModel) -> RequestRejected:
        """The error of *prompt_tokens*, at least *least*, that do not fit into *window*."""
        text = (
            f"{prompt_tokens} tokens of prompt and {self._request.max_tokens} of answer: "
            f"the context window holds {window} together"
        )
        needed = least + self._request.max_tokens
        if needed <= model.layout.context_length:
            mebibytes = -(-needed * model.kv_bytes_per_token >> 20)
            text += f" in this memory; the model holds them with memory_limit_mb: {mebibytes} or more"
        return RequestRejected(text, backend=self._backend, reason="context_overflow")

    def _encode(self, model: EdgeModel, window: int) -> list[int]:
        """The prompt's token ids; a prompt that surely does not fit is rejected before it is encoded."""
        try:
            if (least := model.tokenizer.least_tokens(self._request)) > window:
                raise self._overflow(f"at least {least}", least, window, model)
            ids = model.tokenizer.encode(self._request)
        except InvalidRequest as error:
            raise RequestRejected(str(error), backend=self._backend, reason="unsupported") from None
        if not ids:
            raise RequestRejected("the prompt is empty", backend=self._backend)
        if len(ids) + self._request.max_tokens > window:
            raise self._overflow(str(len(ids)), len(ids), window, model)
        return ids

    def _wait(self, prompt: list[int]) -> None:
        def claim(spare: int) -> None:  # also evicts prefixes for which this request leaves no memory
            if self._prefixes is not None:
                self._prefix = self._prefixes.claim(self._request.tenant, prompt, spare)

        begun = time.perf_counter()
        result = self._ticket.wait(self._size, self._request.expires, claim)
        self._queued = time.perf_counter() - begun
        if result == "expired":
            self._cause = self._cause or EndCause.DEADLINE
        self._check_end()

    def _check_end(self) -> None:
        """Raise the error of an early end, if there is one."""
        if self._cause is None and self._request.remaining() <= 0:
            self._cause = EndCause.DEADLINE
        if self._cause is EndCause.DEADLINE:
            elapsed = self._request.deadline - self._request.remaining()
            message = f"no complete answer within {self._request.deadline:g} s"
            raise DeadlineExceeded(message, backend=self._backend, elapsed=elapsed)
        if self._cause is not None:
            what = "closed" if self._cause is EndCause.CLOSED else "asked to cancel"
            text = f"the backend was {what} while the request ran"
            raise BackendUnavailable(text, backend=self._backend, reason="closed")

    def _last_chunk(self, delta: Delta, reason: FinishReason, prompt_tokens: int, count: int) -> Chunk:
        now = time.perf_counter()
        cached = self._prefix.length if self._prefix is not None and self._sequence is not None else 0
        speculation = self._speculation
        return Chunk(
            text=delta.text,
            reasoning=delta.reasoning,
            tool_calls=delta.calls,
            logprobs=delta.logprobs,
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=prompt_tokens,
                completion_tokens=count,
                cached_prompt_tokens=cached,
                reasoning_tokens=0 if self._text is None else self._text.reasoning_tokens,
                accepted_prediction_tokens=0 if speculation is None else speculation.accepted,
                rejected_prediction_tokens=0 if speculation is None else speculation.rejected,
            ),
            timings=Timings(
                queue_ms=1e3 * self._queued,
                ttft_ms=1e3 * ((self._first or now) - self.begun),
                tpot_ms=1e3 * (now - (self._first or now)) / max(1, count - 1),
                total_ms=1e3 * (now - self.begun),
            ),
        )
