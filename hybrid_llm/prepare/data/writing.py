"""The third pass of the preparation: each record comes into its split, as a line of JSON or packed to blocks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from hybrid_llm.prepare.data.figures import Figures
from hybrid_llm.prepare.data.packing import ModelTokenizer, Packer
from hybrid_llm.prepare.data.records import Record
from hybrid_llm.prepare.data.splitting import Quotas, split_of


@dataclass(slots=True, kw_only=True)
class Kept:
    """The records that stay, in a file between the second pass and the third.

    Attributes:
        counts: split and label -> number of records; tagged text counts under no label.
    """

    path: Path
    seed: int
    shares: Mapping[str, float]
    stratify: bool = False
    balance: bool = False
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    figures: Figures = field(default_factory=Figures)

    def write(self, records: Iterable[tuple[str, Record]]) -> None:
        """Write the file; the text beside each record is the digest of its content."""
        with self.path.open("w", encoding="utf-8") as file:
            for content, record in records:
                by = hashlib.blake2b(record.group.encode()).digest() if record.group else bytes.fromhex(content)
                split = split_of(by, self.seed, self.shares)
                self.counts[split, _label(record)] += 1
                file.write(f"{split}\t{record.packed()}\n")

    def lines(self) -> Iterator[tuple[str, str]]:
        """The split and the packed form of each record that comes into one."""
        quotas, caps = self._quotas()
        with self.path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                self.figures.entered += 1
                split, _, packed = line.rstrip("\n").partition("\t")
                label = _label_of(packed) if quotas or caps else ""
                if quotas is not None:
                    split = quotas.any_split(label)
                if caps is not None and not caps.take(split, label):
                    self.figures.drop("balance")
                    continue
                yield split, packed

    def _quotas(self) -> tuple[Quotas | None, Quotas | None]:
        counts, quotas = self.counts, None
        if self.stratify:
            labels: Counter[str] = Counter()
            for (_, label), number in self.counts.items():
                labels[label] += number
            quotas = Quotas.stratified(labels, self.shares)
            counts = quotas.left.copy()
        return quotas, Quotas.balanced(counts) if self.balance else None


def _label(record: Record) -> str:
    return record.labels[0] if len(record.labels) == 1 else ""


def _label_of(packed: str) -> str:
    labels = json.loads(packed)[2]
    return labels[0] if len(labels) == 1 else ""


@dataclass(slots=True, kw_only=True)
class Writer:
    """Writes the splits of a data folder; with a *tokenizer*, packed to blocks of *block_tokens*."""

    out: Path
    splits: tuple[str, ...]
    tokenizer: ModelTokenizer | None = None
    block_tokens: int = 0
    written: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    packed: Figures = field(default_factory=Figures)

    def write(self, records: Iterable[tuple[str, Record]]) -> None:
        """Write each record into its split."""
        with ExitStack() as opened:
            files = {
                name: opened.enter_context((self.out / f"{name}.jsonl").open("w", encoding="utf-8"))
                for name in self.splits
            }
            if self.tokenizer is None:
                for split, record in records:
                    self._line(files[split], split, record.to_json())
                    self.labels.update(record.labels)
            else:
                self._write_blocks(records, files, self.tokenizer)

    def _write_blocks(
        self, records: Iterable[tuple[str, Record]], files: Mapping[str, TextIO], tokenizer: ModelTokenizer
    ) -> None:
        packers = {name: Packer(self.block_tokens, tokenizer.end) for name in self.splits}
        for split, record in records:
            self.packed.entered += 1
            for block in packers[split].add(tokenizer.encode(record)):
                self._line(files[split], split, {"input_ids": block})
        for split, packer in packers.items():
            for block in packer.finish():
                self._line(files[split], split, {"input_ids": block})
        self.packed.more["tokens"] = {name: packer.tokens for name, packer in packers.items()}
        self.packed.more["padding"] = {name: packer.padding for name, packer in packers.items()}

    def _line(self, file: TextIO, split: str, values: Mapping[str, object]) -> None:
        file.write(json.dumps(values, ensure_ascii=False) + "\n")
        self.written[split] += 1
