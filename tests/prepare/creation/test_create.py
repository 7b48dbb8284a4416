"""A model is created of a configuration and a seed; a larger one computes what the smaller one computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind
from tests.prepare.creation.conftest import SMALL, World


def _weights(world: World, name: str) -> bytes:
    return (world.root / name / "model.safetensors").read_bytes()


def _logits(folder: Path) -> Any:
    import torch

    with torch.inference_mode():
        return HubFolder.open(folder).model(ModelKind.CAUSAL)(input_ids=torch.arange(12).unsqueeze(0)).logits


def test_the_seed_decides_the_bytes(world: World) -> None:
    outcome = world.create("one")
    world.create("two")
    world.create("other", seed=1)
    assert _weights(world, "one") == _weights(world, "two") != _weights(world, "other")
    assert outcome.metrics["parameters"] == HubFolder.open(world.root / "one").parameters()


def test_vocabulary_and_special_tokens_come_from_the_tokenizer(world: World) -> None:
    world.create(config={**SMALL, "max_position_embeddings": 64})
    config = json.loads((world.root / "model" / "config.json").read_text())
    tokenizer = HubFolder.open(world.root / "model").tokenizer()
    assert config["vocab_size"] == 300 == len(tokenizer)
    assert config["eos_token_id"] == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 64
    for name in ("tokenizer.json",):
        assert (world.root / "model" / name).read_bytes() == (world.root / "tokenizer" / name).read_bytes()


@pytest.mark.parametrize(
    ("architecture", "more"),
    [("qwen3", {"num_key_value_heads": 2, "head_dim": 8}), ("gpt2", {}), ("mistral", {"num_key_value_heads": 4})],
)
def test_other_types_are_created_too(architecture: str, more: dict[str, Any], world: World) -> None:
    config = {key: value for key, value in SMALL.items() if architecture != "gpt2" or key != "intermediate_size"}
    world.create(architecture=architecture, config={**config, **more})
    assert HubFolder.open(world.root / "model").kind is ModelKind.CAUSAL
    assert bool(_logits(world.root / "model").isfinite().all())


def test_an_encoder_is_a_body_that_tune_gives_a_head(world: World) -> None:
    world.tokenizer(begin_token="<|begin|>", enclose=True)
    world.create(architecture="bert", use="encoder", config=SMALL)
    folder = HubFolder.open(world.root / "model")
    assert folder.kind is None
    assert folder.model(ModelKind.CLASSIFIER, labels=("a", "b")).config.num_labels == 2


def test_a_grown_model_computes_what_the_smaller_one_does(world: World) -> None:
    world.create("small")
    large = {**SMALL, "intermediate_size": 80, "num_hidden_layers": 5, "max_position_embeddings": 4096}
    world.create("large", config=large, grown_from=_path(world, "small"), seed=3)
    found, expected = _logits(world.root / "large"), _logits(world.root / "small")
    assert float((found - expected).abs().max()) < 1e-5
    assert HubFolder.open(world.root / "large").parameters() > HubFolder.open(world.root / "small").parameters()


def test_what_growth_adds_can_be_trained(world: World) -> None:
    """The matrices that are zero get gradients, so that the model does not stay as small as it was."""
    import torch

    world.create("small")
    config = {**SMALL, "num_hidden_layers": 3}
    world.create("large", config=config, grown_from=_path(world, "small"))
    model = HubFolder.open(world.root / "large").model(ModelKind.CAUSAL)
    ids = torch.arange(20).unsqueeze(0)
    model(input_ids=ids, labels=ids).loss.backward()
    assert float(model.model.layers[-1].mlp.down_proj.weight.grad.abs().max()) > 0


def _path(world: World, name: str) -> Any:
    from hybrid_llm.prepare.step import Input

    return Input(str(world.root / name))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_size": 64}, "no room|width or heads"),
        ({"num_attention_heads": 2}, "no room|width or heads"),
        ({"num_hidden_layers": 1}, "has no room for"),
        ({"intermediate_size": 40}, "has no room for"),
        ({"rms_norm_eps": 0.5}, "would compute something else"),
    ],
)
def test_a_model_that_cannot_hold_the_smaller_one_is_refused(
    changed: dict[str, Any], message: str, world: World
) -> None:
    world.create("small")
    with pytest.raises(ConfigError, match=message):
        world.create(config={**SMALL, **changed}, grown_from=_path(world, "small"))


def test_growing_needs_the_same_type_and_tokenizer(world: World) -> None:
    world.create("small")
    with pytest.raises(ConfigError, match="is of type `llama`, and the new model `mistral`"):
        world.create(
            "one", architecture="mistral", config={**SMALL, "num_key_value_heads": 4}, grown_from=_path(world, "small")
        )
    world.tokenizer("other", vocabulary=280)
    with pytest.raises(ConfigError, match="another tokenizer"):
        world.create("two", tokenizer="other", grown_from=_path(world, "small"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "lama"}, "no model type `lama`: did you mean `llama`"),
        ({"architecture": "no such type"}, "no model type"),
        ({"config": {"num_attention_head": 4}}, "did you mean `num_attention_heads`"),
        ({"config": {"vocab_size": 10}}, "comes from the tokenizer"),
        (
            {"config": {**SMALL, "num_attention_heads": 5}},
            "5 heads .* do not divide|multiple of the number of attention heads",
        ),
        ({"config": {**SMALL, "num_key_value_heads": 3}}, "3 key heads .* do not divide 4 heads"),
        ({"config": {**SMALL, "num_hidden_layers": 0}}, "`num_hidden_layers` is 0"),
        ({"config": {**SMALL, "hidden_size": 1.5}}, "'hidden_size' expected int, got float"),
        ({"config": {**SMALL, "hidden_size": 12}}, "rotary positions need an even one"),
        ({"config": {**SMALL, "hidden_act": "relo"}}, "transformers makes no decoder"),
        ({"architecture": "vit", "config": {}}, "transformers makes no decoder"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(options: dict[str, Any], message: str, world: World) -> None:
    with pytest.raises(ConfigError, match=message):
        world.create(**options)
    assert not list((world.root / "model").iterdir())


def test_a_tokenizer_without_an_end_is_refused(world: World) -> None:
    world.tokenizer()
    path = world.root / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: value for key, value in settings.items() if key not in ("eos_token", "pad_token")})
    )
    with pytest.raises(ConfigError, match="has no end token"):
        world.create()


def test_a_folder_without_a_tokenizer_is_refused(world: World) -> None:
    (world.root / "tokenizer").mkdir()
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json: make one by the step `train-tokenizer`"):
        world.create()


def test_a_model_that_is_too_large_is_refused_before_it_is_drawn(world: World) -> None:
    config = {**SMALL, "hidden_size": 1 << 16, "intermediate_size": 1 << 18, "num_hidden_layers": 80}
    with pytest.raises((ConfigError, NoSpace), match="GB of memory"):
        world.create(config=config)
