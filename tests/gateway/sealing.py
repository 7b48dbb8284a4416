"""A gateway that takes sealed bodies, without a socket: requests to it as they are, and by our own client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx

from hybrid_llm import HybridLLM
from hybrid_llm.backends.http.sealed import SealedTransport
from hybrid_llm.backends.wire.sealing import ehbp
from hybrid_llm.backends.wire.sealing.pins import Pins, SealedSpec
from hybrid_llm.gateway import GatewayConfig, gateway_app
from hybrid_llm.policies import parse_policy
from tests.gateway.conftest import POLICY, fakes

SCRIPT = ["the ", "answer ", "is ", "forty-two"]
ANSWER = "".join(SCRIPT)
ASK = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "stream": True}

Tamper = Callable[[httpx.Response, bytes], httpx.Response]


class Between(httpx.AsyncBaseTransport):
    """The gateway as a transport of httpx, without a socket; *tamper* changes its answers, *repeat* sends twice.

    In place of its key configuration it offers one of *configs* a time, the last one for ever.
    """

    def __init__(
        self, app: Any, *, tamper: Tamper | None = None, repeat: bool = False, configs: Iterable[bytes] = ()
    ) -> None:
        self._inner = httpx.ASGITransport(app)
        self._tamper, self._repeat, self._configs = tamper, repeat, list(configs)
        self.sent: list[tuple[httpx.Headers, bytes]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == ehbp.KEYS_PATH and self._configs:
            config = self._configs.pop(0) if len(self._configs) > 1 else self._configs[0]
            return httpx.Response(200, stream=Body(config))
        if request.url.path == ehbp.KEYS_PATH:
            return await self._inner.handle_async_request(request)
        body = await request.aread()
        self.sent.append((request.headers, body))
        for _ in range(1 + self._repeat):
            again = httpx.Request(request.method, request.url, headers=request.headers, content=body)
            response = await self._inner.handle_async_request(again)
        return response if self._tamper is None else self._tamper(response, await response.aread())


class Body(httpx.AsyncByteStream):
    """The body of an answer that was not read yet."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> Any:
        yield self._data


def changed(response: httpx.Response, body: bytes, **headers: str | None) -> httpx.Response:
    """*response* with another body and other headers; one that is None is left out."""
    named = {**response.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    kept = {name: value for name, value in named.items() if value is not None and name != "content-length"}
    return httpx.Response(response.status_code, headers=kept, stream=Body(body))


def app_of(keys: Path, **options: Any) -> Any:
    """A gateway with the sealing keys of the folder *keys*."""
    backends = list(fakes(SCRIPT))
    client = HybridLLM(backends, parse_policy(POLICY, backends={each.name: each.location for each in backends}))
    return gateway_app(client, GatewayConfig(sealed=keys, **options))


def post(app: Any, keys: Path, *, body: Any = ASK, pins: Path | None = None, **between: Any) -> httpx.Response:
    """The answer of *app* to *body*, which a sealed backend sends it."""
    return send(Between(app, **between), pins or keys / "gateway.seal.pub", body=body)


def send(inner: httpx.AsyncBaseTransport, pins: Path, *, body: Any = ASK) -> httpx.Response:
    """The answer by way of *inner* to *body*, which a sealed backend sends to the keys of *pins*."""

    async def ask() -> httpx.Response:
        known = Pins(SealedSpec(keys=pins))
        async with httpx.AsyncClient(transport=SealedTransport(inner, known, backend="cloud")) as client:
            return await client.post("http://127.0.0.1/v1/chat/completions", json=body)

    return asyncio.run(ask())


def raw(app: Any, body: bytes, headers: dict[str, str], *, path: str = "", method: str = "POST") -> httpx.Response:
    """The answer of *app* to exactly these bytes."""

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            named = {"content-type": "application/json", **headers}
            url = f"http://127.0.0.1{path or '/v1/chat/completions'}"
            return await client.request(method, url, content=body, headers=named)

    return asyncio.run(ask())
