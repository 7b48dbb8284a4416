"""Compiles the schemas of requests in threads, so that the engine's steps go on meanwhile. No model code."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from hybrid_llm.backends.node.engine import EngineFault, EngineRequest
from hybrid_llm.backends.node.engines.sampler import SchemaMatcher
from hybrid_llm.backends.schema import SchemaCompiler, UnusableSchema
from hybrid_llm.core.tracebacks import is_fault

_THREADS: Final = 2
_BROKEN: Final = EngineFault(code="internal", message="the model could not compute this request")

Compiled = tuple[EngineRequest, SchemaMatcher | EngineFault]


class PendingGrammars:
    """Requests whose schema is compiled. llguidance releases Python's lock while it does; used from one thread."""

    def __init__(self, schemas: SchemaCompiler) -> None:
        self._schemas = schemas
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")
        self._pending: dict[str, tuple[EngineRequest, Future[SchemaMatcher]]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._pending

    def begin(self, request: EngineRequest) -> None:
        """Compile the schema or grammar of *request*, which has one."""
        self._pending[request.request_id] = (request, self._submit(request))

    def drop(self, request_id: str) -> None:
        """Forget a request. Unknown ids are ignored."""
        if (pending := self._pending.pop(request_id, None)) is not None:
            pending[1].cancel()

    def expired(self, now: float) -> list[EngineRequest]:
        """Forget and return the requests that have expired."""
        late = [request for request, _ in self._pending.values() if request.expires <= now]
        for request in late:
            self.drop(request.request_id)
        return late

    def ready(self, timeout: float) -> Iterator[Compiled]:
        """Take the requests whose schema is compiled, or refused, after at most *timeout* seconds."""
        wait([future for _, future in self._pending.values()], timeout, return_when="FIRST_COMPLETED")
        for request, future in [each for each in self._pending.values() if each[1].done()]:
            del self._pending[request.request_id]
            yield request, _result(future)

    def _submit(self, request: EngineRequest) -> Future[SchemaMatcher]:
        try:
            return self._threads.submit(self._compile, request)
        except RuntimeError as error:  # no thread can be started, which must not end the engine
            failed: Future[SchemaMatcher] = Future()
            failed.set_exception(error)
            return failed

    def _compile(self, request: EngineRequest) -> SchemaMatcher:
        if request.grammar:
            matcher = self._schemas.grammar_matcher(request.grammar, request.eos_ids, request.grammar_prefix)
        else:
            assert request.output_schema is not None
            matcher = self._schemas.matcher(request.output_schema, request.eos_ids, request.answer_prefix)
        return SchemaMatcher(matcher, vocab_size=self._schemas.vocab_size)


def _result(future: Future[SchemaMatcher]) -> SchemaMatcher | EngineFault:
    try:
        return future.result()
    except UnusableSchema as error:
        return EngineFault(code="rejected", message=str(error))
    except BaseException as error:  # the tokenizer's file cannot be read, for instance
        if not is_fault(error):
            raise
        return _BROKEN
