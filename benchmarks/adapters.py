"""LoRA adapters by request in a node's engine, beside the base alone and one merged model.

    python -m benchmarks adapters
    python -m benchmarks adapters --model FOLDER --streams 1 4 16

Every contender computes the same prompts, in turn; the medians are of processor time, which busy neighbours distort
least, and still do. Without `--model` the weights are random, in the shape of SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks._run import ROOT, parsed, parser
from benchmarks.node_throughput import random_model
from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.loop import LoopEngine

PROMPT, TOKENS, RANK = 32, 24, 16


def _adapter(base: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=RANK))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.02)
    adapted.save_pretrained(folder)
    return folder


def _merged(base: Path, adapter: Path, folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    return folder


def _engine(model: Path, dtype: str, slots: int, adapters: dict[str, Path]) -> LoopEngine:
    return load_engine(
        EngineConfig(
            model=model,
            adapters=adapters,
            engine="packed",
            dtype=dtype,
            threads=1,
            max_slots=slots,
            kv_tokens=slots * 128,
            reuse_prefixes=False,
        )
    )


def _milliseconds(engine: LoopEngine, adapters: Sequence[str]) -> float:
    """Milliseconds of processor time for each token of as many answers as *adapters* names."""
    for index, adapter in enumerate(adapters):
        prompt = tuple(range(100 + index, 100 + index + PROMPT))
        engine.submit(EngineRequest(request_id=str(index), prompt_ids=prompt, max_tokens=TOKENS, adapter=adapter))
    tokens, begun = 0, time.process_time()
    while not engine.idle:
        tokens += sum(len(output.token_ids) for output in engine.step())
    return (time.process_time() - begun) * 1e3 / tokens


def main() -> None:
    """Print what each contender takes, and how many times as much as one merged model."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", type=Path, help="a folder; default: the shape of SmolLM2-135M, random weights")
    arguments.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    arguments.add_argument("--layers", type=int, default=30, help="of the random model")
    arguments.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    arguments.add_argument("--rounds", type=int, default=5)
    args = parsed(arguments)
    if args.smoke:
        args.model, args.streams, args.rounds = ROOT / "examples" / "models" / "hybrid-demo-node", [2], 1
    with tempfile.TemporaryDirectory() as scratch:
        _compare(args, Path(scratch))


def _compare(args: argparse.Namespace, root: Path) -> None:
    torch.manual_seed(0)
    base = args.model or random_model(root / "base", layers=args.layers, dtype=torch.float32)
    names = ["a", "b", "c", "d"]
    adapters = {name: _adapter(base, root / name, seed) for seed, name in enumerate(names)}
    slots = max(args.streams)
    plain = _engine(base, args.dtype, slots, {})
    beside = _engine(base, args.dtype, slots, adapters)
    merged = _engine(_merged(base, adapters["a"], root / "merged"), args.dtype, slots, {})
    print(f"{args.dtype}, rank {RANK} on all linear layers, {PROMPT} + {TOKENS} tokens; ms of processor per token")
    for streams in args.streams:
        contenders = {
            "base alone": (plain, [""] * streams),
            "one merged": (merged, [""] * streams),
            "beside, no adapter": (beside, [""] * streams),
            "beside, 1 adapter": (beside, ["a"] * streams),
            "beside, 4 adapters": (beside, [names[index % 4] for index in range(streams)]),
            "beside, half base": (
                beside,
                [names[index // 2 % 4] if index % 2 == 0 else "" for index in range(streams)],
            ),
        }
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for name, (engine, asked) in contenders.items():
                found[name].append(_milliseconds(engine, asked))
        floor = statistics.median(found["one merged"])
        for name, values in found.items():
            middle = statistics.median(values)
            print(f"{streams:3} streams  {name:20} {middle:7.2f}  x{middle / floor:.2f} of merged", flush=True)


if __name__ == "__main__":
    main()
