"""The engines that `edge_decode` compares: each loads a model, then answers prompts one at a time and says how fast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.router.privacy import Assessment, PrivacyGuard


@dataclass(frozen=True)
class Sample:
    """One answer: tokens read and written, seconds to the first token and from there to the last, and of processors."""

    prompt: int
    completion: int
    first: float
    rest: float
    cpu: float


@dataclass(frozen=True)
class Job:
    """The prompts for every engine: *texts* with *decode* tokens of answer each."""

    texts: tuple[str, ...]
    decode: int
    ids: tuple[tuple[int, ...], ...] = ()
    """The same prompts as token ids, for an engine without our chat template."""


Answer = Callable[[str, int], Sample]


def cleared(text: str, max_tokens: int) -> Cleared:
    request = Request(messages=(Message(role="user", content=text),), max_tokens=max_tokens, deadline=3600.0)
    return PrivacyGuard().clear(Assessment(request=request, allowed=frozenset({Location.EDGE})), Location.EDGE)


def ours(folder: Path, _source: Path, *, spin: bool = True) -> Answer:
    backend = EdgeBackend(EdgeConfig(model=folder, load="eager", spin=spin, reuse_prefixes=False))

    def answer(text: str, decode: int) -> Sample:
        begun, times, usage, cpu = time.perf_counter(), [], None, time.process_time()
        for chunk in backend.stream(cleared(text, decode)):
            times.append(time.perf_counter())
            usage = chunk.usage
        assert usage is not None
        cpu = time.process_time() - cpu
        return Sample(usage.prompt_tokens, usage.completion_tokens, times[0] - begun, times[-1] - times[0], cpu)

    return answer


def genai(folder: Path, _source: Path) -> Answer:
    import onnxruntime_genai as og

    model, chat = og.Model(str(folder)), ChatTokenizer.load(folder)

    def answer(text: str, decode: int) -> Sample:
        begun, cpu = time.perf_counter(), time.process_time()
        first = begun
        request = cleared(text, decode).request
        ids = chat.encode(request)
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + decode, do_sample=False)
        generator, stream, count = og.Generator(model, params), chat.text_stream(request), 0
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
            stream.push(int(generator.get_next_tokens()[0]))
            count += 1
            first = time.perf_counter() if count == 1 else first
        cpu = time.process_time() - cpu
        return Sample(len(ids), count, first - begun, time.perf_counter() - first, cpu)

    return answer


def transformers(folder: Path, source: Path) -> Answer:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32).eval()
    chat = ChatTokenizer.load(folder)

    class Clock:
        """A streamer that notes when tokens come; the first `put` is the prompt."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, _value: Any) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def answer(text: str, decode: int) -> Sample:
        begun, cpu, clock = time.perf_counter(), time.process_time(), Clock()
        ids = torch.tensor([chat.encode(cleared(text, decode).request)])
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=decode, do_sample=False, streamer=clock)
        times = clock.times[1:]
        cpu = time.process_time() - cpu
        return Sample(ids.shape[1], len(times), times[0] - begun, times[-1] - times[0], cpu)

    return answer


GENAI = "onnxruntime-genai"
ENGINES: dict[str, Callable[[Path, Path], Answer]] = {
    "hybrid-llm": ours,
    "hybrid-llm, no spin": partial(ours, spin=False),
    GENAI: genai,
    "transformers fp32": transformers,
}
