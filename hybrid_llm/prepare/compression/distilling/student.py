"""The student: an existing model, or the parts of the teacher that matter most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hybrid_llm.prepare.compression.examples import Example, blocks, labelled, padded
from hybrid_llm.prepare.compression.folders import Kind, open_model, trainable_kind
from hybrid_llm.prepare.compression.pruning.anatomy import Size
from hybrid_llm.prepare.compression.pruning.cut import check_size, choose_kept, cut
from hybrid_llm.prepare.compression.pruning.importance import Measure, measure_importance
from hybrid_llm.prepare.compression.pruning.refit import refit
from hybrid_llm.prepare.hub_folder import HubFolder

_MEASURED: Final = 32
"""Examples that show which parts of the teacher matter."""
_TOGETHER: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A model that learns.

    Attributes:
        source: the folder whose tokenizer and chat files it has.
    """

    model: Any
    kind: Kind
    source: Path

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a classifier."""
        return HubFolder.open(self.source).labels

    def examples(self, data: Path, length: int, limit: int) -> list[Example]:
        """What it learns from in *data*."""
        if self.kind is Kind.DECODER:
            return blocks(data, self.source, length, limit)
        return labelled(data, self.source, self.labels, length, limit)

    def smaller(self, parts: Mapping[str, int], data: Path, length: int) -> Student:
        """A student of this one's most important parts: *parts* has how many layers, groups, inner and width stay.

        Raises:
            ConfigError: this one has fewer, or they do not go together.
        """
        size = replace(Size.of(self.model), **parts)
        check_size(self.model, size)
        examples = self.examples(data, length, _MEASURED)
        rows = [[each.ids for each in examples[i : i + _TOGETHER]] for i in range(0, len(examples), _TOGETHER)]
        batches = [padded(each) for each in rows]
        importance = measure_importance(self.model, Measure.ACTIVATIONS, batches, _read)
        kept = choose_kept(importance, size)
        model = cut(self.model, kept)
        refit(self.model, model, kept, batches)
        return replace(self, model=model)


def open_student(source: Path) -> Student:
    """The model of a Hugging Face folder.

    Raises:
        ConfigError: it cannot be opened.
    """
    return Student(model=open_model(source), kind=trainable_kind(source), source=source)


def _read(model: Any, batch: tuple[Any, Any]) -> None:
    model(input_ids=batch[0], attention_mask=batch[1])
