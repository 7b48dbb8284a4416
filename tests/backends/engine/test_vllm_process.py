"""vLLM's own processes behind the engine: what they open, how they die, and that none is left. Needs a real vLLM."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hybrid_llm.backends.node.engine import EngineConfig, EngineDied
from hybrid_llm.backends.node.engines import ENGINES
from hybrid_llm.backends.node.liveness import StallLimits
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Sampling
from tests.backends.engine.environments import vllm_config

pytestmark = pytest.mark.slow


class Life:
    """What is asked of one engine in one life, in order, since each start takes a minute."""

    def __init__(self, folder, adapter, make_request, expected):
        self.folder, self.adapter = folder, adapter
        self.request, self.expected = make_request, expected
        config = EngineConfig(
            model=folder, adapters=adapter, engine="vllm", max_slots=2, max_waiting=4, kv_tokens=512, threads=1,
            limits=StallLimits(stall=10.0),
        )  # fmt: skip
        self.engine = ENGINES.get("vllm")(vllm_config(config), on_progress=lambda _: None)

    async def play(self):
        info = await self.engine.start()
        try:
            assert (info.output_schema, info.vocab_size, info.context_window) == (False, 211, 256)
            await self.answers_as_transformers_does()
            await self.answers_with_an_adapter()
            await self.refuses_what_it_cannot_do()
            self.listens_on_this_machine_alone()
            await self.is_replaced_when_a_process_of_it_stands_still()
            await self.is_replaced_when_a_process_of_it_is_killed()
        finally:
            processes = self.processes()
            await self.engine.close()
        await self.until(lambda: not any(map(alive, processes)))

    async def answers_as_transformers_does(self):
        requests = [self.request(range(at, at + 12), 10) for at in range(6)]
        for request, tokens in zip(requests, await asyncio.gather(*map(self.tokens, requests)), strict=True):
            assert tokens == self.expected(self.folder, request)

    async def answers_with_an_adapter(self):
        if self.adapter:
            plain, adapted = self.request(range(20), 8), self.request(range(20), 8, adapter="tuned")
            first, second = await asyncio.gather(self.tokens(plain), self.tokens(adapted))
            assert first == self.expected(self.folder, plain)
            assert second == peft_answer(self.folder, self.adapter["tuned"], adapted) != first

    async def refuses_what_it_cannot_do(self):
        for fields in ({"output_schema": "{}"}, {"sampling": Sampling(temperature=3.0)}, {"adapter": "none"}):
            (output,) = [each async for each in self.engine.stream(self.request(**fields))]
            assert output.error.code == "rejected"

    def listens_on_this_machine_alone(self):
        listening = [
            connection.laddr.ip
            for process in self.processes()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert all(ipaddress.ip_address(address).is_loopback for address in listening)
        environment = psutil.Process(self.engine.pid).environ()
        folder = Path(environment["VLLM_RPC_BASE_PATH"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert any(stat.S_ISSOCK(path.stat().st_mode) for path in folder.iterdir())
        assert environment["VLLM_NO_USAGE_STATS"] == "1"

    async def is_replaced_when_a_process_of_it_stands_still(self):
        first = self.processes()
        call = asyncio.create_task(self.tokens(self.request(range(5), 240)))
        await self.until(lambda: self.engine.load().active == 1)
        core = next(each for each in first if "EngineCore" in " ".join(each.cmdline()))
        core.send_signal(signal.SIGSTOP)
        with pytest.raises(EngineDied):
            await call
        await self.until(lambda: not any(map(alive, first)))
        await self.is_back(1)

    async def is_replaced_when_a_process_of_it_is_killed(self):
        first = self.processes()
        calls = [asyncio.create_task(self.tokens(self.request(range(5), 240))) for _ in range(4)]
        await self.until(lambda: self.engine.load().active == 2)
        core = next(each for each in first if "EngineCore" in " ".join(each.cmdline()))
        core.kill()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, EngineDied)
        await self.until(lambda: not any(map(alive, first)))
        await self.is_back(2)

    async def is_back(self, restarts):
        await self.until(lambda: self.engine.healthy)
        assert self.engine.restarts == restarts
        request = self.request(range(9), 5)
        assert await self.tokens(request) == self.expected(self.folder, request)

    async def tokens(self, request):
        outputs = [output async for output in self.engine.stream(request)]
        assert outputs[-1].error is None
        return [token for output in outputs for token in output.token_ids]

    async def until(self, condition):
        async with asyncio.timeout(600):
            while not condition():
                await asyncio.sleep(0.05)

    def processes(self):
        main = psutil.Process(self.engine.pid)
        return [main, *main.children(recursive=True)]


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def peft_answer(folder, adapter, request):
    import peft
    import torch
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    model = peft.PeftModel.from_pretrained(base, adapter).eval()
    ids = torch.tensor([request.prompt_ids])
    answer = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_tokens, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return answer[0, ids.shape[1] :].tolist()


@pytest.fixture(scope="module")
def adapter(model_folder, tmp_path_factory):
    """A folder by its name, where peft is installed."""
    try:
        from tests.backends.engine.test_adapters import save_adapter
    except pytest.skip.Exception:
        return {}
    folder = tmp_path_factory.mktemp("adapter")
    kind = {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 16}
    return {"tuned": save_adapter(model_folder("llama-32"), folder, **kind)}


def test_one_life_of_vllm(model_folder, adapter, make_request, expected):
    """Token for token as transformers; then its engine is stopped, and killed, under load."""
    asyncio.run(Life(model_folder("llama-32"), adapter, make_request, expected).play())


def test_a_model_that_vllm_cannot_serve_is_refused_in_its_own_words(model_folder):
    """Heads of 16 are too small for it on a CPU, which it finds out at the first token."""

    async def scenario():
        config = vllm_config(EngineConfig(model=model_folder("llama"), engine="vllm", kv_tokens=512, threads=1))
        engine = ENGINES.get("vllm")(config, on_progress=lambda _: None)
        with pytest.raises(ConfigError, match=r"has loaded llama, and failed on its first tokens"):
            await engine.start()
        assert engine.pid is None

    asyncio.run(scenario())


FRONT = """
import asyncio, json, sys
from pathlib import Path
from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines import ENGINES

async def main():
    model, python, options = json.loads(sys.argv[1])
    where = {"model": Path(model), "python": Path(python), "options": options}
    config = EngineConfig(engine="vllm", kv_tokens=512, threads=1, **where)
    engine = ENGINES.get("vllm")(config, on_progress=lambda _: None)
    await engine.start()
    print(engine.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_vllm_ends_with_the_node(model_folder):
    config = vllm_config(EngineConfig(model=model_folder("llama-32")))
    named = json.dumps([str(config.model), str(config.python), dict(config.options)])
    front = subprocess.Popen([sys.executable, "-c", FRONT, named], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with front:
        worker = psutil.Process(int(front.stdout.readline()))
        processes = [worker, *worker.children(recursive=True)]
        assert len(processes) > 2
        os.kill(front.pid, signal.SIGKILL)
        front.wait(timeout=60)
        give_up = time.monotonic() + 60
        while any(map(alive, processes)) and time.monotonic() < give_up:
            time.sleep(0.05)
        assert not any(map(alive, processes))
