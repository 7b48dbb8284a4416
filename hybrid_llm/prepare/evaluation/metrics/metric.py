"""What a metric is: numbers of each item, and a function from their sum to the figure.

Since the numbers of items add up, the figure of any selection of items costs one sum: that makes the bootstrap cheap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.core.registry import Registry
from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.labels import BINS
from hybrid_llm.prepare.evaluation.metrics.text import exact_match, json_equal, json_valid, token_f1

Numbers = NDArray[np.float64]
"""One row for each item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a metric knows of the task: its labels, and the schema of its answers."""

    labels: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None


class Metric(Protocol):
    """One metric.

    Attributes:
        scale: the figure of a perfect answer, by which the figure is divided to be a quality from 0 to 1; 0 if it has
            no such bound.
        higher: whether more is better.
    """

    scale: float
    higher: bool

    def numbers(self, items: Sequence[Item], answers: Sequence[Answer], setting: Setting) -> Numbers:
        """The numbers of each item, shape (items, any)."""

    def figure(self, total: Numbers) -> float:
        """The figure of items whose numbers add up to *total*; NaN if there is none."""


class ItemMean:
    """The mean of a score from 0 to 1 of each item; no answer scores 0."""

    scale: Final = 1.0
    higher: Final = True

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:
        """The score of one item that was answered."""
        raise NotImplementedError

    def numbers(self, items: Sequence[Item], answers: Sequence[Answer], setting: Setting) -> Numbers:
        """The score, and 1 to count with."""
        pairs = zip(items, answers, strict=True)
        scores = [0.0 if answer.error else self.score(item, answer, setting) for item, answer in pairs]
        return np.array([[score, 1.0] for score in scores])

    def figure(self, total: Numbers) -> float:
        """The mean."""
        return _ratio(total[0], total[1])


class Accuracy(ItemMean):
    """The share of items with the right label or choice."""

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:  # noqa: ARG002
        """1 if it is right."""
        return float(answer.text in item.references)


class AccuracyByLength(ItemMean):
    """The share of items whose choice with the highest log-probability by byte is right, as `acc_norm` of lm-eval."""

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:  # noqa: ARG002
        """1 if it is right."""
        return float(answer.values["by_length"] == item.gold)


class ExactMatch(ItemMean):
    """The share of answers that are a reference, as SQuAD normalises both."""

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:  # noqa: ARG002
        """1 if it is one."""
        return exact_match(answer.text, item.references)


class Verbatim(ItemMean):
    """The share of answers that are a reference in every character, but for white space around them."""

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:  # noqa: ARG002
        """1 if it is one."""
        return float(answer.text.strip() in {each.strip() for each in item.references})


class JsonEqual(ItemMean):
    """The share of answers that are the same JSON value as a reference, whatever the order of its keys."""

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:  # noqa: ARG002
        """1 if it is one."""
        return json_equal(answer.text, item.references)


class TokenF1(ItemMean):
    """The mean F1 of the words of answer and reference, as of SQuAD."""

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:  # noqa: ARG002
        """Of the best reference."""
        return token_f1(answer.text, item.references)


class JsonValid(ItemMean):
    """The share of answers that are JSON, and follow the schema of the task where it has one."""

    def score(self, item: Item, answer: Answer, setting: Setting) -> float:  # noqa: ARG002
        """1 if it is valid."""
        return json_valid(answer.text, setting.schema)


class F1:
    """F1 of the labels: their mean, or over all decisions together."""

    scale: Final = 1.0
    higher: Final = True

    def __init__(self, *, macro: bool) -> None:
        self._macro = macro

    def numbers(self, items: Sequence[Item], answers: Sequence[Answer], setting: Setting) -> Numbers:
        """For each label whether it holds, was predicted, and both."""
        columns = {label: number for number, label in enumerate(setting.labels)}
        found = np.zeros((len(items), 3, len(columns)))
        for row, item, answer in zip(found, items, answers, strict=True):
            row[0, columns[item.references[0]]] = 1.0
            if not answer.error and answer.text in columns:
                row[1, columns[answer.text]] = 1.0
        found[:, 2] = found[:, 0] * found[:, 1]
        return found.reshape(len(items), -1)

    def figure(self, total: Numbers) -> float:
        """F1; 0 for a label that neither holds nor was predicted."""
        holds, predicted, both = total.reshape(3, -1)
        if not self._macro:
            return _ratio(2 * both.sum(), holds.sum() + predicted.sum())
        either = holds + predicted
        return float(np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0).mean())


class CalibrationError:
    """The expected calibration error of the labels' probabilities; items without one do not count."""

    scale: Final = 0.0
    higher: Final = False

    def numbers(self, items: Sequence[Item], answers: Sequence[Answer], setting: Setting) -> Numbers:  # noqa: ARG002
        """In the column of the item's bin: 1, the probability, and whether the label is right."""
        found = np.zeros((len(items), 3, BINS))
        for row, item, answer in zip(found, items, answers, strict=True):
            if answer.score is not None and not answer.error:
                column = min(BINS - 1, max(0, math.ceil(answer.score * BINS) - 1))
                row[:, column] = 1.0, answer.score, float(answer.text in item.references)
        return found.reshape(len(items), -1)

    def figure(self, total: Numbers) -> float:
        """The mean gap of probability and accuracy, by bin."""
        count, confidence, right = total.reshape(3, -1)
        return _ratio(np.abs(confidence - right).sum(), count.sum())


class PerplexityByToken:
    """The perplexity by token; items without tokens do not count."""

    scale: Final = 0.0
    higher: Final = False

    def numbers(self, items: Sequence[Item], answers: Sequence[Answer], setting: Setting) -> Numbers:  # noqa: ARG002
        """Nats, tokens and bytes."""
        rows = [[answer.values.get(name, 0.0) for name in ("nats", "tokens", "bytes")] for answer in answers]
        return np.array(rows)

    def figure(self, total: Numbers) -> float:
        """`exp(nats / tokens)`."""
        return float(np.exp(_ratio(total[0], total[1])))


class BitsPerByte(PerplexityByToken):
    """Bits per byte; items without tokens do not count."""

    def figure(self, total: Numbers) -> float:
        """`nats / ln 2 / bytes`."""
        return _ratio(total[0], total[2]) / math.log(2)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


_TEXT: Final = "hybrid_llm.prepare.evaluation.metrics.translation"
METRICS: Final[Registry[Metric]] = Registry(
    "metric",
    group="hybrid_llm.metrics",
    builtin={
        "bleu": f"{_TEXT}:BLEU",
        "chrf": f"{_TEXT}:CHRF",
        **{name: f"{_TEXT}:{name.upper()}" for name in ("rouge1", "rouge2", "rougel")},
        **{
            name: f"hybrid_llm.prepare.evaluation.metrics.metric:{name.upper()}"
            for name in (
                "accuracy",
                "accuracy_by_length",
                "bits_per_byte",
                "calibration_error",
                "exact_match",
                "f1_macro",
                "f1_micro",
                "json_equal",
                "json_valid",
                "perplexity",
                "token_f1",
                "verbatim",
            )
        },
    },
)
"""Name -> metric."""
ACCURACY: Final = Accuracy()
ACCURACY_BY_LENGTH: Final = AccuracyByLength()
BITS_PER_BYTE: Final = BitsPerByte()
CALIBRATION_ERROR: Final = CalibrationError()
EXACT_MATCH: Final = ExactMatch()
F1_MACRO: Final = F1(macro=True)
F1_MICRO: Final = F1(macro=False)
JSON_EQUAL: Final = JsonEqual()
JSON_VALID: Final = JsonValid()
PERPLEXITY: Final = PerplexityByToken()
TOKEN_F1: Final = TokenF1()
VERBATIM: Final = Verbatim()
