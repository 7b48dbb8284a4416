"""Reads what a `hybrid.yaml` sets beside its backends: recordings, spending, speeds, metrics; each has its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hybrid_llm.policies.yamltext import Mapping as Table
from hybrid_llm.router.config.values import ValueReader, is_address, split_address
from hybrid_llm.router.hooks import Hook

__all__ = ["BesideReader", "MetricsSpec", "OwnHook", "PredictionSpec", "RecordSpec"]

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
        from hybrid_llm.router.recording.recorder import DecisionRecorder

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
        from hybrid_llm.router.metrics import PrometheusMetrics

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
