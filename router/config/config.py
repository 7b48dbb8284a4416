"""The keys of `hybrid.yaml`, as records, and how the parts of a client are opened from them.

A new key is one line in one of these records; the keys of a kind of backend or detector are declared beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hybrid_llm.backends.audit.spec import AuditSpec
from hybrid_llm.backends.registry import BACKENDS, BackendSpec, table_of
from hybrid_llm.core import fields
from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.fields import Found, Table, key, table
from hybrid_llm.core.limits import Defaults, RequestLimits, SessionLimits
from hybrid_llm.core.protocols import DETECTOR_NAMES
from hybrid_llm.core.request import Location
from hybrid_llm.core.telemetry import TelemetrySpec
from hybrid_llm.policies.reader.schemas import Json, json_schema
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.caching.spec import CACHE, CacheSpec
from hybrid_llm.router.config.gateway import GatewayConfig
from hybrid_llm.router.config.quality import check_figures
from hybrid_llm.router.config.stores import (
    ClosableHook,
    MetricsSpec,
    PredictionSpec,
    RecordSpec,
    SpendSpec,
    auditing,
    reporting,
)
from hybrid_llm.router.signals.store import Identity, PredictionStore, device_of, state_folder
from hybrid_llm.router.spending.ledger import Price, currency_of

if TYPE_CHECKING:
    from hybrid_llm.core.protocols import Backend, Detector
    from hybrid_llm.policies import Policy, PolicySource
    from hybrid_llm.router.guardrails.catalogue import PlacedSpec
    from hybrid_llm.router.guardrails.rules import GuardrailRule
    from hybrid_llm.router.privacy.detectors.catalogue import DetectorSpec
    from hybrid_llm.router.spending.ledger import Ledger

_WHAT: Final = "hybrid.yaml"
PRICE: Final = table(Price, "price")
_FREE: Final = Price(input_per_1k=0.0, output_per_1k=0.0)


class _Priced(NamedTuple):
    """A backend, its price, and where to report what is wrong with the price."""

    spec: BackendSpec
    price: Price
    found: Found


_PRICES: Final = (
    fields.Key("price", PRICE, "What tokens cost.", default=_FREE),
    fields.Key("price_per_1k_tokens", fields.Number(), "One price for all tokens, per 1,000.", "price", default=_FREE),
)


def _backend(kind: str) -> Table:
    """The keys of a backend of *kind*: its own, and its price."""
    declared = table_of(kind)

    def make(found: Found) -> _Priced:
        values = {name: value for name, value in found.values.items() if name != "price"}
        price = found.values["price"]
        if not isinstance(price, Price):  # `price_per_1k_tokens`, one number
            price = Price(input_per_1k=price, output_per_1k=price)
        return _Priced(declared.make(replace(found, values=values)), price, found)

    return replace(declared, keys=(*declared.keys, *_PRICES), make=make)


def _detector_kinds() -> tuple[str, ...]:
    from hybrid_llm.router.privacy.detectors.catalogue import DETECTOR_KINDS

    return DETECTOR_KINDS.names()


def detector_table(kind: str) -> Table:
    """The keys of a detector of *kind*."""
    from hybrid_llm.router.privacy.detectors.catalogue import DETECTOR_KINDS

    spec: Callable[..., DetectorSpec] = DETECTOR_KINDS.get(kind)

    def make(found: Found) -> DetectorSpec:
        if found.name in DETECTOR_NAMES:
            found.reject(f"`{found.name}` is a built-in detector", "choose another name")
        return spec(name=found.name, **found.values)

    return table(DETECTOR_KINDS.get(kind), f"a detector of kind `{kind}`", make=make)


def _guardrail_kinds() -> tuple[str, ...]:
    from hybrid_llm.router.guardrails.catalogue import GUARDRAIL_KINDS

    return GUARDRAIL_KINDS.names()


def guardrail_table(kind: str) -> Table:
    """The keys of a guardrail of *kind*."""
    from hybrid_llm.router.guardrails import catalogue

    return catalogue.guardrail_table(kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Which backends there are, which policy decides, and what an app sets beside them.

    A configuration is checked; nothing is opened until `open_backends` and `open_policy`.
    """

    path: Path = Path(_WHAT)
    """The file; of a mapping made in Python, what the file would be called, in the folder that it is relative to."""
    name: str = _WHAT
    """What messages call it."""
    policy: str = key(
        fields.Text("a path, or the name of a built-in policy"),
        "The policy: a file, which is watched, or a built-in one.",
        default="balanced",
        examples=("policy.yaml",),
    )
    backends: tuple[BackendSpec, ...] = key(
        fields.MapOf(fields.Variants("backend", BACKENDS.names, _backend), least=1),
        "The backends, under the names that the policy uses.",
        hint="backends: {edge: {kind: onnx, model: embedded}}",
    )
    prices: Mapping[str, Price] = field(default_factory=dict)
    """Backend -> its price."""
    defaults: Defaults = key(
        table(Defaults, "defaults"), "What a request gets where the call sets nothing.", default=Defaults()
    )
    audit: AuditSpec | None = key(
        table(AuditSpec, "audit"), "An audit log: each request, without its texts, so that changes show.", default=None
    )
    record: RecordSpec | None = key(table(RecordSpec, "record"), "Where decisions are recorded.", default=None)
    spend: Path | str | None = key(
        table(SpendSpec, "spend", make=lambda found: found.values["file"]), "Where spending is stored.", default=None
    )
    cache: CacheSpec | None = key(
        CACHE, "Whether answers are cached, in memory or on disk.", default=None, examples=({"kind": "disk"},)
    )
    prediction: PredictionSpec = key(
        table(PredictionSpec, "prediction"), "Whether latency is measured and stored.", default=PredictionSpec()
    )
    metrics: MetricsSpec | None = key(table(MetricsSpec, "metrics"), "Metrics for Prometheus.", default=None)
    telemetry: TelemetrySpec | None = key(
        table(TelemetrySpec, "telemetry"), "Traces and metrics for OpenTelemetry.", default=None
    )
    sessions: SessionLimits = key(
        table(SessionLimits, "sessions"),
        "How many sessions hold values behind pseudonyms, and for how long.",
        default=SessionLimits(),
    )
    limits: RequestLimits = key(table(RequestLimits, "limits"), "How large a request may be.", default=RequestLimits())
    gateway: GatewayConfig = key(
        table(GatewayConfig, "gateway"), "The HTTP gateway: `hybrid-llm gateway`.", default=GatewayConfig()
    )
    detectors: tuple[DetectorSpec, ...] = key(
        fields.MapOf(fields.Variants("detector", _detector_kinds, detector_table)),
        "Detectors beside the built-in ones, under the names that the policy uses.",
        default=(),
    )
    guardrails: tuple[PlacedSpec, ...] = key(
        fields.ListOf(fields.Variants("guardrail", _guardrail_kinds, guardrail_table), most=64),
        "What judges requests and answers, in this order; nothing does by default.",
        default=(),
        examples=([{"kind": "default"}],),
    )

    quality: Path | None = key(
        fields.File("the path of results.json"),
        "What `hybrid-llm models evaluate` measured of these backends: rules and `rank` read it as `edge.quality`.",
        default=None,
        examples=("results.json",),
    )

    @property
    def locations(self) -> Mapping[str, Location]:
        """Backend -> where it runs: what a policy is checked against."""
        # `edge` is a general backend in rules
        ordered = sorted(self.backends, key=lambda spec: spec.kind in ("encoder", "litert"))
        return {spec.name: spec.location for spec in ordered}

    @property
    def eager(self) -> frozenset[str]:
        """The device's backends that are loaded at the start."""
        return frozenset(spec.name for spec in self.backends if getattr(spec, "load", "") == "eager")

    @property
    def detector_names(self) -> frozenset[str]:
        """The detectors that a policy may name because of this file, and `names` where its model is installed."""
        from hybrid_llm.router.privacy.detectors.models.rampart import NAME, installed

        own = frozenset(spec.name for spec in self.detectors)
        return own | {NAME} if installed() is not None else own

    @property
    def variables(self) -> frozenset[str]:
        """The environment variables that hold keys of backends."""
        keys = (getattr(spec, "api_key", None) for spec in self.backends)
        return frozenset(name for each in keys if (name := getattr(each, "env", None)))

    def open_predictions(self) -> PredictionStore:
        """What was learnt about these backends on this device."""
        folder = self.prediction.folder or state_folder()
        return PredictionStore(folder, identities(self.backends), writable=self.prediction.calibrate)

    def open_ledger(self) -> Ledger | None:
        """The ledger in the database under `spend`, whose tables are made if needed; None without one.

        Raises:
            ConfigError: it is something else, or cannot be reached.
        """
        if self.spend is None:
            return None
        from hybrid_llm.router.spending.stored import DatabaseLedger

        return DatabaseLedger(self.spend, currency_of(self.prices))

    def open_backends(self) -> list[Backend]:
        """Make every backend; if one fails, those made before it are closed again."""
        with ExitStack() as opened:
            made = [opened.enter_context(closing(spec.open())) for spec in self.backends]
            opened.pop_all()
        return made

    def open_hooks(self, opened: ExitStack, *, serve_metrics: bool = True) -> tuple[ClosableHook, ...]:
        """Open the recorder, metrics, audit log and telemetry that the file asks for; *opened* closes them.

        Raises:
            ConfigError: one cannot be opened.
        """
        specs = (self.record, self.metrics if serve_metrics else None)
        own = [opened.enter_context(closing(spec.open())) for spec in specs if spec is not None]
        if self.telemetry is not None and (telemetry := self.telemetry.open()) is not None:
            own.append(opened.enter_context(closing(reporting(telemetry, self.telemetry))))
        if self.audit is not None:
            own.append(opened.enter_context(closing(auditing(self.audit))))
        return tuple(own)

    def open_detectors(self) -> tuple[Detector, ...]:
        """Load the models under `detectors`; ConfigError if one is unusable.

        The installed model for names is added under `names` if the file has no detector of that name.
        """
        from hybrid_llm.router.privacy.detectors.models.rampart import NAME, default_names

        own = tuple(spec.open() for spec in self.detectors)
        names = None if any(detector.name == NAME for detector in own) else default_names()
        return own if names is None else (*own, names)

    def open_guardrails(self) -> tuple[GuardrailRule, ...]:
        """Make what is under `guardrails`; ConfigError if a file or a model is unusable."""
        return tuple(spec.open() for spec in self.guardrails)

    def open_policy(self, detectors: frozenset[str] = frozenset()) -> PolicySource:
        """Load the policy; a file is watched from now on.

        Args:
            detectors: Names that the policy may use beside the built-in detectors and those of this file.

        Raises:
            PolicyError: the policy is not valid, or lacks a tag under `defaults`.
        """
        from hybrid_llm.policies import KNOWN_DETECTORS, FixedPolicy, PolicyFile, builtin_names, builtin_policy

        known = KNOWN_DETECTORS | detectors | self.detector_names
        if self.policy in builtin_names():
            policy = builtin_policy(self.policy, backends=self.locations, detectors=known)
            self._check_tags(policy)
            return FixedPolicy(policy)
        path = self.path.parent / self.policy
        source = PolicyFile(path, backends=self.locations, detectors=known, check=self._check_tags)
        source.start()
        return source

    def _check_tags(self, policy: Policy) -> None:
        """Reject a policy that would reject every request, because it lacks a tag under `defaults`."""
        for tag in sorted(self.defaults.privacy - policy.tags.keys()):
            lacking = f"which the policy `{policy.name}` does not declare"
            message = f"{self.name}: defaults.privacy has the tag `{tag}`, {lacking}"
            raise PolicyError(message, path=str(self.path), hint=did_you_mean(tag, policy.tags))


