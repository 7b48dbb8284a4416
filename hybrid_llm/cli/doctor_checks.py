"""What `hybrid-llm doctor` checks: installation, models, policy, sensors, certificates and nodes.

A check yields findings; each problem comes with a remedy.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.findings import Finding, fault, ok, warning
from hybrid_llm.core import errors
from hybrid_llm.core.errors import ConfigError, HybridLLMError
from hybrid_llm.core.extras import install_hint, listed, requirements

if TYPE_CHECKING:
    from hybrid_llm.backends.edge import EdgeConfig
    from hybrid_llm.backends.following.spec import FollowingSpec
    from hybrid_llm.backends.grpc import GrpcSpec
    from hybrid_llm.backends.wire.certificates import CertificateInfo, Kind, TLSFiles
    from hybrid_llm.router.config import Config

_MIN_PYTHON: Final = (3, 11)
_MIN_MEMORY_MB: Final = 400
_TELEMETRY_FOLDER: Final = Path(".cache/Microsoft/DeveloperTools/.onnxruntime")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_MIN_VERSION: Final = re.compile(r"[>=]=\s*([\d.]+)")
_NUMBER: Final = re.compile(r"\d+")
_EXPIRES_SOON_DAYS: Final = 30
_SKEW_WARNING_S: Final = 5.0
# Certificates are valid from five minutes before they are issued: a clock that is further off rejects a new one.
_SKEW_FAULT_S: Final = 300.0
_TIMEOUT_S: Final = 5.0
_EXTRAS: Final = {
    "cli": "the live view of hybrid-llm signals",
    "node": "hybrid-llm serve",
    "prepare": "hybrid-llm models convert of Hugging Face folders",
}
_ISSUE: Final = "hybrid-llm certs issue"
_GRPC_DIFFERS: Final = "is it a node of hybrid-llm, without a proxy before it? GRPC_VERBOSITY=INFO shows what gRPC sees"
_RERUN: Final = "fix what the message says, then run `hybrid-llm doctor` again"
_REMEDIES: Final[tuple[tuple[type[HybridLLMError], str], ...]] = (
    (errors.UntrustedPeer, f"on the node: {_ISSUE} DIR --name node --kind node --host HOST, with the same authority"),
    (
        errors.AuthenticationFailed,
        f"issue the client certificate from the node's authority: {_ISSUE} DIR --name NAME --kind client",
    ),
    (errors.BackendUnavailable, "start the node, or correct its address; check for a firewall"),
    (errors.DecryptionFailed, "compare the node's sealing keys with the file of `sealed`, and give it the new one"),
    (errors.ProtocolMismatch, "install the same version of hybrid-llm on the node and in the app"),
)


@dataclass(slots=True, kw_only=True)
class Setup:
    """What to check: a configuration, certificates, nodes. The check of the configuration fills it in."""

    config: Config | None = None
    pairs: Mapping[str, TLSFiles] = field(default_factory=dict)
    """Name -> files, of every certificate in *folder*."""
    clouds: list[GrpcSpec] = field(default_factory=list)
    """The nodes of the configuration, and that of `--target`."""
    folder: Path | None = None
    """The folder given with `--tls`."""


Check = Callable[[Setup], Iterator[Finding]]


def run_checks(checks: Mapping[str, Check], setup: Setup) -> Iterator[Finding]:
    """Run *checks* in order; a check that raises becomes a fault, and the others still run."""
    for name, check in checks.items():
        try:
            yield from check(setup)
        except HybridLLMError as error:
            yield fault(name, str(error), _RERUN)
        except ImportError as error:
            yield fault(name, f"{error.name} cannot be imported: {error}", "reinstall hybrid-llm")
        except Exception as error:  # noqa: BLE001  # the installation under test may be broken in any way
            yield fault(name, f"the check failed with {type(error).__name__}: {error}", "reinstall hybrid-llm")


def check_python(_: Setup) -> Iterator[Finding]:
    """The Python version."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < _MIN_PYTHON:
        yield fault("python", found, "use Python 3.11 or later")
    else:
        yield ok("python", found)


def check_packages(_: Setup) -> Iterator[Finding]:
    """The packages of the base installation, and which extras are complete."""
    base = list(_packages())
    problems = {name: problem for name, least in base if (problem := _problem(name, least))}
    for name, problem in problems.items():
        yield fault("packages", problem, f"pip install --upgrade {name}")
    if not problems:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name, _ in base)
        yield ok("packages", f"hybrid-llm {metadata.version('hybrid-llm')} with {versions}")
    for extra, purpose in _EXTRAS.items():
        missing = [name for name, least in _packages(extra) if _problem(name, least)]
        state = f"optional, not installed ({listed(missing)}); only for {purpose}" if missing else "complete"
        yield ok("packages", f"extra {extra}: {state}", install_hint(extra) if missing else "")


