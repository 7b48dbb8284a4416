"""Builds generators that the builder refuses: torch's tracer, with onnxruntime's attention in place of the model's.

transformers lets a function of ours compute the attention of most architectures. While the model is traced it leaves a
node `GroupQueryAttention`, which reads and writes the key-value cache that the edge shares with it, as in the graphs of
the builder. Everything else of the graph is the model's own code, so what is wrong is seen by the comparison.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError

TRACED: Final = frozenset(
    {
        "GPT2LMHeadModel",
        "GPTNeoXForCausalLM",
        "Gemma3ForCausalLM",
        "Olmo2ForCausalLM",
        "OlmoForCausalLM",
        "OPTForCausalLM",
        "SmolLM3ForCausalLM",
    }
)
"""Architectures that are built here, and proved so by the tests."""
_NAME: Final = "hybrid_llm"
_GRAPH: Final = "model.onnx"
_OPSET: Final = 18
_CAPACITY: Final = 8
_ROPE: Final = frozenset({"dynamic", "longrope"})
"""Rotary embeddings that depend on the length of the text, which a trace would fix."""
_BITS: Final = {"int4": 4, "int8": 8}


@dataclass(slots=True)
class _Trace:
    """One run of the model: what its attention reads and leaves, by layer.

    Attributes:
        shapes: heads, heads of keys, and head size, as found in a run without a cache.
    """

    shapes: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    pasts: list[tuple[Any, Any]] = field(default_factory=list)
    presents: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    lengths: Any = None
    total: Any = None


def trace(source: Path, folder: Path, precision: str, block_size: int) -> None:
    """Write `model.onnx`, its weights and `genai_config.json` of the Hugging Face folder *source* to *folder*.

    Raises:
        ConfigError: the model cannot be loaded, or its attention is of another kind.
    """
    folder.mkdir(mode=0o755, exist_ok=True)
    state = _Trace()
    model = _load(source, state)
    _export(model, state, folder / _GRAPH)
    _store(folder / _GRAPH, precision, block_size)
    _describe(model.config, state, folder)


def _load(source: Path, state: _Trace) -> Any:
    import torch
    import transformers

    transformers.AttentionInterface.register(_NAME, _attention(state))
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=_NAME,
        ).eval()
        _use_linear(model)
        with torch.no_grad():
            model(input_ids=torch.ones(1, 3, dtype=torch.long), position_ids=torch.arange(3)[None], use_cache=False)
    except Exception as error:  # each architecture of transformers raises errors of its own
        message = f"{source} cannot be traced ({type(error).__name__}: {str(error)[:200]})"
        raise ConfigError(message, path=str(source)) from error
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(of.get("rope_type") for of in rope.values() if isinstance(of, dict))}
    if kinds & _ROPE:
        raise ConfigError(f"{source} has rotary embeddings that depend on the length of the text", path=str(source))
    if sorted(state.shapes) != list(range(model.config.num_hidden_layers)) or len(set(state.shapes.values())) != 1:
        raise ConfigError(f"{source} has an attention of its own, or layers that differ", path=str(source))
    return model


def _use_linear(model: Any) -> None:
    """Replace GPT-2's transposed layers, which quantisers do not know, by linear ones."""
    import torch
    from transformers.pytorch_utils import Conv1D

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                linear = torch.nn.Linear(*child.weight.shape)
                linear.weight, linear.bias = torch.nn.Parameter(child.weight.T.contiguous()), child.bias
                setattr(parent, name, linear)


def _attention(state: _Trace) -> Any:
    """The function that transformers calls for the attention of each layer."""
    operator = _operator()

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
        if mask is not None or options.get("s_aux") is not None or options.get("position_bias") is not None:
            raise ValueError("its attention has a mask, a bias or sinks of its own")
        layer, heads, kv, size = module.layer_idx, int(query.shape[1]), int(key.shape[1]), int(query.shape[3])
        if not state.pasts:
            state.shapes[layer] = heads, kv, size
            return query.transpose(1, 2).contiguous(), None
        rows = (each.transpose(1, 2).reshape(1, -1, int(each.shape[1]) * size) for each in (query, key, value))
        scale, window = options.get("scaling"), options.get("sliding_window")
        numbers = (size**-0.5 if scale is None else float(scale), int(window or -1), float(options.get("softcap") or 0))
        found, *present = operator.apply(
            *rows, *state.pasts[layer], state.lengths, state.total, heads, kv, size, *numbers
        )
        state.presents[layer] = (present[0], present[1])
        return found.reshape(1, -1, heads, size), None

    return attend


