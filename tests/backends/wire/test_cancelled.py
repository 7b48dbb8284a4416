"""A call that a server ends with CANCELLED: made again, and no failure of the node unless that happens by itself."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from hybrid_llm.backends.wire.channels import server_credentials
from hybrid_llm.core.errors import AllBackendsFailed, StreamInterrupted
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMServicer, add_HybridLLMServicer_to_server
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors


class Cancelling(HybridLLMServicer):
    """Ends so many calls with the status CANCELLED, once all are there that come *together*, and answers all others."""

    def __init__(self, times: int, together: threading.Barrier | None = None) -> None:
        self.left, self.together = times, together

    def Generate(self, request, context):  # noqa: N802
        if self.left:
            if self.together is not None:
                self.together.wait(20.0)
            self.left -= 1
            context.abort(grpc.StatusCode.CANCELLED, "")
        yield pb.GenerateChunk(text="a", tokens=1)
        yield pb.GenerateChunk(finish_reason=1)


class Waiting(HybridLLMServicer):
    """Sends one chunk, and waits until its caller leaves."""

    def Generate(self, request, context):  # noqa: N802
        left = threading.Event()
        context.add_callback(left.set)
        yield pb.GenerateChunk(text="a", tokens=1)
        left.wait(30.0)


@pytest.fixture
def cloud(pki, tools):
    opened = []

    def start(servicer):
        server = grpc.server(ThreadPoolExecutor(4))
        add_HybridLLMServicer_to_server(servicer, server)
        port = server.add_secure_port("127.0.0.1:0", server_credentials(pki.node))
        server.start()
        backend = tools.backend(f"127.0.0.1:{port}", pki.app)
        opened.extend([backend.close, lambda: server.stop(0)])
        return backend

    yield start
    for close in opened:
        close()


OPENED = "the circuit breaker opened"


def client(backend, *, retries: int = 2) -> HybridLLM:
    """A client whose breaker one failure opens, which is logged."""
    text = f"version: 1\nname: p\nresilience: {{retries: {retries}, breaker: {{failures: 1}}}}\n"
    policy = parse_policy(text, backends={"cloud": Location.CLOUD})
    return HybridLLM([backend], policy, sensors=FixedSensors())


def ask(llm: HybridLLM, *, is_async: bool):
    return asyncio.run(llm.agenerate("hi")) if is_async else llm.generate("hi")


@pytest.mark.parametrize("is_async", [False, True])
def test_it_is_made_again(cloud, is_async):
    with client(cloud(Cancelling(1))) as llm:
        reply = ask(llm, is_async=is_async)
    assert (reply.text, [each.error for each in reply.attempts]) == ("a", ["BackendUnavailable", ""])


@pytest.mark.parametrize("is_async", [False, True])
def test_it_is_no_failure_until_it_happens_again(cloud, caplog, is_async):
    with client(cloud(Cancelling(2)), retries=0) as llm:
        for has_opened in (False, True):
            with pytest.raises(AllBackendsFailed):
                ask(llm, is_async=is_async)
            assert (OPENED in caplog.text) is has_opened
        assert ask(llm, is_async=is_async).text == "a", "the last resort"


def test_calls_that_are_cancelled_together_are_no_failure(cloud, caplog):
    begun = threading.Barrier(4)
    with client(cloud(Cancelling(4, begun)), retries=0) as llm, ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(llm.generate, "hi") for _ in range(4)]
        assert all(isinstance(answer.exception(), AllBackendsFailed) for answer in answers)
    assert OPENED not in caplog.text


def test_a_call_that_its_caller_ends_from_another_thread_is_no_failure(cloud, tools, caplog):
    backend = cloud(Waiting())
    for _ in range(6):
        cleared = tools.cleared("hi", request_id="r")
        stream = backend.stream(cleared)
        assert next(stream).text == "a"
        backend.abort("r")
        with pytest.raises(StreamInterrupted):
            next(stream)
    assert OPENED not in caplog.text
