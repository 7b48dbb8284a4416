"""Real weights keep their quality: the perplexity on the edge is that of the file, for every type."""

import math

import numpy as np
import pytest

from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.models.gguf.blocks import read_dense
from hybrid_llm.backends.models.gguf.reader import KINDS, Gguf
from hybrid_llm.backends.models.gguf.reference import reference_logits
from hybrid_llm.backends.models.gguf.shape import read_shape
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.request import Message, Request
from tests.ggufs import write_file

TEXT = (
    "The ferry to the island leaves twice a day in winter and six times in summer. Most people who take it in winter "
    "live there: a doctor who visits on Tuesdays, children who go to school on the mainland, and the man who brings "
    "the post. In the harbour there is a small shop that sells bread, newspapers and rope. Its owner knows everybody "
    "by name and keeps a list of who has crossed and who has not come back yet. When the wind is too strong, the ferry "
    "stays where it is, and the shop stays open until the last passenger has found a place to sleep."
)


def perplexity(logits, ids) -> float:
    """Of *ids* after the first, from the logits at each position before them."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(shifted).sum(axis=1))
    return math.exp(-chosen.mean())


def of_the_file(path, ids) -> float:
    with Gguf(path) as file:
        (logits,) = reference_logits(file, read_shape(file), [(ids[:-1], 0)])
    return perplexity(logits, ids)


def on_the_edge(folder, ids) -> float:
    sequence = EdgeModel(folder, threads=1, spin=False).sequence(len(ids))
    return perplexity(np.stack([sequence.append([token]).copy() for token in ids[:-1]]), ids)


def requantised(source, path, kind):
    with Gguf(source) as file:
        tensors = {n: read_dense(file, t).reshape(t.shape) for n, t in file.tensors.items()}
        metadata = {}
        for key, value in file.metadata.items():
            metadata[key.removeprefix("llama") if key.startswith("llama.") else key] = value
    plain = {key: list(v) if isinstance(v, np.ndarray) else v for key, v in metadata.items()}
    plain.pop("general.architecture")
    plain["tokenizer.ggml.token_type"] = [int(value) for value in plain["tokenizer.ggml.token_type"]]
    wide = {
        name: kind if values.shape[-1] % KINDS_BY_NAME[kind].block == 0 else "Q8_0" for name, values in tensors.items()
    }
    return write_file(path, "llama", tensors, plain, wide.__getitem__)


NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
KINDS_BY_NAME = {kind.name: kind for kind in KINDS.values()}


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["as it is", *sorted(KINDS_BY_NAME.keys() - {"F32"})])
def test_the_perplexity_is_that_of_the_file(smollm2_gguf, tmp_path, kind):
    path = smollm2_gguf if kind == "as it is" else requantised(smollm2_gguf, tmp_path / "x.gguf", kind)
    manifest = import_gguf(path, tmp_path / "out", name="smollm2")
    assert manifest.parity["float32"]["largest_difference"] < 1e-3
    ids = ChatTokenizer.load(tmp_path / "out").tokenizer.encode(TEXT, add_special_tokens=False).ids
    before, after = of_the_file(path, ids), on_the_edge(tmp_path / "out", ids)
    print(f"{kind}: {before:.3f} -> {after:.3f}, {manifest.total_bytes / 1e6:.0f} MB, {dict(manifest.parity)}")
    assert after < 1.01 * before


@pytest.mark.weights
def test_the_chat_prompt_of_real_weights_is_that_of_their_template(smollm2_gguf, tmp_path):
    import_gguf(smollm2_gguf, tmp_path / "out", name="smollm2")
    model = EdgeModel(tmp_path / "out", threads=1, spin=False)
    ids = model.tokenizer.encode(Request(messages=(Message(role="user", content="What is the capital of France?"),)))
    assert model.tokenizer.tokenizer.decode(ids, skip_special_tokens=False).endswith("<|im_start|>assistant\n")
    assert model.tokenizer.eos_ids == {0, 2}
