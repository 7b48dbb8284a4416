"""What a classifier of texts makes of them: of a Hugging Face folder by torch, of an encoder folder by ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.lifetime import native
from hybrid_llm.prepare.evaluation.folders import open_folder
from hybrid_llm.prepare.evaluation.metrics.labels import Confusion, confusion

_TOGETHER: Final = 16
"""Texts that torch reads at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The likeliest label of a text, and its probability."""

    label: str
    score: float


class Classifier(Protocol):
    """A classifier of texts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it knows."""

    def classify(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """The predictions for *texts*, in order."""


def open_classifier(folder: Path) -> Classifier:
    """Open the classifier in *folder*: with `model.onnx` an encoder folder, else a Hugging Face folder.

    Raises:
        ConfigError: it holds no classifier of texts, or a library is missing.
    """
    if (folder / "model.onnx").is_file():
        return OnnxClassifier(folder)
    if (folder / "config.json").is_file():
        return TorchClassifier(*open_folder(folder, "AutoModelForSequenceClassification", "classifier"))
    raise ConfigError(f"{folder} is no classifier: it has neither model.onnx nor config.json", path=str(folder))


class OnnxClassifier:
    """A classifier as the device runs it: a text of any length is read in windows."""

    def __init__(self, folder: Path) -> None:
        """Open *folder*; ConfigError if it holds no classifier of texts."""
        from hybrid_llm.backends.encoder.files import ModelFiles
        from hybrid_llm.backends.encoder.model import Encoder

        self._encoder = Encoder(ModelFiles.in_folder(folder))
        if self._encoder.rank != 2:
            raise ConfigError(f"{folder} classifies tokens, not texts", path=str(folder))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it knows."""
        return tuple(self._encoder.labels)

    def classify(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """The predictions for *texts*, in order."""
        from hybrid_llm.backends.encoder.classifiers import text_shares

        for text in texts:
            logs = text_shares(self._encoder, self._encoder.windows(text))
            best = max(range(len(logs)), key=logs.__getitem__)
            yield Prediction(label=self.labels[best], score=math.exp(logs[best]))


class TorchClassifier:
    """A classifier of transformers: what does not fit its window is cut off."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it knows."""
        return tuple(label for _, label in sorted(self._model.config.id2label.items()))

    def classify(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """The predictions for *texts*, in order."""
        import torch

        most = min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings)
        for start in range(0, len(texts), _TOGETHER):
            batch = list(texts[start : start + _TOGETHER])
            inputs = self._tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=most)
            with torch.inference_mode(), native:
                scores, best = self._model(**inputs.to(self._model.device)).logits.float().softmax(dim=-1).max(dim=-1)
            for score, number in zip(scores.tolist(), best.tolist(), strict=True):
                yield Prediction(label=self.labels[number], score=score)


def classification(model: Path | Classifier, texts: Sequence[str], gold: Sequence[str]) -> Confusion:
    """Classify *texts* and count the predictions against *gold*: `.accuracy`, `.f1_macro` and so on.

    Raises:
        ConfigError: the folder is unusable, or a label of *gold* is none that the model knows.
    """
    classifier = open_classifier(model) if isinstance(model, Path) else model
    if unknown := set(gold) - set(classifier.labels):
        known = ", ".join(classifier.labels)
        raise ConfigError(f"{len(unknown)} labels of the data are none of the model, which knows: {known}")
    predicted = [each.label for each in classifier.classify(texts)]
    return confusion(gold, predicted, classifier.labels)
