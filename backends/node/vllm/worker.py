"""The engine's process in vLLM's environment: it drives `AsyncLLM`, and speaks `ipc` with the node. See `run`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from math import isfinite
from typing import TYPE_CHECKING, Final

from hybrid_llm.backends.node import ipc
from hybrid_llm.backends.node.engine import EngineInfo, EngineRequest, FaultCode, objection
from hybrid_llm.backends.node.pipes import Odometer, Outbox, end_group, ignore_terminal, read_commands
from hybrid_llm.backends.node.vllm.adapters import load_adapters
from hybrid_llm.backends.node.vllm.answers import fault, grammar_of, output_of, sampling_params, unsupported
from hybrid_llm.backends.node.vllm.load import end_id, info_of, load_llm
from hybrid_llm.backends.node.vllm.steps import Steps
from hybrid_llm.backends.node.vllm.turns import Turns
from hybrid_llm.backends.node.vllm.warmup import warm_up
from hybrid_llm.backends.schema import UnusableSchema
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.threads import started

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

_WATCH_S: Final = 0.5
_log: Final = logging.getLogger("hybrid_llm.vllm")
Commands = asyncio.Queue[ipc.ToEngine]


def main() -> None:
    """Load the model that the first command configures, and run it until standard input ends."""
    ignore_terminal()
    logging.basicConfig(format="%(message)s")
    try:
        asyncio.run(_work(Outbox()))
    finally:
        end_group()  # vLLM's own processes too, whatever state they are in


async def _work(outbox: Outbox) -> None:
    loop, odometer, commands = asyncio.get_running_loop(), Odometer(), Commands()
    started(odometer.report, outbox, name="pulse")
    started(read_commands, lambda each: loop.call_soon_threadsafe(commands.put_nowait, each), name="commands")
    start = await commands.get()
    if not isinstance(start, ipc.Start):
        raise SystemExit("start this through EngineProcess")
    config, steps = start.config, Steps(outbox, odometer)
    try:
        llm = load_llm(config, lambda phase: outbox.send(ipc.Progress(phase)), lambda *_: steps)
        outbox.send(ipc.Progress("warming up"))
        info = info_of(config, llm)
        adapters = await load_adapters(llm, config.adapters)
        await warm_up(llm, info)
    except ConfigError as error:
        return outbox.send(ipc.Refused.of(error))
    outbox.send(ipc.Ready(info))
    steps.open(slots=info.slots, kv_tokens=info.kv_tokens)
    return await Requests(llm, info, steps, adapters).serve(commands)


class Requests:
    """The requests in flight, each a task that reads its answer from vLLM."""

    def __init__(self, llm: AsyncLLM, info: EngineInfo, steps: Steps, adapters: Mapping[str, LoRARequest]) -> None:
        self._llm, self._info, self._steps, self._adapters = llm, info, steps, adapters
        self._end_id = end_id(llm)
        self._turns = Turns()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def serve(self, commands: Commands) -> None:
        """Carry out *commands* until vLLM dies; the end of standard input ends the whole process."""
        reading = asyncio.create_task(self._read(commands))
        while not self._llm.errored and not reading.done():
            await asyncio.wait((reading,), timeout=_WATCH_S)
        if reading.done():
            reading.result()
        _log.error("vLLM's engine has died: what it logged before says why")

    async def _read(self, commands: Commands) -> None:
        while True:
            command = await commands.get()
            if isinstance(command, EngineRequest):
                self._begin(command)
            elif isinstance(command, ipc.Abort) and (task := self._tasks.get(command.request_id)):
                task.cancel()

    def _begin(self, request: EngineRequest) -> None:
        reason = objection(request, self._info) or unsupported(request)
        if request.request_id in self._tasks:
            reason = "a request of this id is in flight"
        if reason is not None:
            self._steps.put(fault(request.request_id, "rejected", reason))
            return
        self._tasks[request.request_id] = asyncio.create_task(self._run(request))
        self._steps.count(len(self._tasks))

    async def _run(self, request: EngineRequest) -> None:
        try:
            await self._answer(request)
        finally:
            del self._tasks[request.request_id]
            self._steps.count(len(self._tasks))

    async def _answer(self, request: EngineRequest) -> None:
        try:
            async with asyncio.timeout_at(request.expires if isfinite(request.expires) else None):
                await self._stream(request, await asyncio.to_thread(grammar_of, request))
        except TimeoutError:
            self._fail(request, "deadline", "the deadline passed on the node")
        except UnusableSchema as error:
            self._fail(request, "rejected", str(error))
        except Exception as error:  # noqa: BLE001 each version of vLLM has errors of its own, of one request
            self._fail(request, *_meaning(error))

    async def _stream(self, request: EngineRequest, grammar: str | None) -> None:
        from vllm.inputs import tokens_input

        params = sampling_params(request, grammar, self._end_id)
        prompt = tokens_input(list(request.prompt_ids), cache_salt=request.cache_salt)
        turn = self._turns.assign(request)
        answer = self._llm.generate(
            prompt, params, request.request_id, priority=turn, lora_request=self._adapters.get(request.adapter)
        )
        async with aclosing(answer) as outputs:
            async for output in outputs:
                self._turns.begun(turn)
                self._steps.put(output_of(request, output))

    def _fail(self, request: EngineRequest, code: FaultCode, message: str) -> None:
        if not self._llm.errored:  # else this process ends, which is what the node reports
            self._steps.put(fault(request.request_id, code, message))


def _meaning(error: Exception) -> tuple[FaultCode, str]:
    """What an error of `AsyncLLM.generate` says of its request, whose texts it may quote."""
    from vllm.exceptions import GracefulHTTPError, VLLMClientError

    if isinstance(error, GracefulHTTPError):  # QueueOverflowError and its kin
        return "overloaded", "too many requests are waiting for this engine"
    if isinstance(error, VLLMClientError | ValueError):
        return "rejected", "unsupported: this engine does not take the request"
    return "internal", "the model could not compute this request"