def _operator() -> Any:
    import torch

    class Attention(torch.autograd.Function):  # type: ignore[misc]  # it has no types
        @staticmethod
        def forward(_: Any, query: Any, key: Any, value: Any, *others: Any) -> Any:  # noqa: ARG004
            return query.clone(), others[0].clone(), others[1].clone()

        @staticmethod
        def symbolic(graph: Any, *given: Any) -> Any:
            tensors, (heads, kv, size, scale, window, softcap) = given[:7], given[7:]
            made = graph.op(
                "com.microsoft::GroupQueryAttention",
                *tensors,
                num_heads_i=heads,
                kv_num_heads_i=kv,
                scale_f=scale,
                local_window_size_i=window,
                softcap_f=softcap,
                do_rotary_i=0,
                outputs=3,
            )
            # Without sizes the tracer would take those of the example for fixed.
            for value, of, sizes in zip(
                made,
                (tensors[0], *tensors[3:5]),
                ([None, None, heads * size], [None, kv, None, size], [None, kv, None, size]),
                strict=True,
            ):
                value.setType(of.type().with_dtype(torch.float32).with_sizes(sizes))
            return made

    return Attention


def _export(model: Any, state: _Trace, path: Path) -> None:
    import torch

    layers, (_, kv, size) = model.config.num_hidden_layers, state.shapes[0]
    pasts, presents = ([f"{kind}.{i}.{w}" for w in ("key", "value") for i in range(layers)] for kind in _CACHES)
    example = (torch.ones(1, 3, dtype=torch.long), torch.ones(1, 5, dtype=torch.long), torch.arange(3)[None])
    axes = {"input_ids": {1: "tokens"}, "attention_mask": {1: "total"}, "position_ids": {1: "tokens"}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _step(model, state, layers),
            (*example, *(torch.zeros(1, kv, _CAPACITY, size) for _ in pasts)),
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            custom_opsets={"com.microsoft": 1},
            input_names=[*axes, *pasts],
            output_names=["logits", *presents],
            dynamic_axes={**axes, **{name: {2: "capacity"} for name in (*pasts, *presents)}},
        )


_CACHES: Final = ("past_key_values", "present")


def _step(model: Any, state: _Trace, layers: int) -> Any:
    """*model* as a module of ids, mask, positions, and the caches of all layers: keys, then values."""
    import torch
    import transformers

    class Caches(transformers.DynamicCache):  # type: ignore[misc]
        def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            return keys, values  # the attention has them already

    class Step(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *caches: Any) -> Any:
            state.lengths = (attention_mask.sum(1) - 1).to(torch.int32)
            state.total = torch._shape_as_tensor(attention_mask)[1].to(torch.int32)
            state.pasts = [(caches[i], caches[layers + i]) for i in range(layers)]
            cache = Caches(config=model.config)
            logits = self.inner(
                input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            ).logits
            found = [state.presents[i] for i in range(layers)]
            return (logits, *(keys for keys, _ in found), *(values for _, values in found))

    return Step().eval()


def _store(path: Path, precision: str, block_size: int) -> None:
    """Quantise the matrices of the graph at *path*, and move the weights to a file of their own."""
    import onnx

    from hybrid_llm.backends.edge.runtime import load_runtime

    load_runtime()  # first, so that its telemetry is off
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    if precision in _BITS:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantiser = MatMulNBitsQuantizer(
            model, bits=_BITS[precision], block_size=block_size, is_symmetric=True, accuracy_level=4
        )
        quantiser.process()
        model = quantiser.model.model
    path.unlink()
    onnx.save_model(model, str(path), save_as_external_data=True, location=f"{_GRAPH}.data", convert_attribute=False)


def _describe(config: Any, state: _Trace, folder: Path) -> None:
    import onnx

    from hybrid_llm.backends.node.engines.capacity import context_window

    heads, kv, size = state.shapes[0]
    inputs = {each.name for each in onnx.load(str(folder / _GRAPH), load_external_data=False).graph.input}
    names = [name for name in ("input_ids", "attention_mask", "position_ids") if name in inputs]
    decoder = {
        "filename": _GRAPH,
        "head_size": size,
        "hidden_size": config.hidden_size,
        "num_attention_heads": heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": kv,
        "inputs": {
            **{name: name for name in names},
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    sizes = {"context_length": context_window(config), "vocab_size": config.vocab_size, "decoder": decoder}
    model = {"type": config.model_type, "eos_token_id": config.eos_token_id, **sizes}
    (folder / "genai_config.json").write_text(json.dumps({"model": model}, indent=1) + "\n", encoding="utf-8")
