"""The edge backend: what it accepts, how it queues, and every early end of a request."""

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    PrivacyViolation,
    RequestRejected,
)
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location, Tool, estimate_tokens

LONG = {"max_tokens": 1500, "deadline": 60.0}


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.002)


def idle(backend):
    return backend.state().active == 0 and backend.state().queue == 0


def test_it_is_a_backend(edge):
    backend = edge()
    assert isinstance(backend, Backend)
    assert (backend.name, backend.location) == ("edge", Location.EDGE)
    assert backend.capabilities.context_window == backend.state().context_window == 2048
    assert backend.capabilities.output_schema


def test_a_request_cleared_for_elsewhere_is_refused_sync_and_async(edge, clear):
    backend = edge()
    cleared = clear(location=Location.CLOUD)
    with pytest.raises(PrivacyViolation):
        next(backend.stream(cleared))
    with pytest.raises(PrivacyViolation):
        asyncio.run(anext(backend.astream(cleared)))
    with pytest.raises(PrivacyViolation):
        next(backend.stream(cleared.request))
    assert idle(backend)


def test_the_last_chunk_and_only_it_has_reason_usage_and_timings(edge, clear):
    backend = edge()
    chunks = list(backend.stream(clear(max_tokens=6)))
    assert all(c.finish_reason is c.usage is c.timings is None for c in chunks[:-1])
    last = chunks[-1]
    assert last.usage.prompt_tokens == backend.count_tokens(clear().request)
    assert 0 <= last.timings.queue_ms <= last.timings.ttft_ms <= last.timings.total_ms
    assert last.timings.tpot_ms > 0


def test_count_tokens_is_exact_without_loading_the_model(edge, clear):
    backend = edge()
    count = backend.count_tokens(clear("hello there").request)
    assert not backend.loaded
    assert list(backend.stream(clear("hello there", max_tokens=1)))[-1].usage.prompt_tokens == count


def test_a_prompt_of_a_megabyte_is_estimated_and_refused_at_once(edge, clear):
    backend = edge()
    backend.load()
    cleared = clear("word " * 200_000)
    begun = time.monotonic()
    assert backend.count_tokens(cleared.request) == estimate_tokens(cleared.request)
    with pytest.raises(RequestRejected, match=r"at least \d+ tokens") as caught:
        list(backend.stream(cleared))
    assert caught.value.reason == "context_overflow"
    assert time.monotonic() - begun < 5


def test_an_overflow_of_the_memory_names_the_memory_that_is_enough(edge, clear):
    long = clear("ab " * 200, max_tokens=1200, deadline=60.0)
    with pytest.raises(RequestRejected, match=r"memory_limit_mb: \d+") as caught:
        list(edge(memory_limit_mb=1).stream(long))
    enough = int(re.search(r"memory_limit_mb: (\d+)", str(caught.value))[1])
    with pytest.raises(RequestRejected):
        list(edge(memory_limit_mb=enough - 1).stream(long))
    with closing(edge(memory_limit_mb=enough).stream(long)) as chunks:
        next(chunks)


def test_an_overflow_is_refused_with_the_numbers_before_it_runs(edge, clear):
    backend = edge()
    prompt = backend.count_tokens(clear().request)
    with pytest.raises(RequestRejected, match=rf"{prompt} tokens of prompt and 2048 .* 2048") as caught:
        list(backend.stream(clear(max_tokens=2048)))
    assert caught.value.reason == "context_overflow"
    assert list(backend.stream(clear("x", max_tokens=3)))


def test_the_context_window_is_used_to_the_last_token(edge, clear):
    backend = edge(memory_limit_mb=1)
    window = backend.capabilities.context_window
    assert window == (1 << 20) // (2 * 2 * 2 * 32 * 4) == 1024
    prompt = backend.count_tokens(clear("x").request)
    last = list(backend.stream(clear("x", max_tokens=window - prompt)))[-1]
    assert last.usage is not None
    with pytest.raises(RequestRejected):
        list(backend.stream(clear("x", max_tokens=window - prompt + 1)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_tokens": 0}, "invalid_argument"),
        ({"max_tokens": -5}, "invalid_argument"),
        ({"deadline": float("nan")}, "invalid_argument"),
        ({"tools": (Tool(name="f g"),)}, "invalid_argument"),
    ],
)
def test_what_it_cannot_do_is_rejected(edge, clear, options, reason):
    with pytest.raises(RequestRejected) as caught:
        list(edge().stream(clear(**options)))
    assert caught.value.reason == reason


