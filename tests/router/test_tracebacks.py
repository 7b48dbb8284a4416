"""An error keeps nothing of its request: no text in the frames of its traceback, and no circle that stays in memory."""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from types import FrameType

import pytest

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    DeadlineExceeded,
    HybridLLMError,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.request import Location
from hybrid_llm.core.tracebacks import SWITCH, scrub_traceback
from hybrid_llm.router.client import HybridLLM
from tests.fakes import FakeBackend

pytestmark = pytest.mark.usefixtures("young_heap")

PROMPT = "nobody reads this in a traceback"
POLICY = "version: 1\nname: t\nresilience: {{retries: 0, continue_streams: {continued}{hedge}}}\n"


class Failing(FakeBackend):
    """Gives the texts, then raises a fresh error; without one it is silent for ever."""

    def __init__(self, name: str, *texts: str, error: Callable[[], HybridLLMError] | None = None) -> None:
        super().__init__(name, Location(name))
        self.texts, self.error = texts, error

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        read = [message.content for message in cleared.request.messages]
        for text in self.texts:
            yield Chunk(text=text)
        assert self.error is not None, read
        raise self.error()

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        read = [message.content for message in cleared.request.messages]
        for text in self.texts:
            yield Chunk(text=text)
        if self.error is not None:
            raise self.error()
        try:
            await asyncio.sleep(30.0)
        except asyncio.CancelledError:
            raise down() from AssertionError(read)


def down() -> HybridLLMError:
    return BackendUnavailable("down", backend="edge")


def cut() -> HybridLLMError:
    return StreamInterrupted("cut", backend="edge")


def rejected() -> HybridLLMError:
    return RequestRejected("not this", backend="edge", reason="invalid")


CASES = {
    "rejected": ([Failing("edge", error=rejected)], RequestRejected),
    "all failed": ([Failing("edge", error=down), Failing("cloud", error=down)], AllBackendsFailed),
    "broken off": ([Failing("edge", "a", error=cut)], StreamInterrupted),
    "broken off twice": ([Failing("edge", "a", error=cut), Failing("cloud", "b", error=cut)], StreamInterrupted),
    "replaced": ([Failing("edge", error=down), FakeBackend("cloud", Location.CLOUD)], None),
    "continued": ([Failing("edge", "a", error=cut), FakeBackend("cloud", Location.CLOUD)], None),
}


def asked(llm: HybridLLM, kind: str, look: Callable[[HybridLLMError], None]) -> None:
    """Ask, and *look* at the error if there is one."""

    async def ask() -> None:
        try:
            if kind == "agenerate":
                await llm.agenerate(PROMPT, deadline=5.0)
            else:
                async for _ in llm.astream(PROMPT, deadline=5.0):
                    pass
        except HybridLLMError as error:
            look(error)

    if kind.startswith("a"):
        asyncio.run(ask())
    else:
        try:
            if kind == "generate":
                llm.generate(PROMPT, deadline=5.0)
            else:
                list(llm.stream(PROMPT, deadline=5.0))
        except HybridLLMError as error:
            look(error)


def frames(error: BaseException) -> Iterator[FrameType]:
    """Of the error, of what led to it, and of the failures that it tells."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
    for other in (error.__cause__, error.__context__, *getattr(error, "failures", {}).values()):
        if other is not None:
            yield from frames(other)


def is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals["__name__"]).startswith("hybrid_llm.")


def ours(action: Callable[[], object]) -> list[str]:
    """What *action* leaves to the garbage collector of this library's objects, and frames of its code."""
    while gc.collect():  # what an earlier test leaves may take several rounds: a generator that is closed frees more
        pass
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        action()
        gc.collect()
        left = [repr(type(one)) if not isinstance(one, FrameType) else one.f_code.co_filename for one in gc.garbage]
        return [what for what in left if ("hybrid_llm" in what or "router" in what) and "/tests/" not in what]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("hedge", ["", ", hedge_after: 10s"])