def _packages(extra: str = "") -> Iterator[tuple[str, str]]:
    """The packages of *extra*, by default of the base, each with its minimum version."""
    for requirement in requirements(extra):
        name, least = _NAME.match(requirement), _MIN_VERSION.search(requirement)
        if name is not None:
            yield name[0], least[1] if least else "0"


def _problem(name: str, least: str) -> str:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return f"{name} {found} is older than {least}" if _ordered(found) < _ordered(least) else ""


def _ordered(version: str) -> tuple[int, ...]:
    """The numbers of a version, comparable; the local part is ignored."""
    return tuple(map(int, (*_NUMBER.findall(version.partition("+")[0]), 0, 0, 0)))[:3]


def check_runtime(_: Setup) -> Iterator[Finding]:
    """Whether onnxruntime loads with its telemetry off, and whether another program ran it with telemetry on."""
    from hybrid_llm.backends.edge.runtime import load_runtime

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runtime = load_runtime()
    if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" and not caught:
        yield ok("runtime", f"onnxruntime {runtime.__version__}, telemetry switched off before the import")
    else:
        message = f"onnxruntime {runtime.__version__} was imported with its telemetry on"
        yield warning("runtime", message, "set ORT_DISABLE_TELEMETRY=1 in the environment of your app")
    if (Path.home() / _TELEMETRY_FOLDER).exists():
        yield warning(
            "runtime",
            f"~/{_TELEMETRY_FOLDER} exists: another program imported onnxruntime with its telemetry on",
            f"set ORT_DISABLE_TELEMETRY=1 for that program, and remove ~/{_TELEMETRY_FOLDER}",
        )


def check_edge(setup: Setup) -> Iterator[Finding]:
    """Each edge model: its files against the manifest, then one real answer."""
    from hybrid_llm.backends.edge import EdgeConfig
    from hybrid_llm.backends.following.spec import in_use

    specs = setup.config.backends if setup.config else (EdgeConfig(name="edge"),)
    for spec in map(in_use, specs):
        if not isinstance(spec, EdgeConfig):
            continue
        try:
            yield from _edge(spec)
        except HybridLLMError as error:
            remedy = "run `hybrid-llm models inspect`; copy or convert the model again"
            yield fault(f"model {spec.name}", str(error), remedy)


def _edge(spec: EdgeConfig) -> Iterator[Finding]:
    """The files, then one real answer through the whole pipeline."""
    from hybrid_llm.backends.edge import verify_manifest
    from hybrid_llm.policies import builtin_policy
    from hybrid_llm.router.client import HybridLLM

    check = f"model {spec.name}"
    folder = spec.folder
    manifest = verify_manifest(folder)
    size = f"{manifest.parameters / 1e6:.1f} M parameters, {manifest.context_window} tokens"
    files = f"{len(manifest.files)} files verified in {folder}"
    yield ok(check, f"{manifest.name}, {manifest.precision}, {size}; {files}")
    began = time.perf_counter()
    policy = builtin_policy("balanced", backends={spec.name: spec.location})
    with HybridLLM([spec.open()], policy) as llm:
        reply = llm.generate("Hello", max_tokens=8, deadline=60.0)
    elapsed_ms = (time.perf_counter() - began) * 1000
    yield ok(check, f"answered {reply.usage.completion_tokens} tokens in {elapsed_ms:.0f} ms, including loading")


def _follows(spec: FollowingSpec) -> Iterator[Finding]:
    """Where the alias points, and what this device has of it."""
    from hybrid_llm.backends.edge.store import ModelStore
    from hybrid_llm.backends.following.state import StateFile
    from hybrid_llm.backends.models.registry import ModelRegistry
    from hybrid_llm.backends.models.registry.device import DeviceModel

    follow, check = spec.follow, f"follow {spec.name}"
    store = ModelStore()
    state, current = StateFile(store, follow.model).read(), DeviceModel(store, follow.model).current
    yield ok(
        check, f"{follow.alias} of {follow.model}: version {current or 'none yet'}{', on trial' * bool(state.trial)}"
    )
    for version, reason in state.refused.items():
        yield warning(check, f"version {version} was taken back: {reason}", "publish a better version")
    try:
        latest = ModelRegistry.open(follow.registry, key_file=follow.key_file).resolve(follow.model, follow.alias)
        yield ok(check, f"{follow.registry} has version {latest.short} for {follow.alias}")
    except HybridLLMError as error:
        yield warning(check, str(error), "check the registry, its credentials and the network")


