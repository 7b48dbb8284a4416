"""The gRPC service `hybrid_llm.v1.HybridLLM` of a node: answers calls with the engine, and logs them without texts."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import grpc.aio

from hybrid_llm.backends.calls.stream import MalformedCall, malformed
from hybrid_llm.backends.chat_files import recommends_draw
from hybrid_llm.backends.node.audit import AuditedCall
from hybrid_llm.backends.node.connections import host_of
from hybrid_llm.backends.node.encoding import PromptEncoder
from hybrid_llm.backends.node.engine import Engine, EngineDied, EngineInfo, EngineLoad, EngineRequest
from hybrid_llm.backends.node.identity import PEER, Peer, set_error
from hybrid_llm.backends.node.intake import Intake
from hybrid_llm.backends.node.observers import Observers
from hybrid_llm.backends.node.requests import NODE, Admission, Answer, check_request, unexpected
from hybrid_llm.backends.node.rights import CallRights
from hybrid_llm.backends.node.schema_trial import SchemaTrials
from hybrid_llm.backends.node.sealing import Seal, Sealing, plain
from hybrid_llm.backends.node.telemetry import CallReport
from hybrid_llm.backends.schema import UnusableSchema
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.backends.wire.messages import PROTOCOL, chunk_to_wire
from hybrid_llm.backends.wire.status import LOAD_KEY, PROTOCOL_KEY
from hybrid_llm.backends.wire.vocabulary import known
from hybrid_llm.core.errors import (
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    HybridLLMError,
    ProtocolMismatch,
    RequestRejected,
    SecurityError,
)
from hybrid_llm.core.log_lines import FIELDS
from hybrid_llm.core.request import Request
from hybrid_llm.core.rights.gate import Share
from hybrid_llm.core.tracebacks import guarded, is_fault
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMServicer

_access_log = logging.getLogger("hybrid_llm.node.access")
_WORD = re.compile(r"[\w.:/@+%\[\]-]+")


@dataclass(slots=True)
class _Call:
    """What the access log and the load report hold of one call."""

    peer: Peer
    audited: AuditedCall
    started: float = field(default_factory=time.perf_counter)
    first_ms: float = 0.0
    answer: Answer | None = None
    prompt_tokens: int = 0
    model: str = ""
    """What answers: the node's model or an adapter; empty while that is not known."""
    named: bool = False
    """The request names it."""
    seal: Seal = plain
    """What is sent instead of a chunk."""

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000


