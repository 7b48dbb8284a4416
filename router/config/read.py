"""`hybrid.yaml`: which backends there are and which policy decides. Read strictly; every fault is told with its place.

version: 1
policy: policy.yaml                    # a file beside this one, or the name of a built-in policy
backends:
  edge:  {kind: onnx, model: embedded, load: eager}
  cloud: {kind: grpc, target: "node.example:7443", tls: {ca: ca.pem, cert: app.pem, key: app.key}}
defaults: {max_tokens: 256, deadline: 30, privacy: [pii]}
detectors: {names: {kind: ner, model: ner/, labels: {PER: person_name}}}
record: {path: decisions.jsonl, max_mb: 64, keep: 2}     # decisions for `policy diff`; never a text of a request
metrics: {listen: "127.0.0.1:9464"}                      # for Prometheus
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.backends.edge import EdgeConfig
from hybrid_llm.backends.registry import BACKENDS, BackendSpec
from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.request import Location
from hybrid_llm.policies.reader.source import Faults, Source, did_you_mean
from hybrid_llm.policies.reader.yamltext import Mapping as Table
from hybrid_llm.policies.reader.yamltext import Scalar, Value, read_yaml
from hybrid_llm.policies.reader.yamltext import Sequence as Items
from hybrid_llm.router.config.beside import (
    BesideReader,
    DetectorReader,
    MetricsSpec,
    OwnHook,
    PredictionSpec,
    RecordSpec,
)
from hybrid_llm.router.config.values import is_address
from hybrid_llm.router.spending.ledger import Price, currency_of

if TYPE_CHECKING:
    from contextlib import ExitStack

    from hybrid_llm.backends.grpc import GrpcSpec
    from hybrid_llm.core.protocols import Backend
    from hybrid_llm.policies import PolicySource
    from hybrid_llm.router.privacy.detectors import Detector
    from hybrid_llm.router.privacy.detectors.catalogue import DetectorSpec
    from hybrid_llm.router.signals.store import PredictionStore
    from hybrid_llm.router.spending.ledger import Ledger


EMBEDDED: Final = "embedded"
_KEYS: Final = (
    "version",
    "policy",
    "backends",
    "defaults",
    "record",
    "detectors",
    "spend",
    "prediction",
    "metrics",
)
_ENERGY: Final = "energy_per_1k_tokens_j"
_COMMON: Final = ("kind", _ENERGY, "price", "price_per_1k_tokens")
"""Keys that every backend has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A `hybrid.yaml` that is checked. Nothing is opened until `open_backends` and `open_policy`."""

    path: Path
    policy: str
    backends: tuple[BackendSpec, ...]
    prices: Mapping[str, Price] = field(default_factory=dict)
    """Backend -> its price."""
    defaults: Defaults = field(default_factory=Defaults)
    record: RecordSpec | None = None
    spend: Path | None = None
    """The file that spending is booked in; without one it is forgotten with the client."""
    prediction: PredictionSpec = field(default_factory=PredictionSpec)
    metrics: MetricsSpec | None = None
    detectors: tuple[DetectorSpec, ...] = ()

    @property
    def locations(self) -> Mapping[str, Location]:
        """Backend -> where it runs: what a policy is checked against."""
        return {spec.name: spec.location for spec in self.backends}

    @property
    def eager(self) -> frozenset[str]:
        """The device's backends that are loaded at the start."""
        return frozenset(spec.name for spec in self.backends if isinstance(spec, EdgeConfig) and spec.load == "eager")

    def open_predictions(self) -> PredictionStore:
        """What was learnt of these backends on this device, to begin with."""
        from hybrid_llm.router.config.identity import identities
        from hybrid_llm.router.signals.store import PredictionStore, state_folder

        folder = self.prediction.folder or state_folder()
        return PredictionStore(folder, identities(self.backends), writable=self.prediction.calibrate)

    def open_ledger(self) -> Ledger | None:
        """The file under `spend`, made where it is not there; None without one. ConfigError if it is something else."""
        if self.spend is None:
            return None
        from hybrid_llm.router.spending.file import FileLedger

        return FileLedger(self.spend, currency_of(self.prices))

    @property
    def detector_names(self) -> frozenset[str]:
        """The detectors that a policy may name because of this file."""
        return frozenset(spec.name for spec in self.detectors)

    def open_backends(self) -> list[Backend]:
        """Make every backend; if one fails, those made before it are closed again."""
        made: list[Backend] = []
        try:
            for spec in self.backends:
                made.append(spec.open())
        except BaseException:
            for backend in made:
                backend.close()
            raise
        return made

    def open_hooks(self, opened: ExitStack, *, serve_metrics: bool = True) -> tuple[OwnHook, ...]:
        """The hooks that the file asks for: the recorder of decisions, and metrics on a port of their own.

        *opened* is told how to close them; ConfigError if one cannot be opened.
        """
        hooks: list[OwnHook] = []
        for spec in (self.record, self.metrics if serve_metrics else None):
            if spec is not None:
                hooks.append(spec.open())
                opened.callback(hooks[-1].close)
        return tuple(hooks)

    def open_detectors(self) -> tuple[Detector, ...]:
        """Load the models that the file names beside the library's own detectors; ConfigError if one is wrong."""
        return tuple(spec.open() for spec in self.detectors)

    def open_policy(self, detectors: frozenset[str] = frozenset()) -> PolicySource:
        """The policy: a built-in one is fixed, a file is watched. PolicyError if it is wrong.

        *detectors* names those that it may use beside the library's own and the file's.
        """
        from hybrid_llm.policies import KNOWN_DETECTORS, FixedPolicy, PolicyFile, builtin_names, builtin_policy

        if self.policy in builtin_names():
            return FixedPolicy(builtin_policy(self.policy, backends=self.locations))
        path, known = self.path.parent / self.policy, KNOWN_DETECTORS | detectors | self.detector_names
        source = PolicyFile(path, backends=self.locations, detectors=known)
        source.start()
        return source


