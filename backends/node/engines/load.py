"""From a model folder to an engine: checks the folder, loads the weights, chooses the runner. Nothing is downloaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from math import floor
from pathlib import Path
from typing import Any

import torch

from hybrid_llm.backends.adapters import base_of, check_base, merge_adapter
from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.backends.edge.runtime import usable_processors
from hybrid_llm.backends.node.engine import KV_BLOCK, EngineConfig, EngineInfo
from hybrid_llm.backends.node.engines import check_folder, read_json
from hybrid_llm.backends.node.engines.attention import UnsupportedModel
from hybrid_llm.backends.node.engines.blocks import BlockPool, Table
from hybrid_llm.backends.node.engines.capacity import Capacity, bytes_per_token, capacity, check_memory
from hybrid_llm.backends.node.engines.kernels import accelerate
from hybrid_llm.backends.node.engines.loop import LoopEngine, Runner
from hybrid_llm.backends.node.engines.lora import AdapterBank
from hybrid_llm.backends.node.engines.lora_proof import read_adapters
from hybrid_llm.backends.node.engines.proof import packed_runner
from hybrid_llm.backends.node.engines.runners import SingleRunner
from hybrid_llm.backends.node.engines.scheduler import Scheduler
from hybrid_llm.backends.node.engines.sequence import Segment
from hybrid_llm.backends.schema import SchemaCompiler
from hybrid_llm.core.errors import ConfigError

Progress = Callable[[str], None]
_log = logging.getLogger(__name__)


def load_engine(
    config: EngineConfig, progress: Progress = lambda _: None, *, on_layer: Callable[[], None] = lambda: None
) -> LoopEngine:
    """Load the model and choose the engine; *progress* is called with each phase, *on_layer* before each layer.

    Raises:
        ConfigError: the folder or an option is unusable; the message says what to do.
    """
    _check_options(config)
    # One processor is left to the servicer.
    torch.set_num_threads(config.threads or max(1, floor(usable_processors()) - 1))
    check_folder(config.model)
    device = _device(config)
    dtype = _dtype(config, device)
    check_memory(config, dtype, device)
    progress("loading the weights")
    model = _load_model(config, dtype, device)
    if config.adapters:
        progress("loading the adapters")
    adapters = read_adapters(model, config.adapters, config.model)
    accelerate(model)
    _call_before_layers(model, on_layer)
    progress("checking the engine")
    return _choose(config, model, adapters.beside(model))


def _check_options(config: EngineConfig) -> None:
    if config.python is not None or config.options:
        raise ConfigError(
            f"the engine {config.engine} runs in the node's own Python and has no options of its own: leave out "
            "--engine-python and --engine-option, or choose --engine vllm"
        )
    _check_numbers(config)
    for name, allowed in (("engine", ("auto", "packed", "one_by_one")), ("dtype", ("auto", "bf16", "fp32"))):
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(config, name)!r}: use one of {', '.join(allowed)}")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU: use the device `cpu`, or install torch for CUDA")


def _check_numbers(config: EngineConfig) -> None:
    for name in ("max_slots", "prefill_budget"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be 1 or more")
    for name in ("threads", "kv_tokens", "context_window", "max_waiting"):
        if getattr(config, name) < 0:
            raise ConfigError(f"{name} must be 0 or more")


def _load_model(config: EngineConfig, dtype: torch.dtype, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    base = base_of(config.model)
    if base:
        check_base(config.model, base)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            base or config.model,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # each architecture of transformers raises errors of its own
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise ConfigError(
            f"transformers cannot load {config.model} as a causal language model ({type(error).__name__}: {reason}); "
            "check that the installed transformers has the architecture of config.json, and that it fits the weights",
            path=str(config.model),
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        lacks = f"lacks {len(missing)} of the weights that its config.json requires, such as {missing[0]}"
        raise file_error(config.model, f"{lacks}: the two do not belong together")
    return (merge_adapter(model, config.model) if base else model).to(device).eval()


def _call_before_layers(model: Any, call: Callable[[], None]) -> None:
    """Call *call* before each layer of *model* is computed: a long prompt shows progress, a deadlock none."""
    layers = {layer for part in model.modules() if isinstance(part, torch.nn.ModuleList) for layer in part}
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: call())


def _device(config: EngineConfig) -> torch.device:
    if config.device != "auto":
        try:
            return torch.device(config.device)
        except RuntimeError:
            raise ConfigError(f"torch knows no device {config.device!r}: use `cpu`, `cuda` or `auto`") from None
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    named = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if config.dtype in named:
        return named[config.dtype]
    if device.type != "cpu":
        return torch.bfloat16
    stored = read_json(config.model / "config.json", "").get("dtype", "float32")
    return torch.bfloat16 if stored == "bfloat16" else torch.float32


def _choose(config: EngineConfig, model: Any, adapters: AdapterBank | None) -> LoopEngine:
    if config.engine == "one_by_one":
        return _single_engine(config, model, adapters)
    try:
        return _packed_engine(config, model, adapters)
    except UnsupportedModel as error:
        if config.engine == "packed":
            raise ConfigError(
                f"the packed engine does not support this model: {error}; use engine='auto' or 'one_by_one'",
                path=str(config.model),
            ) from error
        _log.warning("requests are answered one at a time, since the packed engine cannot run this model: %s", error)
    return _single_engine(config, model, adapters)


def _single_engine(config: EngineConfig, model: Any, adapters: AdapterBank | None) -> LoopEngine:
    runner = SingleRunner(model)
    runner.adapters = adapters
    try:
        runner.forward([Segment(table=Table(), start=0, ids=[0, 0], complete=True)])
        runner.forward([Segment(table=Table(), start=2, ids=[0], complete=True)])
    except Exception as error:  # an unsupported architecture may fail in any way
        raise ConfigError(
            f"no engine here runs a {type(model).__name__} ({type(error).__name__}): use a decoder-only model",
            path=str(config.model),
        ) from error
    window = capacity(config, model, runner.bytes_per_token, slots=1).window
    pool = BlockPool(1, window, reuse=config.reuse_prefixes, rewinds=runner.rewinds)
    info = _info(config, model, engine="one_by_one", slots=1, memory=Capacity(window, window))
    return _engine(
        config, runner, info, Scheduler(pool, slots=1, prefill_budget=window, max_waiting=config.max_waiting)
    )


def _packed_engine(config: EngineConfig, model: Any, adapters: AdapterBank | None) -> LoopEngine:
    slots = config.max_slots
    memory = capacity(config, model, bytes_per_token(model, model.dtype), slots=slots)
    pool = BlockPool(memory.total // KV_BLOCK, slots=slots, reuse=config.reuse_prefixes)
    runner = packed_runner(model, blocks=pool.blocks, window=memory.window)
    runner.adapters = adapters
    info = _info(config, model, engine="packed", slots=slots, memory=memory)
    scheduler = Scheduler(pool, slots=slots, prefill_budget=config.prefill_budget, max_waiting=config.max_waiting)
    return _engine(config, runner, info, scheduler)


def _engine(config: EngineConfig, runner: Runner, info: EngineInfo, scheduler: Scheduler) -> LoopEngine:
    schemas = None
    if info.output_schema:
        read = partial(Path.read_text, config.model / "tokenizer.json", "utf-8")
        schemas = SchemaCompiler(read, vocab_size=info.vocab_size)
    return LoopEngine(runner, info, scheduler, schemas=schemas)


def _info(config: EngineConfig, model: Any, *, engine: str, slots: int, memory: Capacity) -> EngineInfo:
    return EngineInfo(
        engine=engine,
        model=config.model.resolve().name,
        architecture=type(model).__name__,
        vocab_size=model.get_input_embeddings().num_embeddings,
        context_window=memory.window,
        kv_tokens=memory.total,
        slots=slots,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        output_schema=(config.model / "tokenizer.json").is_file(),
        logprobs=True,
        penalties=True,
        adapters=tuple(config.adapters),
    )
