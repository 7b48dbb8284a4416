"""Tiny seeded models and data folders of these tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hybrid_llm.backends.models.perplexity import TEXT
from hybrid_llm.prepare.data.folder import DataCard, DataFolder, DataFormat
from hybrid_llm.prepare.step import Input, Work

DEMO = Path(__file__).parents[3] / "examples/models/hybrid-demo-node"
"""Its tokenizer has 2,048 entries."""


def write_data(
    folder: Path, kind: DataFormat, records: Sequence[dict[str, Any]], labels: Iterable[str] = (), **card: Any
) -> Path:
    """A data folder whose splits `train` and `test` both have all *records*."""
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    splits = dict.fromkeys(("train", "test"), len(records))
    (folder / "data.json").write_text(DataCard(format=kind, splits=splits, labels=tuple(labels), **card).to_json())
    return DataFolder.open(folder).path


def write_texts(folder: Path) -> Path:
    """Pieces of one text."""
    words = TEXT.split()
    return write_data(folder, DataFormat.TEXT, [{"text": " ".join(words[i : i + 40])} for i in range(0, 160, 10)])


def write_decoder(folder: Path, *, seed: int, width: int = 64, layers: int = 3, vocabulary: int = 2048) -> Path:
    """A Llama with random weights, which are large enough that it does not repeat its input."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        intermediate_size=96,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=5,
        pad_token_id=0,
        dtype="float32",
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (DEMO / name).is_file():
            shutil.copyfile(DEMO / name, folder / name)
    return folder


def write_other_vocabulary(folder: Path) -> None:
    """Replace the tokenizer in *folder* by one of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["?", *set(TEXT.split())])}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def work(root: Path, name: str, seed: int = 0) -> Work:
    """One run of a step."""
    out = root / name
    out.mkdir()
    return Work(out=out, scratch=root / f"{name}-scratch", seed=seed)


def named(path: Path) -> Input:
    """*path* as it stands in a recipe."""
    return Input(str(path))
