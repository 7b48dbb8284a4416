"""When what one side holds expires: certificates, authorities, revocation lists and sealing keys, for its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from hybrid_llm.backends.wire.certificates import describe, load_certificates
from hybrid_llm.backends.wire.revocation import read_lists
from hybrid_llm.backends.wire.sealing.keys import PRIVATE, read_private, read_public
from hybrid_llm.core.errors import ConfigError


def expiries(
    *,
    cert: Path | None = None,
    ca: Path | None = None,
    crl: Path | None = None,
    sealing: Path | None = None,
    pins: Path | None = None,
) -> dict[str, float]:
    """What expires -> when, seconds since 1970, as the files are now; one that cannot be read is left out.

    Args:
        cert: A certificate, or a chain of which the first to expire counts.
        ca: The authorities, of which the last to expire counts.
        crl: The revocation list of these authorities: when it is to be signed again.
        sealing: A folder of private sealing keys, of which the last to expire counts.
        pins: A file of public sealing keys, of which the last to expire counts.
    """
    found: dict[str, float] = {}
    for what, dates, choose in (
        ("certificate", _certificates(cert), min),
        ("authority", _certificates(ca), max),
        ("revocation_list", _lists(crl, ca), min),
        ("sealing_key", _private(sealing), max),
        ("pinned_key", _public(pins), max),
    ):
        try:
            found[what] = choose(each.timestamp() for each in dates)
        except (ConfigError, OSError, ValueError):  # a ValueError: there is none
            continue
    return found


def _certificates(path: Path | None) -> Iterator[datetime]:
    if path is not None:
        yield from (describe(each).not_after for each in load_certificates(path))


def _lists(crl: Path | None, ca: Path | None) -> Iterator[datetime]:
    if crl is not None and ca is not None and crl.exists():
        yield from (each.next_update_utc for each in read_lists(crl, ca) if each.next_update_utc is not None)


def _private(folder: Path | None) -> Iterator[datetime]:
    for path in folder.glob(f"*{PRIVATE}") if folder is not None else ():
        yield from (key.config.not_after for key in read_private(path))


def _public(path: Path | None) -> Iterator[datetime]:
    if path is not None:
        yield from (key.not_after for key in read_public(path))
