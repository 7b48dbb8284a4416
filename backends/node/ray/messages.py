"""Translates the engine's records to and from the messages between a node's front and its replicas."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, fields
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Final

from google.protobuf.unknown_fields import UnknownFieldSet

from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.backends.node.engine import EngineFault, EngineInfo, EngineLoad, EngineOutput, EngineRequest
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.backends.wire.messages import record_from_wire, sampling_from_wire, sampling_to_wire
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.protos import engine_pb2 as pb

_OTHER_FORM: Final = ("expires", "sampling", "salt", "grammar_prefix", "eos_ids")
"""Fields of a request that a message has in another form."""


class UnknownFields(ValueError):
    """The message is of a later version, and means more than this one knows."""


def tokenizer_digest(folder: Path) -> str:
    """A digest of the tokenizer in the model *folder*, equal where the same text becomes the same tokens.

    Raises:
        ConfigError: there is none.
    """
    path = folder / "tokenizer.json"
    try:
        return sha256(path.read_bytes()).hexdigest()[:32]
    except OSError as error:
        raise file_error(path, f"cannot be read ({type(error).__name__}): download the model again") from None


def request_to_wire(request: EngineRequest, *, tokenizer: str) -> pb.EngineRequest:
    """Return *request*, whose tokens are of *tokenizer*. The salt, which names the caller, leaves as a digest.

    Raises:
        TypeError, ValueError: a field is of the wrong type or out of range.
    """
    same = {each.name: getattr(request, each.name) for each in fields(request) if each.name not in _OTHER_FORM}
    message = pb.EngineRequest(**same, eos_ids=sorted(request.eos_ids), tokenizer=tokenizer)
    message.sampling.CopyFrom(sampling_to_wire(request.sampling))
    message.salt = blake2b(request.salt.encode(), digest_size=16).hexdigest()
    if math.isfinite(request.expires):
        message.expires_in = max(request.expires - time.monotonic(), 0.001)
    for part in request.grammar_prefix:
        message.grammar_prefix.add(**{"text" if isinstance(part, str) else "token_id": part})
    return message


def request_from_wire(message: pb.EngineRequest) -> EngineRequest:
    """Return *message* as a request that expires on this machine's clock.

    Raises:
        UnknownFields: it has fields that this version does not know; without them it would mean something else.
    """
    if len(UnknownFieldSet(message)) or len(UnknownFieldSet(message.sampling)):
        raise UnknownFields
    prefix = [part.text if part.HasField("text") else part.token_id for part in message.grammar_prefix]
    return record_from_wire(
        EngineRequest,
        message,
        prompt_ids=tuple(message.prompt_ids),
        sampling=sampling_from_wire(message.sampling),
        eos_ids=frozenset(message.eos_ids),
        expires=time.monotonic() + message.expires_in if message.expires_in else math.inf,
        grammar_prefix=tuple(prefix),
    )


def output_to_wire(output: EngineOutput) -> pb.EngineOutput:
    """Return *output* without its request's id, which the stream stands for."""
    message = pb.EngineOutput(
        token_ids=output.token_ids,
        finish_reason=output.finish_reason or "",
        queue_ms=output.queue_ms,
        cached_tokens=output.cached_tokens,
    )
    for logprob, top in output.scores:
        message.scores.add(logprob=logprob, top_ids=[id_ for id_, _ in top], top_logprobs=[each for _, each in top])
    if output.error is not None:
        message.error.code, message.error.message = output.error.code, output.error.message
    return message


def output_from_wire(message: pb.EngineOutput, request_id: str) -> EngineOutput:
    """Return *message* as an output of the request.

    Raises:
        ValueError: this version does not know the finish reason.
    """
    return EngineOutput(
        request_id=request_id,
        token_ids=tuple(message.token_ids),
        scores=tuple([_scores(each) for each in message.scores]) if message.scores else (),
        finish_reason=FinishReason(message.finish_reason) if message.finish_reason else None,
        queue_ms=message.queue_ms,
        cached_tokens=message.cached_tokens,
        error=record_from_wire(EngineFault, message.error) if message.HasField("error") else None,
    )


def _scores(message: pb.Scores) -> TokenScores:
    return TokenScores(message.logprob, tuple(zip(message.top_ids, message.top_logprobs, strict=True)))


def state_to_wire(
    replica: str, load: EngineLoad, info: EngineInfo | None, *, ready: bool, tokenizer: str
) -> pb.ReplicaState:
    """Return what *replica* says of itself; without *info* while its model is loaded."""
    state = pb.ReplicaState(replica=replica, load=pb.EngineLoad(**asdict(load)), ready=ready, tokenizer=tokenizer)
    if info is not None:
        state.info.CopyFrom(pb.EngineInfo(**asdict(info)))
    return state


def load_from_wire(message: pb.ReplicaState) -> EngineLoad:
    """How busy the replica is."""
    running, waiting = tuple(message.load.running_adapters), tuple(message.load.waiting_adapters)
    return record_from_wire(EngineLoad, message.load, running_adapters=running, waiting_adapters=waiting)


def info_from_wire(message: pb.ReplicaState) -> EngineInfo:
    """What the replica runs."""
    return record_from_wire(EngineInfo, message.info, adapters=tuple(message.info.adapters))
