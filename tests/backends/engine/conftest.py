"""Tiny real models on disk, and what the tests of the engine do with them again and again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the node's engine needs: pip install 'hybrid-llm[node]'")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

from hybrid_llm.backends.node.engine import EngineOutput, EngineRequest  # noqa: E402
from hybrid_llm.backends.node.engines.loop import LoopEngine  # noqa: E402
from tests.penalties import AnswerPenaltyProcessor  # noqa: E402

VOCAB = 211
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # tied embeddings and small weights repeat the last token whatever attention does: equality would prove nothing
    "tie_word_embeddings": False,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
WINDOWED = {**SHAPE, "num_hidden_layers": 4, "head_dim": 16, "sliding_window": 16}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "llama-tied": lambda: transformers.LlamaConfig(**SHAPE | {"tie_word_embeddings": True, "initializer_range": 0.02}),
    "llama-32": lambda: transformers.LlamaConfig(**SHAPE, head_dim=32),  # vLLM's smallest head on a CPU
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=16),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=None),
    "mistral-window": lambda: transformers.MistralConfig(**SHAPE, sliding_window=16),
    "ministral": lambda: transformers.MinistralConfig(
        **WINDOWED, layer_types=["sliding_attention", "full_attention"] * 2
    ),
    "mixtral-window": lambda: transformers.MixtralConfig(**WINDOWED, **EXPERTS),
    "qwen2-window": lambda: transformers.Qwen2Config(**WINDOWED, use_sliding_window=True, max_window_layers=2),
    "qwen3-window": lambda: transformers.Qwen3Config(**WINDOWED, use_sliding_window=True, max_window_layers=1),
    "gemma2": lambda: transformers.Gemma2Config(**WINDOWED, query_pre_attn_scalar=20, attn_logit_softcapping=2.0),
    "gemma3": lambda: transformers.Gemma3TextConfig(**WINDOWED, query_pre_attn_scalar=20, sliding_window_pattern=2),
    "gemma3-images": lambda: transformers.Gemma3Config(
        text_config={**WINDOWED, "query_pre_attn_scalar": 20},
        vision_config={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        initializer_range=0.25,
        tie_word_embeddings=False,
    ),
    "gemma3-bidirectional": lambda: transformers.Gemma3TextConfig(**WINDOWED, use_bidirectional_attention=True),
    "gemma4": lambda: transformers.Gemma4TextConfig(**WINDOWED),
    "phi3-window": lambda: transformers.Phi3Config(**WINDOWED),
    "phi3-longrope": lambda: transformers.Phi3Config(
        **SHAPE,
        original_max_position_embeddings=48,
        rope_parameters={"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [3.0] * 8},
    ),
    "cohere2": lambda: transformers.Cohere2Config(**WINDOWED),
    "olmo3": lambda: transformers.Olmo3Config(**WINDOWED),
    "exaone4": lambda: transformers.Exaone4Config(**WINDOWED, sliding_window_pattern=2),
    "smollm3-window": lambda: transformers.SmolLM3Config(**WINDOWED, use_sliding_window=True),
    "starcoder2-window": lambda: transformers.Starcoder2Config(**WINDOWED),
    "gpt-oss": lambda: transformers.GptOssConfig(**WINDOWED, **EXPERTS),
    "llama4": lambda: transformers.Llama4TextConfig(
        **SHAPE, **EXPERTS, head_dim=16, attention_chunk_size=16, intermediate_size_mlp=96, floor_scale=32
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=64, n_layer=2, n_head=4, tie_word_embeddings=False, initializer_range=0.25
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=256,
        tie_word_embeddings=False,
        initializer_range=0.25,
    ),
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny random model of the named architecture, the same at every call."""
    root = tmp_path_factory.mktemp("models")

    def make(name: str = "llama") -> Path:
        if not (root / name).exists():
            torch.manual_seed(0)
            transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).save_pretrained(root / name)
        return root / name

    return make


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The trained node model of this repository."""
    folder = Path(__file__).parents[3] / "examples" / "models" / "hybrid-demo-node"
    if not (folder / "model.safetensors").exists():
        pytest.skip("examples/models/hybrid-demo-node is not there: make models")
    return folder


@pytest.fixture(scope="session")
def expected() -> Callable[[Path, EngineRequest], list[int]]:
    """What transformers' own `generate` answers to a greedy request, in fp32, without the end token."""
    models: dict[Path, Any] = {}

    def generate(folder: Path, request: EngineRequest) -> list[int]:
        if folder not in models:
            models[folder] = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        ids, sampling = torch.tensor([request.prompt_ids]), request.sampling
        penalty = AnswerPenaltyProcessor(
            len(request.prompt_ids) - request.partial_tokens,
            presence=sampling.presence_penalty,
            frequency=sampling.frequency_penalty,
        )
        answer = (
            models[folder]
            .generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=request.max_tokens,
                do_sample=False,
                repetition_penalty=sampling.repetition_penalty,
                logits_processor=[penalty] if sampling.penalises_answer else None,
                eos_token_id=list(request.eos_ids) or None,
                pad_token_id=0,
            )[0, ids.shape[1] :]
            .tolist()
        )
        return answer[:-1] if answer[-1] in request.eos_ids else answer

    return generate


@pytest.fixture
def make_request() -> Callable[..., EngineRequest]:
    """A request with an id of its own."""
    numbers = count()

    def make(prompt_ids: Iterable[int] = (1, 2, 3), max_tokens: int = 8, **fields: Any) -> EngineRequest:
        fields.setdefault("request_id", f"r{next(numbers)}")
        return EngineRequest(prompt_ids=tuple(prompt_ids), max_tokens=max_tokens, **fields)

    return make


class Answers:
    """Outputs by request, joined; checks that nothing follows the last."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, EngineOutput] = {}

    def add(self, outputs: Iterable[EngineOutput]) -> None:
        for output in outputs:
            assert output.request_id not in self.ends, "an output after the last"
            self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.last:
                self.ends[output.request_id] = output

    def error(self, request: EngineRequest) -> str | None:
        fault = self.ends[request.request_id].error
        return None if fault is None else fault.code


@pytest.fixture
def run() -> Callable[..., Answers]:
    """Submit all, step until the engine is idle."""

    def run_all(engine: LoopEngine, requests: Iterable[EngineRequest]) -> Answers:
        answers = Answers()
        for request in requests:
            engine.submit(request)
        while not engine.idle:
            answers.add(engine.step())
        return answers

    return run_all


@pytest.fixture
def answers() -> Answers:
    return Answers()
