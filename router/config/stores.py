"""What a client writes down while it runs, and where: the small sections of `hybrid.yaml`, and the hooks they open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hybrid_llm.backends.audit.spec import AuditSpec
from hybrid_llm.core import fields
from hybrid_llm.core.database import DatabaseAddress
from hybrid_llm.core.database.keys import DATABASE
from hybrid_llm.core.fields import key
from hybrid_llm.core.telemetry import TelemetrySpec
from hybrid_llm.router.observability.hooks import Hook

if TYPE_CHECKING:
    from hybrid_llm.core.telemetry import Telemetry


class ClosableHook(Hook, Protocol):
    """A hook that a file opened, and that has to be closed."""

    def close(self) -> None:
        """Release everything. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSpec:
    """Decisions are recorded without any text of a request, for `policy diff` and `explain`."""

    path: Path = key(fields.File(), "The recording; its folder must exist.")
    max_mb: int = key(fields.Whole(1, 1_000_000), "Maximum size of one file, MiB.", default=64)
    keep: int = key(fields.Whole(0, 10_000), "Older files that stay.", default=2)

    def open(self) -> ClosableHook:
        """Make the recorder; ConfigError if its folder does not exist."""
        from hybrid_llm.router.observability.recorder import DecisionRecorder

        return DecisionRecorder(self.path, max_bytes=self.max_mb * 1024 * 1024, keep=self.keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSpec:
    """What latency predictors learnt is stored when the client closes."""

    calibrate: bool = key(
        fields.Choice({"never": False, "auto": True}),
        "`auto` measures an eager backend of the device at its first start, and stores the prediction.",
        default=False,
    )
    folder: Path | None = key(
        fields.File("the path of a folder"),
        "Where predictions are stored; by default in the user's folder for state.",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSpec:
    """The client's metrics are served for Prometheus."""

    # Loopback, and the port that OpenTelemetry's exporters for Prometheus use.
    listen: str = key(fields.ADDRESS, "The address at which Prometheus reads the metrics.", default="127.0.0.1:9464")

    def open(self) -> ClosableHook:
        """Listen there; ConfigError if the port is in use or the extra is not installed."""
        from hybrid_llm.backends.wire.handshake import Address
        from hybrid_llm.router.observability.prometheus import PrometheusMetrics

        address = Address.parse(self.listen)
        metrics = PrometheusMetrics.alone()
        metrics.serve(address.host, address.port)
        return metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendSpec:
    """Spending is stored, so that it outlives the client."""

    file: DatabaseAddress = key(DATABASE, "The SQLite file, or a PostgreSQL database that machines share.")


def reporting(telemetry: Telemetry, spec: TelemetrySpec) -> ClosableHook:
    """A hook that reports to *telemetry* what *spec* asks for, and closes it."""
    from hybrid_llm.router.observability.otel import OpenTelemetryHook

    return OpenTelemetryHook.owning(telemetry, names=spec.names, include=spec.include)


def auditing(spec: AuditSpec) -> ClosableHook:
    """A hook that writes the audit log of *spec*."""
    from hybrid_llm.router.observability.audit import AuditHook

    return AuditHook(spec.open())
