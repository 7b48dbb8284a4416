"""Every parser that takes a file, a record or a header from outside: valid inputs, and the errors that it may raise."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.heads import SignedHead
from hybrid_llm.backends.audit.keys import AuditKey, AuditPublicKey, make_audit_key
from hybrid_llm.backends.audit.log import AuditLog, AuditLogs
from hybrid_llm.backends.audit.verify import verify
from hybrid_llm.backends.node.telemetry import CallReport, NodeTelemetry
from hybrid_llm.backends.signing.verify import load_public_key
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.certificates import inspect, load_key
from hybrid_llm.backends.wire.revocation import read_lists, revoke
from hybrid_llm.backends.wire.sealing import ehbp
from hybrid_llm.backends.wire.sealing.evidence import load_measurements
from hybrid_llm.backends.wire.sealing.keys import KeyRing, SealKey, read_public, write_key
from hybrid_llm.backends.wire.sealing.pins import NodeKeys, Pins, SealedSpec
from hybrid_llm.backends.wire.sealing.suites import HYBRID, X25519
from hybrid_llm.backends.wire.status import ERROR_KEY, decode
from hybrid_llm.backends.wire.tls import check_pair
from hybrid_llm.core.errors import ConfigError, DecryptionFailed, HybridLLMError, PolicyError
from hybrid_llm.core.rights.keys import read_key_file
from hybrid_llm.core.telemetry import Telemetry
from hybrid_llm.core.tracing import CALLER
from hybrid_llm.policies.rights import load_rights
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.observability.otel import OpenTelemetryHook
from tests.issuers import AUDIENCE, ISSUER, Issuer, jwks


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """Takes bytes; of invalid ones it raises *refusals*, and nothing else ever."""

    name: str
    seeds: tuple[bytes, ...]
    take: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...] = (ConfigError,)

    def check(self, data: bytes) -> None:
        """Let it take *data*."""
        try:
            self.take(data)
        except self.refusals:
            return


RIGHTS: Final = b"""\
version: 1
tokens: {keys: keys.pem, algorithm: ES256, issuer: https://id.example, audience: hybrid-llm, tenant: org, leeway: 30s}
rights:
  - {name: clinic, who: 'spiffe://hybrid-llm/client/*', models: [smol*, 'llama'], tasks: '*', weight: 2.5,
     tokens_per_minute: 6000, tokens_per_day: 1000000, tenants: [a, b], use: [generate, describe, health], priority: 3}
  - name: ann
    who: 'jwt:*'  # those of the issuer
    claims: {scope: chat}
    models: '*'
    calls: 4
"""


def parsers(folder: Path) -> Iterator[Parser]:
    """All of them; their files are in *folder*."""
    yield from _rights(folder)
    yield from _sealing(folder)
    yield from _certificates(folder)
    yield from _audit(folder)
    yield from _wire(folder)
    yield from _traces()


def _file(path: Path, load: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """*load* of a file that holds the bytes."""

    def take(data: bytes) -> Any:
        path.write_bytes(data)
        return load(path)

    return take


def _rights(folder: Path) -> Iterator[Parser]:
    issuer = Issuer()
    (folder / "keys.pem").write_bytes(issuer.pem)
    path = folder / "rights.yaml"
    yield Parser(name="rights file", seeds=(RIGHTS, RIGHTS.split(b"tokens:")[0] + b"rights: []\n"),
                 take=_file(path, load_rights), refusals=(PolicyError,))  # fmt: skip
    keys = (issuer.pem, jwks(issuer), jwks(Issuer("EdDSA", "k2"), issuer))
    yield Parser(name="keys of tokens", seeds=keys,
                 take=_file(folder / "token-keys", lambda file: read_key_file(file, "ES256")))  # fmt: skip


def _sealing(folder: Path) -> Iterator[Parser]:
    made = folder / "made"
    for name, suite in (("one", X25519), ("two", HYBRID)):
        write_key(made, name, suite=suite, days=1)
    private = tuple((made / f"{name}.seal").read_bytes() for name in ("one", "two"))
    public = tuple((made / f"{name}.seal.pub").read_bytes() for name in ("one", "two"))
    ring = folder / "ring"
    ring.mkdir()
    yield Parser(name="sealing key file", seeds=private, take=_file(ring / "node.seal", lambda _: _offer(ring)))
    yield Parser(name="public sealing key file", seeds=public, take=_file(folder / "pins.pub", _pin))
    (folder / "ca.pem").write_text("nothing")
    measured = b"sev-snp " + b"ab" * 48 + b"\nauthority ca.pem # of the vendor\n"
    yield Parser(name="measurements", seeds=(measured,), take=_file(folder / "measured", load_measurements))
    config = ehbp.config_of(SealKey.make(X25519, datetime.now(UTC) + timedelta(days=1)).config.public)
    broken = (DecryptionFailed,)
    yield Parser(name="EHBP key configuration", seeds=(config,), take=ehbp.public_of, refusals=broken)
    frame = (7).to_bytes(4, "big") + b"content"
    yield Parser(
        name="EHBP frames",
        seeds=(frame * 3, frame + bytes(4) + frame),
        take=_frames,
        refusals=(*broken, ehbp.FrameTooLarge),
    )
    yield Parser(name="EHBP header", seeds=(b"ab" * 32,), refusals=broken,
                 take=lambda data: ehbp.encapsulated(data.decode("latin-1")))  # fmt: skip


def _offer(folder: Path) -> None:
    """What a node does with its sealing keys."""
    ring = KeyRing(folder)
    [pb.SealingKey(suite=key.suite.name, not_after=int(key.not_after.timestamp())) for key in ring.offered()]


def _pin(path: Path) -> None:
    """What an app does with those that it pins."""
    [(key.key_id, key.line(), key.expired(datetime.now(UTC))) for key in read_public(path)]


def _frames(data: bytes) -> None:
    reader = ehbp.FrameReader(most=1000)
    for at in range(0, len(data), 5):
        list(reader.feed(data[at : at + 5]))
    reader.finish()


def _certificates(folder: Path) -> Iterator[Parser]:
    make_authority(folder / "tls")
    serial = int(issue(folder / "tls", "app").serial, 16)
    revoke(folder / "tls", [serial], reason="superseded")
    files = TLSFiles.from_dir(folder / "tls", "app")
    crl = (folder / "tls" / "crl.pem").read_bytes()
    yield Parser(
        name="certificate",
        seeds=(files.cert.read_bytes(),),
        take=_file(folder / "cert.pem", lambda path: (inspect(path), check_pair(replace(files, cert=path), "client"))),
    )
    yield Parser(name="private key", seeds=(files.key.read_bytes(),), take=_file(folder / "key.pem", load_key))
    yield Parser(name="revocation list", seeds=(crl,),
                 take=_file(folder / "list.pem", lambda path: read_lists(path, files.ca)))  # fmt: skip
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    yield Parser(name="signer's key", seeds=(pem,), take=_file(folder / "signer.pem", load_public_key))


def _audit(folder: Path) -> Iterator[Parser]:
    make_audit_key(folder / "audit.key")
    key = AuditKey.load(folder / "audit.key")
    with closing(AuditLog(folder / "audit.db", "node", key)) as log:
        head = log.append([_entry(number) for number in range(4)])
    yield Parser(name="audit entry", seeds=(_entry(1).encode("node", 1),), take=_shown, refusals=(ValueError,))
    yield Parser(name="audit head", seeds=(head.to_json().encode(),), refusals=(ValueError,),
                 take=lambda data: _checked(folder, SignedHead.from_json(data.decode("utf-8", "replace"))))  # fmt: skip
    keys = tuple((folder / name).read_bytes() for name in ("audit.key", "audit.key.pub"))
    yield Parser(name="audit key", seeds=keys, take=_file(folder / "other.key", AuditPublicKey.load))
    cells = ("entry", "leaf", "root", "at_ms", "signer", "signature", "number")
    values = (b"null", b"-1", b"9223372036854775807", b"1.5", b"'x'", b"x'00'", b"'2026'", b"1e999", b"x'7b7d'", b"0")
    seeds = tuple(f"{cell}={value.decode()}".encode() for cell in cells for value in values)
    yield Parser(name="audit record", seeds=seeds, take=lambda data: _altered(folder, key, data))


def _entry(number: int) -> AuditEntry:
    return AuditEntry(event="begin", at_ms=1_795_608_000_000 + number, call=f"c{number}", tags=("pii", "x"), tenant="t",
                      prompt_tokens=5)  # fmt: skip


def _shown(data: bytes) -> None:
    """What `hybrid-llm audit show` prints of an entry."""
    from hybrid_llm.cli.audit import _row

    entry, log, number = AuditEntry.decode(data)
    json.dumps([_row(log, number, entry), entry.to_dict()])
    " ".join(_row(log, number, entry)).encode()


def _checked(folder: Path, *known: SignedHead) -> None:
    with closing(AuditLogs(folder / "audit.db")) as logs:
        verify(logs, "node", [AuditKey.load(folder / "audit.key").public], known)


def _altered(folder: Path, key: AuditKey, data: bytes) -> None:
    """Verify, show and continue the log with a cell of its third record replaced: *data* is `cell=SQL value`."""
    from hybrid_llm.cli.main import main

    cell, _, value = data.decode("utf-8", "replace").partition("=")
    path = folder / "altered.db"
    path.write_bytes((folder / "audit.db").read_bytes())
    with closing(sqlite3.connect(path)) as db:
        try:
            changed = db.execute(f"UPDATE audit_records SET {cell} = {value} WHERE number = 3").rowcount
            db.commit()
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return
    with closing(AuditLogs(path)) as logs:
        found = verify(logs, "node", [key.public])
    assert not changed or found.findings or _same(folder / "audit.db", path)
    for more in ([], ["--json"]):
        assert main(["audit", "show", str(path), *more]) == 0
    assert main(["audit", "head", str(path)]) == 0
    AuditLog(path, "node", key).close()


def _same(one: Path, other: Path) -> bool:
    rows = []
    for path in (one, other):
        with closing(sqlite3.connect(path)) as db:
            rows.append(db.execute("SELECT * FROM audit_records ORDER BY number").fetchall())
    return rows[0] == rows[1]


def _wire(folder: Path) -> Iterator[Parser]:
    detail = pb.ErrorDetail(kind="backend_overloaded", reason="not_ready", retry_after=2.0, ours=1, received_tokens=4)
    yield Parser(name="error of a node", seeds=(detail.SerializeToString(),), take=_decoded, refusals=())
    key = SealKey.make(X25519, datetime.now(UTC) + timedelta(days=1)).config
    pins = folder / "offered.pub"
    pins.write_text(key.line())
    offered = pb.SealingKey(suite="x25519", public_key=key.public, not_after=int(key.not_after.timestamp()))
    yield Parser(
        name="sealing key of a node",
        seeds=(offered.SerializeToString(),),
        take=lambda data: _chosen(data, pins),
        refusals=(DecryptionFailed,),
    )


def _traces() -> Iterator[Parser]:
    """The header of a client over HTTP and the metadata of one over gRPC, which OpenTelemetry reads."""
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    node = NodeTelemetry(Telemetry(provider, MeterProvider()), version="1")
    client = OpenTelemetryHook(tracer_provider=provider, meter_provider=MeterProvider())
    yield Parser(
        name="traceparent",
        seeds=(trace, b"", trace + b"-more", b"cc" + trace[2:], trace.upper(), trace[:3] + b"0" * 32 + trace[35:]),
        take=lambda data: _traced(data.decode("latin-1"), node, client, exporter),
        refusals=(),
    )


def _traced(sent: str, node: NodeTelemetry, client: OpenTelemetryHook, exporter: InMemorySpanExporter) -> None:
    """Each side makes a span, of the trace that was sent or of a new one; no text of a client is in it."""
    exporter.clear()
    metadata = [("traceparent", sent), ("tracestate", sent), ("baggage", f"a={sent}")]
    node.take(
        CallReport(metadata=metadata, model="m", engine="e", outcome="ok", seconds=0.1, prompt_tokens=1, answer=None)
    )
    token = CALLER.set(sent)
    try:
        client.begin_trace(time.monotonic()).failed(RuntimeError())
    finally:
        CALLER.reset(token)
    for span in (spans := exporter.get_finished_spans()):
        assert span.context.is_valid
        assert not span.context.trace_state
        assert span.parent is None or f"{span.context.trace_id:032x}" in sent.lower()
    assert len(spans) == 2


def _decoded(data: bytes) -> None:
    for code in grpc.StatusCode:
        error = decode(
            code, data.decode("latin-1"), ((ERROR_KEY, data),), backend="cloud", received_tokens=len(data) % 2
        )
        assert isinstance(error, HybridLLMError)


def _chosen(data: bytes, pins: Path) -> None:
    from google.protobuf.message import DecodeError

    try:
        offered = pb.SealingKey.FromString(data)
    except DecodeError:
        return
    assert NodeKeys(Pins(SealedSpec(keys=pins))).choose([offered]).key_id


def claims(data: bytes, issuer: Issuer) -> str:
    """A token whose header and claims, a line each, are *data*, with a valid signature."""
    header, _, body = data.partition(b"\n")
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, body))
    import jwt

    signature = jwt.algorithms.get_default_algorithms()[issuer.algorithm].sign(signed, issuer.key)
    return b".".join((signed, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def claims_of(subject: str = "ann") -> bytes:
    """Valid ones, as `claims` takes them."""
    now = int(datetime.now(UTC).timestamp())
    header = {"alg": "ES256", "typ": "JWT", "kid": "k1"}
    body = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 900, "org": "x", "scope": "a b"}
    return json.dumps(header).encode() + b"\n" + json.dumps(body).encode()
