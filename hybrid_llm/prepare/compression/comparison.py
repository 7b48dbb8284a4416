"""What a step changed: cost and quality of the model before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.folders import kind_of
from hybrid_llm.prepare.compression.measure import measure
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat

_SPLITS: Final = ("test", "validation", "train")
_WINDOW: Final = 256
"""Tokens that a generator reads at once for its perplexity."""


def figures(folder: Path, data: Path | None, limit: int) -> Mapping[str, float]:
    """Size, speed and peak memory of the model in *folder*, and its quality on at most *limit* records of *data*.

    Without *data* there is no quality.

    Raises:
        ConfigError: the model does not run, or the data does not fit it.
    """
    cost = measure(folder).as_metrics()
    return cost if data is None else {**cost, **quality(folder, data, limit)}


def quality(folder: Path, data: Path, limit: int) -> Mapping[str, float]:
    """The perplexity of a generator on texts or conversations, or accuracy and F1 of a classifier on labelled texts.

    The split is `test` where the data has it, else `validation`, else `train`.

    Raises:
        ConfigError: the data does not fit the model, or is empty.
    """
    opened = DataFolder.open(data)
    split = evaluation_split(opened)
    records = list(islice(opened.records(split), limit))
    if not records:
        raise ConfigError(f"the split `{split}` of {data} is empty: there is nothing to evaluate on", path=str(data))
    if kind_of(folder).generates:
        return _perplexity(folder, list(texts_of(opened, records)))
    return _accuracy(folder, opened, records)


def evaluation_split(data: DataFolder) -> str:
    """The split that models are evaluated on."""
    return next((name for name in _SPLITS if data.card.splits.get(name)), next(iter(data.card.splits), "train"))


def texts_of(data: DataFolder, records: list[dict[str, Any]]) -> Iterator[str]:
    """The texts of *records*; of a conversation the contents of its messages.

    Raises:
        ConfigError: the records have no texts.
    """
    match data.card.format:
        case DataFormat.TEXT | DataFormat.LABELLED:
            yield from (record["text"] for record in records)
        case DataFormat.CHAT:
            yield from ("\n".join(turn["content"] for turn in record["messages"]) for record in records)
        case other:
            message = f"{data.path} holds {other}: expected texts, labelled texts or conversations"
            raise ConfigError(message, path=str(data.path))


def _perplexity(folder: Path, texts: list[str]) -> Mapping[str, float]:
    from hybrid_llm.prepare.evaluation.decoders import open_scorer
    from hybrid_llm.prepare.evaluation.perplexity import perplexity

    scorer = open_scorer(folder)
    try:
        found = perplexity(scorer, texts, window=min(_WINDOW, scorer.window))
    finally:
        scorer.close()
    return {"perplexity": round(found.per_token, 4), "bits_per_byte": round(found.per_byte, 5)}


def _accuracy(folder: Path, data: DataFolder, records: list[dict[str, Any]]) -> Mapping[str, float]:
    from hybrid_llm.prepare.evaluation.classifiers import classification

    if data.card.format is not DataFormat.LABELLED:
        message = f"{data.path} holds {data.card.format}: a classifier needs labelled texts"
        raise ConfigError(message, path=str(data.path))
    found = classification(folder, [record["text"] for record in records], [record["label"] for record in records])
    return {"accuracy": round(found.accuracy, 5), "f1_macro": round(found.f1_macro, 5)}
