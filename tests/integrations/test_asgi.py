"""Answers as responses of FastAPI applications on a real server: a client that leaves ends the work of the backend."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from openai import OpenAI

from examples.web import app as example
from hybrid_llm import HybridLLM
from hybrid_llm.core.errors import BackendOverloaded, ConfigError, StreamInterrupted
from hybrid_llm.core.request import Location
from hybrid_llm.gateway import gateway_app
from hybrid_llm.gateway.quiet import QuietServer
from hybrid_llm.integrations.asgi import ERROR_HANDLERS, StreamingAnswer, client_lifespan, while_connected
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.observability.hooks import RequestEvent
from tests.fakes import FakeBackend
from tests.integrations.hosts import SlowBackend, slow_client


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Serve *app* on a free port, in a thread."""
    server = QuietServer(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1))
    ready = threading.Event()
    server.on_ready = ready.set
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def application(llm: HybridLLM) -> FastAPI:
    app = FastAPI(lifespan=client_lifespan(llm), exception_handlers=ERROR_HANDLERS)

    @app.get("/answer")
    async def answer(request: Request, tokens: int = 5, tag: str | None = None) -> dict[str, str]:
        assert request.state.llm is llm
        work = llm.agenerate("Hello", max_tokens=tokens, privacy=[tag] if tag else None)
        return {"text": (await while_connected(request, work)).text}

    @app.get("/stream")
    async def stream(*, tokens: int = 5, tag: str | None = None, events: bool = True) -> StreamingAnswer:
        options: Any = {"max_tokens": tokens, "privacy": [tag] if tag else None}
        return StreamingAnswer(llm.astream("Hello", **options), events=events, headers={"x-mine": "1"})

    app.mount("/llm", gateway_app(llm))
    return app


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[int, SlowBackend]]:
    llm = slow_client()
    edge = llm.backends[0]
    assert isinstance(edge, SlowBackend)
    with serving(application(llm)) as port:
        yield port, edge
    with pytest.raises(Exception, match="closed"):
        llm.generate("x")


UNCONTINUED = "version: 1\nname: p\nresilience: {retries: 0, continue_streams: false}\n"


def ask(port: int, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def events(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in body.decode().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def test_a_stream_is_events_and_ends_with_how_the_answer_was_made(served):
    port, _ = served
    response, body = ask(port, "/stream")
    found = events(body)
    assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (response.headers["x-hybrid-backend"], response.headers["x-mine"]) == ("edge", "1")
    assert response.headers["x-hybrid-because"] == "the device first"
    assert "".join(data["text"] for _, data in found[:-1]) == "w0 w1 w2 w3 w4 "
    name, made = found[-1]
    assert (name, made["backend"], made["usage"]["completion_tokens"]) == ("done", "edge", 5)
    assert "text" not in made
    assert ask(port, "/stream?events=false")[1] == b"w0 w1 w2 w3 w4 "


@pytest.mark.parametrize("path", ["/answer", "/stream", "/stream?events=false"])
def test_an_error_before_the_first_piece_has_its_own_status(served, path):
    port, _ = served
    response, body = ask(port, f"{path}{'&' if '?' in path else '?'}tag=zebra")
    assert (response.status, json.loads(body)["error"]["code"]) == (400, "invalid_value")
    response, body = ask(port, f"{path}{'&' if '?' in path else '?'}tokens=0")
    assert (response.status, json.loads(body)["error"]["param"]) == (400, "max_tokens")


@pytest.mark.parametrize("path", ["/answer?tokens=500", "/stream?tokens=500", "/stream?tokens=500&events=false"])
def test_a_client_that_leaves_ends_the_work_of_the_backend(served, path, caplog):
    port, edge = served
    before, limit = edge.abandoned, time.monotonic() + 10
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    while not edge.running:
        assert time.monotonic() < limit
        time.sleep(0.005)
    connection.sock.close()
    while edge.running:
        assert time.monotonic() < limit
        time.sleep(0.005)
    assert edge.abandoned == before + 1
    assert [record for record in caplog.records if record.exc_info] == []


def test_what_fails_later_is_an_event_and_a_text_that_breaks_off_has_no_end():
    broken = FakeBackend("edge", Location.EDGE, ["one ", StreamInterrupted("it broke", backend="edge")])
    policy = parse_policy(UNCONTINUED, backends={"edge": Location.EDGE})
    with serving(application(HybridLLM([broken], policy))) as port:
        found = events(ask(port, "/stream")[1])
        assert found[0] == ("message", {"text": "one "})
        assert (found[-1][0], found[-1][1]["error"]["code"]) == ("error", "stream_interrupted")
        with pytest.raises(http.client.IncompleteRead):
            ask(port, "/stream?events=false")


def test_a_client_that_does_not_read_is_left():
    long = FakeBackend("edge", Location.EDGE, ["x" * 100_000] * 2000)
    llm = HybridLLM([long], parse_policy(UNCONTINUED, backends={"edge": Location.EDGE}))
    app = FastAPI(lifespan=client_lifespan(llm))

    @app.get("/")
    async def stream() -> StreamingAnswer:
        return StreamingAnswer(llm.astream("Hello"), timeout=0.3)

    with serving(app) as port, closing(socket.create_connection(("127.0.0.1", port))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        limit = time.monotonic() + 10
        while not long.abandoned:
            assert time.monotonic() < limit
            time.sleep(0.01)


def test_a_full_backend_says_when_to_try_again():
    full = FakeBackend("edge", Location.EDGE, [BackendOverloaded("full", backend="edge", retry_after=7.0)])
    policy = parse_policy("version: 1\nname: p\nresilience: {retries: 0}\n", backends={"edge": Location.EDGE})
    with serving(application(HybridLLM([full], policy))) as port:
        for path in ("/answer", "/stream"):
            response, _ = ask(port, path)
            assert (response.status, response.headers["retry-after"]) == (503, "7")


def test_the_gateway_works_under_a_prefix(served):
    port, _ = served
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/llm/v1", api_key="none", max_retries=0)
    assert {"auto", "edge", "cloud"} <= {model.id for model in client.models.list()}
    with client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "Hi"}], max_tokens=5, stream=True
    ) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "w0 w1 w2 w3 w4 "
    made = client.responses.create(model="auto", input="Hi", max_output_tokens=20)
    assert client.responses.retrieve(made.id).output_text == made.output_text
    assert ask(port, "/llm/health")[0].status == 200


def test_the_example_answers_streams_and_stops_when_its_client_leaves():
    seen: list[RequestEvent] = []
    over = threading.Event()

    def hook(event: RequestEvent) -> None:
        seen.append(event)
        over.set()

    example.llm.add_hook(hook)
    body = json.dumps({"prompt": "Count from 3 to 20.", "max_tokens": 400})
    with serving(example.app) as port:
        for path, wanted in (("/answer", b'"backend":"edge"'), ("/stream", b"event: done")):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", path, body, {"content-type": "application/json"})
            assert wanted in connection.getresponse().read()
            connection.close()
        over.clear()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/stream", body, {"content-type": "application/json"})
        connection.getresponse().read(20)
        connection.close()
        connection.sock = None
        assert over.wait(10)
        assert seen[-1].error == "cancelled"


def test_an_invalid_configuration_fails_the_start_of_the_application():
    async def start() -> None:
        async with client_lifespan({"version": 1, "backends": {}})(None):
            pass

    with pytest.raises(ConfigError, match="backends"):
        asyncio.run(start())
