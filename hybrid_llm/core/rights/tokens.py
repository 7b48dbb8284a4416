"""Signed tokens (JWT, RFC 7519): which are accepted, and whom they name. The file fixes the algorithm, not the token.

A token travels as `authorization: Bearer TOKEN`. It is never logged, and no error holds a part of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.errors import AuthenticationFailed, ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.fields import Choice, File, Found, Text, duration, key, one_of, table
from hybrid_llm.core.hosts import is_this_machine

ALGORITHMS: Final = ("ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
"""Signatures that the holder of the public keys cannot make: neither `none` nor those of a shared secret (HS256)."""
MOST_CHARACTERS: Final = 8192
_MOST_CLAIM: Final = 256
_MOST_VALUES: Final = 64
_LISTED: Final = 4096
JWT: Final = "jwt:"
"""Before the subject of a token, in its identity: no token can name the identity of a certificate."""


def _url(text: str) -> str:
    """*text* as a URL whose answer nobody on the network can change: of https, or of this machine."""
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http"):
        raise ValueError(f"`{text}` is not an https: URL")
    if not parts.hostname or (parts.scheme == "http" and not is_this_machine(parts.hostname)):
        raise ValueError(f"`{text}` is not an https: URL; keys over plain HTTP could be replaced on their way")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpec(Checked):
    """Which tokens are accepted, and by whose keys."""

    keys: str | Path = key(
        one_of(Text("an https: URL", "^https?://", _url), File()),
        "Public keys: a PEM file, a JWKS file, or the `https:` URL of a JWKS.",
        examples=("keys.pem", "https://id.example/jwks.json"),
    )
    algorithm: str = key(Choice.of(*ALGORITHMS), "The one algorithm of the signatures.", examples=("ES256",))
    issuer: str = key(Text("a text"), "What `iss` must be.")
    audience: str = key(Text("a text"), "What `aud` must have.")
    leeway: float = key(duration("s", 0.0, 600.0, positive=False), "How far clocks may differ.", default=30.0)
    longest: float = key(
        duration("s", 1.0), "Longest time between `iat` and `exp`; tokens that are valid for longer are refused.",
        default=86_400.0,
    )  # fmt: skip
    tenant: str = key(Text("the name of a claim"), "Claim with the tenant; a token without it has none.", default="")


def _make(found: Found) -> TokenSpec:
    if isinstance(found.values["keys"], Path) and _SCHEME.search(str(found.values["keys"])):
        hint = "keys over plain HTTP could be replaced on their way; it is for this machine alone"
        found.reject("this is no https: URL", hint, "keys")
    return TokenSpec(**found.values)


_SCHEME: Final = re.compile(r"(^|/)[a-z]{2,8}:/")
TOKENS: Final = table(TokenSpec, "tokens", make=_make)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a valid token says. *expires* is in seconds since 1970."""

    subject: str
    tenant: str | None
    claims: Mapping[str, tuple[str, ...]]
    expires: float

    @property
    def identity(self) -> str:
        """Its subject, as the identity of a caller."""
        return f"{JWT}{self.subject}"


def bearer(header: str | bytes) -> str:
    """The token in the value of an `authorization` header; empty where there is none."""
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    scheme, _, token = text.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def looks_like_jwt(secret: str) -> bool:
    """Whether *secret* has the three parts of a signed token (RFC 7515), so that it is no key of a gateway."""
    return secret.count(".") == 2 and secret.startswith("eyJ")


def verified(token: str, key: Any, spec: TokenSpec, *, backend: str, now: Callable[[], float]) -> Token:
    """Return what *token* says, once its signature by *key*, its times, issuer and audience have been checked.

    Raises:
        AuthenticationFailed: it is not valid; the message says what is wrong with it, and holds nothing of it.
    """
    import jwt

    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[spec.algorithm],
            issuer=spec.issuer,
            audience=spec.audience,
            # Our own clock is asked below: PyJWT's cannot be replaced.
            options={"require": ["exp", "sub", "iss", "aud"], "verify_exp": False, "verify_nbf": False,
                     "verify_iat": False},
        )  # fmt: skip
    except jwt.exceptions.PyJWTError as error:
        raise refused(_REASONS.get(type(error).__name__, "it is not valid"), backend) from None
    except Exception:  # noqa: BLE001 - a hostile token may make any part of the library raise
        raise refused("it cannot be read", backend) from None
    expires = _checked_times(claims, spec, now(), backend)
    subject = _claim_text(claims.get("sub"))
    if subject is None:
        raise refused("its subject is not a text of at most 256 printable characters", backend)
    return Token(subject=subject, tenant=_tenant(claims, spec, backend), claims=_listed(claims), expires=expires)


_REASONS: Final = {
    "InvalidSignatureError": "its signature is not of the issuer's key",
    "InvalidAlgorithmError": "its algorithm is not the configured one",
    "InvalidIssuerError": "it is of another issuer",
    "InvalidAudienceError": "it is for another audience",
    "MissingRequiredClaimError": "it lacks exp, sub, iss or aud",
    "InvalidKeyError": "the issuer's key does not fit the configured algorithm",
}


def refused(why: str, backend: str) -> AuthenticationFailed:
    """The error about a token that is not accepted because of *why*."""
    return AuthenticationFailed(f"the token is refused: {why}", backend=backend)


def _checked_times(claims: Mapping[str, Any], spec: TokenSpec, now: float, backend: str) -> float:
    """When the token expires; raise if it is not valid *now*."""
    expires, begins, issued = (_instant(claims.get(name), backend) for name in ("exp", "nbf", "iat"))
    assert expires is not None
    if now >= expires + spec.leeway:
        raise refused("it has expired", backend)
    if max(begins or 0.0, issued or 0.0) > now + spec.leeway:
        raise refused("it is not yet valid; check the clocks", backend)
    if expires - (issued if issued is not None else now) > spec.longest + spec.leeway:
        raise refused("it is valid for longer than is accepted", backend)
    return expires


def _instant(value: Any, backend: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refused("a time in it is no number", backend)
    return float(value)


def _tenant(claims: Mapping[str, Any], spec: TokenSpec, backend: str) -> str | None:
    if not spec.tenant or claims.get(spec.tenant) is None:
        return None
    tenant = _claim_text(claims[spec.tenant])
    if tenant is None:
        raise refused("its tenant is not a text of at most 256 printable characters", backend)
    return tenant


def _claim_text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MOST_CLAIM and value.isprintable() else None


def _listed(claims: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The claims that are texts or lists of texts; `scope` is a list with spaces between (RFC 8693)."""
    found: dict[str, tuple[str, ...]] = {}
    for name, value in list(claims.items())[:_MOST_VALUES]:
        values = value.split() if name == "scope" and isinstance(value, str) else value
        listed = [values] if isinstance(values, str) else values if isinstance(values, list) else []
        texts = tuple(text for each in listed[:_LISTED] if (text := _claim_text(each)) is not None)
        if texts:
            found[name] = texts
    return found


def require_jwt(extra: str) -> None:
    """Raise ConfigError where the library for tokens is missing; *extra* brings it."""
    from importlib.util import find_spec

    if find_spec("jwt") is None:
        raise ConfigError(f"signed tokens need PyJWT: {install_hint(extra)}")
