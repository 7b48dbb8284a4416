"""Backends, caches and detectors that behave as a situation demands, and record every byte that would leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace

from hybrid_llm.backends.wire.messages import outgoing, request_from_wire
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    PermissionDenied,
    QuotaExceeded,
    RequestRejected,
    StreamInterrupted,
    UntrustedPeer,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.caching.answers import CachedAnswer
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.privacy.detectors import DETECTORS, Detector, Finding
from tests.leaks.situations import AFTER_A_CHUNK
from tests.leaks.texts import SEPARATOR

__all__ = ["OWN_FAULT", "BrokenCache", "CloudCache", "Codeword", "Double", "FaultyDetector", "Record"]

OWN_FAULT = "a fault of the backend's own"
"""How the message of a backend begins that raises what no backend should; the texts of the request follow."""


@dataclass(slots=True)
class Record:
    """What was sent, called and done while requests ran; shared by the doubles of one client."""

    wire: list[tuple[str, bytes]] = field(default_factory=list)
    """What would have left for a node: the id of its request, and the bytes under the encryption."""
    cloud_cache: list[tuple[str, bytes]] = field(default_factory=list)
    """What a cache in the cloud was given."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Ids of requests, and the backends in the cloud that were called with them, whether they sent anything or not."""
    uncleared: int = 0
    """Requests that a backend in the cloud was given without a clearance."""
    added: dict[str, str] = field(default_factory=dict)
    """What the device says before it echoes, by request."""
    faults: dict[str, Mapping[str, list[str]]] = field(default_factory=dict)
    """What goes wrong next: by request, by backend."""
    lying: bool = False
    before_failure: tuple[int, int] | None = None
    """How much of *asked* and of *cloud_cache* was there when a detector failed."""
    happened: Counter[str] = field(default_factory=Counter)
    in_flight: Callable[[str], None] = lambda _: None
    """Called when the first chunk of a request is out."""

    def detector_failed(self) -> None:
        """From now on nothing may leave: what did before is not concerned, as where an answer is checked."""
        self.before_failure = self.before_failure or (len(self.asked), len(self.cloud_cache))

    def left_after_failure(self) -> set[str]:
        """The requests of which something left after a detector had failed."""
        calls, kept = self.before_failure or (len(self.asked), len(self.cloud_cache))
        return {request_id for request_id, _ in [*self.asked[calls:], *self.cloud_cache[kept:]]}

    def clear(self) -> None:
        """Forget what left: it has been checked."""
        for sink in (self.wire, self.cloud_cache, self.asked):
            sink.clear()
        self.faults.clear()
        self.added.clear()
        self.before_failure = None

    def fault(self, request_id: str, backend: str) -> str:
        """What *backend* does wrong when it is called with this request."""
        faults = self.faults.get(request_id, {})
        first = faults.get("first")
        if first:
            return first.pop(0)
        left = faults.get(backend, ["answer"])
        return left.pop(0) if len(left) > 1 else left[0]


class _Wait(float):
    """In place of a chunk: seconds until the next one."""


