"""LoRA adapters chosen by request: several in each step, and every answer is that of peft with the one alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

peft = pytest.importorskip("peft", reason="adapters need: pip install 'hybrid-llm[node]'")

from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest  # noqa: E402
from hybrid_llm.backends.node.engines import check_adapters  # noqa: E402
from hybrid_llm.backends.node.engines.capacity import adapter_bytes  # noqa: E402
from hybrid_llm.backends.node.engines.load import load_engine  # noqa: E402
from hybrid_llm.backends.node.engines.loop import LoopEngine  # noqa: E402
from hybrid_llm.backends.node.engines.lora import AdapterBank, Step  # noqa: E402
from hybrid_llm.backends.node.engines.lora_files import read_adapter  # noqa: E402
from hybrid_llm.backends.node.engines.lora_proof import prove, references  # noqa: E402
from hybrid_llm.core.errors import ConfigError  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "queries": {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 16},
    "linear": {"target_modules": "all-linear", "r": 8, "lora_alpha": 8, "use_rslora": True},
    "patterns": {
        "target_modules": r".*\.(down_proj|o_proj)",
        "r": 2,
        "rank_pattern": {"down_proj": 6},
        "alpha_pattern": {r"layers\.1\.self_attn\.o_proj": 3.0},
    },
    "vocabulary": {"target_modules": ["embed_tokens", "lm_head", "k_proj"], "r": 3},
}
"""Name -> what peft is asked for."""


@pytest.fixture(scope="session")
def adapters(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(model_folder("llama"), root / name, **kind) for name, kind in KINDS.items()}


def save_adapter(base: Path, folder: Path, *, seed: int = 1, strength: float = 0.5, **kind: Any) -> Path:
    """An adapter of random weights for *base*, strong enough to change greedy answers."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=True, **kind))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_().mul_(strength)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def alone(model_folder: Callable[..., Path], adapters: Mapping[str, Path]) -> Callable[[EngineRequest], list[int]]:
    """What peft itself generates with the one adapter of a request, greedily."""
    models: dict[str, Any] = {}

    def generate(request: EngineRequest) -> list[int]:
        name = request.adapter
        if name not in models:
            base = transformers.AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype="float32")
            models[name] = (peft.PeftModel.from_pretrained(base, adapters[name]) if name else base).eval()
        ids = torch.tensor([request.prompt_ids])
        with torch.inference_mode():
            found = models[name].generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_tokens,
                do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        return found[0, ids.shape[1] :].tolist()

    return generate


def load(base: Path, adapters: Mapping[str, Path], **fields: Any) -> LoopEngine:
    config = EngineConfig(model=base, adapters=adapters, threads=1, **{"max_slots": 8, "prefill_budget": 40} | fields)
    check_adapters(config)
    return load_engine(config)


@pytest.mark.parametrize("engine", ["packed", "one_by_one"])
def test_requests_of_several_adapters_are_answered_together_as_by_each_alone(
    engine, model_folder, adapters, alone, make_request, run
):
    loaded = load(model_folder("llama"), adapters, engine=engine)
    assert loaded.info.adapters == tuple(KINDS)
    names = ["", *KINDS, "", "linear", "queries"]
    requests = [
        make_request(range(at, at + length), 12, adapter=name)
        for at, (name, length) in enumerate(zip(names, (5, 60, 3, 41, 17, 70, 1, 9), strict=True))
    ]
    answers = run(loaded, requests)
    for request in requests:
        assert answers.tokens[request.request_id] == alone(request), request.adapter
    prompt = range(30)
    by_name = {name: run(loaded, [make_request(prompt, 12, adapter=name)]).tokens for name in ("", *KINDS)}
    assert len({tuple(*tokens.values()) for tokens in by_name.values()}) == len(KINDS) + 1, "each changes the answer"


def test_the_cache_of_one_adapter_is_not_read_by_another(model_folder, adapters, alone, make_request, run):
    loaded = load(model_folder("llama"), adapters)
    cached = []
    for name in ("linear", "", "queries", "linear", ""):
        request = make_request(range(50), 6, adapter=name, salt="one caller")
        answers = run(loaded, [request])
        assert answers.tokens[request.request_id] == alone(request), name
        cached.append(answers.ends[request.request_id].cached_tokens)
    assert cached == [0, 0, 0, 49, 49]


def test_a_request_without_an_adapter_computes_the_same_numbers_beside_others(model_folder, adapters):
    loaded = load(model_folder("llama"), {"linear": adapters["linear"]})
    bank, model = loaded._runner.adapters, loaded._runner._model.model.layers[0].mlp.up_proj
    rows = torch.randn(1, 5, 64)
    with torch.inference_mode():
        own = model(rows)
        bank.select([("", 2), ("linear", 1), ("", 2)], [])
        mixed = model(rows)
    bank.select((), ())
    assert torch.equal(mixed[0, [0, 1, 3, 4]], own[0, [0, 1, 3, 4]])
    assert not torch.allclose(mixed[0, 2], own[0, 2])


