"""The detectors that a `hybrid.yaml` names: what is written there, and how it becomes a detector.

detectors:
  names: {kind: ner, model: ner/, labels: {PER: person_name, LOC: place}, min_score: 0.5}
  more:  {kind: presidio, model: en_core_web_sm, labels: {PERSON: person_name}, language: en}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hybrid_llm.core.protocols import Detector


DETECTOR_KINDS: Final = ("ner", "presidio")


@dataclass(frozen=True, slots=True, kw_only=True)
class NerSpec:
    """A detector of kind `ner`: the folder of a model, and which labels are which kinds (empty: all)."""

    name: str
    model: Path
    labels: Mapping[str, str] = field(default_factory=dict)
    min_score: float = 0.5

    def open(self) -> Detector:
        """Load the model; ConfigError if its folder is wrong."""
        from hybrid_llm.router.privacy.detectors.ner import NerDetector

        return NerDetector(self.model, name=self.name, labels=self.labels or None, min_score=self.min_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresidioSpec:
    """A detector of kind `presidio`: a spaCy package or folder, and which entities are which kinds (empty: all)."""

    name: str
    model: str
    labels: Mapping[str, str] = field(default_factory=dict)
    language: str = "en"
    min_score: float = 0.5

    def open(self) -> Detector:
        """Make the analyzer; ConfigError if Presidio or the model is not installed."""
        from hybrid_llm.router.privacy.detectors.presidio import PresidioDetector

        return PresidioDetector.with_model(
            self.model, name=self.name, kinds=self.labels or None, language=self.language, min_score=self.min_score
        )


DetectorSpec = NerSpec | PresidioSpec