class Double:
    """A backend that echoes the last message, as far as the situation lets it."""

    def __init__(self, name: str, location: Location, record: Record, steps: Mapping[str, int]) -> None:
        self.name = name
        self.capabilities = Capabilities(model="double", context_window=100_000, output_schema=True, tools=True)
        self._location = location
        self._record = record
        self._steps = steps

    @property
    def location(self) -> Location:
        return Location.EDGE if self._record.lying else self._location

    def state(self) -> BackendState:
        return BackendState(name=self.name, location=self.location, context_window=100_000)

    def count_tokens(self, request: Request) -> int:
        self._record.uncleared += self._is_away
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        for item in self._play(cleared):
            if isinstance(item, _Wait):
                time.sleep(item)
            else:
                yield item

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for item in self._play(cleared):
            if isinstance(item, _Wait):
                await asyncio.sleep(item)
            else:
                yield item

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def _play(self, cleared: Cleared) -> Iterator[Chunk | _Wait]:
        request_id = cleared.request.request_id
        fault = self._record.fault(request_id, self.name)
        if self._is_away and fault == "lie":
            fault = "answer"
        self._record.happened[f"fault: {fault}"] += fault != "answer"
        request = self._receive(cleared, fault)
        if fault in {"hang", "silence"}:
            yield _Wait(0.005 if fault == "silence" else max(0.0, request.remaining()))
        elif fault not in {"answer", *AFTER_A_CHUNK}:
            raise self._error(fault, request)
        if self._is_away:
            self._record.happened["continued in the cloud"] += bool(request.answer_prefix)
            self._record.happened["an added text continued in the cloud"] += SEPARATOR in request.answer_prefix
        yield from self._answer(request, fault)

    def _receive(self, cleared: Cleared, fault: str) -> Request:
        """The request as this backend sees it; in the cloud, or if it lies about that, as sent over the wire."""
        if self._location is Location.EDGE and fault != "lie":
            return require_clearance(cleared, Location.EDGE)
        request_id = cleared.request.request_id
        if self._is_away:
            self._record.asked.append((request_id, self.name))
        if fault == "refuse":
            raise self._error(fault, cleared.request)
        data = outgoing(cleared, remaining=cleared.request.remaining())
        self._record.wire.append((request_id, data))
        sent = request_from_wire(pb.GenerateRequest.FromString(data), deadline=cleared.request.deadline)
        return replace(sent, created=cleared.request.created)

    @property
    def _is_away(self) -> bool:
        return self._location is Location.CLOUD

    def _answer(self, request: Request, fault: str) -> Iterator[Chunk]:
        text = request.messages[-1].content
        if request.output_schema is not None:
            text = json.dumps({"said": text}, ensure_ascii=False)
        first, text = self._before(request, text)
        step = self._steps.get(request.request_id, 7)
        pieces = [*first, *(text[i : i + step] for i in range(0, len(text), step))]
        for number, piece in enumerate(pieces):
            yield Chunk(text=piece)
            if number == 0:
                self._record.in_flight(request.request_id)
            if number == len(pieces) // 2 and fault in AFTER_A_CHUNK:
                if fault == "silent end":
                    return
                if fault not in {"odd finish", "chunks after the finish"}:
                    raise self._error(fault, request)
        odd = fault == "odd finish"
        usage = None if odd else Usage(prompt_tokens=1, completion_tokens=len(pieces))
        yield Chunk(tokens=-1 if odd else 0, finish_reason=FinishReason.STOP, usage=usage)
        if fault == "chunks after the finish":
            yield Chunk(text=text)

    def _before(self, request: Request, text: str) -> tuple[list[str], str]:
        """What the device adds, as a chunk of its own, and what is left to echo of *text*."""
        _, separator, echoed = request.answer_prefix.rpartition(SEPARATOR)
        own = self._record.added.get(request.request_id) if self._location is Location.EDGE else None
        if own is not None and request.output_schema is None and not request.answer_prefix:
            return [own + SEPARATOR], text
        return [], text.removeprefix(echoed if separator else request.answer_prefix)

    def _error(self, fault: str, request: Request) -> Exception:
        name = self.name
        makers: dict[str, Callable[[], Exception]] = {
            "refuse": lambda: BackendUnavailable("503", backend=name),
            "overload": lambda: BackendOverloaded("full", backend=name, retry_after=0.001),
            "late": lambda: DeadlineExceeded("late", backend=name),
            "reject": lambda: RequestRejected("no", backend=name),
            "misfit": lambda: RequestRejected("too long", backend=name, reason="context_overflow"),
            "denied": lambda: PermissionDenied("no", backend=name),
            "quota": lambda: QuotaExceeded("used up", backend=name),
            "untrusted": lambda: UntrustedPeer("who is it", backend=name),
            "cut": lambda: StreamInterrupted("cut", backend=name, received_tokens=1),
        }
        return makers.get(fault, lambda: RuntimeError(OWN_FAULT, *request.visible_text()))()


class CloudCache(MemoryCache):
    """A cache in the cloud: everything that it is given leaves."""

    location = Location.CLOUD  # type: ignore[misc]  # that of a MemoryCache is final, and this one is not in memory

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        self._sent(cleared)
        return super().get(cleared)

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        self._sent(cleared, answer.text)
        super().put(cleared, answer)

    def _sent(self, cleared: Cleared, *more: str) -> None:
        data = "\n".join([*cleared.request.visible_text(), *more]).encode()
        self._record.cloud_cache.append((cleared.request.request_id, data))


class BrokenCache(MemoryCache):
    """A cache that is not there."""

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        raise ConnectionError("the cache is not there", *cleared.request.visible_text())

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        raise ConnectionError("the cache is not there", answer.text, *cleared.request.visible_text())


class Codeword:
    """A detector of the app's own."""

    name = "codeword"

    def find(self, text: str) -> Iterator[Finding]:
        start = text.find("XQ-")
        while start >= 0:
            yield Finding(kind=self.name, start=start, end=start + 17)
            start = text.find("XQ-", start + 1)


class FaultyDetector:
    """The detector of a kind, until *fault* is set; *misbehaved* then shows whether it ran and misbehaved.

    *failed* is called when it does.
    """

    def __init__(self, kind: str, failed: Callable[[], None]) -> None:
        self.name = kind
        self._failed = failed
        self.fault: str | None = None
        self.misbehaved = False
        self._real: Detector = Codeword() if kind == "codeword" else DETECTORS[kind]

    def find(self, text: str) -> Iterator[Finding]:
        match self.fault:
            case None:
                return self._real.find(text)
            case "second look":
                return self._second_look(text)
            case "nothing":
                self._misbehave()
                return None  # type: ignore[return-value]  # as a detector that forgets its return does
            case "raise":
                self._misbehave()
                raise RuntimeError(f"no idea what to make of {text}")
        return self._bad(text)

    def _bad(self, text: str) -> Iterator[Finding]:
        if self.fault == "telltale":  # the value itself as the kind, which would show in the pseudonym
            for found in self._real.find(text):
                value = text[found.start : found.end]
                if not value.isidentifier():  # else the guard takes the detector's name in its place
                    self._misbehave()
                yield Finding(kind=value, start=found.start, end=found.end)
            return
        yield from self._real.find(text)
        self._misbehave()
        if self.fault == "raise late":
            raise ValueError(text)
        if self.fault == "no finding":
            yield (0, len(text))  # type: ignore[misc]
        start, end = {"outside": (0, len(text) + 1), "empty": (0, 0), "backwards": (len(text), 0)}[self.fault or ""]
        yield Finding(kind=self.name, start=start, end=end)

    def _second_look(self, text: str) -> Iterator[Finding]:
        """Does well until it sees pseudonyms."""
        if "_" in text:
            self._misbehave()
            raise RuntimeError(text)
        yield from self._real.find(text)

    def _misbehave(self) -> None:
        self.misbehaved = True
        self._failed()
