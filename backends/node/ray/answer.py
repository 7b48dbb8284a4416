"""The tokens of one answer that replicas have given so far, and the request for the rest. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hybrid_llm.backends.node.engine import EngineFault, EngineOutput, EngineRequest
from hybrid_llm.backends.node.ray import messages
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.protos import engine_pb2 as pb

_LATE: Final = EngineFault(code="deadline", message="the deadline passed")


class LostReplica(Exception):
    """The replica that answered is gone, or does not answer: another one should go on."""


class PartialTokens:
    """What is answered of *request*; another replica goes on from there."""

    def __init__(self, request: EngineRequest) -> None:
        self._request: Final = request
        self._first: EngineOutput | None = None
        self.tokens: Final[list[int]] = []

    def rest(self) -> EngineRequest:
        """The request for what is missing."""
        request, count = self._request, len(self.tokens)
        return replace(
            request,
            prompt_ids=(*request.prompt_ids, *self.tokens),
            max_tokens=request.max_tokens - count,
            answered=request.answered + count,
        )

    def take(self, message: pb.EngineOutput) -> EngineOutput | None:
        """Add what a replica sent, and return it as an output of the whole answer; None of a sign of life.

        Raises:
            LostReplica: the replica cannot go on, or sent what this version does not know.
        """
        try:
            output = messages.output_from_wire(message, self._request.request_id)
        except ValueError:
            raise LostReplica from None
        if message.lost:
            raise LostReplica
        if output.error is not None:
            return self.failed(output.error)
        if not (output.token_ids or output.last):
            return None
        self.tokens.extend(output.token_ids)
        return self._joined(output)

    def end(self, now: float) -> EngineOutput | None:
        """The last output, where nothing is to be asked for: the tokens are complete, or it is too late."""
        if len(self.tokens) >= self._request.max_tokens:
            return self._joined(EngineOutput(request_id=self._request.request_id, finish_reason=FinishReason.LENGTH))
        return self.failed(_LATE) if now >= self._request.expires else None

    def failed(self, fault: EngineFault) -> EngineOutput:
        """The last output of an answer that failed.

        Raises:
            LostReplica: the answer has begun, and is turned away by a replica that is full: another one may have room.
        """
        if fault.code == "overloaded" and self.tokens:
            raise LostReplica
        return self._joined(EngineOutput(request_id=self._request.request_id, error=fault))

    def _joined(self, output: EngineOutput) -> EngineOutput:
        """*output* with the times of the first, which are the same in every output of a request."""
        if self._first is None:
            self._first = output
        return replace(output, queue_ms=self._first.queue_ms, cached_tokens=self._first.cached_tokens)
