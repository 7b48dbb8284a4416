"""Reads `detectors` of a `hybrid.yaml`, the models for names and places; `router.detectors.specs` has their records."""

from __future__ import annotations

from hybrid_llm.policies.schema import KNOWN_DETECTORS
from hybrid_llm.policies.source import did_you_mean
from hybrid_llm.policies.yamltext import Mapping as Table
from hybrid_llm.policies.yamltext import Scalar, Value
from hybrid_llm.router.config.values import ValueReader
from hybrid_llm.router.detectors.specs import DETECTOR_KINDS, DetectorSpec, NerSpec, PresidioSpec

__all__ = ["DetectorReader"]


class DetectorReader(ValueReader):
    """Turns the table `detectors` into records."""

    def _detectors(self, table: Table) -> tuple[DetectorSpec, ...]:
        detectors = self._table(table, "detectors")
        specs = [self._detector(entry.key, entry.value) for entry in detectors.entries] if detectors is not None else []
        return tuple(spec for spec in specs if spec is not None)

    def _detector(self, name: Scalar, value: Value) -> DetectorSpec | None:
        if not isinstance(value, Table):
            self._faults.add("a detector is a table", name.offset, "such as {kind: ner, model: ner/}")
            return None
        if name.text in KNOWN_DETECTORS:
            self._faults.add(f"`{name.text}` is one of the library's own detectors", name.offset, "choose another name")
        kind, labels = self._text(value, "kind", ""), self._pairs(value, "labels")
        score = self._number(value, "min_score", 0.5)
        if score > 1:
            self._faults.add("`min_score` is a number from 0 to 1", value.offset)
        if kind not in DETECTOR_KINDS:
            hint = did_you_mean(kind, DETECTOR_KINDS)
            self._faults.add(f"`kind: {kind}` is not a kind of detector", value.offset, hint)
            return None
        if kind == "ner":
            self._known(value, {"kind", "model", "labels", "min_score"})
            model = self._beside(self._needed(value, "model"))
            return NerSpec(name=name.text, model=model, labels=labels, min_score=score)
        self._known(value, {"kind", "model", "labels", "min_score", "language"})
        return PresidioSpec(
            name=name.text,
            model=self._needed(value, "model"),
            labels=labels,
            min_score=score,
            language=self._text(value, "language", "en"),
        )

    def _pairs(self, table: Table, key: str) -> dict[str, str]:
        pairs = self._table(table, key)
        return {} if pairs is None else {e.key.text: self._needed(pairs, e.key.text) for e in pairs.entries}
