"""Small real encoders, trained here in seconds: one knows what a sentence is about, one what follows `mr` and `in`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

SYLLABLES = ["ka", "lo", "mi", "ra", "ne", "tu", "so", "vi"]
PLAIN = ["the", "a", "went", "saw", "and", "talked", "about", "now"]
ABOUT = {"Weather": ["rain", "storm", "snow", "wind"], "Food": ["tea", "bread", "soup", "rice"]}
TAGS = ["O", "B-PER", "I-PER", "B-LOC"]
WINDOW = 32
_STEPS = 150


def _words() -> list[str]:
    topics = [word for words in ABOUT.values() for word in words]
    return [*PLAIN, *topics, "mr", "in", ".", *SYLLABLES, *("##" + s for s in SYLLABLES)]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_words()]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def _about(rng: random.Random) -> tuple[list[str], int]:
    label = rng.randrange(len(ABOUT))
    topic = rng.choice(list(ABOUT.values())[label])
    words = [*rng.choices(PLAIN, k=rng.randint(1, 8)), topic]
    rng.shuffle(words)
    return words, label


def _tagged(rng: random.Random) -> tuple[list[str], list[str]]:
    words, tags = [], []
    for _ in range(rng.randint(2, 7)):
        name = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))) for _ in range(2)]
        more = rng.choice([(["mr", *name], ["O", "B-PER", "I-PER"]), (["in", name[0]], ["O", "B-LOC"]), None, None])
        one, two = more or ([rng.choice(PLAIN)], ["O"])
        words, tags = words + one, tags + two
    return words, tags


def _rows(tokenizer: Any, rng: random.Random, *, tokens: bool) -> tuple[list[list[int]], list[Any]]:
    rows, targets = [], []
    for _ in range(32):
        words, target = _tagged(rng) if tokens else _about(rng)
        encoding = tokenizer.encode(words, is_pretokenized=True)
        rows.append(encoding.ids[:WINDOW])
        if tokens:
            target = [-100 if w is None else TAGS.index(target[w]) for w in encoding.word_ids][:WINDOW]
        targets.append(target)
    return rows, targets


def trained(folder: Path, *, tokens: bool) -> Path:
    """A folder as transformers saves it, of a classifier of tokens or of texts: two layers of BERT with 32 units."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer, labels = _tokenizer(), TAGS if tokens else list(ABOUT)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the steps are so small that more threads only wait for each other
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=WINDOW,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    kind = transformers.BertForTokenClassification if tokens else transformers.BertForSequenceClassification
    model = kind(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rng = random.Random(0)
    for _ in range(_STEPS):
        rows, targets = _rows(tokenizer, rng, tokens=tokens)
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        wanted = torch.tensor([t + [-100] * (width - len(t)) for t in targets] if tokens else targets)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder


def changed(folder: Path, **config: Any) -> Path:
    """*folder* with other values in its `config.json`."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder
