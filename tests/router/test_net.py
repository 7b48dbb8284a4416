"""Whatever a part of the app raises or returns: the request is answered by another part, or ends in a typed error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    QuotaExceeded,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from hybrid_llm.router.spending.ledger import MemoryLedger
from tests.fakes import FakeBackend
from tests.router.conftest import POLICY

CANARY = "the prompt, quoted"
DONE = Chunk(finish_reason=FinishReason.STOP)


class PanicException(BaseException):
    """What a library in Rust raises when it panics: no `Exception`."""


def quoting(kind: type[BaseException]) -> BaseException:
    try:
        raise KeyError(CANARY)
    except KeyError as error:
        raised = kind(CANARY)
        raised.__cause__ = error
        raised.add_note(CANARY)
        return raised


class Odd(FakeBackend):
    """Streams *items*, raising those that are errors; *close* is raised when the stream is closed."""

    def __init__(self, *items, name="edge", close=None) -> None:
        super().__init__(name, Location(name))
        self.items, self.failure = items, close

    def stream(self, cleared):
        try:
            for item in self.items:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            if self.failure is not None:
                raise self.failure

    async def astream(self, cleared):
        items = self.stream(cleared)
        try:
            for item in items:
                yield item
        finally:
            items.close()


class NoStream(Odd):
    """What its methods return is no generator."""

    def stream(self, cleared):
        return iter(self.items)

    async def astream(self, cleared):  # a coroutine
        return iter(self.items)


class Unopened(Odd):
    """Raises when it is called, not when it is iterated."""

    def stream(self, cleared):
        raise ValueError(CANARY)

    astream = stream


ODD = {
    "ValueError": lambda: Odd(quoting(ValueError)),
    "ExceptionGroup": lambda: Odd(ExceptionGroup(CANARY, [ValueError(CANARY)])),
    "StopIteration": lambda: Odd(quoting(StopIteration)),
    "TimeoutError": lambda: Odd(quoting(TimeoutError)),
    "panic": lambda: Odd(quoting(PanicException)),
    "None": lambda: Odd(None),
    "text": lambda: Odd(CANARY),
    "chunk without text": lambda: Odd(Chunk(text=None)),
    "chunk of bytes": lambda: Odd(Chunk(text=b"x")),
    "finish that is none": lambda: Odd(Chunk(finish_reason="done")),
    "usage that is none": lambda: Odd(Chunk(finish_reason=FinishReason.STOP, usage={"prompt_tokens": 1})),
    "no stream": lambda: NoStream(CANARY),
    "raises at once": lambda: Unopened(),
    "nothing": lambda: Odd(),
}
WAYS = pytest.mark.parametrize("way", ["generate", "agenerate"])


def ask(llm: HybridLLM, way: str, prompt: str = CANARY, **options):
    if way == "generate":
        return llm.generate(prompt, **options)
    return asyncio.run(llm.agenerate(prompt, **options))


@WAYS
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_the_next_backend_answers_for_one_that_does_anything(make_client, cloud, odd, way):
    llm = make_client(ODD[odd](), cloud)
    answer = ask(llm, way)
    assert (answer.text, answer.backend) == ("in the cloud", "cloud")


@WAYS
@pytest.mark.parametrize("odd", [name for name in ODD if name != "nothing"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_the_last_backend_ends_in_a_typed_error_without_a_text_or_a_cause(make_client, odd, way):
    llm = make_client(ODD[odd]())
    with pytest.raises(AllBackendsFailed) as caught:
        ask(llm, way)
    (failure,) = caught.value.failures.values()
    assert type(failure) is BackendUnavailable
    for error in (caught.value, failure):
        assert CANARY not in str(error) + repr(error)
        assert (error.__cause__, error.__context__) == (None, None)


@WAYS
def test_an_answer_that_breaks_with_an_untyped_error_is_continued(make_client, cloud, way):
    policy = POLICY.replace("retries: 1", "retries: 1, continue_streams: true")
    llm = make_client(Odd(Chunk(text="so "), quoting(ValueError)), cloud, policy=policy)
    assert ask(llm, way).text == "so in the cloud"


@WAYS
@pytest.mark.parametrize("fault", [quoting(ValueError), quoting(PanicException), "no chunk"], ids=type)
def test_whatever_is_raised_after_the_first_token_means_that_the_answer_broke_off(make_client, way, fault):
    seen = []
    llm = make_client(Odd(Chunk(text="so "), Chunk(text="far "), fault), hooks=[seen.append])
    with pytest.raises(StreamInterrupted) as caught:
        ask(llm, way)
    assert (caught.value.backend, caught.value.received_tokens) == ("edge", 2)
    assert CANARY not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert [(each.error, each.tokens) for each in seen[0].attempts] == [("StreamInterrupted", 2)]


@WAYS
def test_a_stream_without_an_end_broke_off_and_one_without_a_chunk_was_none(make_client, way):
    with pytest.raises(StreamInterrupted) as broken:
        ask(make_client(Odd(Chunk(text="so "))), way)
    assert broken.value.received_tokens == 1
    with pytest.raises(AllBackendsFailed) as failed:
        ask(make_client(Odd()), way)
    (failure,) = failed.value.failures.values()
    assert (type(failure), failure.reason) == (BackendUnavailable, "no_answer")


class Plain:
    """Chunks for both ways, from an iterator that has `__next__` and no more."""

    def __init__(self, *items) -> None:
        self.items = iter(items)

    def __iter__(self):
        return self

    def __aiter__(self):
        return self

    def __next__(self):
        item = next(self.items)
        if isinstance(item, Exception):
            raise item
        return item

    async def __anext__(self):
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None


class Container(Plain):
    """No iterator itself: it makes one."""

    __next__ = __anext__ = None

    def __iter__(self):
        return Plain(*self.items)

    __aiter__ = __iter__


class Streams(FakeBackend):
    """What its methods return is *made*, which is no generator."""

    def __init__(self, *made) -> None:
        super().__init__("edge", Location.EDGE)
        self.made = list(made)

    def stream(self, cleared):
        return self.made.pop(0)

    astream = stream


@WAYS
@pytest.mark.parametrize("kind", [Plain, Container])
def test_a_backend_may_return_any_iterable_of_chunks(make_client, cloud, caplog, way, kind):
    llm = make_client(Streams(kind(Chunk(text="plain"), DONE), kind(Chunk(text="left"), DONE)), cloud)
    assert ask(llm, way).text == "plain"
    if way == "generate":
        with llm.stream("hi") as stream:
            assert next(stream).text == "left"
    assert caplog.records == []
    assert cloud.requests == []


@WAYS
def test_an_iterator_that_breaks_is_followed_as_a_generator_is(make_client, cloud, way):
    llm = make_client(Streams(Plain(ValueError(CANARY))), cloud)
    assert ask(llm, way).backend == "cloud"


@WAYS
def test_a_stream_that_fails_to_close_costs_no_answer(make_client, way, caplog):
    llm = make_client(Odd(Chunk(text="whole"), DONE, close=ValueError(CANARY)))
    assert ask(llm, way).text == "whole"
    assert CANARY not in caplog.text


@WAYS
def test_a_typed_error_of_an_apps_backend_keeps_its_own_message_alone(make_client, way):
    error = RequestRejected("not this", backend="edge")
    error.__cause__ = quoting(ValueError)
    error.add_note(CANARY)
    with pytest.raises(RequestRejected, match=r"^not this$") as caught:
        ask(make_client(Odd(error)), way)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert not hasattr(caught.value, "__notes__")


@WAYS
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_request_to_stop_is_no_failure(make_client, cloud, kind, way):
    llm = make_client(Odd(kind()), cloud)
    with pytest.raises(kind):
        ask(llm, way)
    assert cloud.requests == []


def test_cancelling_is_no_failure(make_client, cloud):
    class Waiting(FakeBackend):
        async def astream(self, cleared):
            started.set()
            await asyncio.Event().wait()
            yield DONE

    async def cancel() -> None:
        task = asyncio.create_task(llm.agenerate("hi"))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = asyncio.Event()
    llm = make_client(Waiting("edge", Location.EDGE), cloud)
    asyncio.run(cancel())
    assert cloud.requests == []


class Broken(FakeBackend):
    """One of its other methods raises."""

    def __init__(self, method: str, result: Callable[[], object] | None = None) -> None:
        super().__init__("edge", Location.EDGE)
        setattr(self, method, result or self.fail)

    def fail(self, *_):
        raise ValueError(CANARY)


@pytest.mark.parametrize("broken", [None, lambda: None, lambda: "ready"], ids=["raises", "None", "text"])
def test_a_backend_without_a_readable_state_is_not_called(make_client, cloud, caplog, broken):
    llm = make_client(Broken("state", broken), cloud)
    answer = llm.generate(CANARY)
    assert answer.backend == "cloud"
    assert answer.decision.excluded["edge"] == "its state cannot be read"
    assert llm.signals().backends["edge"].ready is False
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "broken", [None, lambda _: None, lambda _: -1, lambda _: 2.5], ids=["raises", "None", "negative", "float"]
)
def test_tokens_that_cannot_be_counted_are_estimated(make_client, broken):
    events = []
    llm = make_client(Broken("count_tokens", broken), hooks=[events.append])
    assert llm.generate("hello there, how are you?").text == "ok"
    assert events[0].metadata.prompt_tokens > 0


@pytest.mark.parametrize("method", ["members", "forget", "close"])
def test_other_methods_cost_nobody_anything(make_client, cloud, caplog, method):
    llm = make_client(Broken(method), cloud)
    llm.signals()
    llm.forget("a session")
    assert llm.generate(CANARY).text == "ok"
    llm.close()
    assert cloud.closed == 1
    assert CANARY not in caplog.text


class Fails:
    """Every method raises, and so does every attribute in *also*."""

    def __init__(self, *also: str) -> None:
        self._also = also

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "_also":
            raise AttributeError(name)
        return self._raise

    def _raise(self, *_, **__):
        raise ValueError(CANARY)

    __call__ = _raise


class FailingSensors(Fails, FixedSensors):
    read = close = Fails._raise


def test_sensors_and_hooks_that_fail_cost_no_answer(make_client, edge, cloud, caplog):
    with caplog.at_level(logging.DEBUG):
        hook = lambda _: Fails()()  # noqa: E731
        llm = make_client(edge, cloud, sensors=FailingSensors(), hooks=[hook])
        assert llm.generate(CANARY).text == "on the device"
        llm.close()
    assert "reading the sensors failed with ValueError" in caplog.text
    assert CANARY not in caplog.text


class FailingCache(Fails):
    location = Location.EDGE


class NoCache(FailingCache):
    def get(self, cleared):
        return CANARY

    def put(self, cleared, answer):
        return None


@pytest.mark.parametrize("cache", [FailingCache, NoCache])
def test_a_cache_that_fails_costs_no_answer(make_client, edge, caplog, cache):
    llm = make_client(edge, cache=cache())
    assert llm.generate("hi").text == "on the device"
    llm.close()
    assert CANARY not in caplog.text


class NoLedger(MemoryLedger):
    def balance(self, tenant):
        return None


@pytest.mark.parametrize("ledger", [Fails, NoLedger])
def test_a_ledger_that_fails_excludes_what_costs_money(make_client, edge, cloud, caplog, ledger):
    llm = make_client(edge, cloud, prices={"edge": 0.1}, ledger=ledger())
    answer = llm.generate(CANARY)
    assert answer.backend == "cloud"
    assert "cannot be booked" in answer.decision.excluded["edge"]
    assert CANARY not in answer.decision.excluded["edge"] + caplog.text


class LateLedger(MemoryLedger):
    """Its balance can be read, but nothing can be booked."""

    def reserve(self, *_):
        raise OSError(CANARY)


class UnsettledLedger(MemoryLedger):
    def settle(self, *_, **__):
        raise OSError(CANARY)


def test_a_call_that_cannot_be_booked_is_made_by_another_backend(make_client, edge, cloud):
    llm = make_client(edge, cloud, prices={"edge": 0.1}, ledger=LateLedger())
    assert llm.generate("hi").backend == "cloud"
    alone = make_client(FakeBackend("edge", Location.EDGE), prices={"edge": 0.1}, ledger=LateLedger())
    with pytest.raises(AllBackendsFailed) as caught:
        alone.generate("hi")
    assert type(caught.value.failures["edge"]) is QuotaExceeded
    assert CANARY not in str(caught.value)


def test_a_call_that_cannot_be_settled_keeps_its_answer(make_client, edge, caplog):
    llm = make_client(edge, prices={"edge": 0.1}, ledger=UnsettledLedger())
    assert llm.generate("hi").text == "on the device"
    assert CANARY not in caplog.text


class Policies:
    """A source whose policy can be read once."""

    def __init__(self, policy) -> None:
        self._policy, self._failing = policy, False

    @property
    def current(self):
        if self._failing:
            raise ValueError(CANARY)
        return self._policy

    def close(self) -> None:
        raise ValueError(CANARY)

    def fail(self) -> None:
        self._failing = True


def test_a_policy_source_that_fails_leaves_the_last_policy_in_force(edge, cloud, caplog):
    source = Policies(parse_policy(POLICY, backends={"edge": Location.EDGE, "cloud": Location.CLOUD}))
    with HybridLLM([edge, cloud], source, sensors=FixedSensors()) as llm:
        source.fail()
        answer = llm.generate("hi")
    assert (answer.text, answer.decision.policy) == ("on the device", "test")
    assert CANARY not in caplog.text