class NodeServicer(HybridLLMServicer):
    """The service over one engine. *max_deadline* in seconds bounds every call."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: ChatTokenizer,
        admission: Admission,
        intake: Intake,
        *,
        max_deadline: float,
        version: str,
        sealing: Sealing | None = None,
        observers: Observers | None = None,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._draws = recommends_draw(tokenizer.recommended)
        self._encoder = PromptEncoder(tokenizer)
        self._admission = admission
        self._intake = intake
        self._schemas = SchemaTrials()
        self._max_deadline = max_deadline
        self._version = version
        self._sealing = sealing or Sealing(None)
        self._observers = observers or Observers()
        self._audit = self._observers.audit
        self._numbers = itertools.count(1)
        self.stopping = False
        """The node shuts down: load reports show it, and clients choose another node."""

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:  # noqa: N802 - gRPC's spelling
        """Answer one request as a stream of chunks."""
        peer = PEER.get()
        call = _Call(peer, _audited(peer))
        outcome = "cancelled"
        try:
            await self._generate(request, context, call)
            outcome = "ok"
            context.set_trailing_metadata(((LOAD_KEY, self._load(peer.rights, call).SerializeToString()),))
        except BaseException as error:  # any failure ends this call only, with a typed status
            if not is_fault(error) or isinstance(error, grpc.aio.InternalError):  # the client has left
                raise
            outcome = self._fail(context, call, error)
        finally:
            _log_call(call, outcome)
            self._over(call, context, outcome)

    def refused(self, context: Any, peer: Peer, error: HybridLLMError) -> None:
        """Record and report a call of *peer* that was refused with *error* before its request was read."""
        self._over(_Call(peer, _audited(peer)), context, type(error).__name__)

    def _over(self, call: _Call, context: Any, outcome: str) -> None:
        if self._audit is not None:
            self._audit.end(call.audited, outcome, call.answer, call.prompt_tokens)
        self._observers.report(partial(self._report, call, context, outcome))

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.NodeDescription:  # noqa: ARG002, N802
        """Describe this node; answered even while the engine is not ready."""
        peer, info = PEER.get(), guarded(lambda: self._engine.info, "reading the engine's model")
        ready = bool(guarded(lambda: self._engine.healthy, "reading the engine's health"))
        return pb.NodeDescription(
            protocol=PROTOCOL,
            version=self._version,
            model=info.model if info else "",
            engine=info.engine if info else "",
            device=info.device if info else "",
            context_window=info.context_window if info else 0,
            output_schema=info.output_schema if info else False,
            tools=info.output_schema if info else False,
            ready=ready,
            reason="" if ready else _not_ready(info),
            load=self._load(peer.rights),
            server_time_ms=time.time_ns() // 1_000_000,
            tls_version=peer.tls_version,
            tls_group=peer.tls_group,
            identity=peer.identity,
            sealing_keys=self._sealing.offered(),
            adapters=[name for name in info.adapters if peer.rights.may_use(name)] if info else (),
        )

    async def _generate(self, message: pb.GenerateRequest, context: Any, call: _Call) -> None:
        _check_protocol(context.invocation_metadata() or ())
        message, call.seal = self._sealing.open(message, call.peer.identity)
        deadline = _deadline(message, context.time_remaining(), self._max_deadline)
        request = check_request(message, deadline=deadline)
        call.audited.describe(request)
        info = self._ready()
        call.model, call.named = _model(message.model, info), bool(message.model)
        call.audited.model = call.model
        _check_supported(request, info)
        share = call.peer.rights.check(request, message.model or info.model)
        call.audited.tenant = share.tenant or ""
        if not call.model:  # reported only to those who might use it
            raise RequestRejected("this node has no such model or adapter", backend=NODE, reason="unsupported")
        with self._admission.admit(info.slots, deadline, share.account):
            try:
                async with asyncio.timeout(deadline):
                    if self._audit is not None:
                        await self._audit.begin(call.audited)
                    await self._answer(request, info, context, call, share)
            except TimeoutError:
                if not call.first_ms:
                    self._admission.expired()
                raise DeadlineExceeded("the deadline passed", backend=NODE, elapsed=call.elapsed_ms() / 1000) from None
            waited_ms = call.answer.timings().queue_ms if call.answer else 0.0
            self._admission.observe(waited_ms / 1000, (call.elapsed_ms() - waited_ms) / 1000)

    async def _answer(self, request: Request, info: EngineInfo, context: Any, call: _Call, share: Share) -> None:
        grammar = await self._grammar(request)
        prompt = await self._encoder.encode(request, info.context_window)
        call.prompt_tokens = len(prompt)
        try:
            text = self._tokenizer.answer_stream(request, prompt)
        except MalformedCall:
            raise malformed(NODE) from None
        adapter = call.model if call.model != info.model else ""
        asked = self._engine_request(request, prompt, call.peer, share, grammar, adapter)
        if asked.sampling.penalises_answer and request.is_continuation:
            asked = replace(asked, partial_tokens=await self._encoder.partial_tokens(request, prompt))
        answer = Answer(asked, text, started=call.started)
        longest = len(prompt) + request.max_tokens
        async with call.peer.rights.hold(share, longest, deadline=self._max_deadline):
            call.answer = answer
            try:
                await self._stream(answer, context, call)
            finally:
                share.tokens = answer.taken

    async def _stream(self, answer: Answer, context: Any, call: _Call) -> None:
        async with aclosing(answer.chunks(self._engine)) as chunks:
            async for chunk in chunks:
                # While this waits for a slow reader, the engine's outputs are merged: the next chunk is longer.
                message = chunk_to_wire(chunk)
                message.penalties = answer.penalised and not call.first_ms
                message.model = call.model if call.named and not call.first_ms else ""
                sent = context.write(call.seal(message))
                await self._intake.write(
                    sent, call.peer.address, call.peer.identity, wanted=lambda: self._admission.crowded
                )
                call.first_ms = call.first_ms or call.elapsed_ms()

    async def _grammar(self, request: Request) -> str:
        """The grammar of the answer beyond a schema alone; what it is made of is tried first."""
        if request.output_schema is not None:
            await _check_schema(self._schemas, request.output_schema)
        for tool in request.tools:
            await _check_schema(self._schemas, tool.parameters)
        if not request.tools and request.output_schema is None:
            return ""
        try:
            return await self._encoder.in_pool(self._tokenizer.grammar, request)
        except UnusableSchema as error:
            raise RequestRejected(str(error), backend=NODE, reason=error.reason) from None

    def _engine_request(
        self, request: Request, prompt: tuple[int, ...], peer: Peer, share: Share, grammar: str, adapter: str
    ) -> EngineRequest:
        return EngineRequest(
            # Clients choose their own ids, so two of them may choose the same.
            request_id=f"{next(self._numbers)}",
            prompt_ids=prompt,
            max_tokens=request.max_tokens,
            sampling=request.sampling.completed(self._tokenizer.recommended),
            eos_ids=self._tokenizer.eos_ids,
            expires=request.expires,
            output_schema=None if grammar else request.output_schema,
            salt=json.dumps([peer.identity, share.tenant]),
            client=blake2b((share.flow or share.account).encode(), digest_size=6).hexdigest(),
            weight=share.weight,
            answer_prefix=request.answer_prefix if request.output_schema is not None and not grammar else "",
            grammar=grammar,
            grammar_prefix=self._tokenizer.grammars.prefix(request) if grammar else (),
            logprobs=request.logprobs,
            adapter=adapter,
        )

    def _ready(self) -> EngineInfo:
        info = self._engine.info
        if info is None or not self._engine.healthy:
            raise BackendUnavailable(_not_ready(info), backend=NODE, reason="not_ready")
        return info

    def _load(self, rights: CallRights, call: _Call | None = None) -> pb.NodeLoad:
        """The load for the trailing metadata; an engine that fails to report it costs no answer."""
        load = guarded(self._engine.load, "reading the engine's load") or EngineLoad()
        info = guarded(lambda: self._engine.info, "reading the engine's model")
        return pb.NodeLoad(
            active=load.active,
            queue=load.waiting,
            slots=info.slots if info else 0,
            server_ms=call.elapsed_ms() if call else 0.0,
            first_ms=call.first_ms if call else 0.0,
            context_window=info.context_window if info else 0,
            stopping=self.stopping,
            draws=self._draws,
            logprobs=info.logprobs if info else False,
            penalties=info.penalties if info else False,
            priorities=rights.priorities,
            parent=info.model if info and call and call.model not in ("", info.model) else "",
        )

    def _report(self, call: _Call, context: Any, outcome: str) -> CallReport:
        """What is reported of *call*, which is over."""
        info = guarded(lambda: self._engine.info, "reading the engine's model")
        return CallReport(
            metadata=context.invocation_metadata() or (),
            model=call.model or (info.model if info else ""),
            engine=info.engine if info else "",
            outcome=outcome,
            seconds=call.elapsed_ms() / 1e3,
            prompt_tokens=call.prompt_tokens,
            answer=call.answer,
        )

    def _fail(self, context: Any, call: _Call, error: BaseException) -> str:
        """End the call with the client's version of *error* and return that error's name."""
        public = _public(error, call.peer.address)
        set_error(context, public, ((LOAD_KEY, self._load(call.peer.rights, call).SerializeToString()),))
        return type(public).__name__


def _audited(peer: Peer) -> AuditedCall:
    return AuditedCall(peer.identity, peer.tenant, host_of(peer.address))


def _check_supported(request: Request, info: EngineInfo) -> None:
    """Raise RequestRejected if the engine lacks what *request* asks for."""
    if request.output_schema is not None and not info.output_schema:
        raise RequestRejected("this engine does not support an output schema", backend=NODE, reason="unsupported")
    if request.tools and not info.output_schema:
        raise RequestRejected("this engine does not support tools", backend=NODE, reason="unsupported")
    if request.logprobs is not None and not info.logprobs:
        raise RequestRejected("this engine gives no log-probabilities", backend=NODE, reason="unsupported")
    if request.sampling.penalises_answer and not info.penalties:
        text = "this engine follows no presence or frequency penalty"
        raise RequestRejected(text, backend=NODE, reason="unsupported")


def _model(named: str, info: EngineInfo) -> str:
    """What answers a request that names *named*: the model or an adapter; empty if there is no such one."""
    if not named:
        return info.model
    return named if named in (info.model, *info.adapters) else ""


def _not_ready(info: EngineInfo | None) -> str:
    return "the model is loading" if info is None else "the engine is restarting"


def _public(error: BaseException, peer: str) -> HybridLLMError:
    """Return the error that the client at *peer* may see."""
    if isinstance(error, EngineDied):
        message = known(str(error)) or "the engine is not running"
        return BackendUnavailable(message, backend=NODE, retry_after=error.retry_after, reason="not_ready")
    if isinstance(error, BackendError | SecurityError):
        return error
    return unexpected(error, peer)


async def _check_schema(trials: SchemaTrials, schema: str) -> None:
    """Refuse what the client should have refused, with keyword and place, and what would cost too much."""
    try:
        await trials.check(schema)
    except UnusableSchema as error:
        raise RequestRejected(str(error), backend=NODE, reason=error.reason) from None
    except TimeoutError:
        raise BackendOverloaded(
            "the node is too busy to check a new output_schema", backend=NODE, retry_after=1.0
        ) from None


def _check_protocol(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    version = next((value for key, value in metadata if key == PROTOCOL_KEY), "")
    if version == str(PROTOCOL):
        return
    theirs = int(version) if isinstance(version, str) and version.isdecimal() and len(version) < 10 else 0
    problem = f"the client speaks version {theirs}" if theirs else f"the client sent no version in {PROTOCOL_KEY}"
    text = f"this node speaks version {PROTOCOL} of the protocol, {problem}: update the older one"
    raise ProtocolMismatch(text, backend=NODE, ours=PROTOCOL, theirs=theirs)


def _deadline(message: pb.GenerateRequest, remaining: float | None, longest: float) -> float:
    """Seconds until the earliest deadline; `check_request` rejects a field that is no number."""
    named = message.deadline_seconds if message.deadline_seconds > 0 else longest
    return max(min(named, longest if remaining is None else remaining, longest), 0.0)


def _word(value: object) -> str:
    """A value as one word of a log line, so that a client's text cannot forge other fields."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if _WORD.fullmatch(text) else json.dumps(text) if text else "-"


def _log_call(call: _Call, outcome: str) -> None:
    if not _access_log.isEnabledFor(logging.INFO):
        return
    answer = call.answer
    timings = answer.timings() if answer else None
    fields = {
        "request": call.audited.request_id,
        "peer": call.peer.address,
        "identity": call.peer.identity,
        "tenant": call.audited.tenant,
        "sealed": call.seal is not plain,
        "outcome": outcome,
        "finish": str((answer.finish_reason if answer else None) or ""),
        "prompt_tokens": call.prompt_tokens,
        "cached": answer.cached_tokens if answer else 0,
        "tokens": answer.tokens if answer else 0,
        "queue_ms": round(timings.queue_ms if timings else 0.0, 1),
        "ttft_ms": round(timings.ttft_ms if timings else 0.0, 1),
        "total_ms": round(call.elapsed_ms(), 1),
    }
    words = " ".join(f"{name}={_word(value)}" for name, value in fields.items())
    _access_log.info("%s", words, extra={FIELDS: fields})
