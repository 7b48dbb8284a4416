"""Quantisation and fusion: less room, the same answers within bounds, and refusals that say what to do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybrid_llm.backends.encoder.files import ModelFiles
from hybrid_llm.backends.encoder.model import Encoder
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.quantising.graphs import GRAPH, compare, plain_graph
from hybrid_llm.prepare.compression.quantising.recode import recode
from hybrid_llm.prepare.compression.quantising.step import Fuse, Quantise
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from tests.encoders import changed
from tests.prepare.compression import tiny


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, classifier: Path) -> Path:
    return plain_graph(classifier, tmp_path_factory.mktemp("plain"))


def logits(folder: Path, data: Path) -> np.ndarray:
    encoder = Encoder(ModelFiles.in_folder(folder))
    texts = [record["text"] for record in DataFolder.open(data).records("test")]
    return np.concatenate([encoder.run([encoder.windows(text)[0].ids]) for text in texts])


class TestEncoders:
    def test_static_stays_within_bounds_of_the_original(self, tmp_path: Path, plain: Path, topics: Path) -> None:
        work = tiny.work(tmp_path, "static")
        outcome = Quantise(model=tiny.named(plain), data=tiny.named(topics), method="static", samples=16).run(work)
        difference = np.abs(logits(work.out, topics) - logits(plain, topics))
        assert 0 < difference.max() < 0.5
        assert outcome.metrics["agreement"] >= 0.95
        assert outcome.metrics["accuracy"] >= outcome.before["accuracy"] - 0.03
        names = {"size_mb", "texts_per_s", "peak_memory_mb", "accuracy", "graph_mb"}
        assert names <= outcome.metrics.keys() & outcome.before.keys()

    def test_fused_and_dynamic_is_smaller_and_stays_within_bounds(
        self, tmp_path: Path, classifier: Path, topics: Path
    ) -> None:
        phases: list[str] = []
        work = replace(tiny.work(tmp_path, "dynamic"), progress=lambda what, share: phases.append(what))
        outcome = Quantise(model=tiny.named(classifier), data=tiny.named(topics)).run(work)
        assert phases[0].startswith("converting to float32: ")
        assert phases[-1] == "measuring before and after"
        assert outcome.metrics["graph_mb"] < 0.6 * outcome.before["graph_mb"]
        assert outcome.metrics["mean_shift"] < 0.02
        assert compare(plain_graph(classifier, work.scratch), work.out, []).agreement == 1.0

    def test_fused_has_fewer_operators_and_computes_the_same(self, tmp_path: Path, plain: Path, topics: Path) -> None:
        import onnx

        work = tiny.work(tmp_path, "fused")
        Fuse(model=tiny.named(plain), data=tiny.named(topics)).run(work)
        before, after = (onnx.load(folder / GRAPH).graph.node for folder in (plain, work.out))
        assert len(after) < len(before) / 2
        assert {"Attention"} <= {node.op_type for node in after}
        assert np.abs(logits(work.out, topics) - logits(plain, topics)).max() < 0.02

    def test_one_that_was_tuned_with_dropout_is_compared_without(self, tmp_path: Path, classifier: Path) -> None:
        """The comparison of the conversion would fail with it."""
        copy = tmp_path / "copy"
        shutil.copytree(classifier, copy)
        plain_graph(changed(copy, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5), tmp_path / "scratch")

    def test_data_without_texts_to_calibrate_on(self, tmp_path: Path, plain: Path) -> None:
        empty = tiny.write_data(tmp_path / "empty", DataFormat.LABELLED, [], ["Weather", "Food"])
        step = Quantise(model=tiny.named(plain), data=tiny.named(empty), method="static")
        with pytest.raises(ConfigError, match="nothing to calibrate on"):
            step.run(tiny.work(tmp_path, "out"))
        with pytest.raises(ConfigError, match="data is missing: method: static"):
            Quantise(model=tiny.named(plain), method="static").run(tiny.work(tmp_path, "other"))

    def test_a_result_that_differs_too_much_is_refused(self, tmp_path: Path, plain: Path) -> None:
        wrong = tmp_path / "wrong"
        wrong.mkdir()
        for path in plain.iterdir():
            if path.name != "manifest.json":
                (wrong / path.name).write_bytes(path.read_bytes())
        _swap_labels(wrong / GRAPH)
        with pytest.raises(ConfigError, match="texts keep their label, 95% are asked for"):
            compare(plain, wrong, []).require(0.95)

    def test_what_is_quantised_already(self, tmp_path: Path, plain: Path) -> None:
        work = tiny.work(tmp_path, "once")
        Quantise(model=tiny.named(plain)).run(work)
        with pytest.raises(ConfigError, match="stored as int8 already"):
            Quantise(model=tiny.named(work.out)).run(tiny.work(tmp_path, "twice"))


def _swap_labels(graph: Path) -> None:
    """Turn the signs of the head round, so that most texts get the other label."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if "classifier" in tensor.name:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, graph)


class TestMethods:
    @pytest.mark.parametrize(("kind", "method"), [("decoder", "static"), ("classifier", "int4")])
    def test_a_method_of_the_other_kind(
        self, tmp_path: Path, kind: str, method: str, request: pytest.FixtureRequest
    ) -> None:
        model = request.getfixturevalue(kind)
        with pytest.raises(ConfigError, match=f"method: {method} does not fit"):
            Quantise(model=tiny.named(model), method=method).run(tiny.work(tmp_path, "out"))

    def test_a_decoder_is_built_in_four_bits_by_k_quant_unless_another_method_is_asked_for(
        self, tmp_path: Path
    ) -> None:
        """It ends as the building begins: what comes of it is measured below, beside GPTQ."""

        def progress(what: str, share: float) -> None:
            if what.startswith("building"):
                raise EOFError(what)

        with pytest.raises(EOFError, match="k-quant"):
            Quantise(model=tiny.named(tiny.DEMO)).run(replace(tiny.work(tmp_path, "out"), progress=progress))

    def test_a_decoder_in_four_bits_that_are_found_on_texts(self, tmp_path: Path, texts: Path) -> None:
        """The codes are others than those of k-quant, and the model is as near to the original."""
        work = tiny.work(tmp_path, "out")
        step = Quantise(model=tiny.named(tiny.DEMO), data=tiny.named(texts), method="gptq", evaluate_on=2)
        outcome = step.run(work)
        assert outcome.metrics["bits_per_byte"] == pytest.approx(outcome.before["bits_per_byte"], rel=0.1)
        assert outcome.metrics["size_mb"] < outcome.before["size_mb"]
        assert outcome.metrics["tokens_per_s"] > 0
        parity = json.loads((work.out / "manifest.json").read_text(encoding="utf-8"))["parity"]
        assert "GPTQ, int8 head and sensitive layers" in parity["perplexity_by_method"]
        again = tmp_path / "again"
        shutil.copytree(work.out, again)
        import torch

        ids = torch.arange(2, 130)[None]
        assert recode(again, tiny.DEMO, [(ids, torch.ones_like(ids))]) >= 8
        assert (again / "model.onnx.data").stat().st_size == (work.out / "model.onnx.data").stat().st_size
        assert (again / "model.onnx.data").read_bytes() != (work.out / "model.onnx.data").read_bytes()

    def test_codes_are_found_on_texts_only(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="data is missing"):
            Quantise(model=tiny.named(tiny.DEMO), method="gptq").run(tiny.work(tmp_path, "out"))


def test_a_model_without_a_head_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"without a head.* tune it on labelled data first"):
        Quantise(model=tiny.named(tmp_path)).run(tiny.work(tmp_path, "out"))