def test_a_step_without_adapters_runs_the_modules_of_the_base(model_folder, adapters):
    loaded = load(model_folder("llama"), adapters)
    bank, model = loaded._runner.adapters, loaded._runner._model

    def wrapped() -> set[str]:
        return {name for name, module in model.named_modules() if "forward" in vars(module)}

    before = wrapped()
    bank.select([("", 2), ("linear", 1)], [])
    assert wrapped() == before | set(bank.deltas)
    for rows in ([("", 3)], []):
        bank.select(rows, [])
        assert wrapped() == before


RANKS = st.lists(st.integers(0, 70), min_size=1, max_size=5)


@given(ranks=RANKS, runs=st.lists(st.tuples(st.integers(-1, 4), st.sampled_from([1, 1, 1, 2, 31, 32, 40])), max_size=9))
@settings(max_examples=150, deadline=None)
def test_each_row_gets_the_ranks_of_its_own_adapter_and_no_others(ranks, runs):
    names = {f"a{index}": index for index in range(len(ranks))}
    rows = [(f"a{index % len(ranks)}" if index >= 0 else "", count) for index, count in runs]
    layout = tuple(sum(ranks[:index]) for index in range(len(ranks) + 1))
    total = sum(count for _, count in rows)
    counted = torch.zeros(total, layout[-1])
    for part in Step(names, rows, [], torch.device("cpu")).parts(layout, output=False):
        ones = torch.ones_like(counted[part.rows, part.ranks])
        counted[part.rows, part.ranks] += ones if part.others is None else ones.masked_fill(part.others, 0.0)
    expected, at = torch.zeros_like(counted), 0
    for name, count in rows:
        if name:
            expected[at : at + count, layout[names[name]] : layout[names[name] + 1]] = 1
        at += count
    assert torch.equal(counted, expected)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora"),
    "bias": ({"bias": "all"}, "a `bias`"),
    "saved modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "invocation tokens": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "a key of a later peft": ({"use_something": True}, "use_something"),
    "another kind": ({"peft_type": "LOHA"}, "not of LoRA"),
    "no alpha": ({"lora_alpha": None}, "no finite number as `lora_alpha`"),
    "an infinite alpha": ({"alpha_pattern": {"q_proj": float("inf")}}, "no finite number as `lora_alpha`"),
    "an alpha beyond floats": ({"lora_alpha": 10**400}, "no finite number as `lora_alpha`"),
    "a pattern that is none": ({"alpha_pattern": {"(": 1}}, "no regular expression"),
    "a pattern that is none as an ending": ({"rank_pattern": {"(?i)q_proj": 4}}, "no regular expression"),
    "a pattern that takes for ever": ({"target_modules": "([a-z0-9_.]+)+!"}, "repeats a group"),
    "no table of patterns": ({"rank_pattern": [4]}, "no table"),
    "no rank": ({"r": 0}, "no whole number above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed_beside_a_base_is_refused_before_the_model_is_loaded(
    case, model_folder, adapters, tmp_path
):
    changes, message = REFUSED[case]
    folder = changed(adapters["queries"], tmp_path / "a", **changes)
    with pytest.raises(ConfigError, match=message):
        check_adapters(EngineConfig(model=model_folder("llama"), adapters={"a": folder}))


@pytest.mark.parametrize("name", ["", "a,b", "a b", "../a", "llama", "x" * 200])
def test_names_that_lists_or_routes_cannot_hold_are_refused(name, model_folder, adapters):
    with pytest.raises(ConfigError, match="choose another one"):
        check_adapters(EngineConfig(model=model_folder("llama"), adapters={name: adapters["queries"]}))


def test_an_adapter_of_another_model_is_refused(model_folder, adapters, tmp_path):
    with pytest.raises(ConfigError, match="name its own base"):
        load(model_folder("gpt2"), {"a": adapters["queries"]})
    other = transformers.AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    with torch.no_grad():
        other.lm_head.weight.add_(1.0)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="other weights of the base's"):
        load(tmp_path / "other", {"a": adapters["vocabulary"]})


def test_an_adapter_with_numbers_that_are_not_finite_is_refused(model_folder, tmp_path):
    folder = save_adapter(model_folder("llama"), tmp_path / "a", strength=float("nan"), **KINDS["queries"])
    with pytest.raises(ConfigError, match="not finite"):
        load(model_folder("llama"), {"a": folder})


