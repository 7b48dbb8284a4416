"""The public keys of token issuers: read from a file whenever it changes, or fetched from a URL when they are needed.

What is fetched is cached for five minutes, and serves for an hour when the issuer does not respond. A token with the
name of an unknown key asks the issuer at most once in ten seconds, so that tokens cannot make a node flood it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from hybrid_llm.core.errors import BackendUnavailable, ConfigError
from hybrid_llm.core.files import Stamp, stamp_of
from hybrid_llm.core.rights.tokens import MOST_CHARACTERS, Token, TokenSpec, refused, verified

_log = logging.getLogger(__name__)
_FRESH_S: Final = 300.0
_STALE_S: Final = 3600.0
_AGAIN_S: Final = 10.0
_FETCH_S: Final = 5.0
_MOST_BYTES: Final = 1 << 20
_MOST_KEYS: Final = 100
_RSA_BITS: Final = 2048
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}

Keys = Mapping[str, Any]
"""Key id -> public key; a PEM file has one key, under the empty id, for every token."""
Fetch = Callable[[str], bytes]


def fits(key: Any, algorithm: str) -> bool:
    """Whether *key* can verify signatures of *algorithm*."""
    if algorithm in _CURVES:
        return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CURVES[algorithm]
    if algorithm == "EdDSA":
        return isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    return isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS


def read_keys(data: bytes, algorithm: str, place: str) -> Keys:
    """The public keys for *algorithm* in *data*, a PEM file or a JWKS (RFC 7517); *place* names it in messages.

    Raises:
        ConfigError: it is neither, or holds no such key.
    """
    keys = _jwks(data, place) if data.lstrip().startswith(b"{") else {"": _pem(data, place)}
    found = {kid: key for kid, key in keys.items() if fits(key, algorithm)}
    if not found:
        raise ConfigError(f"{place} holds no public key for {algorithm} (RSA keys have {_RSA_BITS} bits or more)")
    return found


def _pem(data: bytes, place: str) -> Any:
    if b"PRIVATE KEY-----" in data:
        raise ConfigError(f"{place} holds a private key; only the issuer has that: put the public key there")
    try:
        if b"BEGIN CERTIFICATE" in data:
            return x509.load_pem_x509_certificate(data).public_key()
        return serialization.load_pem_public_key(data)
    except Exception as error:  # noqa: BLE001 - what the library raises for broken files is many things
        raise ConfigError(f"{place} is neither PEM with a public key nor a JWKS ({type(error).__name__})") from None


def _jwks(data: bytes, place: str) -> Keys:
    import jwt

    try:
        listed = json.loads(data)["keys"]
        if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
            raise ValueError(listed)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{place} is no JWKS of at most {_MOST_KEYS} keys") from None
    found: dict[str, Any] = {}
    for entry in listed:
        if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
            continue
        try:
            found[str(entry.get("kid", ""))] = jwt.PyJWK.from_dict(entry).key
        except Exception as error:  # noqa: BLE001 - one key that cannot be read leaves the others
            _log.warning("%s: a key of it is left out (%s)", place, type(error).__name__)
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the keys are at the address that the operator wrote."""


def fetch(url: str) -> bytes:
    """The body at *url*, of at most 1 MiB, within five seconds; raises OSError or ValueError."""
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(_NoRedirect, https)
    try:
        with opener.open(url, timeout=_FETCH_S) as answer:
            body: bytes = answer.read(_MOST_BYTES + 1)
    except HTTPException as error:
        raise OSError(type(error).__name__) from None
    if len(body) > _MOST_BYTES:
        raise ValueError("more than 1 MiB")
    return body


class TokenVerifier:
    """Verifies tokens. Used from one event loop.

    Args:
        spec: Which tokens are accepted.
        backend: What errors name, such as `node`.
        fetcher: Fetches a URL; raises OSError or ValueError.
        clock: Seconds since 1970, by which tokens expire.
        timer: Seconds, never backwards, by which keys grow old.
    """

    def __init__(
        self,
        spec: TokenSpec,
        *,
        backend: str,
        fetcher: Fetch = fetch,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec: Final = spec
        self._backend = backend
        self._fetch, self._clock, self._timer = fetcher, clock, timer
        self._keys: Keys = {}
        self._stamp: Stamp | None = None
        self._at = self._tried = float("-inf")
        self._running: asyncio.Task[None] | None = None

    async def verify(self, token: str) -> Token:
        """What *token* says.

        Raises:
            AuthenticationFailed: it is not valid.
            BackendUnavailable: the issuer's keys cannot be fetched.
        """
        if not 0 < len(token) <= MOST_CHARACTERS or not token.isascii():
            raise refused("it is no token", self._backend)
        key = await self._key(_key_id(token, self.spec.algorithm, self._backend))
        return verified(token, key, self.spec, backend=self._backend, now=self._clock)

    async def _key(self, kid: str) -> Any:
        if isinstance(self.spec.keys, Path):
            self._reread(self.spec.keys)
        else:
            await self._refreshed(kid)
        key = self._keys.get(kid, self._keys.get(""))
        if key is None:
            raise refused("it names a key that the issuer does not have", self._backend)
        return key

    def _reread(self, path: Path) -> None:
        stamp = stamp_of(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_key_file(path, self.spec.algorithm)
        except ConfigError as error:
            _log.error("the keys of tokens changed, and the last ones stay in use: %s", error)

    async def _refreshed(self, kid: str) -> None:
        """Wait for keys where none serve, or where *kid* is unknown and it is time to ask again."""
        now = self._timer()
        age, due = now - self._at, now - self._tried >= _AGAIN_S
        missing = age > _STALE_S or not (kid in self._keys or "" in self._keys)
        if due and (missing or age > _FRESH_S) and (self._running is None or self._running.done()):
            self._tried = now
            self._running = asyncio.create_task(self._load())
        if missing and self._running is not None:
            await asyncio.shield(self._running)
        if self._timer() - self._at > _STALE_S:
            text = "the issuer's keys cannot be fetched"
            raise BackendUnavailable(text, backend=self._backend, reason="not_ready", retry_after=_AGAIN_S)

    async def _load(self) -> None:
        url = str(self.spec.keys)
        try:
            body = await asyncio.to_thread(self._fetch, url)
            self._keys = read_keys(body, self.spec.algorithm, url)
            self._at = self._timer()
        except (OSError, ValueError, ConfigError) as error:
            why = str(error) if isinstance(error, ConfigError) else type(error).__name__
            _log.error("the keys of tokens cannot be fetched from %s: %s", url, why)


def read_key_file(path: Path, algorithm: str) -> Keys:
    """The keys in the file *path*, as `read_keys`; raises ConfigError also where it cannot be read."""
    try:
        return read_keys(path.read_bytes(), algorithm, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: the keys of tokens cannot be read: {error.strerror}", path=str(path)) from None


def _key_id(token: str, algorithm: str, backend: str) -> str:
    """The name of the key in the header of *token*, which must name *algorithm*."""
    import jwt

    try:
        header = jwt.get_unverified_header(token)
    except Exception:  # noqa: BLE001 - a hostile header may make any part of the library raise
        raise refused("it cannot be read", backend) from None
    if header.get("alg") != algorithm:
        raise refused("its algorithm is not the configured one", backend)
    if "crit" in header:
        raise refused("it demands an extension that is not known here", backend)
    kid = header.get("kid", "")
    return kid if isinstance(kid, str) else ""
