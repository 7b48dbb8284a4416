"""Reads of gRPC's calls: they give what the call gives, and outlive the cancellation of their task."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest

from hybrid_llm.backends.wire.reading import EOF, read


class Call:
    """A call whose reads wait for *reported*, as gRPC's do for a batch."""

    def __init__(self) -> None:
        self.reported = asyncio.get_running_loop().create_future()
        self.cancellations = 0

    async def read(self):
        await asyncio.sleep(0.001)  # a first batch, which sends the request
        return await self.reported

    def _cancel(self, details: str) -> bool:
        self.cancellations += 1
        return True


def test_a_read_gives_what_the_call_gives():
    async def play():
        call = Call()
        call.reported.set_result("message")
        assert await read(call) == "message"
        failed = Call()
        failed.reported.set_exception(LookupError("lost"))
        with pytest.raises(LookupError, match="lost"):
            await read(failed)
        ended = Call()
        ended.reported.cancel()  # gRPC says so of a call with the status CANCELLED
        with pytest.raises(asyncio.CancelledError):
            await read(ended)

    asyncio.run(play())


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("outcome", ["message", LookupError("lost"), asyncio.CancelledError()], ids=repr)
def test_a_task_that_is_cancelled_leaves_when_the_call_has_ended(times, outcome):
    async def play():
        call = Call()
        task = asyncio.create_task(read_in_task(call))
        for _ in range(times):
            await asyncio.sleep(0.005)
            task.cancel("by the caller")
        await asyncio.sleep(0.005)
        assert not task.done()
        assert not call.reported.cancelled()
        assert call.cancellations == times
        if isinstance(outcome, BaseException):
            call.reported.set_exception(outcome)
        else:
            call.reported.set_result(outcome)
        with pytest.raises(asyncio.CancelledError, match="by the caller"):
            await task

    asyncio.run(play())


def test_a_time_limit_around_a_read_is_one():
    async def play():
        call = Call()
        asyncio.get_running_loop().call_later(0.05, lambda: call.reported.set_result("late"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await read(call)
        assert call.reported.result() == "late"

    asyncio.run(play())


def test_real_calls_end_with_their_tasks_before_and_after_their_first_message():
    async def play():
        served = []

        async def answer(request, context):
            served.append(request)
            if request == b"silent":
                await asyncio.sleep(30)
            while True:
                yield request
                await asyncio.sleep(0.001)

        handler = grpc.unary_stream_rpc_method_handler(answer)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"S": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for request, wait in ((b"silent", 0.05), (b"more", 0.05), (b"more", 0.0)):
                call = channel.unary_stream("/t.T/S")(request)
                task = asyncio.create_task(read_in_task(call))
                await asyncio.sleep(wait)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert wait == 0.0 or call.cancelled()
            call = channel.unary_stream("/t.T/S")(b"more")
            assert await read(call) == b"more"
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await read_in_task(call)
        await server.stop(0)
        assert len(served) >= 3

    asyncio.run(play())


async def read_in_task(call):
    while await read(call) is not EOF:
        pass
