"""Signed tokens: which are accepted, that every other is refused, and where the issuer's keys come from."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import AuthenticationFailed, BackendUnavailable, ConfigError
from hybrid_llm.core.rights.keys import TokenVerifier, fetch, read_key_file
from hybrid_llm.core.rights.tokens import ALGORITHMS, TokenSpec, bearer
from tests.issuers import AUDIENCE, ISSUER, Issuer, KeyServer, jwks


@pytest.fixture(scope="module")
def issuer():
    return Issuer()


@pytest.fixture
def spec(tmp_path, issuer):
    path = tmp_path / "keys.pem"
    path.write_bytes(issuer.pem)
    return TokenSpec(keys=path, algorithm="ES256", issuer=ISSUER, audience=AUDIENCE, tenant="org")


def verify(spec, token, **options):
    return asyncio.run(TokenVerifier(spec, backend="node", **options).verify(token))


def refused(spec, token, says="", **options):
    with pytest.raises(AuthenticationFailed, match=says) as caught:
        verify(spec, token, **options)
    for part in token.split("."):
        assert len(part) < 9 or part not in str(caught.value), "an error holds nothing of the token"
    assert caught.value.__cause__ is None
    return True


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "EdDSA", "RS256", "PS256"])
def test_a_valid_token_names_subject_tenant_and_claims(tmp_path, spec, algorithm):
    made = Issuer(algorithm)
    for name, content in (("k.pem", made.pem), ("k.json", jwks(made))):
        (tmp_path / name).write_bytes(content)
        token = made.token("ann", org="acme", role=["nurse", "admin"], scope="a b", level=3, nested={"x": 1})
        found = verify(replace(spec, keys=tmp_path / name, algorithm=algorithm), token)
        assert (found.identity, found.tenant) == ("jwt:ann", "acme")
        assert found.claims["role"] == ("nurse", "admin")
        assert found.claims["scope"] == ("a", "b")
        assert "level" not in found.claims
        assert "nested" not in found.claims


def b64(data) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed_with(header, claims, sign):
    body = f"{b64(header)}.{b64(claims)}"
    return f"{body}.{b64(sign(body.encode()))}"


def claims_now(**more):
    return {"sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, **more}


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None, 5])
def test_an_unsigned_token_is_refused(spec, name):
    refused(spec, signed_with({"alg": name, "typ": "JWT"}, claims_now(), lambda _: b""))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("form", ["pem", "der", "stripped"])
def test_a_token_whose_secret_is_the_public_key_is_refused(spec, issuer, algorithm, form):
    """The confusion of RS and HS: the public key, which everybody has, as a shared secret."""
    from cryptography.hazmat.primitives import serialization

    der = issuer.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    secret = {"pem": issuer.pem, "der": der, "stripped": issuer.pem.strip()}[form]
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    token = signed_with({"alg": algorithm}, claims_now(), lambda body: hmac.new(secret, body, digest).digest())
    refused(spec, token, "algorithm")
    lying = signed_with({"alg": "ES256"}, claims_now(), lambda body: hmac.new(secret, body, digest).digest())
    refused(spec, lying, "signature")


def test_a_valid_signature_of_another_algorithm_is_refused(tmp_path, spec):
    made = Issuer("RS256")
    (tmp_path / "rsa.pem").write_bytes(made.pem)
    pss = replace(spec, keys=tmp_path / "rsa.pem", algorithm="PS256")
    refused(pss, made.token(), "algorithm")
    assert verify(replace(pss, algorithm="RS256"), made.token())


def test_another_issuers_key_is_refused(spec):
    refused(spec, Issuer().token(), "signature")


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"aud": "another"}, "another audience"),
        ({"aud": ["x", "y"]}, "another audience"),
        ({"exp": "soon"}, ""),
        ({"exp": float("inf")}, ""),
        ({"exp": True}, "no number"),
        ({"nbf": "never"}, "no number"),
        ({"sub": ""}, "subject"),
        ({"sub": 5}, ""),
        ({"sub": "x" * 257}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"org": ["a"]}, "tenant"),
        ({"org": "a\x00b"}, "tenant"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(spec, issuer, claims, says):
    refused(spec, issuer.token(**claims), says)


@pytest.mark.parametrize(
    ("seconds_from_now", "says"),
    [
        ({"exp": -60}, "expired"),
        ({"nbf": 120}, "not yet valid"),
        ({"iat": 120, "exp": 300}, "not yet valid"),
        ({"exp": 10**7}, "longer"),
    ],
)
def test_a_token_of_another_time_is_refused(spec, issuer, seconds_from_now, says):
    now = time.time()  # of the test: between its collection and its turn minutes may pass
    refused(spec, issuer.token(**{name: now + seconds for name, seconds in seconds_from_now.items()}), says)


@pytest.mark.parametrize("name", ["sub", "iss", "aud", "exp"])
def test_a_token_without_a_required_claim_is_refused(spec, issuer, name):
    refused(spec, issuer.token(without=(name,)), "lacks|issuer|audience|subject")


def test_clocks_may_differ_by_the_leeway(spec, issuer):
    now = time.time()
    assert verify(spec, issuer.token(exp=now - 20))
    assert verify(spec, issuer.token(nbf=now + 20, iat=now + 20))
    refused(spec, issuer.token(exp=now + 5), "expired", clock=lambda: now + 36)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: f"eyJ.{b64(raw)}.{b64(raw)}"))
@settings(max_examples=80)
def test_garbage_is_refused_and_nothing_else_is_raised(tmp_path_factory, token):
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "k.pem").exists():
        (folder / "k.pem").write_bytes(Issuer().pem)
    refused(TokenSpec(keys=folder / "k.pem", algorithm="ES256", issuer=ISSUER, audience=AUDIENCE), token)


@given(st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=60)
def test_a_changed_byte_is_noticed(tmp_path_factory, at, byte):
    folder = tmp_path_factory.getbasetemp()
    issuer = ISSUERS.setdefault("one", Issuer())
    (folder / "one.pem").write_bytes(issuer.pem)
    spec = TokenSpec(keys=folder / "one.pem", algorithm="ES256", issuer=ISSUER, audience=AUDIENCE)
    token = issuer.token(jti="x" * 20)
    at %= len(token)
    changed = token[:at] + chr(byte) + token[at + 1 :]
    if changed != token and not same_bytes(changed, token):
        refused(spec, changed)


ISSUERS: dict[str, Issuer] = {}


def same_bytes(one, other):
    """Whether both decode to the same: the last letter of base64 has bits that count for nothing."""
    with contextlib.suppress(ValueError):
        pairs = zip(one.split("."), other.split("."), strict=True)
        return all(base64.urlsafe_b64decode(a + "==") == base64.urlsafe_b64decode(b + "==") for a, b in pairs)
    return False


def test_a_huge_token_and_a_header_with_demands_are_refused(spec, issuer):
    refused(spec, issuer.token(pad="x" * 9000), "no token")
    refused(spec, issuer.token(headers={"crit": ["exp"]}), "extension|cannot be read")
    refused(spec, issuer.token(headers={"jku": "https://evil.example", "jwk": {}}, key=Issuer().key), "signature")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "neither PEM"),
        (b"nonsense", "neither PEM"),
        (b"{", "JWKS"),
        (b'{"keys": {}}', "JWKS"),
        (b'{"keys": []}', "no public key for ES256"),
        (b'{"keys": [{"kty": "oct", "k": "AAAA", "alg": "HS256"}]}', "no public key for ES256"),
        (b'{"keys": [{"kty": "EC", "crv": "P-999"}]}', "no public key for ES256"),
        (Issuer("RS256").pem, "no public key for ES256"),
        (Issuer("ES384").pem, "no public key for ES256"),
        (Issuer().private_pem, "private key"),
    ],
)
def test_a_file_without_a_fitting_public_key_is_refused(tmp_path, content, says):
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_key_file(path, "ES256")


def test_a_short_rsa_key_is_refused(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    public = rsa.generate_private_key(65537, 1024).public_key()
    (tmp_path / "k").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ConfigError, match="2048 bits"):
        read_key_file(tmp_path / "k", "RS256")


def test_no_algorithm_of_a_shared_secret_can_be_configured():
    assert not [name for name in ALGORITHMS if name.startswith("HS") or name.lower() == "none"]
    with pytest.raises(ConfigError):
        TokenSpec(keys=Path("k"), algorithm="HS256", issuer="i", audience="a")


def test_replaced_keys_are_used_at_once_and_broken_ones_are_not(spec, issuer):
    other, verifier = Issuer(), TokenVerifier(spec, backend="node")

    async def trial():
        await verifier.verify(issuer.token())
        spec.keys.write_bytes(b"half a key")
        await verifier.verify(issuer.token())
        new = spec.keys.with_name("new")
        new.write_bytes(other.pem)
        os.replace(new, spec.keys)
        await verifier.verify(other.token())
        with pytest.raises(AuthenticationFailed):
            await verifier.verify(issuer.token())

    asyncio.run(trial())


class Timer:
    now = 0.0

    def __call__(self):
        return self.now


def test_keys_of_a_url_are_cached_rotated_and_asked_for_rarely(spec, issuer):
    rotated, timer = Issuer(kid="k2"), Timer()
    with KeyServer(jwks(issuer)) as server:
        verifier = TokenVerifier(replace(spec, keys=server.url), backend="node", timer=timer)

        async def trial():
            await asyncio.gather(*(verifier.verify(issuer.token()) for _ in range(20)))
            assert server.requests == 1
            server.body = jwks(issuer, rotated)
            timer.now += 11
            await verifier.verify(rotated.token())
            assert server.requests == 2
            for _ in range(50):
                with pytest.raises(AuthenticationFailed, match="names a key"):
                    await verifier.verify(Issuer(kid="unknown").token())
            assert server.requests == 2, "tokens with unknown keys cannot make the node flood the issuer"
            server.status = 500
            timer.now += 1000
            await verifier.verify(issuer.token())
            timer.now += 3000
            with pytest.raises(BackendUnavailable, match="keys cannot be fetched"):
                await verifier.verify(issuer.token())

        asyncio.run(trial())


@pytest.mark.parametrize("fault", ["redirect", "huge", "closed", "nonsense"])
def test_an_issuer_that_misbehaves_is_no_issuer(spec, issuer, fault):
    with KeyServer(jwks(issuer)) as good:
        body = {"huge": b" " * (1 << 20) + b" ", "nonsense": b"<html>"}.get(fault, b"")
        status, location = (302, good.url) if fault == "redirect" else (200, "")
        with KeyServer(body, status, location) as server:
            url = "http://127.0.0.1:9/jwks" if fault == "closed" else server.url
            with pytest.raises(BackendUnavailable):
                verify(replace(spec, keys=url), issuer.token())
            assert good.requests == 0


def test_an_issuer_that_cannot_be_reached_is_an_error_of_the_network():
    with pytest.raises(OSError):
        fetch("https://127.0.0.1:9/")


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer a.b.c", "a.b.c"), (b"bearer x", "x"), ("BEARER  x ", "x"), ("Basic x", ""), ("", ""), ("Bearer", "")],
)
def test_the_token_in_a_header(header, token):
    assert bearer(header) == token
