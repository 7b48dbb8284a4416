"""Managed endpoints: a platform asks one route for health, and sends the requests of its callers to another.

The platform authenticates the callers, and nobody else reaches the container, so that there are no keys. The contracts:
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html,
https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements and
https://learn.microsoft.com/azure/machine-learning/how-to-deploy-custom-container.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsonable import Json
from hybrid_llm.gateway.asked import Asked, dumped
from hybrid_llm.gateway.chat import ChatCompletions
from hybrid_llm.gateway.exchange import Exchange, ended_by_disconnect, headers_of, read_json, told
from hybrid_llm.gateway.gateway import Gateway
from hybrid_llm.gateway.openapi import INSTANCES, OPERATIONS, Operation
from hybrid_llm.gateway.shapes import check_of
from hybrid_llm.router.failures import Failure

_PORTS: Final = range(1, 65536)
_ROUTE: Final = re.compile(r"/[A-Za-z0-9._~:@/-]{0,1000}")
_AT_ONCE: Final = 4
"""Instances of one request that are answered at a time: more of them would leave no place to other requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Managed:
    """What a platform expects of a container."""

    platform: str
    port: int = 8080
    health: str
    """The path that answers 200 while requests are answered."""
    predict: str
    """The path that takes requests."""
    instances: bool = False
    """Whether a request may hold several `instances`, whose answers are `predictions`."""

    def operations(self) -> Mapping[str, Operation]:
        """The operations of a gateway, with those of the platform at its paths."""
        paths = {"managed_health": self.health, "managed_predict": self.predict}
        return {name: replace(one, path=paths.get(name, one.path)) for name, one in OPERATIONS.items()}


def managed_by(platform: str, environ: Mapping[str, str]) -> Managed:
    """What *platform*, of `PLATFORMS`, expects; it may set ports and paths by variables of *environ*.

    Raises:
        ConfigError: a variable holds no port, or no path.
    """
    found = PLATFORMS[platform]
    names = _VARIABLES.get(platform, {})
    values = {field: environ[name] for field, name in names.items() if environ.get(name)}
    for field, value in values.items():
        valid = _is_port(value) if field == "port" else _ROUTE.fullmatch(value) is not None
        if not valid:
            what = "a port from 1 to 65535" if field == "port" else "a path such as /predict"
            raise ConfigError(f"{names[field]} in the environment is {value!r}; {platform} sets it to {what}")
    named: Any = {**values, "port": int(values.get("port", found.port))}
    found = replace(found, **named)
    if found.health == found.predict:
        raise ConfigError(f"{found.health} cannot be the route of health and of requests; correct one of both")
    return found


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) in _PORTS


PLATFORMS: Final[Mapping[str, Managed]] = {
    "sagemaker": Managed(platform="sagemaker", health="/ping", predict="/invocations"),
    "vertex": Managed(platform="vertex", health="/health", predict="/predict", instances=True),
    "azure": Managed(platform="azure", health="/health", predict="/score"),
}
_VARIABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "sagemaker": {"port": "SAGEMAKER_BIND_TO_PORT"},
    "vertex": {"port": "AIP_HTTP_PORT", "health": "AIP_HEALTH_ROUTE", "predict": "AIP_PREDICT_ROUTE"},
}


class EndpointChat(ChatCompletions):
    """Chat Completions as an endpoint takes them: the policy chooses the model, and a `prompt` is one message."""

    def read(self, body: Json) -> Asked:
        """The request of *body*; raises `Failure`."""
        body = {"model": "auto", **body}
        if "prompt" in body and "messages" not in body:
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        return super().read(body)


class Predict:
    """An ASGI application: the route to which a platform sends requests, one or several in one body."""

    def __init__(self, gateway: Gateway, *, instances: bool) -> None:
        self._gateway = gateway
        self._chat = Exchange(gateway, EndpointChat())
        self._instances = instances

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of the platform."""
        application = await self._chosen(scope, receive) if self._instances else self._chat
        await application(scope, receive, send)

    async def _chosen(self, scope: Scope, receive: Receive) -> ASGIApp:
        """What answers a request that may hold instances: its body is read."""
        try:
            body = await self._read(scope, receive)
        except Exception as error:  # noqa: BLE001  # whatever fails has a status
            failure = told(error, scope["path"])
            return JSONResponse(failure.as_openai(), failure.status, {**failure.headers, **self._gateway.farewell})
        if "instances" not in body:
            return lambda scope, receive, send: self._chat(scope, _sent(body, receive), send)
        return partial(self._predict, body)

    async def _predict(self, body: Json, scope: Scope, receive: Receive, send: Send) -> None:
        async with ended_by_disconnect(receive):
            await (await self._predictions(scope, body))(scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> Json:
        headers, limits = headers_of(scope), self._gateway.config
        self._gateway.admit(headers)
        return await read_json(headers, receive, limits.body_bytes, limits.read_timeout_s, _checked)

    async def _predictions(self, scope: Scope, body: Json) -> JSONResponse:
        """The answers to all instances, in their order; the first failure is that of the whole."""
        answers: list[JSONResponse | Json] = [{} for _ in body["instances"]]
        failed: list[JSONResponse] = []
        free = asyncio.Semaphore(_AT_ONCE)

        async def answer(at: int, instance: Json) -> None:
            async with free:
                if not failed:
                    status, headers, document = await self._answer(scope, (body.get("parameters") or {}) | instance)
                    answers[at] = document
                    if status != 200:
                        failed.append(_failed(at, status, headers, document))

        async with asyncio.TaskGroup() as group:
            for at, instance in enumerate(body["instances"]):
                group.create_task(answer(at, instance))
        return failed[0] if failed else JSONResponse({"predictions": answers}, headers=self._gateway.farewell)

    async def _answer(self, scope: Scope, instance: Json) -> tuple[int, dict[str, str], Json]:
        """Status, headers and document of the answer to one instance."""
        start: Message = {}
        pieces: list[bytes] = []

        async def take(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                pieces.append(message["body"])

        await self._chat(scope, _sent(instance, _never), take)
        return start["status"], headers_of(start), json.loads(b"".join(pieces))


def _checked(body: Json) -> Json:
    """*body*, whose instances are none or some objects that are not streamed. Raises `Failure`."""
    if "instances" not in body:
        return body
    _check_instances(body, "body")
    for at, instance in enumerate(body["instances"]):
        if ((body.get("parameters") or {}) | instance).get("stream"):
            message = f"instances[{at}].stream: predictions are whole; send one request without `instances` to stream"
            raise Failure(400, "unsupported_parameter", message, "instances")
    return body


_check_instances: Final = check_of(INSTANCES)


def _failed(at: int, status: int, headers: Mapping[str, str], document: Json) -> JSONResponse:
    """The failure of the instance *at* as that of the request."""
    error = document["error"] | {"message": f"instances[{at}]: {document['error']['message']}"}
    shown = {name: value for name, value in headers.items() if name not in ("content-length", "content-type")}
    return JSONResponse({"error": error}, status, shown)


def _sent(body: Json, then: Receive) -> Receive:
    """What an application receives of a client that sends *body*, and then what *then* says."""
    pending: list[Message] = [{"type": "http.request", "body": dumped(body).encode(), "more_body": False}]

    async def receive() -> Message:
        return pending.pop() if pending else await then()

    return receive


async def _never() -> Message:
    """Nothing more; whoever waits is cancelled."""
    await asyncio.Event().wait()
    raise AssertionError
