"""Keys of an issuer, tokens that it signs, and its HTTP server of keys. For tests."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://id.example", "hybrid-llm"


class Issuer:
    """An issuer with one key. *algorithm* is that of its signatures."""

    def __init__(self, algorithm="ES256", kid="k1"):
        self.algorithm, self.kid = algorithm, kid
        self.key = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "PS256": lambda: rsa.generate_private_key(65537, 2048),
        }[algorithm]()

    @property
    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def private_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def jwk(self) -> dict:
        made = jwt.algorithms.get_default_algorithms()[self.algorithm].to_jwk(self.key.public_key(), as_dict=True)
        return {**made, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def token(self, subject="ann", *, headers=None, algorithm=None, key=None, without=(), **claims) -> str:
        now = time.time()
        body = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300, **claims}
        body = {name: value for name, value in body.items() if name not in without}
        return jwt.encode(
            body,
            self.key if key is None else key,
            algorithm or self.algorithm,
            headers={"kid": self.kid, **(headers or {})},
        )


def jwks(*issuers) -> bytes:
    return json.dumps({"keys": [issuer.jwk() for issuer in issuers]}).encode()


class KeyServer:
    """An HTTP server of keys on loopback, which counts requests; *body* and *status* are what it answers."""

    def __init__(self, body: bytes, status: int = 200, location: str = ""):
        self.body, self.status, self.location, self.requests = body, status, location, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                self.send_response(outer.status)
                if outer.location:
                    self.send_header("location", outer.location)
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)
