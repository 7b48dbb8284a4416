"""One exchange: how large its body may be, whose tags count, what a stream ends with, what an error shows."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location
from hybrid_llm.gateway.exchange import read_json
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend
from tests.gateway.conftest import POLICY, Serve, fakes, served
from tests.gateway.test_http import ALONE, ASKED, CHAT, PATHS, send

TAGS = POLICY.replace("  public:", "  pii: {allow: [edge, cloud]}\n  work: {allow: [edge, cloud]}\n  public:")
LIMIT = 400


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    edge, cloud = fakes(["one ", "two"])
    policy = parse_policy(TAGS, backends={"edge": edge.location, "cloud": cloud.location})
    with served(HybridLLM([edge, cloud], policy), body_bytes=LIMIT) as base:
        yield base


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_a_body_may_have_the_limit_and_no_byte_more(url: str, size: int, status: int) -> None:
    assert send(url, CHAT, json.dumps(ASKED).encode().ljust(size)).status == status


@pytest.mark.parametrize(("size", "aside"), [(100, False), (1 << 20, True)])
def test_a_long_body_is_read_where_no_other_request_waits(size, aside):
    body = json.dumps({"text": "x" * size}).encode()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    headers = {"content-type": "application/json"}
    reader = asyncio.run(read_json(headers, receive, 1 << 24, 10.0, lambda _: threading.get_ident()))
    assert (reader != threading.get_ident()) is aside


def test_tags_of_all_places_are_joined(url: str) -> None:
    body = ASKED | {"hybrid": {"privacy": ["pii"]}, "metadata": {"hybrid_privacy": "work"}}
    reply = send(url, CHAT, body, x_hybrid_privacy="phi", x_hybrid_task="hard")
    assert (reply.headers["x-hybrid-tags"], reply.headers["x-hybrid-backend"]) == ("phi,pii,work", "edge")


def test_details_are_only_for_who_asks(url: str) -> None:
    assert "hybrid" not in send(url, CHAT, ASKED).document


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_stream_ends_with_its_usage_if_that_is_wanted(url: str, path: str) -> None:
    streamed = PATHS[path] | {"stream": True}
    *_, last, done = send(url, path, streamed | {"stream_options": {"include_usage": True}}).events
    assert (last["choices"], done) == ([], "[DONE]")
    assert last["usage"]["completion_tokens"] > 0
    *_, last, done = send(url, path, streamed).events
    assert (bool(last["choices"]), last.get("usage"), done) == (True, None, "[DONE]")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("script", [[RuntimeError("the-secret")], ["one ", RuntimeError("the-secret")]])
def test_what_a_backend_raises_is_not_shown(serve: Serve, path: str, script: list, caplog) -> None:
    caplog.set_level("DEBUG")
    url = serve(*fakes(script))
    whole, streamed = send(url, path, PATHS[path]), send(url, path, PATHS[path] | {"stream": True})
    assert whole.status >= 500
    assert streamed.status == 200 if len(script) > 1 else streamed.status >= 500
    assert b"error" in whole.raw
    assert b"error" in streamed.raw
    assert b"the-secret" not in whole.raw + streamed.raw
    assert "the-secret" not in caplog.text


class Broken(FakeBackend):
    """A backend that cannot say what it is any more."""

    broken = False

    @property
    def capabilities(self) -> Capabilities:
        if self.broken:
            raise RuntimeError("the-secret")
        return Capabilities(model="fake", context_window=1000)

    @capabilities.setter
    def capabilities(self, _: Capabilities) -> None: ...


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/console/data/overview"])
def test_a_failure_of_ours_shows_its_class_in_the_log_and_no_text(serve: Serve, path: str, caplog) -> None:
    caplog.set_level("DEBUG")
    edge = Broken("edge", Location.EDGE)
    url = serve(edge, policy=ALONE)
    edge.broken = True
    reply = send(url, path, PATHS.get(path), method="POST" if path in PATHS else "GET")
    assert (reply.status, "the gateway failed" in reply.document["error"]["message"]) == (500, True)
    assert "failed with RuntimeError" in caplog.text
    assert "the-secret" not in caplog.text + reply.raw.decode()
