"""What watches a node's calls beside its log, if asked for: OpenTelemetry, Prometheus metrics and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, Self

from hybrid_llm.backends.wire.handshake import Address
from hybrid_llm.core.tracebacks import guarded

if TYPE_CHECKING:
    from hybrid_llm.backends.audit.spec import AuditSpec
    from hybrid_llm.backends.node.audit import NodeAudit
    from hybrid_llm.backends.node.engine import Engine
    from hybrid_llm.backends.node.metrics import NodeMetrics
    from hybrid_llm.backends.node.telemetry import CallReport, NodeTelemetry
    from hybrid_llm.core.telemetry import TelemetrySpec


class Reporter(Protocol):
    """Gets a report of each call that is over."""

    def take(self, call: CallReport) -> None:
        """Handle *call*; it is called in the event loop, and must be fast."""
        ...

    def close(self) -> None:
        """Release everything. Idempotent."""
        ...


class Observers:
    """The observers of one node, which owns them."""

    def __init__(self) -> None:
        self.audit: NodeAudit | None = None
        """The audit log, or None."""
        self._reporters: list[Reporter] = []
        self._opened: Final = ExitStack()

    @classmethod
    def open(
        cls,
        engine: Engine,
        *,
        telemetry: TelemetrySpec | None,
        metrics: str | None,
        audit: AuditSpec | None,
        version: str,
        expiries: Callable[[], Mapping[str, float]],
        quota_failures: Callable[[], int],
    ) -> Self:
        """Open what is asked for; *expiries* and *quota_failures* are as `NodeStatus` has them.

        Raises:
            ConfigError: one cannot be opened; those before it are closed again.
        """
        observers = cls()
        with ExitStack() as undo:
            undo.callback(observers.close)
            if audit is not None:
                observers.audit = _open_audit(audit)
                observers._opened.callback(observers.audit.writer.close)
            observers._add(_open_telemetry(telemetry, version))
            observers._add(_open_metrics(metrics, engine, observers, expiries, quota_failures))
            undo.pop_all()
        return observers

    def _add(self, reporter: Reporter | None) -> None:
        if reporter is not None:
            self._reporters.append(reporter)
            self._opened.callback(reporter.close)

    def report(self, make: Callable[[], CallReport]) -> None:
        """Report a call that is over; nothing that goes wrong here reaches the call."""
        if self._reporters:
            guarded(partial(self._report, make), "reporting a call")

    def _report(self, make: Callable[[], CallReport]) -> None:
        call = make()
        for reporter in self._reporters:
            guarded(partial(reporter.take, call), f"reporting a call to {type(reporter).__name__}")

    def close(self) -> None:
        """Close all, the audit log last. Idempotent."""
        self._opened.close()


def _open_audit(spec: AuditSpec) -> NodeAudit:
    from hybrid_llm.backends.node.audit import NodeAudit

    return NodeAudit(spec.open())


def _open_telemetry(spec: TelemetrySpec | None, version: str) -> NodeTelemetry | None:
    telemetry = spec.open("hybrid-llm-node") if spec is not None else None
    if telemetry is None:
        return None
    from hybrid_llm.backends.node.telemetry import NodeTelemetry

    return NodeTelemetry(telemetry, version=version)


def _open_metrics(
    listen: str | None,
    engine: Engine,
    observers: Observers,
    expiries: Callable[[], Mapping[str, float]],
    quota_failures: Callable[[], int],
) -> NodeMetrics | None:
    if listen is None:
        return None
    from hybrid_llm.backends.node.metrics import NodeMetrics, NodeStatus

    def status() -> NodeStatus:
        audit = observers.audit
        return NodeStatus(
            audit_lost=audit.writer.lost if audit is not None else 0,
            quota_failures=quota_failures(),
            expiries=expiries(),
        )

    address = Address.parse(listen, lowest_port=0)
    metrics = NodeMetrics(engine, status)
    metrics.serve(address.host, address.port)
    return metrics
