"""A model whose tokenizer falls back to bytes answers on the device, whatever bytes it draws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from hybrid_llm.core.request import Sampling


def falls_back_to_bytes(folder: Path) -> None:
    """Give the model in *folder* such a tokenizer, with the control tokens of its own."""
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    controls = {token_id: token.content for token_id, token in own.get_added_tokens_decoder().items()}
    names = (name for name in [*(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(0x4E00, 0x5200))])
    vocabulary = {controls.get(at) or next(names): at for at in range(own.get_vocab_size())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in controls.values()])
    tokenizer.save(str(folder / "tokenizer.json"))


def listed_again(folder: Path) -> None:
    """Write the digest of the new tokenizer into the manifest."""
    data, path = (folder / "tokenizer.json").read_bytes(), folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["tokenizer.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("seed", range(4))
def test_any_bytes_are_streamed_and_an_answer_ends_whole(edge, clear, copy, seed):
    falls_back_to_bytes(copy)
    listed_again(copy)
    request = clear("日", max_tokens=60, sampling=Sampling(temperature=2.0, seed=seed))
    chunks = list(edge(copy).stream(request))
    assert chunks[-1].finish_reason is not None
    assert sum(chunk.tokens for chunk in chunks) == chunks[-1].usage.completion_tokens
    assert "\ufffd" in "".join(chunk.text for chunk in chunks)
