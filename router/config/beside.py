"""Reads what a `hybrid.yaml` sets beside its backends: recordings, spending, speeds, metrics; each has its record.

Reads `detectors` of a `hybrid.yaml`, the models for names and places; their
records are in `router.privacy.detectors.catalogue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hybrid_llm.policies.language.schema import KNOWN_DETECTORS
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.policies.reader.yamltext import Mapping as Table
from hybrid_llm.policies.reader.yamltext import Scalar, Value
from hybrid_llm.router.config.values import ValueReader, is_address, split_address
from hybrid_llm.router.observability.hooks import Hook
from hybrid_llm.router.privacy.detectors.catalogue import DETECTOR_KINDS, DetectorSpec, NerSpec, PresidioSpec

_LISTEN: Final = "127.0.0.1:9464"
"""Loopback, and the port that OpenTelemetry's exporters for Prometheus use."""


class OwnHook(Hook, Protocol):
    """A hook that a file opened, and that has to be closed."""

    def close(self) -> None:
        """Let go of everything. Twice is once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSpec:
    """Where decisions are recorded, and how much of them is kept."""

    path: Path
    max_mb: int = 64
    keep: int = 2

    def open(self) -> OwnHook:
        """Make the recorder; ConfigError if its folder does not exist."""
        from hybrid_llm.router.observability.recorder import DecisionRecorder

        return DecisionRecorder(self.path, max_bytes=self.max_mb * 1024 * 1024, keep=self.keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSpec:
    """Whether speeds are measured at an eager start and kept at the end, and where; by default in the user's folder."""

    calibrate: bool = False
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSpec:
    """Where Prometheus may read the client's metrics: `HOST:PORT`."""

    listen: str = _LISTEN

    def open(self) -> OwnHook:
        """Listen there; ConfigError if the port is in use, or the extra is missing."""
        from hybrid_llm.router.observability.prometheus import PrometheusMetrics

        host, port = split_address(self.listen)
        metrics = PrometheusMetrics.alone()
        metrics.serve(host, port)
        return metrics


class BesideReader(ValueReader):
    """Turns these tables into records."""

    def _metrics(self, table: Table | None) -> MetricsSpec | None:
        if table is None:
            return None
        self._known(table, {"listen"})
        listen = self._text(table, "listen", _LISTEN)
        if not is_address(listen):
            self._faults.add(f"`listen: {listen}` is not HOST:PORT", table.offset, f"such as {_LISTEN}")
        return MetricsSpec(listen=listen)

    def _prediction(self, table: Table | None) -> PredictionSpec:
        if table is None:
            return PredictionSpec()
        self._known(table, {"calibrate", "folder"})
        wanted, folder = self._one_of(table, "calibrate", ("never", "auto")), self._text(table, "folder", "")
        return PredictionSpec(calibrate=wanted == "auto", folder=self._beside(folder) if folder else None)

    def _spend(self, table: Table | None) -> Path | None:
        if table is None:
            return None
        self._known(table, {"file"})
        return self._beside(self._needed(table, "file"))

    def _record(self, table: Table | None) -> RecordSpec | None:
        if table is None:
            return None
        self._known(table, {"path", "max_mb", "keep"})
        max_mb, keep = int(self._number(table, "max_mb", 64)), int(self._number(table, "keep", 2))
        if max_mb < 1:
            self._faults.add("`max_mb` is at least 1", table.offset)
        return RecordSpec(path=self._beside(self._needed(table, "path")), max_mb=max_mb, keep=keep)


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
