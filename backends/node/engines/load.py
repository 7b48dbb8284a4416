"""From a model folder to an engine: checks the folder, loads the weights, chooses the runner. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import floor
from pathlib import Path
from typing import Any

import psutil
import torch

from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.backends.edge.runtime import usable_processors
from hybrid_llm.backends.node.engine import EngineConfig, EngineInfo
from hybrid_llm.backends.node.engines import check_folder, read_json
from hybrid_llm.backends.node.engines.loop import LoopEngine, Runner
from hybrid_llm.backends.node.engines.runners import (
    ATTENTION,
    PackedRunner,
    SingleRunner,
    UnsupportedModel,
    packed_attention,
)
from hybrid_llm.backends.node.engines.scheduler import Scheduler, Segment
from hybrid_llm.backends.schema import SchemaCompiler
from hybrid_llm.core.errors import ConfigError

Progress = Callable[[str], None]
_KV_SHARE = 0.25
"""Share of the free memory for the KV cache, unless its size is configured."""
_LEAST_CONTEXT = 32
"""Smallest useful slot, tokens."""
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Relative difference of logits up to which two computations count as equal, by their rounding."""
_LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


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
    progress("loading the weights")
    model = _load_model(config)
    _call_before_layers(model, on_layer)
    progress("checking the engine")
    return _choose(config, model)


def _check_options(config: EngineConfig) -> None:
    for name in ("max_slots", "prefill_budget"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be 1 or more")
    for name in ("threads", "kv_tokens", "max_waiting"):
        if getattr(config, name) < 0:
            raise ConfigError(f"{name} must be 0 or more")
    for name, allowed in (("engine", ("auto", "packed", "one_by_one")), ("dtype", ("auto", "bf16", "fp32"))):
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(config, name)!r}: use one of {', '.join(allowed)}")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU: use the device `cpu`, or install torch for CUDA")


def _load_model(config: EngineConfig) -> Any:
    from transformers import AutoModelForCausalLM

    device = _device(config)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            config.model,
            dtype=_dtype(config, device),
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
    return model.to(device).eval()


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


def _choose(config: EngineConfig, model: Any) -> LoopEngine:
    if config.engine == "one_by_one":
        return _single_engine(config, model)
    original = model.config._attn_implementation
    try:
        return _packed_engine(config, model)
    except UnsupportedModel as error:
        if config.engine == "packed":
            raise ConfigError(
                f"the packed engine does not support this model: {error}; use engine='auto' or 'one_by_one'",
                path=str(config.model),
            ) from error
    model.set_attn_implementation(original)
    return _single_engine(config, model)


def _single_engine(config: EngineConfig, model: Any) -> LoopEngine:
    window, runner = _model_window(model), SingleRunner(model)
    try:
        runner.forward([Segment(slot=0, start=0, ids=[0, 0], complete=True)])
        runner.forward([Segment(slot=0, start=2, ids=[0], complete=True)])
    except Exception as error:  # an unsupported architecture may fail in any way
        raise ConfigError(
            f"no engine here runs a {type(model).__name__} ({type(error).__name__}): use a decoder-only model",
            path=str(config.model),
        ) from error
    info = _info(config, model, engine="one_by_one", slots=1, context_window=window)
    return _engine(config, runner, info, prefill_budget=window)


def _packed_engine(config: EngineConfig, model: Any) -> LoopEngine:
    slots, capacity = config.max_slots, _capacity(config, model)
    runner = PackedRunner(model, slots=slots, capacity=capacity)
    _self_check(model, runner, slots=slots)
    info = _info(config, model, engine="packed", slots=slots, context_window=capacity)
    return _engine(config, runner, info, prefill_budget=config.prefill_budget)


def _engine(config: EngineConfig, runner: Runner, info: EngineInfo, *, prefill_budget: int) -> LoopEngine:
    scheduler = Scheduler(
        slots=info.slots,
        prefill_budget=prefill_budget,
        max_waiting=config.max_waiting,
        reuse=config.reuse_prefixes,
        rewinds=runner.rewinds,
    )
    schemas = None
    if info.output_schema:
        read = partial(Path.read_text, config.model / "tokenizer.json", "utf-8")
        schemas = SchemaCompiler(read, vocab_size=info.vocab_size)
    return LoopEngine(runner, info, scheduler, schemas=schemas)


def _info(config: EngineConfig, model: Any, *, engine: str, slots: int, context_window: int) -> EngineInfo:
    return EngineInfo(
        engine=engine,
        model=config.model.resolve().name,
        architecture=type(model).__name__,
        vocab_size=model.get_input_embeddings().num_embeddings,
        context_window=context_window,
        slots=slots,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        output_schema=(config.model / "tokenizer.json").is_file(),
        logprobs=True,
    )


def _model_window(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048)


def _capacity(config: EngineConfig, model: Any) -> int:
    """Tokens per slot: the model's context window, or an equal share of the KV cache."""
    tokens = config.kv_tokens or int(_free_memory(model.device) * _KV_SHARE) // _bytes_per_token(model)
    capacity = min(_model_window(model), tokens // config.max_slots)
    if capacity < _LEAST_CONTEXT:
        raise ConfigError(
            f"{tokens} KV tokens in {config.max_slots} slots leave {capacity} tokens per request, fewer than "
            f"{_LEAST_CONTEXT}: raise kv_tokens or lower max_slots"
        )
    return capacity


def _free_memory(device: torch.device) -> int:
    """In bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _bytes_per_token(model: Any) -> int:
    text = model.config.get_text_config()
    if not hasattr(text, "num_attention_heads"):
        raise UnsupportedModel("it has no attention")
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * size * model.dtype.itemsize)


def _self_check(model: Any, runner: PackedRunner, *, slots: int) -> None:
    """Compare the packed runner with the model's own forward on two random texts of unequal length.

    Raises:
        UnsupportedModel: they differ, or one of them fails.
    """
    from transformers import AttentionInterface

    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
        raise UnsupportedModel("its rotary embedding depends on the length of the text")
    random = torch.Generator().manual_seed(0)
    texts = [torch.randint(model.config.get_text_config().vocab_size, (n,), generator=random).tolist() for n in (9, 14)]
    AttentionInterface.register(ATTENTION, packed_attention)
    try:
        expected = [_reference(model, text) for text in texts[: min(2, slots)]]
        model.set_attn_implementation(ATTENTION)
        got = _packed_logits(runner, texts[: min(2, slots)])
    except UnsupportedModel:
        raise
    except Exception as error:  # an unsupported architecture may fail in any way
        raise UnsupportedModel(f"its forward fails with {type(error).__name__}") from error
    for ours, theirs in zip(got, expected, strict=True):
        difference = float((ours - theirs).norm() / theirs.norm())
        if not difference <= _TOLERANCE.get(model.dtype, 5e-2):
            raise UnsupportedModel(f"its logits differ by {difference:.1e} from the model's own")


def _reference(model: Any, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([text], device=model.device), use_cache=False).logits[0, -1].float()
    return logits


def _packed_logits(runner: PackedRunner, texts: list[list[int]]) -> list[torch.Tensor]:
    """The last logits of each text, read as two chunks of a prompt, then a last token in one batch with the others."""
    for begin, end in ((0, 4), (4, -1)):
        runner.forward(
            [Segment(slot=slot, start=begin, ids=text[begin:end], complete=False) for slot, text in enumerate(texts)]
        )
    last = [Segment(slot=slot, start=len(text) - 1, ids=text[-1:], complete=True) for slot, text in enumerate(texts)]
    return list(runner.forward(last).float())