def load_config(path: Path) -> Config:
    """Read *path*.

    Raises:
        ConfigError: it is not there, not UTF-8, or wrong; all faults are told at once, with line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", path=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is not UTF-8 text", path=str(path)) from None
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> Config:
    """Check *text*; files that it names are looked for beside *path*. Raises as `load_config`."""
    faults = Faults(Source(text, str(path)))
    root = read_yaml(text, faults)
    config = None
    if isinstance(root, Table):
        config = _Reader(path, faults).config(root)
    elif root is not None:
        faults.add("a configuration is a table of `key: value`", 0)
    try:
        faults.check()
    except PolicyError as error:
        raise ConfigError(str(error), path=str(path)) from None
    assert config is not None
    return config


class _Reader(DetectorReader, BesideReader):
    """Turns tables into records."""

    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path, faults)
        self._prices: dict[str, Price] = {}

    def config(self, table: Table) -> Config:
        self._known(table, set(_KEYS))
        if self._text(table, "version", "") != "1":
            self._faults.add("this version of the library reads `version: 1`", table.offset, "begin with `version: 1`")
        return Config(
            path=self._path,
            policy=self._text(table, "policy", "balanced"),
            backends=self._backends(table),
            prices=self._prices,
            defaults=self._defaults(self._table(table, "defaults")),
            record=self._record(self._table(table, "record")),
            spend=self._spend(self._table(table, "spend")),
            prediction=self._prediction(self._table(table, "prediction")),
            metrics=self._metrics(self._table(table, "metrics")),
            detectors=self._detectors(table),
        )

    def _backends(self, table: Table) -> tuple[BackendSpec, ...]:
        backends = self._table(table, "backends")
        if backends is None or not backends.entries:
            offset = table.offset if backends is None else backends.offset
            self._faults.add("name at least one backend", offset, "backends: {edge: {kind: onnx, model: embedded}}")
            return ()
        specs = [self._backend(entry.key, entry.value) for entry in backends.entries]
        return tuple(spec for spec in specs if spec is not None)

    def _backend(self, name: Scalar, value: Value) -> BackendSpec | None:
        if not isinstance(value, Table):
            self._faults.add("a backend is a table", name.offset, "such as {kind: onnx, model: embedded}")
            return None
        self._prices[name.text] = self._price(value)
        kind = self._text(value, "kind", "")
        if kind == "onnx":
            return self._edge(name.text, value)
        if kind == "grpc":
            return self._cloud(name.text, value)
        self._faults.add(f"`kind: {kind}` is not a kind of backend", value.offset, did_you_mean(kind, BACKENDS.names()))
        return None

    def _edge(self, name: str, table: Table) -> EdgeConfig:
        numbers = ("threads", "max_concurrency", "max_queue", "memory_limit_mb")
        self._known(table, {"model", "load", "reuse_prefixes", *_COMMON, *numbers})
        model = self._text(table, "model", EMBEDDED)
        return EdgeConfig(
            name=name,
            model=None if model == EMBEDDED else self._beside(model),
            load="eager" if self._one_of(table, "load", ("lazy", "eager")) == "eager" else "lazy",
            reuse_prefixes=self._one_of(table, "reuse_prefixes", ("true", "false")) == "true",
            threads=int(self._number(table, "threads", 0)),
            max_concurrency=int(self._number(table, "max_concurrency", 2)),
            max_queue=int(self._number(table, "max_queue", 16)),
            memory_limit_mb=int(self._number(table, "memory_limit_mb", 512)),
            energy_per_1k_tokens_j=self._number(table, _ENERGY, 0.0),
        )

    def _cloud(self, name: str, table: Table) -> GrpcSpec:
        from hybrid_llm.backends.grpc.spec import GrpcSpec
        from hybrid_llm.backends.wire.certificates import TLSFiles

        self._known(table, {"target", "targets", "resolve", "tls", "server_name", *_COMMON})
        tls = self._table(table, "tls")
        if tls is None:
            self._faults.add(
                "a grpc backend needs `tls`", table.offset, "tls: {ca: ca.pem, cert: app.pem, key: app.key}"
            )
            tls = Table((), table.offset)
        else:
            self._known(tls, {"ca", "cert", "key"})
        ca, cert, key = (self._beside(self._needed(tls, part)) for part in ("ca", "cert", "key"))
        return GrpcSpec(
            name=name,
            targets=self._targets(table),
            resolve=self._resolve(table),
            energy_per_1k_tokens_j=self._number(table, _ENERGY, 0.0),
            tls=TLSFiles(ca=ca, cert=cert, key=key),
            server_name=self._text(table, "server_name", "") or None,
        )

    def _targets(self, table: Table) -> tuple[str, ...]:
        """`target: HOST:PORT`, or `targets` with several; each once."""
        several = table.get("targets")
        if several is None:
            targets = [self._needed(table, "target")]
        else:
            items = several.items if isinstance(several, Items) else ()
            targets = [item.text for item in items if isinstance(item, Scalar)]
            if not targets or len(targets) != len(set(targets)) or table.get("target") is not None:
                hint = 'targets: ["a.example:7443", "b.example:7443"], and no `target` beside it'
                self._faults.add("`targets` is a list of HOST:PORT, each once", several.offset, hint)
        for target in targets:
            if target and not is_address(target):
                self._faults.add("`target` is HOST:PORT", table.offset, 'such as "node.example:7443"')
        return tuple(targets)

    def _resolve(self, table: Table) -> bool:
        text = self._text(table, "resolve", "first")
        if text not in {"first", "all"}:
            hint = "all: each address of a host name is a node of its own"
            self._faults.add("`resolve` is first or all", table.offset, hint)
        return text == "all"

    def _defaults(self, table: Table | None) -> Defaults:
        if table is None:
            return Defaults()
        self._known(table, {"max_tokens", "deadline", "privacy"})
        return Defaults(
            max_tokens=int(self._number(table, "max_tokens", 256)),
            deadline=self._number(table, "deadline", 0.0) or None,
            privacy=self._names(table, "privacy"),
        )
