"""A conversion succeeds as a whole or leaves nothing, is compared with transformers, and refuses wrong models."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, read_manifest, verify_manifest
from hybrid_llm.backends.models import Floor, Parity, convert, write_manifest
from hybrid_llm.backends.models.parity import FLOORS, check_parity, measure_parity
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from tests.shapes import random_model, synthetic_tokenizer


def nothing_left(folder):
    return sorted(path.name for path in folder.iterdir()) == []


def test_a_conversion_carries_its_proof(tiny_root):
    manifest = verify_manifest(tiny_root / "fp32")
    assert manifest.parity["top1_agreement"] == 1.0
    assert manifest.parity["logit_correlation"] > 0.999
    assert manifest.architecture == "LlamaForCausalLM"
    assert manifest.parameters == 557_696
    assert {"onnxruntime", "onnxruntime-genai", "transformers"} <= set(manifest.created_with)


def test_int4_is_made_by_the_method_that_costs_least(tiny_root):
    parity = read_manifest(tiny_root / "int4").parity
    found = parity["perplexity_by_method"]
    assert len(found) == 2 or min(found.values()) <= 1.01 * parity["perplexity_before"]
    assert found[parity["method"]] == min(found.values()) == parity["perplexity_after"]
    assert "method" not in read_manifest(tiny_root / "fp32").parity


def test_the_text_files_are_those_of_the_original(tiny_root):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tiny_root / "int4" / name).read_bytes() == (tiny_root / "hf" / name).read_bytes()


def test_parity_tells_another_models_graph_from_the_right_one(tiny_root, tmp_path):
    """The proof can fail: the same graph with other weights has a correlation near zero."""
    other = random_model("tiny", tmp_path / "other", seed=2)
    parity, _ = measure_parity(other, tiny_root / "fp32", steps=8)
    assert abs(parity.logit_correlation) < 0.4
    for floor in FLOORS.values():
        with pytest.raises(ConfigError, match="differs from the original"):
            check_parity(parity, floor)


def test_parity_at_the_floor_passes_and_below_it_does_not():
    floor = Floor(top1_agreement=0.5, logit_correlation=0.9)
    check_parity(Parity(positions=4, top1_agreement=0.5, logit_correlation=0.9), floor)
    with pytest.raises(ConfigError):
        check_parity(Parity(positions=4, top1_agreement=0.49, logit_correlation=0.9), floor)
    with pytest.raises(ConfigError):
        check_parity(Parity(positions=4, top1_agreement=0.5, logit_correlation=float("nan")), floor)


def test_a_conversion_that_costs_too_much_perplexity_is_refused(tiny_root):
    """Both figures are in the manifest, and a rise above the floor's share is an error that names them."""
    parity = json.loads((tiny_root / "fp32" / "manifest.json").read_text())["parity"]
    assert parity["perplexity_after"] == pytest.approx(parity["perplexity_before"], rel=1e-3)
    quantised = json.loads((tiny_root / "int4" / "manifest.json").read_text())["parity"]
    assert quantised["perplexity_before"] == parity["perplexity_before"] != quantised["perplexity_after"]
    worse = Parity(
        positions=4, top1_agreement=1.0, logit_correlation=1.0, perplexity_before=20.0, perplexity_after=26.1
    )
    with pytest.raises(ConfigError, match=r"perplexity 26\.10, it was 20\.00, and may rise by 30%.*GGUF"):
        check_parity(worse, FLOORS["int4"])
    check_parity(replace(worse, perplexity_after=25.9), FLOORS["int4"])


def test_a_conversion_that_fails_its_proof_leaves_nothing(tiny_root, tmp_path):
    stages = []
    with pytest.raises(ConfigError, match="differs from the original"):
        convert(
            tiny_root / "hf",
            tmp_path / "out",
            "fp32",
            parity_steps=4,
            parity_floor=Floor(top1_agreement=1.0, logit_correlation=1.1),  # none has: one build is enough to fail
            progress=lambda what, share: stages.append((what, share)),
        )
    assert nothing_left(tmp_path)
    assert [share for _, share in stages] == sorted(share for _, share in stages)
    assert "moving into place" not in dict(stages)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tiny_root, tmp_path, interruption):
    def progress(what, share):
        if share > 0:
            raise interruption

    with pytest.raises(interruption):
        convert(tiny_root / "hf", tmp_path / "out", progress=progress)
    assert nothing_left(tmp_path)


