"""Files that Kubernetes mounts and swaps: each reader has the old content or the new one, and at no moment another."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509

from hybrid_llm.backends.grpc.token import CallToken
from hybrid_llm.backends.wire import TLSFiles, inspect, issue, make_authority
from hybrid_llm.backends.wire.revocation import RevocationList, id_of, revoke
from hybrid_llm.backends.wire.sealing.keys import KeyRing, write_key
from hybrid_llm.backends.wire.sealing.pins import Pins, SealedSpec
from hybrid_llm.backends.wire.sealing.suites import X25519
from hybrid_llm.backends.wire.tls import FileWatch, check_pair
from hybrid_llm.core.errors import AuthenticationFailed, DecryptionFailed, HybridLLMError, PermissionDenied
from hybrid_llm.core.rights.keys import TokenVerifier
from hybrid_llm.core.rights.tokens import TokenSpec
from hybrid_llm.core.secret import Secret
from hybrid_llm.gateway.config import KeyFile
from hybrid_llm.policies.rights import RightsFile
from hybrid_llm.policies.watch import PolicyFile
from tests.backends.wire import fakes
from tests.deploy.kubelet import Payload, Volume
from tests.issuers import AUDIENCE, ISSUER, Issuer

RIGHTS = "version: 1\nrights: [{{name: all, who: '{who}', models: '*', use: [generate, describe, health]}}]\n"
Read = Callable[[], str]
"""What a reader has now: `one`, `two`, or something else."""
Reader = tuple[tuple[Payload, Payload], Callable[[], Read]]
"""Two contents of a volume, and what opens the reader of one."""


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    folder = tmp_path / "authority"
    make_authority(folder)
    for name in ("one", "two"):
        issue(folder, name, kind="node", hosts=["localhost", "127.0.0.1"])
    for name in ("app", "rogue"):
        issue(folder, name)
    return folder


def texts(name: str, one: str, two: str) -> tuple[Payload, Payload]:
    return {name: one.encode()}, {name: two.encode()}


def policy(_: Path, volume: Path) -> Reader:
    def opened() -> Read:
        file = PolicyFile(volume / "policy.yaml")
        return lambda: (file.reload(), file.current.name)[1]

    text = "version: 1\nname: {}\nrules: [{{prefer: [edge]}}]\n"
    return texts("policy.yaml", text.format("one"), text.format("two")), opened


def rights(_: Path, volume: Path) -> Reader:
    def opened() -> Read:
        file = RightsFile(volume / "rights.yaml")
        return lambda: (file.reload(), file.current.grants[0].who[0])[1]

    return texts("rights.yaml", RIGHTS.format(who="one"), RIGHTS.format(who="two")), opened


def gateway_keys(_: Path, volume: Path) -> Reader:
    def opened() -> Read:
        file = KeyFile(volume / "keys.json")
        return lambda: (file.reload(), str(getattr(file.current.client("secret"), "tenant", None)))[1]

    digest = sha256(b"secret").hexdigest()
    return texts("keys.json", *(json.dumps([{"sha256": digest, "tenant": name}]) for name in ("one", "two"))), opened


def token_keys(_: Path, volume: Path) -> Reader:
    issuers = {name: Issuer(kid=name) for name in ("one", "two")}

    def opened() -> Read:
        spec = TokenSpec(keys=volume / "keys.pem", algorithm="ES256", issuer=ISSUER, audience=AUDIENCE)
        verifier = TokenVerifier(spec, backend="node")

        def valid(name: str) -> bool:
            try:
                asyncio.run(verifier.verify(issuers[name].token()))
            except AuthenticationFailed:
                return False
            return True

        return lambda: " ".join(filter(valid, issuers))

    return ({"keys.pem": issuers["one"].pem}, {"keys.pem": issuers["two"].pem}), opened


def sealing_keys(home: Path, volume: Path) -> Reader:
    ids = {write_key(home, name, suite=X25519, days=1).key_id: name for name in ("one", "two")}

    def opened() -> Read:
        clock = itertools.count(0, 10)
        ring = KeyRing(volume, clock=lambda: float(next(clock)))
        return lambda: " ".join(map(ids.__getitem__, ring.keys()))

    one, two = ({f"{name}.seal": (home / f"{name}.seal").read_bytes()} for name in ("one", "two"))
    return (one, two), opened


def pins(home: Path, volume: Path) -> Reader:
    keys = {name: write_key(home, f"pin-{name}", suite=X25519, days=1) for name in ("one", "two")}

    def opened() -> Read:
        pinned = Pins(SealedSpec(keys=volume / "node.seal.pub"))

        def accepted(name: str) -> bool:
            try:
                pinned.accepted([keys[name]], datetime.now(UTC))
            except DecryptionFailed:
                return False
            return True

        return lambda: " ".join(filter(accepted, keys))

    return texts("node.seal.pub", *(key.line() for key in keys.values())), opened


def revoked(home: Path, volume: Path) -> Reader:
    ca = (home / "ca.pem").read_bytes()
    lists = []
    for name in ("rogue", "app"):
        revoke(home, [int(inspect(home / f"{name}.pem").serial, 16)])
        lists.append((home / "crl.pem").read_bytes())
    app = id_of(x509.load_pem_x509_certificate((home / "app.pem").read_bytes()))

    def opened() -> Read:
        found = RevocationList(TLSFiles.from_dir(volume, "node"))
        return lambda: (found.look(), "one" if found.find(app) is None else "two")[1]

    one, two = ({"ca.pem": ca, "crl.pem": crl} for crl in lists)
    return (one, two), opened


def certificates(home: Path, volume: Path) -> Reader:
    def of(name: str) -> Payload:
        names = {"ca.pem": "ca.pem", "node.pem": f"{name}.pem", "node.key": f"{name}.key"}
        return {into: (home / name).read_bytes() for into, name in names.items()}

    def opened() -> Read:
        files = TLSFiles.from_dir(volume, "node")
        watch, seen = FileWatch(files), [check_pair(files, "node")]

        def read() -> str:
            if watch.changed():
                seen.append(check_pair(files, "node"))
            return (seen[-1].identity or "").rpartition("/")[2]

        return read

    return (of("one"), of("two")), opened


def token_of_an_app(_: Path, volume: Path) -> Reader:
    def opened() -> Read:
        token = CallToken(Secret(file=volume / "token"), "cloud")
        return lambda: token.metadata()[0][1].removeprefix("Bearer ")

    return texts("token", "one", "two"), opened


READERS = (policy, rights, gateway_keys, token_keys, sealing_keys, pins, revoked, certificates, token_of_an_app)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_reader_sees_the_swap_of_a_volume_and_never_anything_else(
    reader: Callable[..., Reader],
    ca: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (one, two), opened = reader(ca, tmp_path / "volume")
    volume = Volume(tmp_path / "volume", one)
    read = opened()
    assert read() == "one"
    with caplog.at_level(logging.WARNING):
        seen = {step: read() for step in volume.steps(two)}
    assert seen == dict(zip(seen, ["one", "one", "two", "two", "two"], strict=True))
    assert not caplog.records, "a change in one step is nothing to warn of"


def test_a_node_takes_what_its_volumes_bring_while_it_serves(ca: Path, tmp_path: Path) -> None:
    """No signal and no restart: certificates, revoked clients, rights and sealing keys are swapped under a node."""

    def tls(name: str, *more: str) -> Payload:
        names = {"ca.pem": "ca.pem", "node.pem": f"{name}.pem", "node.key": f"{name}.key"}
        return {into: (ca / name).read_bytes() for into, name in (*names.items(), *zip(more, more, strict=True))}

    sealing = tmp_path / "keys"
    old, new = (write_key(sealing, name, suite=X25519, days=1) for name in ("old", "new"))
    secrets = {name: {f"{name}.seal": (sealing / f"{name}.seal").read_bytes()} for name in ("old", "new")}
    mounts = {
        "tls": Volume(tmp_path / "tls", tls("one")),
        "sealed": Volume(tmp_path / "sealed", secrets["old"]),
        "rights": Volume(tmp_path / "rights", {"rights.yaml": RIGHTS.format(who="*").encode()}),
    }
    source = RightsFile(mounts["rights"].folder / "rights.yaml", interval=0.05)
    files = TLSFiles.from_dir(mounts["tls"].folder, "node")
    app, rogue = (TLSFiles.from_dir(ca, name) for name in ("app", "rogue"))
    with fakes.Node(files, sealed=mounts["sealed"].folder, rights=source) as node:

        def asked(tls: TLSFiles, pin: str = "") -> str:
            """How a call on a connection of its own ends: with an answer, or with the name of an error."""
            spec = SealedSpec(keys=sealing / f"{pin}.seal.pub") if pin else None
            backend = fakes.backend(node.target, tls, sealed=spec)
            try:
                return fakes.answer(backend.stream(fakes.cleared("hi")))
            except HybridLLMError as error:
                return type(error).__name__
            finally:
                backend.close()

        def becomes(outcome: str, *call: object) -> None:
            fakes.eventually(lambda: asked(*call) == outcome, seconds=20)

        answer = "hello from the node"
        assert [asked(app), asked(rogue), asked(app, "old")] == [answer] * 3
        mounts["sealed"].write(secrets["new"])
        becomes(answer, app, "new")
        assert asked(app, "old") == DecryptionFailed.__name__
        revoke(ca, [int(inspect(rogue.cert).serial, 16)])
        mounts["tls"].write(tls("two", "crl.pem"))
        becomes(AuthenticationFailed.__name__, rogue)
        assert _served(node.target, ca) == inspect(ca / "two.pem").serial
        assert asked(app) == answer
        mounts["rights"].write({"rights.yaml": RIGHTS.format(who="spiffe://hybrid-llm/client/other").encode()})
        becomes(PermissionDenied.__name__, app)
    assert old.key_id != new.key_id


def _served(target: str, ca: Path) -> str:
    """The serial number of the certificate that a node shows."""
    context = ssl.create_default_context(cafile=ca / "ca.pem")
    context.load_cert_chain(ca / "app.pem", ca / "app.key")
    context.set_alpn_protocols(["h2"])
    host, port = target.rsplit(":", 1)
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return f"{x509.load_der_x509_certificate(shown).serial_number:x}"
