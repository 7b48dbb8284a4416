"""The process that `measure` starts, `python -m hybrid_llm.prepare.compression.probe FOLDER`: it times one model."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.models.perplexity import TEXT
from hybrid_llm.prepare.compression.folders import Kind, kind_of, open_model, open_tokenizer
from hybrid_llm.prepare.recipe.meter import peak_memory_mb

_RUNS: Final = 5
_PROMPT, _ANSWER = 64, 32
"""Tokens that a generator reads and writes."""
_TEXTS: Final = 16
"""Texts that a classifier reads, one by one."""
_WORDS: Final = 20
"""Words of each text that a classifier reads."""


def main(folder: Path) -> None:
    """Print the figures of the model in *folder* as one line of JSON."""
    kind = kind_of(folder)
    run = _RUNNERS[kind](folder)
    run()  # the first run allocates
    times = [run() for _ in range(_RUNS)]
    unit, count = ("tokens_per_s", _ANSWER) if kind.generates else ("texts_per_s", _TEXTS)
    speed = count / statistics.median(times)
    print(json.dumps({"unit": unit, "speed": speed, "peak_memory_mb": peak_memory_mb()}))  # noqa: T201 - its result


def _prompt(ids: Sequence[int], room: int) -> list[int]:
    return list(ids)[: max(1, min(_PROMPT, room - _ANSWER))]


def _decoder(folder: Path) -> Callable[[], float]:
    import torch

    torch.set_num_threads(1)
    model = open_model(folder)
    room = int(getattr(model.config, "max_position_embeddings", 0) or _PROMPT + _ANSWER)
    prompt = torch.tensor([_prompt(open_tokenizer(folder).encode(TEXT).ids, room)])

    def run() -> float:
        with torch.inference_mode():
            done = model(prompt, use_cache=True)
            begun = time.process_time()
            for _ in range(_ANSWER):
                token = done.logits[:, -1:].argmax(-1)
                done = model(token, past_key_values=done.past_key_values, use_cache=True)
            return time.process_time() - begun

    return run


def _device_decoder(folder: Path) -> Callable[[], float]:
    from hybrid_llm.backends.edge.model import EdgeModel

    model = EdgeModel(folder, threads=1)
    prompt = _prompt(model.tokenizer.tokenizer.encode(TEXT).ids, model.layout.context_length)

    def run() -> float:
        sequence = model.sequence(len(prompt) + _ANSWER)
        logits = sequence.append(prompt)
        begun = time.process_time()
        for _ in range(_ANSWER):
            logits = sequence.append([int(logits.argmax())])
        return time.process_time() - begun

    return run


def _texts() -> Iterator[str]:
    words = TEXT.split()
    return (" ".join(words[i : i + _WORDS]) for i in range(_TEXTS))


def _timed(rows: Sequence[Any], classify: Callable[[Any], object]) -> Callable[[], float]:
    def run() -> float:
        begun = time.process_time()
        for row in rows:
            classify(row)
        return time.process_time() - begun

    return run


def _classifier(folder: Path) -> Callable[[], float]:
    import torch

    torch.set_num_threads(1)
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    longest = int(getattr(model.config, "max_position_embeddings", 512))
    rows = [torch.tensor([tokenizer.encode(text).ids[:longest]]) for text in _texts()]

    def classify(row: Any) -> None:
        with torch.inference_mode():
            model(input_ids=row, attention_mask=torch.ones_like(row))

    return _timed(rows, classify)


def _device_encoder(folder: Path) -> Callable[[], float]:
    from hybrid_llm.backends.encoder.files import ModelFiles
    from hybrid_llm.backends.encoder.model import Encoder

    encoder = Encoder(ModelFiles.in_folder(folder), threads=1)
    return _timed([list(encoder.windows(text)[0].ids) for text in _texts()], lambda row: encoder.run([row]))


_RUNNERS: Final[Mapping[Kind, Callable[[Path], Callable[[], float]]]] = {
    Kind.DECODER: _decoder,
    Kind.CLASSIFIER: _classifier,
    Kind.DEVICE_DECODER: _device_decoder,
    Kind.DEVICE_ENCODER: _device_encoder,
}


if __name__ == "__main__":
    from hybrid_llm.core.errors import HybridLLMError

    try:
        main(Path(sys.argv[1]))
    except HybridLLMError as error:
        sys.exit(str(error))
