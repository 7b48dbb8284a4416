"""Real weights keep their quality: the perplexity on the edge is that of the file.

One type of each form: codes with minima in all layers, as the file is; dense, and codes around zero, in the first six.
Small models try every type, and `benchmarks gguf_types` tries all layers of the real weights in each.
"""

import math

import numpy as np
import pytest

from hybrid_llm.backends.edge import read_manifest
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.models.gguf.blocks import read_dense
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.reference import reference_logits
from hybrid_llm.backends.models.gguf.shape import read_shape
from hybrid_llm.backends.models.perplexity import TEXT, perplexity
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.request import Message, Request
from tests.ggufs import BLOCKS, write_file

LAYERS, TOKENS = 6, 128


def first_layers(source, path, kind):
    """Write the first layers of the Llama in *source* to *path*, matrices as *kind*, or Q8_0 where it does not fit."""
    with Gguf(source) as file:
        kept = [name for name in file.tensors if not name.startswith("blk.") or int(name.split(".")[1]) < LAYERS]
        tensors = {name: read_dense(file, file.tensors[name]).reshape(file.tensors[name].shape) for name in kept}
        metadata = {
            key.removeprefix("llama"): value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in file.metadata.items()
            if key != "general.architecture"
        }

    def kind_of(name):
        return kind if tensors[name].shape[-1] % BLOCKS[kind] == 0 else "Q8_0"

    return write_file(path, "llama", tensors, {**metadata, ".block_count": LAYERS}, kind_of)


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
def test_the_perplexity_is_that_of_the_file(smollm2_gguf, smollm2_folder, tmp_path, kind):
    path, folder = smollm2_gguf, smollm2_folder
    if kind != "as it is":
        path, folder = first_layers(smollm2_gguf, tmp_path / "x.gguf", kind), tmp_path / "out"
        import_gguf(path, folder, name="smollm2")
    manifest = read_manifest(folder)
    assert manifest.parity["float32"]["largest_difference"] < (0.05 if kind == "as it is" else 1e-3)
    ids = ChatTokenizer.load(folder).tokenizer.encode(TEXT, add_special_tokens=False).ids[:TOKENS]
    theirs, ours = of_the_file(path, ids), on_the_edge(folder, ids)
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