def _source(tmp_path, **config):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_text("{}")
    return source


@pytest.mark.parametrize("architecture", ["BloomForCausalLM", "FalconForCausalLM", "Lfm2ForCausalLM"])
def test_architectures_that_do_not_come_out_right_are_refused_with_the_reason(tmp_path, architecture):
    with pytest.raises(ConfigError, match=f"{architecture} is not supported: "):
        convert(_source(tmp_path, architectures=[architecture]), tmp_path / "out")


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM", "LlamaModel", "ViTForImageClassification"])
def test_a_model_without_a_head_that_answers_or_classifies_is_refused_before_the_work(tmp_path, architecture):
    source = _source(tmp_path, architectures=[architecture])
    with pytest.raises(
        ConfigError, match=f"{architecture} neither .*models tune --model {source} .*convert the result"
    ):
        convert(source, tmp_path / "out")


def test_an_architecture_that_the_builder_does_not_know_is_reported(tmp_path, tiny_root):
    source = shutil.copytree(tiny_root / "hf", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "architectures": ["FutureForCausalLM"]}))
    with pytest.raises(ConfigError, match="the builder failed"):
        convert(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": None}])
def test_a_source_without_architecture_is_refused(tmp_path, config):
    with pytest.raises(ConfigError, match="names no architecture"):
        convert(_source(tmp_path, **config), tmp_path / "out")


def test_an_incomplete_source_an_existing_target_and_a_wrong_precision_are_refused(tmp_path, tiny_root):
    with pytest.raises(ConfigError, match="not a complete"):
        convert(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ConfigError, match="exists"):
        convert(tiny_root / "hf", tiny_root / "int4")
    with pytest.raises(ConfigError, match="precision"):
        convert(tiny_root / "hf", tmp_path / "out", "int3")


def test_an_unknown_shape_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown shape"):
        random_model("huge", tmp_path)


def test_the_same_seed_makes_the_same_model(tiny_root, tmp_path):
    again = random_model("tiny", tmp_path / "again", seed=1)
    other = random_model("tiny", tmp_path / "other", seed=2)
    name = "model.safetensors"
    assert (again / name).read_bytes() == (tiny_root / "hf" / name).read_bytes() != (other / name).read_bytes()


@pytest.mark.parametrize("size", [300, 1024, 49_152])
def test_the_synthetic_tokenizer_gives_every_id_a_text_and_keeps_every_text(size):
    tokenizer = synthetic_tokenizer(size)
    assert tokenizer.get_vocab_size(with_added_tokens=True) == size
    text = "Hello, wörld! 你好 \n abc"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    ids = np.random.default_rng(0).integers(261, size, 20)
    assert all(tokenizer.decode([int(i)]) for i in ids)


def test_a_manifest_can_be_written_again(tiny_root, tmp_path):
    folder = shutil.copytree(tiny_root / "int4", tmp_path / "copy")
    (folder / "README.md").write_text("about")
    write_manifest(folder, name="n", architecture="a", precision="int4", parameters=7, license="Apache-2.0")
    manifest = verify_manifest(folder)
    assert (manifest.name, manifest.parameters, manifest.license) == ("n", 7, "Apache-2.0")
    assert "README.md" in manifest.files
    with pytest.raises(ConfigError, match="genai_config"):
        write_manifest(tmp_path, name="n", architecture="a", precision="int4", parameters=7)


@pytest.mark.slow
def test_layers_of_the_shape_of_smollm2_135m_convert_load_and_answer(tmp_path):
    source = random_model("smollm2-135m", tmp_path / "hf", layers=1)
    floor = Floor(top1_agreement=0.0, logit_correlation=0.4)
    convert(source, tmp_path / "out", block_size=64, parity_steps=4, parity_floor=floor)  # one method, not two
    manifest = read_manifest(tmp_path / "out")
    assert manifest.vocab_size == 49_152
    assert manifest.context_window == 8192
    backend = EdgeBackend(EdgeConfig(model=tmp_path / "out"))
    try:
        request = Request(messages=(Message(role="user", content="Hello there"),), max_tokens=8)
        cleared = PrivacyGuard().clear(Assessment(request=request, allowed=frozenset({Location.EDGE})), Location.EDGE)
        chunks = list(backend.stream(cleared))
    finally:
        backend.close()
    assert chunks[-1].usage.prompt_tokens == len(ChatTokenizer.load(tmp_path / "out").encode(request))
    assert chunks[-1].usage.completion_tokens >= 1
