"""Tiny models and data, made in milliseconds: an encoder without a head, a decoder, and records of nonsense words."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hybrid_llm.prepare.data.folder import DataCard, DataFolder, DataFormat
from tests.shapes import random_model

WORDS = [f"{first}{second}" for first in ("ba", "do", "ki", "lu", "me", "no", "ra", "su") for second in "bdfgklmnprst"]
LABELS = ("no", "yes")


def decoder(folder: Path) -> Path:
    return random_model("tiny", folder)


def encoder(folder: Path, *, hidden: int = 32) -> Path:
    """A BERT of two layers that knows `WORDS`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return folder


def labelled(count: int, seed: int, *, meaning: bool) -> list[dict[str, Any]]:
    """Records of one of 40 persons each; if labels have a *meaning*, each has words of its own."""
    drawn = random.Random(seed)
    records = []
    for _ in range(count):
        yes = drawn.random() < 0.5
        some = WORDS[len(WORDS) // 2 :] if yes else WORDS[: len(WORDS) // 2]
        words = drawn.choices(some if meaning else WORDS, k=6)
        records.append({"text": " ".join(words), "label": LABELS[yes], "person": f"p{drawn.randrange(40)}"})
    return records


def texts(count: int, seed: int) -> list[dict[str, Any]]:
    drawn = random.Random(seed)
    return [{"text": " ".join(drawn.choices(WORDS, k=drawn.randrange(3, 9)))} for _ in range(count)]


def data(folder: Path, form: DataFormat, **splits: Iterable[dict[str, Any]]) -> DataFolder:
    """A data folder with *splits*."""
    folder.mkdir(parents=True)
    counts = {}
    for name, records in splits.items():
        lines = [json.dumps(record) for record in records]
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        counts[name] = len(lines)
    card = DataCard(format=form, splits=counts, labels=LABELS if form is DataFormat.LABELLED else ())
    (folder / "data.json").write_text(card.to_json())
    return DataFolder.open(folder)
