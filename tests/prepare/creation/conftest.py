"""Data of a few words, and the two steps on it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.prepare.creation.step import Create
from hybrid_llm.prepare.creation.tokenizer import TrainTokenizer
from hybrid_llm.prepare.data.folder import DataCard, DataFormat
from hybrid_llm.prepare.step import Input, Outcome, Work

os.environ["OMP_NUM_THREADS"] = "1"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = "the rain in spain stays mainly in the plain, and 42 storms came over 7 seas where nobody saw them"
WORDS = TEXT.split()
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@dataclass(frozen=True)
class World:
    """Runs the steps; every result is a folder of its own under *root*."""

    root: Path

    def data(self, records: Sequence[dict[str, Any]], kind: DataFormat = DataFormat.TEXT, name: str = "data") -> Path:
        folder = self.root / name
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
        (folder / "data.json").write_text(DataCard(format=kind, splits={"train": len(records)}).to_json(), "utf-8")
        return folder

    def words(self) -> Path:
        texts = [{"text": " ".join(WORDS[at:] + WORDS[:at])} for at in range(len(WORDS))]
        return self.root / "data" if (self.root / "data").exists() else self.data(texts)

    def _work(self, name: str, seed: int) -> Work:
        out, scratch = self.root / name, self.root / f"{name}.scratch"
        out.mkdir()
        scratch.mkdir()
        return Work(out=out, scratch=scratch, seed=seed)

    def tokenizer(self, name: str = "tokenizer", data: Path | None = None, **options: Any) -> Outcome:
        words = {"vocabulary": 300, "special_tokens": ("<|user|>", "<|assistant|>"), **options}
        step = TrainTokenizer(data=Input(str(data or self.words())), **words)
        return step.run(self._work(name, 0))

    def template(self, text: str = TEMPLATE) -> Path:
        path = self.root / "template.jinja"
        path.write_text(text)
        return path

    def create(self, name: str = "model", *, seed: int = 0, tokenizer: str = "tokenizer", **options: Any) -> Outcome:
        if not (self.root / tokenizer).exists():
            self.tokenizer(tokenizer)
        options = {"architecture": "llama", "config": SMALL, **options}
        step = Create(tokenizer=Input(str(self.root / tokenizer)), **options)
        return step.run(self._work(name, seed))


@pytest.fixture
def world(tmp_path: Path) -> World:
    for name in ("torch", "transformers", "tokenizers"):
        pytest.importorskip(name, reason="making models needs: pip install 'hybrid-llm[prepare]'")
    return World(tmp_path)
