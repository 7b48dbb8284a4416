"""The hidden states of an imported model are transformers' own, after the final norm, in every form of the graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.models.perplexity import TEXT
from tests.backends.gguf.test_architectures import CASES, VOCAB, exported, metadata, original
from tests.ggufs import write_file
from tests.smollm2 import node_folder

IDS = [int(each) for each in np.random.default_rng(5).integers(5, VOCAB, 70)]
RUNS = (IDS[:50], IDS[50:51], IDS[51:52], IDS[52:69], IDS[69:])
"""A prompt that crosses a border, steps, and another prompt."""


def theirs(model, ids):
    """The last hidden state at each position, shape (ids, hidden size)."""
    with torch.inference_mode():
        return model.model(torch.tensor([ids])).last_hidden_state[0].numpy()


def ours(model, runs):
    """The hidden state after each of *runs*, and how many tokens were read then."""
    sequence = model.sequence(sum(map(len, runs)), hidden_states=True)
    for run in runs:
        sequence.append(run)
        yield sequence.length, sequence.hidden_state


def close(left, right):
    return float(np.abs(left - right).max() / right.std())


@pytest.mark.parametrize(
    "form", [{}, {"portable": True}, {"all_logits": True}], ids=["plain", "portable", "all logits"]
)
@pytest.mark.parametrize("case", ["llama", "gemma3", "granite"])
def test_they_are_those_of_transformers_over_prompt_steps_and_borders(case, form, tmp_path):
    kind, architecture, options, changes = CASES[case]
    reference = original(kind, options)
    path = write_file(
        tmp_path / "model.gguf", architecture, exported(reference, architecture), metadata(reference, **changes)
    )
    import_gguf(path, tmp_path / "out", name="small", hidden_states=True, **form)
    model = EdgeModel(tmp_path / "out", threads=1, spin=False)
    assert (model.hidden_size, model.layout.hidden_states) == (64, "hidden_states")
    expected = theirs(reference, IDS)
    for length, state in ours(model, RUNS):
        assert (state.shape, state.dtype) == ((64,), np.float32)
        assert close(state, expected[length - 1]) < 5e-3
        assert close(state, expected[length - 2]) > 0.5, "another position is another state"


def test_the_states_that_were_given_stay_as_they_are(tmp_path):
    kind, architecture, options, changes = CASES["llama"]
    reference = original(kind, options)
    path = write_file(
        tmp_path / "model.gguf", architecture, exported(reference, architecture), metadata(reference, **changes)
    )
    import_gguf(path, tmp_path / "out", name="small", hidden_states=True)
    model = EdgeModel(tmp_path / "out", threads=1, spin=False)
    states = [state for _, state in ours(model, RUNS)]
    again = [state.copy() for _, state in ours(model, RUNS)]
    assert all((left == right).all() for left, right in zip(states, again, strict=True))


@pytest.mark.weights
@pytest.mark.slow
def test_real_weights_give_the_states_of_transformers_and_the_logits_of_a_folder_without(
    smollm2_gguf, smollm2_folder, tmp_path
):
    import_gguf(smollm2_gguf, tmp_path / "with", name="smollm2", hidden_states=True)
    models = [EdgeModel(folder, threads=1, spin=False) for folder in (tmp_path / "with", smollm2_folder)]
    ids = models[0].tokenizer.tokenizer.encode(TEXT, add_special_tokens=False).ids[:60]
    logits = [model.sequence(len(ids)).append(ids).copy() for model in models]
    assert (logits[0] == logits[1]).all()
    reference = AutoModelForCausalLM.from_pretrained(node_folder(), dtype=torch.float32).eval()
    expected = theirs(reference, ids)
    runs = (ids[:40], *([token] for token in ids[40:]))
    for length, state in ours(models[0], runs):
        cosine = float(state @ expected[length - 1] / np.linalg.norm(state) / np.linalg.norm(expected[length - 1]))
        print(f"{length}: {cosine:.5f}")
        assert cosine > 0.998, "products are rounded to int8 as the model runs; see the seeded models for exactness"
