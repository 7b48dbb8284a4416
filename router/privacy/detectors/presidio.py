"""Presidio (https://github.com/microsoft/presidio) as a detector: its recognizers, and the model that they use.

Presidio itself downloads a missing spaCy model. Here a missing model is an error that says how to install it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.protocols import Finding


class Found(Protocol):
    """One result of an analyzer: Presidio's `RecognizerResult`."""

    entity_type: str
    start: int
    end: int


class Analyzer(Protocol):
    """The only method of Presidio's `AnalyzerEngine` that is used."""

    def analyze(
        self, text: str, language: str, entities: list[str] | None = None, score_threshold: float | None = None
    ) -> Sequence[Found]:
        """The results for *text*."""
        ...


class PresidioDetector:
    """Finds what a Presidio analyzer finds.

    PresidioDetector(AnalyzerEngine(...), kinds={"PERSON": "person_name", "LOCATION": "location"})
    PresidioDetector.with_model("en_core_web_sm", kinds={"PERSON": "person_name"})
    """

    def __init__(
        self,
        analyzer: Analyzer,
        *,
        name: str = "names",
        kinds: Mapping[str, str] | None = None,
        language: str = "en",
        min_score: float = 0.5,
    ) -> None:
        """Use *analyzer*, which the app made.

        Args:
            analyzer: An `AnalyzerEngine`, or anything with its `analyze`.
            name: The name that a policy's `detect` uses.
            kinds: Entity of Presidio -> kind of the findings; others are not searched for. Default: all entities.
            language: The language code of the text.
            min_score: The least score to report, 0 to 1.
        """
        self.name = name
        self._analyzer = analyzer
        self._kinds = dict(kinds) if kinds is not None else None
        self._language = language
        self._min_score = min_score

    @classmethod
    def with_model(
        cls,
        model: str | Path,
        *,
        name: str = "names",
        kinds: Mapping[str, str] | None = None,
        language: str = "en",
        min_score: float = 0.5,
    ) -> PresidioDetector:
        """Create the analyzer, with an installed spaCy package or a folder as *model*.

        Raises:
            ConfigError: Presidio or the model is not installed; nothing is downloaded.
        """
        analyzer = _analyzer(str(model), language)
        return cls(analyzer, name=name, kinds=kinds, language=language, min_score=min_score)

    def find(self, text: str) -> Iterator[Finding]:
        """Yield the analyzer's results, in order."""
        entities = None if self._kinds is None else list(self._kinds)
        results = self._analyzer.analyze(
            text=text, language=self._language, entities=entities, score_threshold=self._min_score
        )
        for result in sorted(results, key=lambda result: (result.start, -result.end)):
            kind = result.entity_type.lower() if self._kinds is None else self._kinds.get(result.entity_type)
            if kind is not None and result.start < result.end:
                yield Finding(kind=kind, start=result.start, end=result.end)


def _analyzer(model: str, language: str) -> Any:
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError:
        raise ConfigError("Presidio is not installed: pip install 'hybrid-llm[presidio]'") from None
    if not spacy.util.is_package(model) and not Path(model).is_dir():
        raise ConfigError(
            f"the spaCy model {model!r} is neither installed nor a folder: python -m spacy download {model}"
        )
    settings = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": model}]}
    engine = NlpEngineProvider(nlp_configuration=settings).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=[language])