def _config(found: Found) -> Config:
    priced: Mapping[str, _Priced] = found.values["backends"]
    currency = ""
    for _, price, backend in priced.values():
        if price.currency and currency not in ("", price.currency):
            message = f"prices are in {currency} and in {price.currency}; nothing is converted"
            backend.reject(message, "write all in one currency", "price")
        currency = currency or price.currency
    detectors: Any = found.values["detectors"]
    if (path := found.values["quality"]) and (problem := check_figures(path, [each.spec for each in priced.values()])):
        found.reject(problem, "evaluate the backends: hybrid-llm models evaluate hybrid.yaml:edge ...", "quality")
    parts = {
        "backends": tuple(backend.spec for backend in priced.values()),
        "prices": {name: backend.price for name, backend in priced.items()},
        "detectors": tuple(detectors.values()) if detectors else (),
    }
    return Config(**{**found.values, **parts})


CONFIG: Final = table(Config, _WHAT, make=_config, extra=(fields.VERSION,))


def config_schema() -> Json:
    """The JSON Schema of `hybrid.yaml`, with every kind of backend and detector that is installed."""
    return json_schema(CONFIG, "The configuration of a hybrid-llm client", "hybrid-llm config schema")


def identities(specs: Iterable[BackendSpec]) -> dict[str, Identity]:
    """The identity of each backend that has one; a model folder that cannot be read has none."""
    return {spec.name: identity for spec in specs if (identity := identity_of(spec)) is not None}


def identity_of(spec: BackendSpec) -> Identity | None:
    """What the speed of a backend depends on, so that stored predictions fit; a host's address only as a hash."""
    fingerprint = spec.fingerprint()
    if fingerprint is None:
        return None
    device = device_of() if spec.location is Location.EDGE else "node"
    return Identity(kind=spec.kind, model=hashlib.sha256(fingerprint.encode()).hexdigest(), device=device)
