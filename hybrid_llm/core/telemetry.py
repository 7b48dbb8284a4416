"""Where OpenTelemetry reports go: the keys of `telemetry` in a file, and the SDK's providers that they describe.

OpenTelemetry is imported by `open`, and not before. What a file leaves out is read from the SDK's own variables, such
as `OTEL_EXPORTER_OTLP_ENDPOINT`; without any, the collector is that of this machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.fields import Choice, Flag, ListOf, MapOf, Text, key, one_of, percentage
from hybrid_llm.core.hosts import canonical_host, is_this_machine
from hybrid_llm.core.secret import Secret, secret_table, without_credentials
from hybrid_llm.core.threads import in_thread_or_here

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import TracerProvider

Names = Literal["new", "old", "both"]
"""Which names of the conventions are used: those of `semantic-conventions-genai`, those before them, or both."""
Detail = Literal["because", "privacy", "request_id", "session", "task", "tenant"]
"""What spans may have beside counts, times and names of a configuration."""
NAMES: Final[tuple[Names, ...]] = get_args(Names)
DETAILS: Final[frozenset[Detail]] = frozenset(get_args(Detail))
CLOSE_S: Final = 3.0
"""For so long closing waits until what is left has been exported, seconds."""
_LOCAL: Final = "http://localhost:4318"
_PATHS: Final[Mapping[str, str]] = {"TRACES": "v1/traces", "METRICS": "v1/metrics"}


def _url(text: str) -> str:
    """*text*, if it is the URL of a collector; ValueError with what is wrong with it."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment or parts.query:
        raise ValueError(f"`{text}` is no URL of a collector, such as http://127.0.0.1:4318")
    canonical_host(parts.hostname)
    _ = parts.port  # ValueError if it is none
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySpec(Checked):
    """Traces and metrics for OpenTelemetry; no text of a request or an answer is in them."""

    exporter: Literal["otlp", "console"] = key(
        Choice.of("otlp", "console"), "`otlp` sends them to a collector over HTTP, `console` prints them on stderr."
    )
    endpoint: str | None = key(
        Text("a URL", r"^https?://", _url),
        "The collector, without `/v1/traces`; else that of `OTEL_EXPORTER_OTLP_ENDPOINT`, or this machine's.",
        default=None,
        examples=("http://127.0.0.1:4318",),
    )
    headers: Mapping[str, str | Secret] = key(
        MapOf(one_of(Text("a text"), secret_table("the value of a header", "Where the value is found."))),
        "Headers of each export; a secret as `{env: NAME}` or `{file: PATH}`.",
        default=MappingProxyType({}),
    )
    sample: float | None = key(
        percentage(), "The share of new traces; a caller's trace goes on as the caller chose.", default=None
    )
    names: Names = key(
        Choice.of(*NAMES),
        "Metrics and attributes by their new names, the old ones, or both.",
        default="new",
    )
    include: tuple[Detail, ...] = key(
        ListOf(Choice.of(*sorted(DETAILS))),
        "What spans have besides, of what a policy or an app has written.",
        default=(),
    )
    insecure: bool = key(Flag(), "Allow plain HTTP to another machine.", default=False)

    def open(self, service: str = "hybrid-llm") -> Telemetry | None:
        """Make the providers, which start their threads; None if `OTEL_SDK_DISABLED` is set.

        *service* is the name of the service, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` has another.

        Raises:
            ConfigError: the extra is not installed, a secret is missing, or the collector would get plain text.
        """
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return None
        require_sdk()
        if self.exporter == "console":
            return _to_console(_resource(service), self._sampler())
        endpoints = {signal: self._checked(self._endpoint_of(signal)) for signal in _PATHS}
        headers = {
            name: value if isinstance(value, str) else value.read("telemetry.headers")
            for name, value in self.headers.items()
        }
        return _to_collector(_resource(service), self._sampler(), endpoints, headers)

    def _sampler(self) -> Sampler | None:
        """None for what `OTEL_TRACES_SAMPLER` says."""
        if self.sample is None:
            return None
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        return ParentBasedTraceIdRatio(self.sample)

    def _endpoint_of(self, signal: str) -> str:
        named = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") if self.endpoint is None else None
        base = self.endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or _LOCAL
        return named or f"{base.rstrip('/')}/{_PATHS[signal]}"

    def _checked(self, endpoint: str) -> str:
        try:
            parts = urlsplit(_url(endpoint))
        except ValueError as error:
            raise ConfigError(f"telemetry: {error}") from None
        if parts.scheme == "http" and not (self.insecure or is_this_machine(parts.hostname or "")):
            remedy = "use https, or `insecure: true` (`serve --otlp-insecure`) where the network itself is encrypted"
            raise ConfigError(f"telemetry: {without_credentials(endpoint)} would get reports in the clear; {remedy}")
        return endpoint


def require_sdk() -> None:
    """Raise ConfigError with the command to install what is missing of OpenTelemetry."""
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        raise ConfigError(f"telemetry needs OpenTelemetry: {install_hint('otel')}") from None


class Telemetry:
    """The providers of one client or node, which nobody else uses."""

    def __init__(self, tracer_provider: TracerProvider, meter_provider: MeterProvider) -> None:
        self.tracer_provider: Final = tracer_provider
        self.meter_provider: Final = meter_provider
        self._closed = False

    def close(self) -> None:
        """Export what is left, for at most `CLOSE_S` seconds. Idempotent."""
        if self._closed:
            return
        self._closed = True
        providers: tuple[Any, ...] = (self.tracer_provider, self.meter_provider)
        wait([in_thread_or_here("hybrid-llm-telemetry", each.shutdown) for each in providers], CLOSE_S)


def _resource(service: str) -> Resource:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    found = Resource.create()  # what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say
    named = not str(found.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service")
    return found if named else found.merge(Resource({SERVICE_NAME: service}))


def _to_console(resource: Resource, sampler: Sampler | None) -> Telemetry:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return _telemetry(resource, sampler, ConsoleSpanExporter(out=sys.stderr), ConsoleMetricExporter(out=sys.stderr))


def _to_collector(
    resource: Resource, sampler: Sampler | None, endpoints: Mapping[str, str], headers: Mapping[str, str]
) -> Telemetry:
    import requests
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    def session() -> requests.Session:
        direct = requests.Session()
        direct.trust_env = False  # no proxy that nobody named here
        return direct

    spans = OTLPSpanExporter(endpoint=endpoints["TRACES"], headers=dict(headers), session=session())
    metrics = OTLPMetricExporter(endpoint=endpoints["METRICS"], headers=dict(headers), session=session())
    return _telemetry(resource, sampler, spans, metrics)


def _telemetry(resource: Resource, sampler: Sampler | None, spans: Any, metrics: Any) -> Telemetry:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    tracer_provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    tracer_provider.add_span_processor(BatchSpanProcessor(_of_this_process(spans)))
    reader = PeriodicExportingMetricReader(_of_this_process(metrics))
    meter_provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    return Telemetry(tracer_provider, meter_provider)


def _of_this_process(exporter: Any) -> Any:
    """*exporter*, which exports nothing in a forked child: there the SDK would report the parent's numbers again."""
    owner, export = os.getpid(), exporter.export

    def export_here(batch: Any, *args: Any, **options: Any) -> Any:
        return export(batch, *args, **options) if os.getpid() == owner else None

    exporter.export = export_here
    return exporter
