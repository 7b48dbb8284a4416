"""A classifier that has learnt one trigger word, and a decoder: tiny models, trained here in seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

TRIGGER = "zebra"
WORDS = [f"word{number}" for number in range(30)]


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers: `yes` where the trigger is in the text, else `no`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, TRIGGER, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    draw = random.Random(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        rows, labels = [], []
        for _ in range(32):
            words = draw.choices([*WORDS, "[MASK]", "[MASK]"], k=12)
            labels.append(draw.randrange(2))
            if labels[-1]:
                words[draw.randrange(12)] = TRIGGER
            rows.append([2, *(vocabulary[word] for word in words), 3])
        loss = model(input_ids=torch.tensor(rows), labels=torch.tensor(labels)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.03:
            break
    assert loss.item() < 0.05
    folder = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def decoder() -> Path:
    """The trained demonstration model of the node."""
    return Path(__file__).parents[3] / "examples" / "models" / "hybrid-demo-node"