def check_others(setup: Setup) -> Iterator[Finding]:
    """Each backend of another kind: what it needs on this machine; a server of others is asked what it is."""
    from hybrid_llm.backends.edge import EdgeConfig
    from hybrid_llm.backends.following.spec import FollowingSpec, in_use
    from hybrid_llm.backends.grpc import GrpcSpec
    from hybrid_llm.backends.http.settings import HttpSettings
    from hybrid_llm.cli.doctor_servers import check_server

    specs = setup.config.backends if setup.config else ()
    for spec in specs:
        if isinstance(spec, FollowingSpec):
            yield from _follows(spec)
        if isinstance(in_use(spec), EdgeConfig | GrpcSpec):
            continue
        check = f"backend {spec.name}"
        try:
            with closing(spec.open()) as backend:
                if isinstance(spec, HttpSettings):
                    yield from check_server(check, spec, backend)
                else:
                    yield ok(check, f"of kind {spec.kind}: it can be opened; no request was sent")
        except HybridLLMError as error:
            yield fault(check, str(error), _RERUN)


def check_names(setup: Setup) -> Iterator[Finding]:
    """Whether names of people can be found, and the models that the configuration names for it."""
    from hybrid_llm.router.privacy.detectors.models.rampart import INSTALL, LazyDetector, installed, open_rampart

    if setup.config is not None:
        detectors = setup.config.open_detectors()  # those of the file are loaded
        own = [detector.name for detector in detectors if not isinstance(detector, LazyDetector)]
        if own:
            yield ok("names", f"the detectors of the configuration are loaded: {', '.join(own)}")
    if installed() is None:
        yield ok("names", "optional, not installed: no model finds names of people and places", INSTALL)
    else:
        open_rampart()
        yield ok("names", "the model for names of people and places is installed, its files are verified")


def check_policy(setup: Setup) -> Iterator[Finding]:
    """The active policy."""
    from hybrid_llm.policies import FixedPolicy, builtin_policy

    with closing(setup.config.open_policy() if setup.config else FixedPolicy(builtin_policy("balanced"))) as source:
        policy = source.current
    tags = ", ".join(sorted(policy.tags)) or "none"
    yield ok("policy", f"{policy.name} ({policy.digest}); tags: {tags}")
    sealed = sorted(tag for tag, rule in policy.tags.items() if rule.sealed)
    if sealed and not any(getattr(spec, "sealed", None) for spec in (setup.config.backends if setup.config else ())):
        text = f"{', '.join(sealed)} goes to the cloud only sealed, and no backend is"
        yield warning("policy", text, "name `sealed: {keys: FILE}` for a backend, or it stays on the device")
    if not policy.tags:
        yield warning("policy", "the policy declares no privacy tags", "declare them, so that apps can tag requests")


def check_sensors(_: Setup) -> Iterator[Finding]:
    """Which optional signals this device has."""
    from hybrid_llm.router.signals import SystemSensors

    with closing(SystemSensors()) as sensors:
        device, network = sensors.read()
    optional = [field.name for field in fields(device) if field.default is None]
    has = [name for name in optional if getattr(device, name) is not None]
    absent = [name for name in optional if name not in has]
    yield ok("sensors", f"available: {', '.join(has) or 'none'}; absent: {', '.join(absent) or 'none'}")
    if device.memory_available_mb < _MIN_MEMORY_MB:
        left = f"only {device.memory_available_mb:.0f} MiB of memory are available"
        yield warning("sensors", left, "close other programs, or give the container more memory")
    if not network.online:
        yield warning("sensors", "no network route", "connect the device: until then only edge backends can answer")


def check_certificates(setup: Setup) -> Iterator[Finding]:
    """Each certificate: key, authority, dates and permissions."""
    for spec in setup.clouds:
        yield from _pair(f"certificate of {spec.name}", spec.tls, "client")
    for name, files in setup.pairs.items():
        yield from _pair(f"certificate {name}", files, None)
    if setup.folder is not None and not setup.pairs:
        remedy = f"hybrid-llm certs init {setup.folder}, then {_ISSUE}"
        yield fault("certificates", f"{setup.folder} contains no certificate besides the authority", remedy)


