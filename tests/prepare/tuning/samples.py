"""Tiny models, data folders of every format, and a run of the step `tune` on them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hybrid_llm.prepare.data.folder import DataCard, DataFormat
from hybrid_llm.prepare.step import Input, Outcome, Progress, Work
from hybrid_llm.prepare.tuning.step import Tune
from tests.shapes import random_model

WET, DRY = ("rain", "storm", "snow"), ("sun", "sand", "dust")
PLAIN = ("the", "day", "we", "saw", "some")
Records = Sequence[Mapping[str, Any]]


def text(rng: random.Random) -> dict[str, Any]:
    return {"text": " ".join(rng.choices([*WET, *DRY, *PLAIN], k=24))}


def chat(rng: random.Random) -> dict[str, Any]:
    word = rng.choice(WET)
    return {
        "messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": f"{word} {word}"}]
    }


def labelled(rng: random.Random) -> dict[str, Any]:
    label, words = rng.choice([("wet", WET), ("dry", DRY)])
    return {"text": f"the day {rng.choice(words)} we saw", "label": label}


def tagged(rng: random.Random) -> dict[str, Any]:
    tokens = [*rng.choices(PLAIN, k=3), rng.choice(WET), rng.choice(PLAIN)]
    return {"tokens": tokens, "tags": ["weather" if each in WET else "O" for each in tokens]}


def preference(rng: random.Random) -> dict[str, Any]:
    word = rng.choice(WET)
    answers = {"chosen": f"{word} please", "rejected": f"no {word}"}
    return {
        "prompt": [{"role": "user", "content": f"say {word}"}],
        **{name: [{"role": "assistant", "content": answer}] for name, answer in answers.items()},
    }


MAKE: dict[DataFormat, Callable[[random.Random], dict[str, Any]]] = {
    DataFormat.TEXT: text,
    DataFormat.CHAT: chat,
    DataFormat.LABELLED: labelled,
    DataFormat.TAGGED: tagged,
    DataFormat.PREFERENCE: preference,
}
LABELS = {DataFormat.LABELLED: ("wet", "dry"), DataFormat.TAGGED: ("O", "weather")}


def write_data(
    folder: Path, kind: DataFormat, splits: Mapping[str, Records], labels: Sequence[str] | None = None, **card: Any
) -> Path:
    """A data folder of *splits*."""
    folder.mkdir(parents=True)
    for name, records in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    counts = {name: len(records) for name, records in splits.items()}
    found = LABELS.get(kind, ()) if labels is None else tuple(labels)
    (folder / "data.json").write_text(DataCard(format=kind, splits=counts, labels=found, **card).to_json(), "utf-8")
    return folder


@dataclass(frozen=True)
class Samples:
    """Models and data under *root*, made when they are first used."""

    root: Path

    @cached_property
    def decoder(self) -> Path:
        return random_model("tiny", self.root / "decoder")

    @cached_property
    def encoder(self) -> Path:
        """The body of a BERT without a head: two layers of 32 units."""
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WET, *DRY, *PLAIN]
        made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
        )
        BertModel(config).save_pretrained(str(self.root / "encoder"))
        tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        PreTrainedTokenizerFast(tokenizer_object=made, **tokens).save_pretrained(str(self.root / "encoder"))
        return self.root / "encoder"

    def model(self, kind: DataFormat) -> Path:
        return self.encoder if kind in LABELS else self.decoder

    def data(self, kind: DataFormat, train: int = 64, held_out: int = 12) -> Path:
        folder = self.root / f"{kind}-{train}-{held_out}"
        if not folder.exists():
            rng = random.Random(0)
            sizes = {"train": train, "validation": held_out, "test": held_out}
            write_data(folder, kind, {name: [MAKE[kind](rng) for _ in range(n)] for name, n in sizes.items() if n})
        return folder


def tune(
    model: Path,
    data: Path,
    folder: Path,
    *,
    progress: Progress = lambda what, share: None,
    **options: Any,
) -> Outcome:
    """Run the step: the result is in `folder / "out"`, checkpoints are in `folder / "scratch"`."""
    import shutil

    out, scratch = folder / "out", folder / "scratch"
    shutil.rmtree(out, ignore_errors=True)  # as after a run that raised; what a runner does
    out.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    defaults = {"steps": 12, "batch": 8, "max_length": 32, "learning_rate": 3e-3, "every": 4}
    step = Tune(model=Input(str(model)), data=Input(str(data)), **{**defaults, **options})
    return step.run(Work(out=out, scratch=scratch, progress=progress))


def curve(folder: Path) -> dict[str, Any]:
    """What the run in *folder* recorded."""
    found: dict[str, Any] = json.loads((folder / "out" / "training.json").read_text(encoding="utf-8"))
    return found


def weights(folder: Path) -> bytes:
    """The file of the weights that the run in *folder* left."""
    return next((folder / "out").glob("*model.safetensors")).read_bytes()