def test_an_empty_message_is_answered(edge, clear):
    assert list(edge().stream(clear("", max_tokens=2)))[-1].finish_reason is not None


def test_an_empty_prompt_is_rejected(edge, clear, copy):
    (copy / "chat_template.jinja").write_text("")
    from hybrid_llm.backends.models import write_manifest

    write_manifest(copy, name="x", architecture="x", precision="int4", parameters=1)
    with pytest.raises(RequestRejected, match="empty"):
        list(edge(copy).stream(clear()))


# --- ending early -----------------------------------------------------------------------------------------------------


def test_closing_the_generator_frees_the_slot(edge, clear):
    backend = edge()
    stream = backend.stream(clear(**LONG))
    next(stream)
    assert backend.state().active == 1
    stream.close()
    assert idle(backend)


def test_a_generator_that_was_never_started_takes_no_slot(edge, clear):
    backend = edge()
    backend.stream(clear(**LONG))
    assert idle(backend)


def test_closing_the_async_generator_ends_the_run(edge, clear):
    backend = edge()

    async def main():
        async with aclosing(backend.astream(clear(**LONG))) as stream:
            async for _ in stream:
                break
        return backend.state().active

    assert asyncio.run(main()) == 0


def test_cancelling_the_task_ends_the_run_and_raises_cancelled(edge, clear):
    backend = edge()
    backend.load()

    async def consume():
        async with aclosing(backend.astream(clear(**LONG))) as stream:
            async for _ in stream:
                pass

    async def main():
        task = asyncio.create_task(consume())
        while backend.state().active == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert idle(backend)

    asyncio.run(main())


def test_a_deadline_ends_a_run_in_mid_prefill(edge, clear):
    """With one token to make, nothing but the end of the model's own run can raise: without it the answer is whole."""
    backend = edge(reuse_prefixes=False)
    text = "ab " * 660
    prompt = backend.count_tokens(clear(text).request)
    list(backend.stream(clear(max_tokens=1)))
    whole = (list(backend.stream(clear(text, max_tokens=1)))[-1] for _ in range(3))
    part = min(last.timings.ttft_ms for last in whole) / 4e3  # the machine may be busy now and not then
    with pytest.raises(DeadlineExceeded) as caught:
        list(backend.stream(clear(text, max_tokens=1, deadline=part)))
    assert prompt > 1000
    assert caught.value.elapsed >= part
    assert idle(backend)
    assert list(backend.stream(clear(max_tokens=2))), "the session goes on"


def test_a_deadline_ends_a_run_between_tokens(edge, clear):
    backend = edge()
    backend.load()
    stream = backend.stream(clear(max_tokens=1500, deadline=0.15))
    received = 0
    with pytest.raises(DeadlineExceeded):  # noqa: PT012 - the error comes out of the loop
        for _ in stream:
            received += 1
            time.sleep(0.01)
    assert 0 < received < 100


def test_a_deadline_that_is_over_runs_nothing(edge, clear):
    backend = edge()
    for deadline in (0.0, -1.0):
        with pytest.raises(DeadlineExceeded):
            list(backend.stream(clear(deadline=deadline)))
    assert idle(backend)


def test_an_infinite_deadline_is_fine(edge, clear):
    assert list(edge().stream(clear(max_tokens=2, deadline=float("inf"))))


def test_close_ends_running_and_waiting_requests_with_unavailable(edge, clear):
    backend = edge(max_concurrency=1, max_queue=4)
    backend.load()
    errors = []

    def consume():
        try:
            for _ in backend.stream(clear(**LONG)):
                time.sleep(0.005)
        except BackendUnavailable as error:
            errors.append(error)

    threads = [threading.Thread(target=consume) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: backend.state().active == 1 and backend.state().queue == 2)
    backend.close()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 3
    assert not backend.state().ready
    backend.close()


def test_close_ends_async_requests_and_leaves_no_thread(edge, clear):
    backend = edge()

    async def main():
        async def consume():
            return [chunk async for chunk in backend.astream(clear(**LONG))]

        task = asyncio.create_task(consume())
        while backend.state().active == 0:
            await asyncio.sleep(0.001)
        await backend.aclose()
        with pytest.raises(BackendUnavailable):
            await task
        with pytest.raises(BackendUnavailable):
            await consume()

    asyncio.run(main())
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("hybrid-llm-edge")])


# --- several at once --------------------------------------------------------------------------------------------------


def test_answers_at_the_same_time_are_those_of_one_at_a_time(edge, clear, text_of):
    backend = edge(max_concurrency=3)
    texts = [f"Question {i} about trains" for i in range(8)]
    alone = [text_of(list(backend.stream(clear(t, max_tokens=15)))) for t in texts]

    async def main():
        async def one(text):
            return text_of([chunk async for chunk in backend.astream(clear(text, max_tokens=15))])

        return await asyncio.gather(*map(one, texts))

    assert asyncio.run(main()) == alone
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda t: text_of(list(backend.stream(clear(t, max_tokens=15)))), texts)) == alone
    assert idle(backend)


def test_one_more_than_slots_and_queue_is_overloaded_at_once(edge, clear):
    backend = edge(max_concurrency=1, max_queue=1)
    list(backend.stream(clear(max_tokens=2)))
    running = backend.stream(clear(**LONG))
    next(running)
    waiting = threading.Thread(target=lambda: list(backend.stream(clear(max_tokens=2))))
    waiting.start()
    wait_until(lambda: backend.state().queue == 1)
    assert backend.state().load == 2.0
    with pytest.raises(BackendOverloaded) as caught:
        next(backend.stream(clear(max_tokens=2)))
    assert caught.value.retry_after > 0
    with pytest.raises(BackendOverloaded):
        asyncio.run(anext(backend.astream(clear(max_tokens=2))))
    running.close()
    waiting.join(10)
    assert idle(backend)


def test_waiting_is_in_the_timings_and_ends_with_the_deadline(edge, clear):
    backend = edge(max_concurrency=1)
    running = backend.stream(clear(**LONG))
    next(running)
    with pytest.raises(DeadlineExceeded):
        next(backend.stream(clear(max_tokens=2, deadline=0.1)))
    threading.Timer(0.1, running.close).start()
    timings = list(backend.stream(clear(max_tokens=2)))[-1].timings
    assert timings.queue_ms > 50
    assert timings.ttft_ms >= timings.queue_ms


def test_memory_admits_what_fits_and_lets_the_others_wait(edge, clear):
    """Two requests of 600 tokens do not fit into 1,024 tokens of cache, though there are slots."""
    backend = edge(max_concurrency=4, memory_limit_mb=1)
    running = backend.stream(clear(max_tokens=600))
    next(running)
    small = list(backend.stream(clear(max_tokens=10)))
    assert small[-1].timings.queue_ms < 50
    with pytest.raises(DeadlineExceeded):
        list(backend.stream(clear(max_tokens=600, deadline=0.2)))
    running.close()
    assert list(backend.stream(clear(max_tokens=600)))


# --- loading ----------------------------------------------------------------------------------------------------------


def test_lazy_loads_once_on_first_use_by_many(edge, clear):
    backend = edge(max_concurrency=4)
    assert not backend.loaded
    assert backend.state().ready
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: list(backend.stream(clear(max_tokens=2))), range(4)))
    first = backend._model
    list(backend.stream(clear(max_tokens=2)))
    assert backend._model is first


def test_eager_loads_when_made(edge):
    assert edge(load="eager").loaded


def test_a_load_that_fails_shows_in_the_state_and_is_tried_again_on_demand(edge, clear, copy):
    data = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(data[:-100])
    backend = edge(copy)
    with pytest.raises(BackendUnavailable, match="incomplete"):
        list(backend.stream(clear()))
    assert not backend.state().ready
    assert "incomplete" in backend.state().reason
    (copy / "model.onnx").write_bytes(data)
    backend.load()
    assert backend.state().ready
    assert list(backend.stream(clear(max_tokens=2)))


@pytest.mark.parametrize(
    "options",
    [
        {"threads": -1},
        {"max_concurrency": 0},
        {"max_queue": -1},
        {"memory_limit_mb": 0},
        {"load": "never"},
        {"name": ""},
    ],
)
def test_options_out_of_range_are_config_errors(tiny, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        EdgeBackend(EdgeConfig(model=tiny.int4, **options))


@pytest.mark.skipif(not (embedded_model() / "manifest.json").is_file(), reason="the embedded model is not built here")
def test_the_embedded_model_answers_without_any_option(clear, text_of):
    backend = EdgeBackend()
    try:
        chunks = list(backend.stream(clear("Is this review positive? 'A warm, funny film.'", max_tokens=40)))
        assert text_of(chunks).strip()
    finally:
        backend.close()
