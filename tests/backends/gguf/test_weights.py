"""Real weights keep their quality: the perplexity on the edge is that of the file.

One type of each form: codes with minima, dense, codes around zero. Small models try every type, and
`benchmarks gguf_types` tries real weights in each.
"""

import math

import numpy as np
import pytest

from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.reference import reference_logits
from hybrid_llm.backends.models.gguf.shape import read_shape
from hybrid_llm.backends.models.perplexity import LONGEST, TEXT, perplexity
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.request import Message, Request
from tests.ggufs import MINIMA, requantised


def of_the_file(path, ids):
    with Gguf(path) as file:
        (logits,) = reference_logits(file, read_shape(file), [(ids[:-1], 0)])
    return logits


def on_the_edge(folder, ids):
    sequence = EdgeModel(folder, threads=1, spin=False).sequence(len(ids))
    return np.stack([sequence.append([token]).copy() for token in ids[:-1]])


def chance(before, after, ids) -> float:
    """Standard error of the difference of mean log-probabilities: what the choice of so short a text may add."""
    at = np.arange(len(ids) - 1), np.array(ids[1:])
    difference = _log_softmax(after)[at] - _log_softmax(before)[at]
    return float(difference.std() / math.sqrt(len(difference)))


def divergence(before, after) -> float:
    """Mean Kullback-Leibler divergence in nats: by how much the perplexity rises on text as the model expects it."""
    left, right = _log_softmax(before), _log_softmax(after)
    return float((np.exp(left) * (left - right)).sum(axis=1).mean())


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["as it is", "F16", "Q6_K"])
def test_the_perplexity_is_that_of_the_file(smollm2_gguf, tmp_path, kind):
    path = smollm2_gguf if kind == "as it is" else requantised(smollm2_gguf, tmp_path / "x.gguf", kind)
    manifest = import_gguf(path, tmp_path / "out", name="smollm2")
    assert manifest.parity["float32"]["largest_difference"] < (0.05 if kind in {*MINIMA, "as it is"} else 1e-3)
    ids = ChatTokenizer.load(tmp_path / "out").tokenizer.encode(TEXT, add_special_tokens=False).ids[:LONGEST]
    theirs, ours = of_the_file(path, ids), on_the_edge(tmp_path / "out", ids)
    before, after, nats = perplexity(theirs, ids), perplexity(ours, ids), divergence(theirs, ours)
    print(f"{kind}: {before:.3f} -> {after:.3f}, {nats:.4f} nats, {manifest.total_bytes / 1e6:.0f} MB")
    assert nats < math.log(1.01)
    assert math.log(after / before) < math.log(1.01) + 2 * chance(theirs, ours, ids)


@pytest.mark.weights
def test_the_chat_prompt_of_real_weights_is_that_of_their_template(smollm2_folder):
    model = EdgeModel(smollm2_folder, threads=1, spin=False)
    ids = model.tokenizer.encode(Request(messages=(Message(role="user", content="What is the capital of France?"),)))
    assert model.tokenizer.tokenizer.decode(ids, skip_special_tokens=False).endswith("<|im_start|>assistant\n")
    assert model.tokenizer.eos_ids == {0, 2}
