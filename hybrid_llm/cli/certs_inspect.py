"""`hybrid-llm certs inspect`: show certificates, lists of revoked ones, and sealing keys, whichever a file holds."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from hybrid_llm.backends.wire.certificates import (
    CertificateInfo,
    TLSFiles,
    describe,
    load_certificates,
    parse_der,
    read_file,
)
from hybrid_llm.backends.wire.revocation import (
    CRL_NAME,
    RevocationList,
    Revoked,
    entries_of,
    existing,
    id_of,
    number_of,
    parse_lists,
    signed_by,
)
from hybrid_llm.backends.wire.sealing.keys import PRIVATE, PUBLIC, KeyConfig, read_private, read_public
from hybrid_llm.cli.arguments import Command, add_json
from hybrid_llm.cli.terminal import Exit, output, record
from hybrid_llm.core.errors import ConfigError

Shown = tuple[dict[str, Any], list[str]]
"""The same for programs and for people."""
_LABEL: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_ELSE: Final = {
    "PRIVATE KEY": "a private key, of which nothing is shown; inspect the certificate that belongs to it",
    "PUBLIC KEY": "a public key, which nobody has signed; inspect the certificate that belongs to it",
    "CERTIFICATE REQUEST": "a request, for which no certificate was issued yet",
}
_WANTED: Final = "certificate, revocation list or sealing key"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="PEM or DER, or a file of sealing keys")
    parser.add_argument(
        "--crl", type=Path, metavar="FILE", help="the list of revoked certificates; by default crl.pem beside FILE"
    )
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    found, lines = _shown(args.file, args.crl)
    output(found, lines, as_json=args.json)
    return Exit.OK


def _shown(path: Path, crl: Path | None) -> Shown:
    """What is in *path*.

    Raises:
        ConfigError: nothing of which a content can be shown, or it cannot be read.
    """
    if path.name.endswith((PRIVATE, PUBLIC)):
        return _of_keys(path)
    data = read_file(path)
    labels = {found.decode() for found in _LABEL.findall(data)}
    if "CERTIFICATE" in labels:
        return _of_certificates(path, load_certificates(path), crl)
    if lists := parse_lists(data):
        return _of_lists(path, lists)
    if certificates := parse_der(data):
        return _of_certificates(path, certificates, crl)
    for label, what in _ELSE.items():
        if any(each.endswith(label) for each in labels):
            raise ConfigError(f"{path} holds {what}", path=str(path))
    if not labels and data.isascii():
        return _of_keys(path)
    raise ConfigError(f"{path} holds no {_WANTED}, in PEM or DER form", path=str(path))


def _of_certificates(path: Path, chain: list[x509.Certificate], crl: Path | None) -> Shown:
    facts, revoked = describe(chain[0]), _revoked(path, chain[0], crl)
    found = _record(facts) | {"revoked": None if revoked is None else record(revoked)}
    lines = [*_description(facts, revoked)]
    if issuers := [describe(each) for each in chain[1:]]:
        found["chain"] = [_record(each) for each in issuers]
        for each in issuers:
            lines += ["", *_description(each, None)]
    return found, lines


def _record(facts: CertificateInfo) -> dict[str, Any]:
    return {**record(facts), "identity": facts.identity}


def _revoked(path: Path, certificate: x509.Certificate, crl: Path | None) -> Revoked | None:
    """The entry of *certificate* in the list, of which `ca.pem` beside it must be the signer."""
    beside, authority = path.parent / CRL_NAME, path.parent / "ca.pem"
    if crl is None and not (beside.exists() and authority.exists()):
        return None
    files = TLSFiles(ca=authority, cert=path, key=path, crl=existing(crl or beside))
    return RevocationList(files).find(id_of(certificate))


def _description(facts: CertificateInfo, revoked: Revoked | None) -> Iterator[str]:
    use = "authority" if facts.authority else " and ".join(facts.kinds) or "none"
    yield f"subject   {facts.subject}"
    yield f"issuer    {facts.issuer}"
    yield f"use       {use}"
    yield f"names     {', '.join(facts.sans) or 'none'}"
    yield f"valid     {facts.not_before:%Y-%m-%d %H:%M} to {_until(facts.not_after)}"
    yield f"serial    {facts.serial}"
    if revoked is not None:
        yield f"revoked   {revoked.at:%Y-%m-%d %H:%M} UTC ({revoked.reason})"


def _until(instant: datetime, ended: str = "expired") -> str:
    days = abs(instant - (now := datetime.now(UTC))).days
    count = f"{days} day{'' if days == 1 else 's'}"
    return f"{instant:%Y-%m-%d %H:%M} UTC ({f'{count} left' if now <= instant else f'{ended} {count} ago'})"


def _of_lists(path: Path, lists: list[x509.CertificateRevocationList]) -> Shown:
    authority = path.parent / "ca.pem"
    found = [_record_of_list(crl, authority) for crl in lists]
    lines = [line for one, crl in zip(found, lists, strict=True) for line in ("", *_lines_of_list(one, crl, authority))]
    return {"lists": found}, lines[1:]


def _record_of_list(crl: x509.CertificateRevocationList, authority: Path) -> dict[str, Any]:
    trusted = load_certificates(authority) if authority.exists() else []
    return {
        "issuer": crl.issuer.rfc4514_string(),
        "number": number_of(crl),
        "last_update": crl.last_update_utc,
        "next_update": crl.next_update_utc,
        "signed_by_ca": any(signed_by(crl, each) for each in trusted) if trusted else None,
        "revoked": [record(each) for each in entries_of(crl)],
    }


def _lines_of_list(found: dict[str, Any], crl: x509.CertificateRevocationList, authority: Path) -> Iterator[str]:
    until = crl.next_update_utc
    checks = {True: f"by {authority}", False: f"not by {authority}", None: "not checked: no ca.pem beside it"}
    yield f"issuer    {found['issuer']}"
    yield "use       list of revoked certificates"
    yield f"number    {found['number']}"
    yield f"signed    {crl.last_update_utc:%Y-%m-%d %H:%M} UTC, {checks[found['signed_by_ca']]}"
    yield f"again by  {'no date' if until is None else _until(until, 'was due')}"
    yield f"revoked   {len(found['revoked'])}"
    for each in entries_of(crl):
        yield f"  {each.serial:x}  {each.at:%Y-%m-%d %H:%M} UTC ({each.reason})"


def _of_keys(path: Path) -> Shown:
    """The public side of the sealing keys in *path*."""
    read: Callable[[Path], tuple[KeyConfig, ...]] = read_public
    if path.name.endswith(PRIVATE):
        read = _public_side
    try:
        keys = read(path)
    except ConfigError:
        if path.name.endswith((PRIVATE, PUBLIC)):
            raise
        raise ConfigError(f"{path} holds no {_WANTED}", path=str(path)) from None
    found = [
        {"suite": key.suite.name, "digest": f"sha256:{key.digest.hex()}", "not_after": key.not_after} for key in keys
    ]
    lines = [
        line
        for key in keys
        for line in (
            f"suite     {key.suite.name}",
            "use       sealing key",
            f"digest    sha256:{key.digest.hex()}",
            f"valid     to {_until(key.not_after)}",
        )
    ]
    return {"sealing_keys": found}, lines


def _public_side(path: Path) -> tuple[KeyConfig, ...]:
    return tuple(key.config for key in read_private(path))


INSPECT: Final = Command(
    about="Show what a file holds: certificates and whether the first is revoked, a list of revoked ones and when\n"
    "it is to be signed again, or sealing keys. No private key is needed, and none is shown.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm certs inspect certs/node.pem",
        "hybrid-llm certs inspect certs/node.pem --json",
        "hybrid-llm certs inspect certs/crl.pem",
        "hybrid-llm certs inspect sealing/2026-q4.seal.pub",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG),
)
