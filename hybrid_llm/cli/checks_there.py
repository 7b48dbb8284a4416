"""The checks of `hybrid-llm doctor` on the way to the cloud: certificates, reachability, TLS, clocks, the node."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.findings import Finding, Setup, fault, fine, warning
from hybrid_llm.router.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    ConfigError,
    HybridLLMError,
    ProtocolMismatch,
    UntrustedPeer,
)

if TYPE_CHECKING:
    from hybrid_llm.backends.cloud import NodeDescription
    from hybrid_llm.backends.transport.certificates import CertificateFacts, Kind, TLSFiles
    from hybrid_llm.router.config import CloudSpec

__all__ = ["check_certificates", "check_nodes", "judge_clock"]

_SOON_DAYS: Final = 30
_SKEW_WARNING_S: Final = 5.0
_SKEW_FAULT_S: Final = 300.0
"""Certificates are made valid five minutes early: a clock that is further off can refuse a new one."""
_TIMEOUT_S: Final = 5.0

_REMEDIES: Final[tuple[tuple[type[HybridLLMError], str], ...]] = (
    (
        UntrustedPeer,
        "on the node: hybrid-llm certs issue DIR --name node --kind node --host HOST, with the same authority",
    ),
    (
        AuthenticationFailed,
        "issue the client's certificate from the node's authority: hybrid-llm certs issue --kind client",
    ),
    (BackendUnavailable, "start the node, or correct `target`; look for a firewall in between"),
    (ProtocolMismatch, "bring node and app to the same version of hybrid-llm"),
)


def check_certificates(setup: Setup) -> Iterator[Finding]:
    """Each pair: key and certificate fit, it is of the authority beside it, and its dates."""
    for spec in setup.clouds:
        yield from _pair(f"certificate of {spec.name}", _files(spec), "client")
    for name, files in setup.pairs.items():
        yield from _pair(f"certificate {name}", files, None)
    if setup.folder is not None and not setup.pairs:
        remedy = f"hybrid-llm certs init {setup.folder}, then hybrid-llm certs issue"
        yield fault("certificates", f"{setup.folder} holds no certificate beside the authority", remedy)


def _files(spec: CloudSpec) -> TLSFiles:
    from hybrid_llm.backends.transport.certificates import TLSFiles

    return TLSFiles(ca=spec.ca, cert=spec.cert, key=spec.key)


def _pair(check: str, files: TLSFiles, kind: Kind | None) -> Iterator[Finding]:
    from hybrid_llm.backends.transport.certificates import inspect
    from hybrid_llm.backends.transport.checks import check_pair

    try:
        kinds = inspect(files.cert).kinds
        yield _dated(check, check_pair(files, kind or (kinds[0] if kinds else "client")), files)
        if files.key.stat().st_mode & 0o077:
            yield warning(check, f"other users of this machine can read {files.key}", f"chmod 600 {files.key}")
        authority = inspect(files.ca)
        if (soon := _expires_soon(authority)) is not None:
            remedy = "plan a new authority: hybrid-llm certs init in a new folder"
            yield warning(check, f"the authority {files.ca} ends in {soon} days", remedy)
    except ConfigError as error:
        yield fault(
            check, str(error), f"hybrid-llm certs issue {files.cert.parent} --name {files.cert.stem} --kind ..."
        )


def _expires_soon(facts: CertificateFacts) -> int | None:
    """Days left, where they are few; None where they are many."""
    left = (facts.not_after - datetime.now(UTC)).days
    return left if left < _SOON_DAYS else None


def _dated(check: str, facts: CertificateFacts, files: TLSFiles) -> Finding:
    told = f"{files.cert}: {facts.identity or facts.subject}, valid until {facts.not_after:%Y-%m-%d}"
    soon = _expires_soon(facts)
    if soon is None:
        return fine(check, told)
    kind = facts.kinds[0]
    remedy = f"renew it: hybrid-llm certs issue {files.cert.parent} --name {files.cert.stem} --kind {kind}"
    return warning(check, f"{told}: {soon} days left", remedy)


def check_nodes(setup: Setup) -> Iterator[Finding]:
    """Each node: can it be reached, does TLS hold, what does it run, and do the clocks agree."""
    for spec in setup.clouds:
        for target in spec.targets:
            check = f"node {spec.name}" + (f" {target}" if len(spec.targets) > 1 else "")
            try:
                yield _handshake(check, spec, target)
                yield from _described(check, _probe(spec, target))
            except HybridLLMError as error:
                yield fault(check, str(error), _remedy(error))


def _remedy(error: HybridLLMError) -> str:
    found = (remedy for family, remedy in _REMEDIES if isinstance(error, family))
    return next(found, "do what the message says, then run `hybrid-llm doctor` again")


def _handshake(check: str, spec: CloudSpec, target: str) -> Finding:
    from hybrid_llm.backends.transport.handshake import Endpoint, shake_hands

    endpoint = Endpoint.parse(target, spec.server_name)
    shaken = shake_hands(endpoint, _files(spec), timeout=_TIMEOUT_S, backend=spec.name)
    return fine(check, f"{endpoint} answers, {shaken.version} with {shaken.cipher} in {shaken.elapsed_ms:.0f} ms")


def _probe(spec: CloudSpec, target: str) -> NodeDescription:
    from hybrid_llm.backends.cloud import CloudBackend, CloudConfig

    backend = CloudBackend(CloudConfig(name=spec.name, target=target, tls=_files(spec), server_name=spec.server_name))
    try:
        return backend.probe(timeout=_TIMEOUT_S)
    finally:
        backend.close()


def _described(check: str, node: NodeDescription) -> Iterator[Finding]:
    told = (
        f"{node.model} on {node.device}, {node.context_window} tokens, {node.slots} slots, engine {node.engine}, "
        f"version {node.version}, round trip {node.rtt_ms:.1f} ms, {node.tls_group or node.tls_version}"
    )
    if node.ready:
        yield fine(check, told)
    else:
        yield fault(check, f"the node is not ready: {node.reason}", "wait until its model is loaded; see its log")
    yield judge_clock(check, node.clock_skew_s)


def judge_clock(check: str, skew_s: float) -> Finding:
    """Say what a difference of the node's clock from ours, in seconds, means."""
    ahead = "ahead of" if skew_s > 0 else "behind"
    told = f"the node's clock is {abs(skew_s):.1f} s {ahead} this one"
    if abs(skew_s) < _SKEW_WARNING_S:
        return fine(check, told)
    if abs(skew_s) < _SKEW_FAULT_S:
        return warning(check, told, "set both clocks by NTP")
    return fault(check, told, "set both clocks by NTP: certificates are judged by them")
