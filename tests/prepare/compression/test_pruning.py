"""Pruning: smaller folders that transformers loads, the parts that matter stay, and honest figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import bytes_of
from hybrid_llm.prepare.compression.folders import open_model, save_model
from hybrid_llm.prepare.compression.pruning.anatomy import Size
from hybrid_llm.prepare.compression.pruning.cut import choose_kept, cut
from hybrid_llm.prepare.compression.pruning.importance import Importance, Measure, measure_importance
from hybrid_llm.prepare.compression.pruning.magnitude import share_of_zeros, zero_smallest
from hybrid_llm.prepare.compression.pruning.refit import fitted, refit
from hybrid_llm.prepare.compression.pruning.step import Prune, own_loss
from hybrid_llm.prepare.compression.training import Schedule, train
from hybrid_llm.prepare.step import Outcome
from tests.prepare.compression import tiny


def importance(model: Any, measure: Measure) -> Importance:
    import torch

    ids = torch.arange(2, 32).reshape(2, 15)
    return measure_importance(model, measure, [(ids, torch.ones_like(ids))], own_loss)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, decoder: Path, texts: Path) -> tuple[Path, Outcome]:
    size: dict[str, int] = {"layers": 2, "heads": 1, "inner": 48}
    step = Prune(model=tiny.named(decoder), data=tiny.named(texts), **size, refit=False, steps=8, batch=4, length=32)
    work = tiny.work(tmp_path_factory.mktemp("pruned"), "out")
    return work.out, step.run(work)


class TestAStructuredFolder:
    def test_is_smaller_and_loads_plainly(self, decoder: Path, pruned: tuple[Path, Outcome]) -> None:
        import torch
        import transformers

        folder, outcome = pruned
        assert bytes_of(folder) < 0.95 * bytes_of(decoder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        config = model.config
        assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (2, 2, 1)
        assert (config.intermediate_size, config.head_dim, config.hidden_size) == (48, 16, 64)
        assert outcome.metrics["parameters"] == model.num_parameters() < outcome.before["parameters"]
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ids = torch.tensor([tokenizer.encode("When on board")])
        assert model(ids).logits.shape == (1, ids.shape[1], 2048)

    def test_reports_size_speed_memory_and_perplexity_before_and_after(self, pruned: tuple[Path, Outcome]) -> None:
        outcome = pruned[1]
        names = {"size_mb", "tokens_per_s", "peak_memory_mb", "perplexity", "bits_per_byte", "parameters"}
        assert names <= outcome.metrics.keys() & outcome.before.keys()
        assert outcome.metrics["size_mb"] < outcome.before["size_mb"]
        assert all(value > 0 for name, value in outcome.metrics.items() if name != "zeros")
        assert outcome.metrics["loss_last"] < outcome.metrics["loss_first"], "recovery brings it nearer to the original"


class TestWhatStays:
    @pytest.mark.parametrize("measure", list(Measure))
    @pytest.mark.parametrize("kind", ["decoder", "classifier"])
    def test_units_that_do_nothing_go_first(self, kind: str, measure: Measure, request: pytest.FixtureRequest) -> None:
        import torch

        model = open_model(request.getfixturevalue(kind))
        layers = model.model.layers if kind == "decoder" else model.bert.encoder.layer
        dead = (3, 5, 11)
        for layer in layers:
            reads = layer.mlp.down_proj if kind == "decoder" else layer.output.dense
            reads.weight.data[:, dead] = 0
        scores = importance(model, measure)
        size = dataclasses.replace(Size.of(model), inner=Size.of(model).inner - len(dead))
        kept = choose_kept(scores, size)
        assert all(set(dead).isdisjoint(units) for units in kept.inner)
        ids = torch.arange(2, 12)[None]
        assert torch.allclose(cut(model, kept)(ids).logits, model(ids).logits, atol=1e-4)

    def test_a_layer_that_changes_nothing_goes_first(self, decoder: Path) -> None:
        model = open_model(decoder)
        middle = model.model.layers[1]
        middle.self_attn.o_proj.weight.data.zero_()
        middle.mlp.down_proj.weight.data.zero_()
        for measure in Measure:
            size = dataclasses.replace(Size.of(model), layers=2)
            assert choose_kept(importance(model, measure), size).layers == (0, 2)

    @given(data=st.data())
    @settings(max_examples=15)
    def test_any_valid_size_gives_a_model_of_that_size(self, decoder: Path, data: st.DataObject) -> None:
        import torch

        model = open_model(decoder)
        size = Size(
            layers=data.draw(st.integers(1, 3)),
            groups=data.draw(st.integers(1, 2)),
            inner=data.draw(st.integers(1, 96)),
            width=4 * data.draw(st.integers(1, 16)),
        )
        made = cut(model, choose_kept(importance(model, Measure.WEIGHTS), size))
        assert Size.of(made) == size
        assert torch.isfinite(made(torch.tensor([[1, 2, 3]])).logits).all()


class TestRefitting:
    @pytest.mark.parametrize("kind", ["decoder", "classifier"])
    def test_units_that_others_can_stand_in_for_cost_nothing(self, kind: str, request: pytest.FixtureRequest) -> None:
        """Half of the units are copies of the others, with weights of their own behind them."""
        import torch

        model = open_model(request.getfixturevalue(kind))
        layers = model.model.layers if kind == "decoder" else model.bert.encoder.layer
        half = Size.of(model).inner // 2
        for layer in layers:
            writes = [layer.mlp.gate_proj, layer.mlp.up_proj] if kind == "decoder" else [layer.intermediate.dense]
            for each in writes:
                each.weight.data[half:] = each.weight.data[:half]
                if each.bias is not None:
                    each.bias.data[half:] = each.bias.data[:half]
        size = dataclasses.replace(Size.of(model), inner=half)
        units = tuple(tuple(range(half)) for _ in layers)
        kept = dataclasses.replace(choose_kept(importance(model, Measure.WEIGHTS), size), inner=units)
        ids = torch.randint(2, 30, (24, 32), generator=torch.Generator().manual_seed(0))
        made = cut(model, kept)
        with torch.no_grad():
            lost = (made(ids).logits - model(ids).logits).square().mean()
            refit(model, made, kept, [(ids, torch.ones_like(ids))])
            assert (made(ids).logits - model(ids).logits).square().mean() < 0.01 * lost

    @given(seed=st.integers(0, 2**31), kept=st.integers(1, 12), rank=st.integers(1, 20))
    @settings(max_examples=50)
    def test_it_never_loses_on_what_it_was_fitted_on(self, seed: int, kept: int, rank: int) -> None:
        """Also where there are fewer samples than inputs, and where an input is always zero."""
        import torch

        draw = torch.Generator().manual_seed(seed)
        samples, weight = torch.randn(rank, 12, generator=draw), torch.randn(5, 12, generator=draw)
        samples[:, 0] = 0
        columns = sorted(torch.randperm(12, generator=draw)[:kept].tolist())
        made = fitted(weight, samples.T @ samples, columns)
        before, after = (samples[:, columns] @ each.T - samples @ weight.T for each in (weight[:, columns], made))
        assert after.square().sum() <= before.square().sum() + 1e-3


class TestUnstructured:
    def test_zeros_stay_through_recovery_and_no_room_is_saved(self, tmp_path: Path, decoder: Path) -> None:
        import torch

        model = open_model(decoder)
        zeros = zero_smallest(model, 0.5)
        assert zeros > 0.1
        before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
        ids = torch.arange(2, 32).reshape(2, 15)
        loss = lambda model, step: own_loss(model, (ids, torch.ones_like(ids)))  # noqa: E731
        train(model, loss, Schedule(steps=3, learning_rate=1e-3, seed=0), tmp_path, lambda what, share: None)
        after = model.model.layers[0].mlp.up_proj.weight
        assert torch.equal(before == 0, after == 0)
        assert not torch.equal(before, after)
        assert share_of_zeros(model) == pytest.approx(zeros, abs=1e-4)
        save_model(model, decoder, tmp_path / "out")
        assert bytes_of(tmp_path / "out") == pytest.approx(bytes_of(decoder), rel=0.01)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({}, "nothing is pruned"),
            ({"layers": 9}, "layers: 9 is not from 1 to 3"),
            ({"width": 63}, "width: 63 is no multiple of the 4 heads"),
            ({"inner": 4, "data": None}, "data is missing"),
        ],
    )
    def test_options_that_do_not_fit(
        self, tmp_path: Path, decoder: Path, texts: Path, options: dict[str, Any], said: str
    ) -> None:
        step = Prune(**{"model": tiny.named(decoder), "data": tiny.named(texts), "length": 32, **options})
        with pytest.raises(ConfigError, match=said):
            step.run(tiny.work(tmp_path, "out"))

    def test_heads_of_an_encoder_alone(self, tmp_path: Path, classifier: Path, topics: Path) -> None:
        step = Prune(model=tiny.named(classifier), data=tiny.named(topics), heads=1)
        with pytest.raises(ConfigError, match="set width and heads together"):
            step.run(tiny.work(tmp_path, "out"))

    def test_a_model_of_the_device(self, tmp_path: Path) -> None:
        from hybrid_llm.backends.edge import embedded_model

        with pytest.raises(ConfigError, match="converted for the device"):
            Prune(model=tiny.named(embedded_model()), layers=1).run(tiny.work(tmp_path, "out"))