@pytest.mark.parametrize("kind", ["generate", "agenerate", "stream", "astream"])
@pytest.mark.parametrize("case", CASES)
def test_an_error_holds_no_text_and_no_circle(make_client, case, kind, hedge):
    backends, expected = CASES[case]
    llm = make_client(*backends, policy=POLICY.format(continued="true", hedge=hedge))
    seen: list[type] = []

    def look(error: HybridLLMError) -> None:
        seen.append(type(error))
        for frame in frames(error):
            if is_ours(frame):
                assert PROMPT not in repr(frame.f_locals), frame.f_code

    asked(llm, kind, look)
    assert seen == [expected] * (expected is not None)
    assert ours(lambda: asked(llm, kind, lambda _: None)) == []


def test_nor_does_one_that_only_cut_off_the_end(make_client):
    llm = make_client(Failing("edge", "a", error=cut), policy=POLICY.format(continued="true", hedge=""))
    assert ours(lambda: llm.generate(PROMPT, max_tokens=1)) == []


def test_nor_does_one_that_came_too_late_or_lost_to_a_rival(make_client):
    policy = POLICY.format(continued="true", hedge=", hedge_after: 20ms")
    late = make_client(Failing("edge"), Failing("cloud"), policy=policy)
    lost = make_client(Failing("edge"), FakeBackend("cloud", Location.CLOUD), policy=policy)

    def ask() -> None:
        with pytest.raises(DeadlineExceeded):
            late.generate(PROMPT, deadline=0.2)
        assert lost.generate(PROMPT, deadline=5.0).backend == "cloud"

    ask()
    assert ours(ask) == []


@pytest.mark.parametrize("kind", ["generate", "stream"])
def test_a_user_who_stops_a_backend_sees_no_text_in_its_frames_either(make_client, kind):
    """The frames of a part of the app that was called by this library end with those of the library."""
    llm = make_client(Failing("edge", error=KeyboardInterrupt), policy=POLICY.format(continued="true", hedge=""))
    with pytest.raises(KeyboardInterrupt) as stopped:
        asked(llm, kind, lambda _: None)
    held = [repr(frame.f_locals) for frame in frames(stopped.value) if frame.f_code is not asked.__code__]
    assert not [text for text in held if PROMPT in text]


def test_an_error_of_the_app_that_is_being_handled_keeps_its_frames_and_generators(make_client):
    def numbers() -> Generator[int, None, None]:
        own = "a local of the app"
        try:
            raise ValueError(own)
        except ValueError as error:
            kept.append(error)
        yield 1
        yield 2

    kept: list[ValueError] = []
    running = numbers()
    assert next(running) == 1
    llm = make_client(Failing("edge", error=rejected), policy=POLICY.format(continued="true", hedge=""))
    try:
        raise kept[0]
    except ValueError:
        with pytest.raises(RequestRejected):
            llm.generate(PROMPT)
    assert next(running) == 2
    assert any("own" in frame.f_locals for frame in frames(kept[0]))


class Ours(HybridLLMError):
    """An error of this library."""

    __module__ = "hybrid_llm.example"


CHAIN = """
def first(text):
    raise ERROR("first")

def second(text):
    try:
        first(text)
    except ERROR as error:
        raise KeyError("second") {cause}
"""
CAUSES = pytest.mark.parametrize("cause", ["from error", "from None", ""], ids=["cause", "suppressed", "context"])


def chained(cause: str, kind: type[Exception]) -> KeyError:
    ours = {"__name__": "hybrid_llm.example", "ERROR": kind}
    exec(CHAIN.format(cause=cause), ours)
    with pytest.raises(KeyError) as caught:
        ours["second"]("a prompt")
    scrub_traceback(caught.value)
    return caught.value


def emptied(error: BaseException) -> list[bool]:
    named = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [not frame.f_locals for frame in named if frame.f_globals["__name__"] == "hybrid_llm.example"]


@CAUSES
def test_what_led_to_an_error_is_scrubbed_with_it(cause):
    error = chained(cause, Ours)
    for one in (error, error.__context__):
        assert emptied(one) in ([True], [True, True])


@CAUSES
def test_what_a_library_raised_inside_is_dropped_since_its_text_may_quote_the_request(cause):
    error = chained(cause, ValueError)
    assert (error.__cause__, error.__context__) == (None, None)
    assert emptied(error) == [True]


def test_the_switch_for_debugging_keeps_frames_and_causes(monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    error = chained("from error", ValueError)
    assert isinstance(error.__cause__, ValueError)
    assert emptied(error) == [False]
