"""Encoders in LiteRT answer as those in ONNX do, and a file that is no encoder is refused with what to do."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="needs the extra `litert`")

from hybrid_llm.backends.encoder.files import LITERT, ModelFiles
from hybrid_llm.backends.encoder.model import Encoder
from hybrid_llm.backends.litert.graph import LiteRTGraph
from hybrid_llm.backends.litert.spec import LiteRTConfig
from hybrid_llm.backends.models.encoder_parity import measure
from hybrid_llm.backends.models.encoders import convert_encoder
from hybrid_llm.core.errors import BackendUnavailable, ConfigError
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.core.taskform import classify_schema, fenced
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from tests.encoders import trained

PEOPLE = {
    "type": "object",
    "properties": {"person": {"type": "array", "items": {"type": "string"}}},
    "required": ["person"],
}
MODELS = Path(__file__).parent / "models.zip"


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("litert")
    with zipfile.ZipFile(MODELS) as file:
        file.extractall(root)
    return root


def clear(text: str, **options):
    guard = PrivacyGuard()
    request = Request(messages=(Message(role="user", content=fenced(text)),), **options)
    return guard.clear(Assessment(request=request, allowed=frozenset({Location.EDGE})), Location.EDGE)


def classify(text: str):
    return clear(text, task="classify", output_schema=json.dumps(classify_schema(["food", "weather"])))


def answer(backend, cleared) -> dict:
    return json.loads("".join(chunk.text for chunk in backend.stream(cleared)))


def encoder(folder: Path) -> Encoder:
    return Encoder(ModelFiles.in_folder(folder, LITERT), open_graph=LiteRTGraph)


def broken(models: Path, tmp_path: Path, change) -> Path:
    """A copy of a model without its manifest, with *change* made to the bytes of its weights."""
    folder = tmp_path / "broken"
    shutil.copytree(models / "texts", folder)
    (folder / "manifest.json").unlink()
    path = folder / LITERT
    path.write_bytes(change(path.read_bytes()))
    return folder


def test_a_policy_sends_a_task_to_it(models, tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text(f"version: 1\nbackends: {{sentiment: {{kind: litert, model: {models / 'texts'}}}}}\n")
    with HybridLLM.from_config(path) as llm:
        found = llm.generate(
            fenced("the storm went"), task="classify", output_schema=classify_schema(["food", "weather"])
        )
    assert found.parsed == {"label": "weather"}
    assert found.backend == "sentiment"


def test_a_text_longer_than_the_model_reads_is_read_in_windows(models):
    backend = LiteRTConfig(model=models / "texts").open()
    try:
        assert answer(backend, classify("the soup and tea " * 100)) == {"label": "food"}
    finally:
        backend.close()


def test_it_extracts_what_tokens_are_labelled_as(models):
    backend = LiteRTConfig(model=models / "tags", labels={"PER": "person", "LOC": "place"}).open()
    try:
        schema = json.dumps(PEOPLE)
        assert answer(backend, clear("the mr kalo mira went", task="extract", output_schema=schema)) == {
            "person": ["kalo mira"]
        }
    finally:
        backend.close()


@pytest.mark.parametrize(("name", "tokens"), [("texts", False), ("tags", True)])
def test_it_agrees_with_the_original_on_rows_of_every_length(models, tmp_path, name, tokens):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    del torch
    source = trained(tmp_path / "hf", tokens=tokens)
    kind = transformers.AutoModelForTokenClassification if tokens else transformers.AutoModelForSequenceClassification
    parity = measure(kind.from_pretrained(source).eval(), encoder(models / name))
    assert parity.texts >= 64
    assert parity.agreement >= 0.98
    assert parity.mean_shift < 0.02


def test_padding_changes_nothing(models):
    """A row alone, and beside a longer one: the mask hides what pads it."""
    model = encoder(models / "texts")
    short, long = model.windows("rain")[0].ids, model.windows("rain and tea " * 5)[0].ids
    assert model.width == 32
    np.testing.assert_allclose(model.run([short, long])[0], model.run([short])[0], atol=0.05)


def test_threads_share_one_model(models):
    backend = LiteRTConfig(model=models / "texts", max_concurrency=4).open()
    texts = ["the storm went", "a soup and tea", "now the bread", "rain and wind"] * 10
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda text: answer(backend, classify(text))["label"], texts))
    finally:
        backend.close()
    assert found == ["weather", "food", "food", "weather"] * 10


def test_it_answers_on_an_event_loop_and_ends_closed(models):
    backend = LiteRTConfig(model=models / "texts").open()

    async def ask() -> str:
        return "".join([chunk.text async for chunk in backend.astream(classify("the bread"))])

    assert json.loads(asyncio.run(ask())) == {"label": "food"}
    backend.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        answer(backend, classify("the bread"))


@pytest.mark.parametrize(
    "change", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not a model" * 100]
)
def test_a_file_that_is_no_model_is_refused(models, tmp_path, change):
    with pytest.raises(ConfigError, match="convert the model again"):
        encoder(broken(models, tmp_path, change))


def test_a_modified_file_is_refused_by_its_manifest(models, tmp_path):
    folder = tmp_path / "modified"
    shutil.copytree(models / "texts", folder)
    with (folder / LITERT).open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff")
    with pytest.raises(ConfigError, match="SHA-256"):
        encoder(folder)


def test_a_graph_with_other_inputs_is_refused(models, tmp_path):
    folder = broken(models, tmp_path, lambda data: data.replace(b"attention_mask", b"attention_musk"))
    with pytest.raises(ConfigError, match="is not of an encoder"):
        encoder(folder)


def test_a_folder_of_another_runtime_says_what_is_missing(models, tmp_path):
    folder = broken(models, tmp_path, lambda data: data)
    (folder / LITERT).rename(folder / "model.onnx")
    with pytest.raises(ConfigError, match=r"it lacks model.tflite.*--to litert"):
        LiteRTConfig(model=folder).open()


def test_without_the_runtime_the_message_has_the_line_that_installs_it(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ConfigError, match=r"hybrid-llm\[litert\]|ai-edge-litert>"):
        encoder(models / "texts")


def test_without_the_converter_nothing_is_written(tmp_path):
    pytest.importorskip("torch")
    if _has_converter():
        pytest.skip("the converter is installed")
    with pytest.raises(ConfigError, match="litert_torch is not installed"):
        convert_encoder(trained(tmp_path / "hf", tokens=False), tmp_path / "out", to="litert")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_is_converted_and_compared(tmp_path):
    if not _has_converter():
        pytest.skip("needs the extra `litert-convert`")
    made = convert_encoder(trained(tmp_path / "hf", tokens=False), tmp_path / "out", to="litert")
    assert made.parity["texts"] >= 64
    assert encoder(tmp_path / "out").longest == 32


def _has_converter() -> bool:
    from importlib.util import find_spec

    return find_spec("litert_torch") is not None
