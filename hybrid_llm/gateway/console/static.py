"""The files of the page, with headers under which a browser runs nothing else and asks nobody else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_KINDS: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
SECURITY: Final[Mapping[str, str]] = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file of the page."""

    kind: str
    tag: str
    body: bytes

    def response(self, request: Request) -> Response:
        """The file, or that the browser has it already."""
        headers = {**SECURITY, "etag": self.tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers | {"content-type": self.kind})


def read_static() -> dict[str, StaticFile]:
    """All files of the page by name."""
    folder = files("hybrid_llm.gateway.console") / "static"
    return {item.name: _read(item.name, item.read_bytes()) for item in folder.iterdir() if item.is_file()}


def _read(name: str, body: bytes) -> StaticFile:
    return StaticFile(_KINDS[name.rpartition(".")[2]], f'"{hashlib.sha256(body).hexdigest()[:16]}"', body)
