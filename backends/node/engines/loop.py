"""The step engine: the scheduler plans a batch, a runner computes it, samplers draw the tokens. No model code.

One loop drives both runners: the packed one with many slots, the single one with one.
"""

from __future__ import annotations

import contextlib
import logging
import time
from itertools import compress

import torch

from hybrid_llm.backends.node.engine import (
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
    FaultCode,
    objection,
)
from hybrid_llm.backends.node.engines.runners import PackedRunner, SingleRunner
from hybrid_llm.backends.node.engines.sampler import Sampler, SchemaMatcher
from hybrid_llm.backends.node.engines.scheduler import Scheduler, Segment, Sequence
from hybrid_llm.backends.schema import SchemaCompiler, UnusableSchema
from hybrid_llm.core.generation import FinishReason

_log = logging.getLogger(__name__)
_MAX_FAILED_STEPS = 8
"""Consecutive steps in which every request failed, after which the engine exits and is restarted."""
Runner = PackedRunner | SingleRunner
Planned = tuple[Sequence, Segment]
Drawn = tuple[Sequence, "int | None"]


class LoopEngine:
    """Generates in its own process, one step at a time; `EngineProcess` makes it an `Engine`. Not thread-safe.

    A step that fails is retried one request at a time.
    """

    def __init__(
        self, runner: Runner, info: EngineInfo, scheduler: Scheduler, *, schemas: SchemaCompiler | None = None
    ) -> None:
        self._runner = runner
        self.info = info
        """The loaded model."""
        self._scheduler = scheduler
        self._schemas = schemas
        self._refused: list[EngineOutput] = []
        self._failed_steps = 0

    @property
    def idle(self) -> bool:
        """Whether `step` would do nothing: no request runs, waits, or has an output to be returned."""
        return not (self._refused or self._scheduler.running or self._scheduler.waiting)

    def submit(self, request: EngineRequest) -> None:
        """Take a request. Never raises for a bad one: a later `step` returns the error."""
        reason = objection(request, self.info)
        if reason is not None:
            self._refuse(request, "rejected", reason)
        elif request.request_id in self._scheduler:
            self._refuse(request, "rejected", "a request of this id is in flight")
        elif self._scheduler.full:
            self._refuse(request, "overloaded", "too many requests are waiting for this engine")
        else:
            self._enqueue(request)

    def abort(self, request_id: str) -> None:
        """Drop a request without further output; its slot is free at the next `step`. Unknown ids are ignored."""
        self._refused = [output for output in self._refused if output.request_id != request_id]
        self._release(request_id)

    def step(self) -> list[EngineOutput]:
        """Expire requests, fill the slots, compute one batch, and draw one token for each answer in it.

        Raises:
            RuntimeError: all requests failed in many consecutive steps: the device or the model is broken.
        """
        now = time.monotonic()
        outputs, self._refused = self._refused, []
        for late in self._scheduler.expired(now):
            outputs.append(self._fail(late, "deadline", "the deadline passed on the node"))
        for assigned in self._scheduler.admit(now):
            if assigned.shared and assigned.source != assigned.slot:
                self._runner.copy(assigned.source, assigned.slot, assigned.shared)
        if batch := self._scheduler.plan():
            drawn = self._compute(batch)
            self._check_consecutive_failures(drawn)
            outputs += [self._advance(sequence, token) for sequence, token in drawn]
        return outputs

    def load(self) -> EngineLoad:
        """How busy the engine is; does no work."""
        return EngineLoad(
            active=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            slots=self.info.slots,
            kv_tokens_used=self._scheduler.reserved,
            kv_tokens_total=self.info.slots * self.info.context_window,
        )

    def _release(self, request_id: str) -> None:
        """Free the request's slot. Its tokens stay cached for others, unless they may not be finite.

        Logits vouch for the tokens that they were computed from; a prompt that was not read to its end has none.
        """
        sequence = self._scheduler.running.get(request_id)
        if sequence is not None:
            first, last = sequence.verified, sequence.cached
            if first != last and not self._runner.intact(sequence.slot, first, last):
                self._clear(sequence)
        self._scheduler.remove(request_id)

    def _clear(self, sequence: Sequence) -> None:
        self._runner.wipe(sequence.slot)
        sequence.cached = sequence.verified = 0

    def _refuse(self, request: EngineRequest, code: FaultCode, message: str) -> None:
        fault = EngineFault(code=code, message=message)
        self._refused.append(EngineOutput(request_id=request.request_id, error=fault))

    def _enqueue(self, request: EngineRequest) -> None:
        try:
            constraint = self._constraint(request)
        except UnusableSchema as error:
            return self._refuse(request, "rejected", str(error))
        if constraint is not None and constraint.done:  # the partial answer to be continued is whole
            self._refused.append(EngineOutput(request_id=request.request_id, finish_reason=FinishReason.STOP))
            return None
        ids = request.prompt_ids
        sampler = Sampler(request.sampling, vocab_size=self.info.vocab_size, prompt_ids=ids, constraint=constraint)
        self._scheduler.add(Sequence(request=request, sampler=sampler, submitted=time.monotonic(), tokens=list(ids)))
        return None

    def _constraint(self, request: EngineRequest) -> SchemaMatcher | None:
        if request.output_schema is None or self._schemas is None:
            return None
        matcher = self._schemas.matcher(request.output_schema, request.eos_ids, request.answer_prefix)
        return SchemaMatcher(matcher, vocab_size=self.info.vocab_size)

    def _compute(self, batch: list[Planned]) -> list[Drawn]:
        """The next token of each complete segment; None where the model or the sampler failed.

        If the step fails, each request is computed on its own, so that only the failing ones fail.
        """
        try:
            logits = self._runner.forward([segment for _, segment in batch])
        except Exception as error:  # noqa: BLE001 one request's failure, whatever it is, must not fail the others
            _log.warning("a step over %d requests failed with %s", len(batch), type(error).__name__)
            if len(batch) == 1:
                return [(batch[0][0], None)]
            return [drawn for planned in batch for drawn in self._compute([planned])]
        return self._draw(batch, logits)

    def _draw(self, batch: list[Planned], logits: torch.Tensor) -> list[Drawn]:
        for sequence, segment in batch:
            sequence.cached = segment.end
        complete = [sequence for sequence, segment in batch if segment.complete]
        if not complete:
            return []
        likeliest = logits.max(-1)  # NaN wins every maximum, so a finite one proves that no logit is NaN
        tokens, finite = likeliest.indices.tolist(), likeliest.values.isfinite().tolist()
        for sequence in compress(complete, finite):
            sequence.verified = sequence.cached
        return [
            (sequence, self._token(sequence, logits[row], tokens[row]) if finite[row] else None)
            for row, sequence in enumerate(complete)
        ]

    def _token(self, sequence: Sequence, logits: torch.Tensor, likeliest: int) -> int | None:
        if sequence.sampler.plain:
            return likeliest
        with contextlib.suppress(RuntimeError, ValueError, IndexError):  # fails this request only
            return sequence.sampler.pick(logits.float().cpu())
        return None

    def _check_consecutive_failures(self, drawn: list[Drawn]) -> None:
        """A broken device fails every step: raise, so that the supervisor starts a new process."""
        failed = bool(drawn) and all(token is None for _, token in drawn)
        self._failed_steps = self._failed_steps + 1 if failed else 0
        if self._failed_steps >= _MAX_FAILED_STEPS:
            raise RuntimeError(f"{_MAX_FAILED_STEPS} steps in a row failed for every request in them")

    def _advance(self, sequence: Sequence, token: int | None) -> EngineOutput:
        if token is None:
            self._clear(sequence)
            return self._fail(sequence, "internal", "the model could not compute this request")
        if token in sequence.request.eos_ids:
            return self._finish(sequence, FinishReason.STOP)
        sequence.tokens.append(token)
        sequence.sampler.accept(token)
        if sequence.sampler.done:
            return self._finish(sequence, FinishReason.STOP, token)
        if sequence.generated == sequence.request.max_tokens:
            return self._finish(sequence, FinishReason.LENGTH, token)
        return _output(sequence, (token,))

    def _finish(self, sequence: Sequence, reason: FinishReason, *tokens: int) -> EngineOutput:
        self._release(sequence.request.request_id)
        return _output(sequence, tokens, finish_reason=reason)

    def _fail(self, sequence: Sequence, code: FaultCode, message: str) -> EngineOutput:
        self._release(sequence.request.request_id)
        return _output(sequence, (), error=EngineFault(code=code, message=message))


def _output(
    sequence: Sequence,
    tokens: tuple[int, ...],
    *,
    finish_reason: FinishReason | None = None,
    error: EngineFault | None = None,
) -> EngineOutput:
    return EngineOutput(
        request_id=sequence.request.request_id,
        token_ids=tokens,
        finish_reason=finish_reason,
        queue_ms=sequence.queue_ms,
        cached_tokens=sequence.reused,
        error=error,
    )
