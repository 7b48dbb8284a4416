"""The step engine: the scheduler plans a batch, a runner computes it, samplers draw the tokens. No model code.

One loop drives both runners: the packed one with many slots, the single one with one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
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
from hybrid_llm.backends.node.engines.blocks import Table
from hybrid_llm.backends.node.engines.composer import Planned
from hybrid_llm.backends.node.engines.grammars import PendingGrammars
from hybrid_llm.backends.node.engines.runners import PackedRunner, SingleRunner
from hybrid_llm.backends.node.engines.sampler import Sampler, SchemaMatcher
from hybrid_llm.backends.node.engines.scheduler import Scheduler
from hybrid_llm.backends.node.engines.scoring import score
from hybrid_llm.backends.node.engines.sequence import Segment, Sequence
from hybrid_llm.backends.schema import SchemaCompiler, SchemaNotFollowed
from hybrid_llm.core.generation import FinishReason

_log = logging.getLogger(__name__)
_MAX_FAILED_STEPS = 8
"""Consecutive steps in which the device failed too, after which the engine exits and is restarted."""
Runner = PackedRunner | SingleRunner
Drawn = tuple[Sequence, "int | EngineFault"]
"""A sequence with its next token, or with why there is none."""
_UNCOMPUTED = EngineFault(code="internal", message="the model could not compute this request")
_NOT_FINITE = EngineFault(code="rejected", message="the model's logits for these tokens are not finite numbers")
_UNFOLLOWED = EngineFault(
    code="rejected", message="the output_schema, or that of a tool, grew too complex to be followed"
)
_UNSAMPLED = EngineFault(code="rejected", message="the sampling settings leave no token to be drawn")
_LATE = "the deadline passed on the node"
_COMPILE_WAIT_S = 0.01
"""Seconds that a step waits for a schema when there is nothing else to do."""


class LoopEngine:
    """Generates in its own process, one step at a time; `EngineProcess` makes it an `Engine`. Not thread-safe.

    A step that fails is retried one request at a time. *timer*, in seconds, measures what steps cost.
    """

    def __init__(
        self,
        runner: Runner,
        info: EngineInfo,
        scheduler: Scheduler,
        *,
        schemas: SchemaCompiler | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self.info = info
        """The loaded model."""
        self._scheduler = scheduler
        self._grammars = None if schemas is None else PendingGrammars(schemas)
        self._refused: list[EngineOutput] = []
        self._failed_steps = 0
        self._timer = timer
        self._synchronised = True

    @property
    def idle(self) -> bool:
        """Whether `step` would do nothing: no request runs, waits, is compiled, or has an output to be returned."""
        return not (self._refused or self._scheduler.running or self._scheduler.waiting or self._grammars)

    def submit(self, request: EngineRequest) -> None:
        """Take a request. Never raises for a bad one: a later `step` returns the error."""
        reason = objection(request, self.info)
        if reason is not None:
            self._refuse(request, "rejected", reason)
        elif request.request_id in self._scheduler or request.request_id in (self._grammars or ()):
            self._refuse(request, "rejected", "a request of this id is in flight")
        elif self._scheduler.is_full(len(self._grammars or ())):
            self._refuse(request, "overloaded", "too many requests are waiting for this engine")
        elif (request.output_schema is not None or request.grammar) and self._grammars is not None:
            self._grammars.begin(request)
        else:
            self._enqueue(request, None)

    def abort(self, request_id: str) -> None:
        """Drop a request without further output; its blocks are free at the next `step`. Unknown ids are ignored."""
        self._refused = [output for output in self._refused if output.request_id != request_id]
        if self._grammars is not None:
            self._grammars.drop(request_id)
        self._release(request_id)

    def step(self) -> list[EngineOutput]:
        """Expire requests, admit the next ones, compute one batch, and draw one token for each answer in it.

        Raises:
            RuntimeError: the device failed in many consecutive steps, whatever it computed.
        """
        now = time.monotonic()
        self._take_compiled(now)
        outputs, self._refused = self._refused, []
        for late in self._scheduler.expired(now):
            outputs.append(self._fail(late, "deadline", _LATE))
        while (displaced := self._scheduler.grow()) is not None:
            self._requeue(displaced)
        if (overdrawn := self._scheduler.overdrawn()) is not None:
            self._requeue(overdrawn)
        for copy in self._scheduler.admit(now):
            self._runner.copy(copy)
        if batch := self._scheduler.plan():
            drawn = self._attribute(self._timed(batch))
            outputs += [self._advance(sequence, token) for sequence, token in drawn]
        return outputs

    def load(self) -> EngineLoad:
        """How busy the engine is; does no work."""
        pool = self._scheduler.pool
        return EngineLoad(
            active=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            slots=self.info.slots,
            kv_tokens_used=pool.held * pool.size,
            kv_tokens_total=pool.blocks * pool.size,
            running_adapters=_adapters(self._scheduler.running),
            waiting_adapters=_adapters(self._scheduler.waiting),
        )

    def _release(self, request_id: str) -> None:
        """Free the request's blocks. Its tokens stay cached for others, unless they may not be finite.

        Logits vouch for the tokens that they were computed from; a prompt that was not read to its end has none.
        """
        sequence = self._scheduler.running.get(request_id)
        if sequence is not None:
            self._clear_unless_finite(sequence)
        self._scheduler.remove(request_id)

    def _clear_unless_finite(self, sequence: Sequence) -> None:
        first, last = sequence.verified, sequence.cached
        if first != last and self._runner.intact(sequence.table, first, last):
            sequence.verified = last
        elif first != last:
            self._clear(sequence)

    def _verify(self, sequence: Sequence) -> None:
        """Note that what it has computed is finite, and may be shared.

        Finite logits vouch for that, but for an adapter that made a key infinite which no query attends to. There the
        memory is read, a block at a time.
        """
        first, last = sequence.verified, sequence.cached
        if sequence.request.adapter and self._runner.recycles:
            size = self._scheduler.pool.size
            if first // size == last // size or not self._runner.intact(sequence.table, first, last):
                return
        sequence.verified = last
        self._scheduler.pool.publish(sequence.table, sequence.tokens, last)

    def _requeue(self, sequence: Sequence) -> None:
        self._clear_unless_finite(sequence)
        self._scheduler.requeue(sequence)

    def _clear(self, sequence: Sequence) -> None:
        """Zero what it has computed that nobody shares."""
        self._runner.wipe(sequence.table.blocks[sequence.table.published :])
        sequence.cached = sequence.verified = 0

    def _refuse(self, request: EngineRequest, code: FaultCode, message: str) -> None:
        fault = EngineFault(code=code, message=message)
        self._refused.append(EngineOutput(request_id=request.request_id, error=fault))

    def _take_compiled(self, now: float) -> None:
        """Queue the requests whose schema is compiled; waits a moment for one if there is nothing else to do."""
        if not self._grammars:
            return
        for request in self._grammars.expired(now):
            self._refuse(request, "deadline", _LATE)
        busy = self._refused or self._scheduler.running or self._scheduler.waiting
        for request, constraint in self._grammars.ready(0.0 if busy else _COMPILE_WAIT_S):
            if isinstance(constraint, EngineFault):
                self._refuse(request, constraint.code, constraint.message)
            else:
                self._enqueue(request, constraint)

    def _enqueue(self, request: EngineRequest, constraint: SchemaMatcher | None) -> None:
        ids, begun = request.prompt_ids, len(request.prompt_ids) - request.answered
        sampler = Sampler(
            request.sampling,
            vocab_size=self.info.vocab_size,
            prompt_ids=ids[:begun],
            partial_ids=ids[begun - request.partial_tokens : begun],
            constraint=constraint,
        )
        try:
            sampler.replay(ids[begun:])
        except SchemaNotFollowed:
            self._refuse(request, "rejected", "the partial answer does not follow the output_schema")
            return
        if sampler.done:  # the partial answer to be continued is whole
            self._refused.append(EngineOutput(request_id=request.request_id, finish_reason=FinishReason.STOP))
            return
        self._scheduler.add(Sequence(request=request, sampler=sampler, submitted=time.monotonic(), tokens=list(ids)))

    def _timed(self, batch: list[Planned]) -> list[Drawn]:
        begun = self._timer()
        drawn = self._compute(batch)
        # A GPU computes on while nothing is drawn from the logits: the time is that of this step alone only between two
        # steps that were waited for.
        if self._synchronised and drawn and not any(isinstance(token, EngineFault) for _, token in drawn):
            self._scheduler.costs.learn(sum(len(segment.ids) for _, segment in batch), self._timer() - begun)
        self._synchronised = bool(drawn)
        return drawn

    def _compute(self, batch: list[Planned]) -> list[Drawn]:
        """The next token of each complete segment, or why there is none.

        If the step fails, each request is computed on its own, so that only the failing ones fail.
        """
        try:
            logits = self._runner.forward([segment for _, segment in batch])
        except Exception as error:  # noqa: BLE001 one request's failure, whatever it is, must not fail the others
            _log.warning("a step over %d requests failed with %s", len(batch), type(error).__name__)
            if len(batch) == 1:
                return [(batch[0][0], _UNCOMPUTED)]
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
            self._verify(sequence)
        drawn = [
            (sequence, self._token(sequence, logits[row], tokens[row]) if finite[row] else _NOT_FINITE)
            for row, sequence in enumerate(complete)
        ]
        if any(sequence.request.logprobs is not None for sequence in complete):
            _score(drawn, logits)
        return drawn

    def _token(self, sequence: Sequence, logits: torch.Tensor, likeliest: int) -> int | EngineFault:
        """The model has computed finite logits: what fails from here on is the request's own fault."""
        if sequence.sampler.plain:
            return likeliest
        try:
            return sequence.sampler.pick(logits.float().cpu())
        except SchemaNotFollowed:
            return _UNFOLLOWED
        except (RuntimeError, ValueError, IndexError):
            return _UNSAMPLED

    def _attribute(self, drawn: list[Drawn]) -> list[Drawn]:
        """Find out whether failures are the requests' own: a broken device fails whatever it computes.

        Then raise after some steps, so that the supervisor starts a new process.
        """
        failed = [sequence for sequence, token in drawn if token in (_UNCOMPUTED, _NOT_FINITE)]
        for sequence in failed:
            self._clear(sequence)
        if len(failed) < len(drawn) or not failed or self._computes(failed[0]):
            self._failed_steps = 0
            return drawn
        self._failed_steps += 1
        if self._failed_steps >= _MAX_FAILED_STEPS:
            raise RuntimeError(
                f"{_MAX_FAILED_STEPS} steps in a row failed for every request, and for a token of our own"
            )
        return [(sequence, _UNCOMPUTED) for sequence in failed]

    def _computes(self, sequence: Sequence) -> bool:
        """Whether the device computes a token of our own, in the last block of *sequence*, which holds nothing now."""
        table = Table(blocks=sequence.table.blocks[-1:])
        try:
            logits = self._runner.forward([Segment(table=table, start=0, ids=[0], complete=True)])
            return bool(logits.max().isfinite())
        except Exception:  # noqa: BLE001 the answer, whatever it is
            return False
        finally:
            self._runner.wipe(table.blocks)

    def _advance(self, sequence: Sequence, token: int | EngineFault) -> EngineOutput:
        if isinstance(token, EngineFault):
            return self._fail(sequence, token.code, token.message)
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


def _adapters(sequences: Mapping[str, Sequence]) -> tuple[str, ...]:
    """The adapters of *sequences*, in the order of their names."""
    return tuple(sorted({name for each in sequences.values() if (name := each.request.adapter)}))


def _score(drawn: list[Drawn], logits: torch.Tensor) -> None:
    """Set the scores of the drawn tokens whose requests ask for them; *logits* has a row for each."""
    asked = [
        (row, sequence, token, sequence.request.logprobs)
        for row, (sequence, token) in enumerate(drawn)
        if sequence.request.logprobs is not None and not isinstance(token, EngineFault)
    ]
    if asked:
        rows, sequences, tokens, counts = zip(*asked, strict=True)
        for sequence, scores in zip(sequences, score(logits[list(rows)], tokens, counts), strict=True):
            sequence.scores = scores


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
        scores=(sequence.scores,) if tokens and sequence.scores is not None else (),
        finish_reason=finish_reason,
        queue_ms=sequence.queue_ms,
        cached_tokens=sequence.reused,
        error=error,
    )
