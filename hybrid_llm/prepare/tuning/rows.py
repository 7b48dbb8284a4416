"""From records to rows of token ids and labels, written once to a file that all processes map into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.hub_folder import ModelKind
from hybrid_llm.prepare.tuning.conversations import IGNORED, Conversations

Row = dict[str, Any]
"""`input_ids` and `labels`; of preferences `prompt`, `chosen` and `rejected`."""
KINDS: Final[Mapping[DataFormat, ModelKind]] = {
    DataFormat.TEXT: ModelKind.CAUSAL,
    DataFormat.BLOCKS: ModelKind.CAUSAL,
    DataFormat.CHAT: ModelKind.CAUSAL,
    DataFormat.PREFERENCE: ModelKind.CAUSAL,
    DataFormat.LABELLED: ModelKind.CLASSIFIER,
    DataFormat.TAGGED: ModelKind.TAGGER,
}
"""What a model that learns from data of a format is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Encodes the records of one data folder.

    Attributes:
        data: the folder.
        tokenizer: of the model in *folder*.
        length: tokens of a row at most.
        prompt_weight: of tokens of a conversation that the assistant does not say, in the split `train`.
        figures: how many rows were cut, left out or learnt as a whole; counted while encoding.
    """

    data: DataFolder
    tokenizer: Any
    folder: Path
    length: int
    prompt_weight: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)

    def rows(self, split: str) -> Iterator[Row]:
        """The rows of *split*.

        Raises:
            ConfigError: the split is not there, or a record does not fit the format; the message names it.
        """
        records = _numbered(self.data, split)
        match self.data.card.format:
            case DataFormat.TEXT:
                return self._packed(records)
            case DataFormat.BLOCKS:
                return self._blocks(records)
            case DataFormat.CHAT:
                chats = self._chats(records)
                return map(self._weighted, chats) if self.prompt_weight and split == "train" else chats
            case DataFormat.PREFERENCE:
                return self._preferences(records)
            case DataFormat.LABELLED:
                return self._labelled(records)
            case DataFormat.TAGGED:
                return self._tagged(records)

    def _packed(self, records: Iterator[_Record]) -> Iterator[Row]:
        """Texts one after the other, each with its end, cut into rows of one length."""
        held: list[int] = []
        end = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        for record in records:
            held += self.tokenizer(record.text("text"), add_special_tokens=False, verbose=False)["input_ids"] + end
            full = len(held) - len(held) % self.length
            for at in range(0, full, self.length):
                yield _continued(held[at : at + self.length])
            held = held[full:]
        if len(held) > 1:
            yield _continued(held)

    def _blocks(self, records: Iterator[_Record]) -> Iterator[Row]:
        self._check_tokenizer()
        vocabulary, end = len(self.tokenizer), self.tokenizer.eos_token_id
        for record in records:
            ids = record.numbers("input_ids")
            if len(ids) > self.length:
                message = f"has {len(ids)} tokens, and the model takes {self.length}: make shorter blocks"
                raise record.refused(message)
            if max(ids) >= vocabulary or min(ids) < 0:
                raise record.refused("has ids that the tokenizer of the model does not have: make the blocks with it")
            row = _continued(ids)
            for at in range(len(ids) - 1, 0, -1):  # what fills the last block up is not learnt
                if not ids[at] == ids[at - 1] == end:
                    break
                row["labels"][at] = IGNORED
            yield row

    def _check_tokenizer(self) -> None:
        path = self.folder / "tokenizer.json"
        if not self.data.card.tokenizer or not path.is_file():
            return
        with path.open("rb") as file:
            own = file_digest(file, "sha256").hexdigest()
        if own != self.data.card.tokenizer:
            message = f"the blocks in {self.data.path} were made with another tokenizer than that of {self.folder}"
            raise ConfigError(f"{message}: prepare them with this model's", path=str(self.data.path))

    def _chats(self, records: Iterator[_Record]) -> Iterator[Row]:
        conversations = Conversations(self.tokenizer, self.folder)
        for record in records:
            ids, labels = conversations.encode(record.messages("messages"))
            if labels is None:
                self.figures["learnt_as_a_whole"] += 1
                labels = [IGNORED, *ids[1:]]
            ids, labels = self._cut(ids), labels[: self.length]
            if all(each == IGNORED for each in labels[1:]):
                self.figures["left_out"] += 1
                continue
            yield {"input_ids": ids, "labels": labels}

    def _weighted(self, row: Row) -> Row:
        """The row with a weight for each token; the first one is predicted from nothing, and has none."""
        ids, labels = row["input_ids"], row["labels"]
        weights = [self.prompt_weight if label == IGNORED else 1.0 for label in labels[1:]]
        return {**_continued(ids), "weights": [0.0, *weights]}

    def _preferences(self, records: Iterator[_Record]) -> Iterator[Row]:
        conversations = Conversations(self.tokenizer, self.folder)
        for record in records:
            row = {name: record.messages(name) for name in ("prompt", "chosen", "rejected")}
            encoded = [conversations.encode(row["prompt"], row[name])[0] for name in ("chosen", "rejected")]
            if any(len(ids) > self.length for ids in encoded):
                self.figures["left_out"] += 1
                continue
            yield row

    def _labelled(self, records: Iterator[_Record]) -> Iterator[Row]:
        numbers = self._label_numbers()
        for record in records:
            label = record.label("label", numbers)
            ids = self.tokenizer(record.text("text"), verbose=False)["input_ids"]
            if len(ids) > self.length:
                ids = self.tokenizer(record.text("text"), truncation=True, max_length=self.length)["input_ids"]
                self.figures["cut"] += 1
            yield {"input_ids": ids, "labels": [label]}

    def _tagged(self, records: Iterator[_Record]) -> Iterator[Row]:
        numbers = self._label_numbers()
        if not self.tokenizer.is_fast:
            raise ConfigError(f"{self.folder} has no fast tokenizer (tokenizer.json), which tags need")
        for record in records:
            tokens, tags = record.tagged(numbers)
            encoded = self.tokenizer(tokens, is_split_into_words=True, verbose=False)
            labels, last = [], None
            for word in encoded.word_ids():
                labels.append(IGNORED if word is None or word == last else tags[word])
                last = word
            yield {"input_ids": self._cut(list(encoded["input_ids"])), "labels": labels[: self.length]}

    def _label_numbers(self) -> dict[str, int]:
        labels = self.data.card.labels
        if len(labels) < 2:
            message = f"{self.data.path} has {len(labels)} labels: a classifier needs two or more"
            raise ConfigError(f"{message}; prepare the data again", path=str(self.data.path))
        return {label: number for number, label in enumerate(labels)}

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) > self.length:
            self.figures["cut"] += 1
        return ids[: self.length]


def write_rows(rows: Iterator[Row], path: Path) -> int:
    """Write *rows* to the Arrow file *path*, which appears whole or not at all; returns their number."""
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    count = 0
    partial = path.with_name(f".{path.name}.partial")
    with ArrowWriter(path=str(partial)) as writer:
        for row in rows:
            writer.write(row)
            count += 1
        if count:
            writer.finalize()
    if count:
        partial.replace(path)
        assert len(Dataset.from_file(str(path))) == count
    return count


def _continued(ids: list[int]) -> Row:
    """A row in which each token but the first is to be predicted."""
    return {"input_ids": ids, "labels": [IGNORED, *ids[1:]]}


@dataclass(frozen=True, slots=True)
class _Record:
    """One record, with its number for messages."""

    file: Path
    number: int
    values: Mapping[str, Any]

    def refused(self, message: str) -> ConfigError:
        return ConfigError(f"{self.file}:{self.number}: the record {message}", path=str(self.file))

    def _value(self, name: str, kind: type) -> Any:
        value = self.values.get(name) if isinstance(self.values, dict) else None
        if not isinstance(value, kind):
            raise self.refused(f"has no `{name}`: prepare the data again")
        return value

    def text(self, name: str) -> str:
        return str(self._value(name, str))

    def numbers(self, name: str) -> list[int]:
        ids = self._value(name, list)
        if not ids or not all(isinstance(each, int) for each in ids):
            raise self.refused(f"has no numbers in `{name}`: prepare the data again")
        return list(ids)

    def messages(self, name: str) -> list[dict[str, str]]:
        found = self._value(name, list)
        for each in found:
            if not isinstance(each, dict) or not isinstance(each.get("content"), str) or not each.get("role"):
                raise self.refused(f"has a message without role or content in `{name}`: prepare the data again")
        if not found:
            raise self.refused(f"has no message in `{name}`: prepare the data again")
        return [{"role": str(each["role"]), "content": each["content"]} for each in found]

    def label(self, name: str, numbers: Mapping[str, int]) -> int:
        label = self.values.get(name) if isinstance(self.values, dict) else None
        if not isinstance(label, str) or label not in numbers:
            what = "has no label" if label is None else "has a label that data.json does not list"
            raise self.refused(f"{what}: label it or leave it out, and prepare the data again")
        return numbers[label]

    def tagged(self, numbers: Mapping[str, int]) -> tuple[list[str], list[int]]:
        tokens, tags = self._value("tokens", list), self._value("tags", list)
        if not tokens or len(tokens) != len(tags) or not all(isinstance(each, str) for each in tokens):
            raise self.refused(f"has {len(tokens)} tokens and {len(tags)} tags: it needs one for each")
        if unknown := [tag for tag in tags if tag not in numbers]:
            raise self.refused(f"has {len(unknown)} tags that data.json does not list: prepare the data again")
        return tokens, [numbers[tag] for tag in tags]


def _numbered(data: DataFolder, split: str) -> Iterator[_Record]:
    file = data.path / f"{split}.jsonl"
    for number, values in enumerate(data.records(split), 1):
        yield _Record(file, number, values)
