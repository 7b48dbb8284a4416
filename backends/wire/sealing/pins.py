"""What an app accepts as a node's sealing key: keys that it pins, or keys that evidence vouches for, or both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from hybrid_llm.backends.wire.sealing.evidence import Verifier, load_measurements
from hybrid_llm.backends.wire.sealing.keys import KeyConfig, read_public
from hybrid_llm.backends.wire.sealing.suites import SUITES, X25519
from hybrid_llm.core.errors import ConfigError, DecryptionFailed
from hybrid_llm.core.fields import File, Found, Table, key, table
from hybrid_llm.core.files import stamp_of

FRESH_S: Final = 300.0
"""A key that was fetched longer ago is fetched again: the node may have a newer one. Two keys overlap for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSpec:
    """Prompts and answers are sealed between this app and the node, whatever ends TLS in between."""

    keys: Path | None = key(
        File(),
        "The public sealing keys that are accepted, as `hybrid-llm certs seal-key` writes them; read again on change.",
        default=None,
    )
    measurements: Path | None = key(
        File(),
        "What the node may run: measurements of confidential VMs, against which its evidence is checked.",
        default=None,
    )

    @classmethod
    def table(cls) -> Table:
        """The keys; one of them is required."""
        names = ("keys", "measurements")
        return table(cls, "sealed", make=cls._make, json={"anyOf": [{"required": [name]} for name in names]})

    @classmethod
    def _make(cls, found: Found) -> SealedSpec:
        if not found.present:
            hint = "sealed: {keys: sealing.pub}"
            found.reject("a proxy could offer keys of its own: nothing says which are accepted", hint, "")
        return cls(**found.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKeys:
    """Prompts and answers are sealed between this app and the server (EHBP), whatever ends TLS in between."""

    keys: Path = key(
        File(),
        "The public X25519 sealing keys that are accepted, as `hybrid-llm certs seal-key` writes them; read again on "
        "change.",
    )

    @classmethod
    def table(cls) -> Table:
        """The keys."""
        return table(cls, "sealed")


class Pins:
    """Decides which keys are accepted.

    Raises:
        ConfigError: a file of *spec* is unusable, or nothing says which keys are accepted. When a file changes and is
            unusable then, the last good content stays in use.
    """

    def __init__(self, spec: SealedSpec, *, verifier: Verifier | None = None) -> None:
        self._path = spec.keys
        self._stamp = stamp_of(spec.keys) if spec.keys else None
        self.keys: tuple[KeyConfig, ...] = read_public(spec.keys) if spec.keys else ()
        """Those in the file."""
        self._verifier = verifier or (load_measurements(spec.measurements) if spec.measurements else None)
        if self._path is None and self._verifier is None:
            raise ConfigError("sealed: name `keys` or `measurements`; else a proxy could offer keys of its own")

    def accepted(self, offered: Iterable[KeyConfig], now: datetime) -> KeyConfig:
        """Return the first of *offered* that is accepted.

        Raises:
            DecryptionFailed: none is; the message says why.
            UntrustedPeer: the evidence of the only ones that may be is not accepted.
        """
        self._refresh()
        known = list(offered)
        if not known:
            raise DecryptionFailed("the node offers no sealing key of a suite that this app knows")
        pinned = [each for each in known if self._path is None or each in self.keys]
        if not pinned:
            raise DecryptionFailed(
                f"none of the node's sealing keys is in {self._path}: it is another node, or its key "
                "was replaced; add the new public key to the file"
            )
        valid = [each for each in pinned if not each.expired(now)]
        if not valid:
            raise DecryptionFailed("every sealing key of the node that is accepted has expired; make a new one")
        if self._verifier is not None:
            self._verifier.verify(valid[0])
        return valid[0]

    def accepted_public(self, public: bytes, now: datetime) -> KeyConfig:
        """Return the pinned X25519 key with these bytes, which come without an expiry; raises as `accepted` does."""
        self._refresh()
        found = [each for each in self.keys if each.suite is X25519 and each.public == public]
        return self.accepted(found or [KeyConfig(suite=X25519, public=public, not_after=now)], now)

    def _refresh(self) -> None:
        if self._path is None or (found := stamp_of(self._path)) == self._stamp:
            return
        self._stamp = found
        try:
            self.keys = read_public(self._path)
        except ConfigError:
            return


class NodeKeys:
    """The sealing key of one node, as it was fetched last. No I/O but the pins' file; safe to use from any thread."""

    def __init__(
        self, pins: Pins, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._pins, self._clock, self._wall = pins, clock, wall
        self._key: KeyConfig | None = None
        self._fetched = 0.0

    def current(self) -> KeyConfig | None:
        """The key to seal to; None where it must be fetched."""
        key = self._key
        if key is None or self._clock() - self._fetched > FRESH_S or key.expired(self._now()):
            return None
        return key

    def choose(self, offered: Iterable[Offered]) -> KeyConfig:
        """Take the first key of a node's description that is accepted; raises as `Pins.accepted` does."""
        self._key = None
        self._key = key = self._pins.accepted(filter(None, map(_config, offered)), self._now())
        self._fetched = self._clock()
        return key

    def forget(self) -> None:
        """Fetch the key again before the next request: the node may have replaced it."""
        self._key = None

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)


class Offered(Protocol):
    """A key as it comes from a node, unchecked."""

    suite: str
    public_key: bytes
    not_after: int
    evidence: bytes


def _config(offered: Offered) -> KeyConfig | None:
    """The key; None where it is of no suite that we know, or no key."""
    suite = SUITES.get(offered.suite)
    if suite is None or len(offered.public_key) != suite.public_bytes or not suite.available:
        return None
    if offered.not_after < 0:  # a digest counts the times of keys from 1970
        return None
    try:
        not_after = datetime.fromtimestamp(offered.not_after, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return KeyConfig(suite=suite, public=offered.public_key, not_after=not_after, evidence=offered.evidence)