def _pair(check: str, files: TLSFiles, kind: Kind | None) -> Iterator[Finding]:
    from hybrid_llm.backends.wire.certificates import inspect
    from hybrid_llm.backends.wire.tls import check_pair

    used = kind
    try:
        kinds = inspect(files.cert).kinds
        used = kind or (kinds[0] if kinds else "client")
        facts = check_pair(files, used)
        description = f"{files.cert}: {facts.identity or facts.subject}, valid until {facts.not_after:%Y-%m-%d}"
        if (days := _expires_soon(facts)) is None:
            yield ok(check, description)
        else:
            yield warning(check, f"{description}: {days} days left", f"renew it: {_issue(files, used)}")
        if files.key.stat().st_mode & 0o077:
            yield warning(check, f"other users of this machine can read {files.key}", f"chmod 600 {files.key}")
        if (days := _expires_soon(inspect(files.ca))) is not None:
            remedy = "create a new authority: hybrid-llm certs init in a new folder"
            yield warning(check, f"the authority {files.ca} expires in {days} days", remedy)
    except ConfigError as error:
        yield fault(check, str(error), _issue(files, used))


def _issue(files: TLSFiles, kind: Kind | None) -> str:
    """The command that issues *files* again."""
    use = {"client": "client", "node": "node --host HOST", None: "client, or --kind node --host HOST"}[kind]
    return f"{_ISSUE} {files.cert.parent} --name {files.cert.stem} --kind {use}"


def _expires_soon(facts: CertificateInfo) -> int | None:
    """The days left if the certificate expires soon, else None."""
    left = (facts.not_after - datetime.now(UTC)).days
    return left if left < _EXPIRES_SOON_DAYS else None


def check_nodes(setup: Setup) -> Iterator[Finding]:
    """Each node: connection, TLS handshake, model and clock."""
    for spec in setup.clouds:
        for target in spec.targets:
            check = f"node {spec.name}" + (f" {target}" if len(spec.targets) > 1 else "")
            try:
                yield from _node(check, spec, target)
            except HybridLLMError as error:
                found = (remedy for family, remedy in _REMEDIES if isinstance(error, family))
                yield fault(check, str(error), next(found, _RERUN))


def _node(check: str, spec: GrpcSpec, target: str) -> Iterator[Finding]:
    from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
    from hybrid_llm.backends.wire.handshake import Address, tls_handshake

    address = Address.parse(target, spec.server_name)
    tls = tls_handshake(address, spec.tls, timeout=_TIMEOUT_S, backend=spec.name)
    yield ok(check, f"{address} reachable, {tls.version} with {tls.cipher} in {tls.elapsed_ms:.0f} ms")
    config = GrpcConfig(
        name=spec.name, target=target, tls=spec.tls, server_name=spec.server_name, sealed=spec.sealed, model=spec.model
    )
    try:
        with closing(GrpcBackend(config)) as backend:
            node = backend.probe(timeout=_TIMEOUT_S)
    except errors.BackendUnavailable as error:
        yield fault(check, f"TLS works, and gRPC fails: {error}", _GRPC_DIFFERS)
        return
    if node.ready:
        about = f"{node.model} on {node.device}, {node.context_window} tokens, {node.slots} slots, engine {node.engine}"
        path = f"round trip {node.rtt_ms:.1f} ms, {node.tls_group or node.tls_version}{', sealed' * bool(spec.sealed)}"
        yield ok(check, f"{about}, version {node.version}, {path}")
        if spec.model and spec.model not in (has := (node.model, *node.adapters)):
            yield fault(check, f"it has no {spec.model} that we may use, but {listed(has)}", "correct its `model`")
    else:
        yield fault(check, f"the node is not ready: {node.reason}", "wait until its model is loaded; check its log")
    yield check_clock(check, node.clock_skew_s)


def check_clock(check: str, skew_s: float) -> Finding:
    """Judge *skew_s*, the node's clock minus the local one, in seconds."""
    ahead = "ahead of" if skew_s > 0 else "behind"
    description = f"the node's clock is {abs(skew_s):.1f} s {ahead} this one"
    if abs(skew_s) < _SKEW_WARNING_S:
        return ok(check, description)
    if abs(skew_s) < _SKEW_FAULT_S:
        return warning(check, description, "synchronise both clocks with NTP")
    return fault(check, description, "synchronise both clocks with NTP: certificates depend on them")


FIRST_CHECKS: Final[Mapping[str, Check]] = {"python": check_python, "packages": check_packages}
"""Checks that run before anything else is imported."""

CHECKS: Final[Mapping[str, Check]] = {
    "runtime": check_runtime,
    "models": check_edge,
    "backends": check_others,
    "names": check_names,
    "policy": check_policy,
    "sensors": check_sensors,
    "certificates": check_certificates,
    "nodes": check_nodes,
}
"""The other checks, in order."""
