"""Clipped gradients: equal to those of one record after the other, for each architecture and way of clipping."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.privacy.clipping import Clipping, RecordClipping, UnitClipping, losses, trained
from hybrid_llm.prepare.privacy.units import Example

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")

NORM = 0.5
VOCABULARY = 100


def _bert() -> Any:
    from transformers import AutoModelForSequenceClassification, BertConfig

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, attn_implementation="eager", **size)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return AutoModelForSequenceClassification.from_config(config)


def _llama(*, tied: bool = False) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, attn_implementation="eager", **size)
    config.tie_word_embeddings = tied
    return AutoModelForCausalLM.from_config(config)


def _lora() -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(_llama(tied=True), config)


MODELS: dict[str, tuple[Callable[[], Any], bool]] = {
    "encoder": (_bert, True),
    "decoder": (_llama, False),
    "tied decoder": (lambda: _llama(tied=True), False),
    "LoRA": (_lora, False),
}


def _examples(count: int, *, labelled: bool, seed: int = 1) -> list[Example]:
    drawn = random.Random(seed)
    return [
        Example(tuple(drawn.choices(range(5, VOCABULARY), k=drawn.randrange(3, 20))), 1 if labelled else None)
        for _ in range(count)
    ]


def _one_by_one(model: Any, units: list[tuple[Example, ...]]) -> list[Any]:
    """The definition: the sum of the gradients of units, each scaled down to the norm."""
    parameters = [each for _, each in trained(model)]
    total = [torch.zeros_like(each) for each in parameters]
    for unit in units:
        model.zero_grad()
        torch.stack([losses(model, [example], 0)[0] for example in unit]).mean().backward()
        norm = torch.sqrt(sum((each.grad**2).sum() for each in parameters if each.grad is not None))
        for so_far, each in zip(total, parameters, strict=True):
            if each.grad is not None:
                so_far.add_(each.grad * min(1.0, NORM / float(norm)))
    model.zero_grad()
    return total


def _close(found: Any, expected: list[Any]) -> None:
    grads = [each.grad for _, each in trained(found)]
    for grad, each in zip(grads, expected, strict=True):
        assert torch.allclose(grad, each, atol=1e-5)
    assert max(float(each.abs().max()) for each in expected) > 0.01


@pytest.mark.parametrize("how", Clipping)
@pytest.mark.parametrize("name", MODELS)
def test_the_sum_is_that_of_records_clipped_one_by_one(name: str, how: Clipping) -> None:
    if name == "tied decoder" and how is Clipping.GHOST:
        pytest.skip("refused, see below")
    torch.manual_seed(0)
    make, labelled = MODELS[name]
    model = make().train()
    units = [(example,) for example in _examples(7, labelled=labelled)]
    expected = _one_by_one(model, units)
    clipped = RecordClipping(model, how, NORM, 0, together=3)
    clipped.check([unit[0] for unit in units[:3]])
    clipped.add(units)
    _close(model, expected)


def test_units_of_several_records_are_clipped_as_one() -> None:
    torch.manual_seed(0)
    model = _bert().train()
    found = _examples(9, labelled=True)
    units = [tuple(found[:1]), tuple(found[1:6]), tuple(found[6:])]
    expected = _one_by_one(model, units)
    UnitClipping(model, NORM, 0, together=2).add(units)
    _close(model, expected)


def test_no_unit_moves_the_sum_by_more_than_the_norm() -> None:
    torch.manual_seed(0)
    model = _bert().train()
    units = [(example,) for example in _examples(6, labelled=True)]
    clipped, sums = RecordClipping(model, Clipping.GHOST, NORM, 0, together=4), []
    for some in (units, units[:-1]):
        model.zero_grad()
        clipped.add(some)
        sums.append(torch.cat([each.grad.flatten() for _, each in trained(model)]))
    assert torch.linalg.vector_norm(sums[0] - sums[1]) <= NORM * 1.001


def test_padding_changes_no_loss() -> None:
    torch.manual_seed(0)
    model = _llama().eval()
    found = _examples(5, labelled=False)
    together = losses(model, found, 0)
    alone = torch.stack([losses(model, [each], 0)[0] for each in found])
    assert torch.allclose(together, alone, atol=1e-5)


def test_ghost_clipping_of_a_shared_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="use clipping: per-sample, or LoRA"):
        RecordClipping(_llama(tied=True), Clipping.GHOST, NORM, 0, together=4)


def test_batch_normalisation_is_refused() -> None:
    model = _bert()
    model.bert.pooler.activation = torch.nn.BatchNorm1d(32)
    for make in (lambda: RecordClipping(model, Clipping.GHOST, NORM, 0, 4), lambda: UnitClipping(model, NORM, 0, 4)):
        with pytest.raises(ConfigError, match="cannot be tuned privately: BatchNorm"):
            make()


def test_a_model_whose_records_influence_each_other_is_found_by_the_check() -> None:
    """A layer that mixes the rows of a batch, which no list of forbidden layers knows."""

    class Mixing(torch.nn.Linear):
        def forward(self, given: Any) -> Any:
            return super().forward(given + given.mean(dim=0, keepdim=True))

    torch.manual_seed(0)
    model = _bert().train()
    model.classifier = Mixing(32, 2)
    with pytest.raises(ConfigError, match="cannot be clipped exactly"):
        RecordClipping(model, Clipping.PER_SAMPLE, NORM, 0, 4).check(_examples(3, labelled=True))