def cast(dtype: torch.dtype) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda _, weight: weight.to(dtype))


def rewrite(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: change(name, weight).contiguous() for name, weight in load_file(path).items()}, path)


def truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, "is missing or truncated"),
    "no file of weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "since they can run code"),
    "whole numbers": (cast(torch.int32), "weights of torch.int32"),
    "numbers of 8 bits": (cast(torch.float8_e4m3fn), "weights of torch.float8_e4m3fn"),
    "of rank 0": (lambda folder: rewrite(folder, lambda name, w: w[:0] if "lora_A" in name else w[:, :0]), "no `model"),
    "infinite with its scale": (
        lambda folder: rewrite(folder, lambda name, w: w if "lora_A" in name else torch.full_like(w, 2e38)),
        "`lora_alpha` makes infinite",
    ),
    "a note of the base that is no JSON": (lambda folder: (folder / "base.json").write_text("["), "base.json cannot"),
    "a note of the base that is a list": (lambda folder: (folder / "base.json").write_text("[]"), "base.json cannot"),
    "a note of the base that is deep": (
        lambda folder: (folder / "base.json").write_text("[" * 10**5),
        "base.json cannot",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_adapter_is_refused_with_the_file_to_mend(case, model_folder, adapters, tmp_path):
    """Infinite weights of one adapter would be NaN in rows of others: what is masked is multiplied by 0."""
    damage, message = DAMAGED[case]
    folder = changed(adapters["queries"], tmp_path / "a")
    damage(folder)
    with pytest.raises(ConfigError, match=message) as refusal:
        load(model_folder("llama"), {"a": folder})
    assert str(folder) in str(refusal.value)


@pytest.mark.parametrize("settings", [{"r": 10**9}, {"rank_pattern": {"q_proj": 10**9}}])
def test_no_memory_is_taken_for_a_rank_that_the_weights_do_not_have(settings, model_folder, adapters, tmp_path):
    folder = changed(adapters["queries"], tmp_path / "a", **settings)
    with pytest.raises(ConfigError, match=r"declares the rank 1e\+09, but no weights have more than 4"):
        load(model_folder("llama"), {"a": folder})


def test_adapters_larger_than_the_memory_are_refused_before_anything_is_loaded(model_folder, adapters, tmp_path):
    """The file is a terabyte without content: to read it would end the test."""
    folder, rank = changed(adapters["queries"], tmp_path / "large"), 10**9
    numbers, name = 64 * rank, "base_model.model.model.layers.0.self_attn.q_proj"
    with (folder / "adapter_model.safetensors").open("wb") as file:
        entries = {
            f"{name}.lora_{side}.weight": {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * numbers]}
            for side, shape, at in (("A", [rank, 64], 0), ("B", [64, rank], 4 * numbers))
        }
        header = json.dumps(entries).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 8 * numbers)
    phases: list[str] = []
    config = EngineConfig(model=model_folder("llama"), adapters={"a": adapters["linear"], "b": folder}, threads=1)
    with pytest.raises(ConfigError, match=r"2 adapters take 512\.0 GB, .* serve fewer adapters \(--adapter\)"):
        load_engine(config, phases.append)
    assert phases == []


def test_what_adapters_take_is_known_from_their_headers(model_folder, adapters):
    base = model_folder("llama")
    expected = adapter_bytes(EngineConfig(model=base, adapters=adapters), torch.float32, torch.device("cpu"))
    deltas = load(base, adapters)._runner.adapters.deltas.values()
    assert sum(each._down.nbytes + each._up.nbytes for each in deltas) == expected


def test_an_adapter_without_safe_weights_is_refused_before_the_model_is_loaded(model_folder, adapters, tmp_path):
    folder = changed(adapters["queries"], tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ConfigError, match="since they can run code"):
        check_adapters(EngineConfig(model=model_folder("llama"), adapters={"a": folder}))


def test_an_adapter_that_would_be_computed_otherwise_than_by_peft_is_refused(model_folder, adapters, tmp_path):
    """A scale that is a fifth too large stands for all that we may get wrong."""
    base = model_folder("llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32").eval()
    stronger = changed(adapters["queries"], tmp_path / "stronger", lora_alpha=19.2)
    expected = references(model, {"a": adapters["queries"]})
    bank = AdapterBank(model, {"a": read_adapter(stronger, base, model)})
    with pytest.raises(ConfigError, match=r"the adapter a beside its base differ by .* from those of peft: merge it"):
        prove(model, bank, expected)


def changed(adapter: Path, folder: Path, **settings: Any) -> Path:
    """A copy of *adapter* with other settings."""
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder
