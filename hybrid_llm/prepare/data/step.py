"""The step `prepare-data`: its options."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.fields import Choice, File, Flag, ListOf, MapOf, Number, Text, Whole, key, one_of, percentage
from hybrid_llm.policies import builtin_names
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.step import DATA, DETECTORS, MODEL, Input, Makes, Outcome, Work

_FORMATS: Final = tuple(each for each in DataFormat if each is not DataFormat.BLOCKS)
_SHARES: Final = {"train": 0.9, "validation": 0.05, "test": 0.05}


def _codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError(f"`{name}` is no encoding of Python, such as utf-8, latin-1 or gb18030") from None


def _builtin(name: str) -> str:
    if name not in builtin_names():
        raise ValueError(f"there is no built-in policy `{name}`")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareData(Checked):
    """Reads texts, labels, conversations or preferences; cleans, deduplicates, guards, splits and packs them."""

    makes: ClassVar[Makes] = Makes.DATA

    sources: tuple[Input, ...] = key(
        ListOf(DATA, least=1, single=True),
        "Text, JSON, JSON lines, CSV, TSV or Parquet (also `.gz`), ZIP archives, folders, and data of earlier steps.",
    )
    files: str = key(Text(), "Which names in folders and archives are read, such as `*.jsonl`.", default="")
    read_as: str | None = key(
        Choice.of("text", "json", "jsonl", "csv", "tsv", "parquet"),
        "The kind of all files, where their suffix does not say it.",
        default=None,
    )
    unit: str = key(
        Choice.of("lines", "paragraphs", "documents"),
        "What a record of a text file is: a line, a paragraph between empty lines, or the whole file.",
        default="lines",
    )
    encoding: str = key(Text("an encoding", convert=_codec), "The encoding of text files.", default="utf-8")
    format: DataFormat | None = key(
        Choice.of(*_FORMATS), "What a record is; by default, what the columns of the first one are.", default=None
    )
    text: str = key(Text(), "The column of the text.", default="text")
    label: str = key(Text(), "The column of the label.", default="label")
    messages: str = key(Text(), "The column of the messages of a conversation.", default="messages")
    prompt: str = key(Text(), "The column of the prompt of a preference.", default="prompt")
    chosen: str = key(Text(), "The column of the better answer.", default="chosen")
    rejected: str = key(Text(), "The column of the worse answer.", default="rejected")
    tokens: str = key(Text(), "The column of the tokens of tagged text.", default="tokens")
    tags: str = key(Text(), "The column of their tags.", default="tags")
    group: str = key(Text(), "The column of a group, such as a patient: its records come into one split.", default="")
    labels: tuple[str, ...] = key(
        ListOf(Text()), "The labels or tags in the order of their numbers; any other is an error.", default=()
    )
    label_by_file: dict[str, str] = key(
        MapOf(Text()),
        "Label -> the names of the files whose records have it.",
        default={},
        examples=({"positive": "*.pos", "negative": "*.neg"},),
    )
    on_error: str = key(
        Choice.of("stop", "skip"),
        "What is done at a line that cannot be read: stop, or count and skip it.",
        default="stop",
    )
    max_errors: int = key(Whole(), "How many lines may be skipped.", default=100, source="assumed")
    max_line_mb: int = key(Whole(1, 1024), "The longest line or document that is read, MiB.", default=16)
    mend: bool = key(Flag(), "Whether texts are mended by ftfy and brought to Unicode NFC.", default=True)
    min_chars: int = key(Whole(1), "Records with fewer characters are dropped.", default=1)
    max_chars: int = key(Whole(1), "Records with more characters are dropped.", default=1_000_000)
    languages: tuple[str, ...] = key(
        ListOf(Text("a language", "^[a-z]{2,3}$")),
        "Records in other languages are dropped; codes of ISO 639-1, recognised by py3langid.",
        default=(),
        examples=(["en", "de"],),
    )
    duplicates: str = key(
        Choice.of("near", "exact", "keep"),
        "Which records are dropped as duplicates: those similar to another, those with the same words, or none.",
        default="near",
    )
    similarity: float = key(
        Number(0.3, 1.0),
        "From which Jaccard similarity of their word n-grams two records count as near duplicates.",
        default=0.8,
        source="Lee et al. 2022, Deduplicating Training Data Makes Language Models Better",
    )
    similarity_words: int = key(Whole(1, 13), "How many words these n-grams have.", default=3, source="measured")
    private: str = key(
        Choice.of("keep", "drop", "remove", "pseudonymise"),
        "What is done to private values: nothing, drop their records, put `[EMAIL]` or a pseudonym in their place.",
        default="pseudonymise",
    )
    detectors: tuple[str, ...] = key(
        ListOf(Text("a detector")), "The detectors that find private values; by default all.", default=()
    )
    policy: str | Path | None = key(
        one_of(Text("a built-in policy", convert=_builtin), File()),
        "A policy whose tags name the detectors instead.",
        default=None,
    )
    config: Path | None = key(
        DETECTORS, "A `hybrid.yaml` whose detectors, such as models that find names, are used too.", default=None
    )
    evaluation: Input | None = key(
        DATA,
        "The evaluation set with which no record shall overlap; of a data folder, all splits but `train`.",
        default=None,
    )
    contaminated: str = key(
        Choice.of("report", "drop"), "What is done to records that overlap with it.", default="report"
    )
    overlap_words: int = key(
        Whole(5, 50),
        "How many words in a row two records must share to overlap.",
        default=13,
        source="Brown et al. 2020, Language Models are Few-Shot Learners, appendix C",
    )
    splits: dict[str, float] = key(
        MapOf(percentage(), least=1),
        "The splits and their shares.",
        default=_SHARES,
        examples=({"train": "90%", "test": "10%"},),
    )
    stratify: bool = key(
        Flag(),
        "Whether each split has its share of every label exactly; more data may then move records.",
        default=False,
    )
    balance: bool = key(Flag(), "Whether each split has as many records of every label.", default=False)
    tokenizer: Input | None = key(MODEL, "The model for whose tokenizer texts are packed to blocks.", default=None)
    block_tokens: int = key(Whole(), "Tokens of a block; 0 leaves texts as they are.", default=0)
    licence: str = key(Text(), "The licence of the data, by its SPDX identifier.", default="unknown")

    def run(self, work: Work) -> Outcome:
        """Prepare the data.

        Raises:
            ConfigError: the sources or options are unusable, nothing is left, or the disk is full.
        """
        from hybrid_llm.prepare.data.preparation import Preparation

        return Preparation(self, work).run()
