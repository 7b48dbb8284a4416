"""The application of a gateway: its routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hybrid_llm.core.jsonable import Json
from hybrid_llm.gateway.asked import Asked
from hybrid_llm.gateway.chat import ChatCompletions
from hybrid_llm.gateway.completions import Completions
from hybrid_llm.gateway.console import console_routes
from hybrid_llm.gateway.exchange import Exchange, read_json, told
from hybrid_llm.gateway.extensions import tenant_of
from hybrid_llm.gateway.gateway import Gateway, no_model
from hybrid_llm.gateway.guarded import guard
from hybrid_llm.gateway.managed import Managed, Predict
from hybrid_llm.gateway.messages import Messages
from hybrid_llm.gateway.openapi import OPERATIONS, Operation, document
from hybrid_llm.gateway.refusals import Refusals, asking
from hybrid_llm.gateway.responses import Responses
from hybrid_llm.gateway.rights import CALL
from hybrid_llm.gateway.sealed import SealedBodies, open_ring
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config.gateway import GatewayConfig
from hybrid_llm.router.failures import Failure
from hybrid_llm.router.observability.prometheus import PrometheusMetrics

Endpoint = Callable[[Request], Awaitable[Response]]
Operator = Callable[[Gateway, Request], Awaitable[Response]]


def gateway_app(
    client: HybridLLM, config: GatewayConfig | None = None, *, metrics: PrometheusMetrics | None = None
) -> Starlette:
    """An ASGI application by which clients of OpenAI's and Anthropic's APIs use *client*, which it closes at its end.

    *metrics*, a hook of that client, is served under `/metrics`.

    Raises:
        ConfigError: the keys cannot be used, or there are none though other machines reach the gateway.
    """
    return app_of(Gateway(client, config or GatewayConfig()), metrics)


def app_of(gateway: Gateway, metrics: PrometheusMetrics | None = None, managed: Managed | None = None) -> Starlette:
    """The application of *gateway*; with *managed*, also the routes that a platform expects."""

    plain: dict[str, Operator] = {
        "count_tokens": _count_tokens,
        "input_tokens": _count_input,
        "response": _stored_response,
        "delete_response": _delete_response,
        "models": _models,
        "model": _model,
        "openapi": _openapi,
    }
    if metrics is not None:
        plain["metrics"] = partial(_metrics, metrics)
        metrics.observe(gateway.status)
    endpoints: dict[str, Any] = {
        "chat": Exchange(gateway, ChatCompletions()),
        "completions": Exchange(gateway, Completions()),
        "responses": Exchange(gateway, Responses()),
        "messages": Exchange(gateway, Messages()),
        "health": partial(_health, gateway),
        **{name: _guarded(gateway, one, anthropic=OPERATIONS[name].anthropic) for name, one in plain.items()},
    }
    operations = OPERATIONS
    if managed is not None:
        operations = managed.operations()
        endpoints["managed_health"] = partial(_health, gateway)
        endpoints["managed_predict"] = Predict(gateway, instances=managed.instances)
    gateway.document = document(endpoints, operations)
    routes = [*_routes(endpoints, operations), *(console_routes(gateway) if gateway.config.console else [])]
    guard(routes, gateway, {operations[name].path: name for name in endpoints})
    return Starlette(
        middleware=list(_layers(gateway)),
        routes=routes,
        exception_handlers={HTTPException: _http_error},
        lifespan=partial(_lifespan, gateway),
    )


@asynccontextmanager
async def _lifespan(gateway: Gateway, _: Starlette) -> AsyncIterator[None]:
    gateway.start()
    try:
        async with gateway.client:
            yield
    finally:
        await asyncio.to_thread(gateway.close)


def _layers(gateway: Gateway) -> Iterator[Middleware]:
    """What lies around the routes."""
    config = gateway.config
    yield Middleware(Refusals, report=gateway.client.report_refusal)
    if config.sealed is not None:
        keys = open_ring(config.sealed)
        yield Middleware(
            SealedBodies,
            keys=keys,
            required=config.only_sealed,
            body_bytes=config.body_bytes,
            read_timeout_s=config.read_timeout_s,
        )


def _routes(endpoints: Mapping[str, Any], operations: Mapping[str, Operation]) -> Iterator[Route]:
    """A route for each path of an operation that has an endpoint. The name of a model may have slashes.

    The last endpoint of a path and method counts: a platform may send its requests to a path of ours.
    """
    by_path: dict[str, dict[str, Any]] = {}
    for name, endpoint in endpoints.items():
        operation = operations[name]
        path = operation.path.replace("{id}", "{id:path}") if name == "model" else operation.path
        by_path.setdefault(path, {})[operation.method] = endpoint
    for path, methods in by_path.items():
        endpoint = next(iter(methods.values())) if len(methods) == 1 else _by_method(methods)
        yield Route(path, endpoint, methods=list(methods))


def _by_method(methods: Mapping[str, Endpoint]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await methods.get(request.method, methods["GET"])(request)  # HEAD is answered as GET

    return endpoint


def _guarded(gateway: Gateway, endpoint: Operator, *, anthropic: bool = False) -> Endpoint:
    """*endpoint* for those who may use the gateway; what it raises is a document of the API."""

    async def guarded(request: Request) -> Response:
        try:
            tenant = request.state.tenant = tenant_of(request.headers, gateway.admit(request.headers))
            if (call := CALL.get(None)) is not None:
                call.check_tenant(tenant)
            response = await endpoint(gateway, request)
        except Exception as error:  # noqa: BLE001  # whatever fails has a status
            failure = told(error, request.url.path)
            found = failure.as_anthropic() if anthropic else failure.as_openai()
            response = JSONResponse(found, failure.status, failure.headers)
        response.headers.update(gateway.farewell)
        return response

    return guarded


async def _count_tokens(gateway: Gateway, request: Request) -> Response:
    asked = await _read(gateway, request, Messages().read_prompt)
    return JSONResponse({"input_tokens": await _counted(gateway, asked)})


async def _count_input(gateway: Gateway, request: Request) -> Response:
    asked = gateway.stored.follow(await _read(gateway, request, Responses().read), request.state.tenant)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": await _counted(gateway, asked)})


async def _read(gateway: Gateway, request: Request, read: Callable[[Json], Asked]) -> Asked:
    limits = gateway.config
    return await read_json(request.headers, request.receive, limits.body_bytes, limits.read_timeout_s, read)


async def _counted(gateway: Gateway, asked: Asked) -> int:
    options = {"tools": asked.options["tools"], "output_schema": asked.options["output_schema"]}
    return await gateway.client.acount_tokens([*asked.instructions, *asked.prompt], **options)


async def _stored_response(gateway: Gateway, request: Request) -> Response:
    return JSONResponse(gateway.stored.document(request.path_params["id"], request.state.tenant))


async def _delete_response(gateway: Gateway, request: Request) -> Response:
    response_id = request.path_params["id"]
    gateway.stored.delete(response_id, request.state.tenant)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


async def _openapi(gateway: Gateway, _: Request) -> Response:
    return JSONResponse(gateway.document)


async def _models(gateway: Gateway, _: Request) -> Response:
    models = gateway.models()
    return JSONResponse({"object": "list", "data": models, "has_more": False})


async def _model(gateway: Gateway, request: Request) -> Response:
    found = next((each for each in gateway.models() if each["id"] == request.path_params["id"]), None)
    if found is None:
        raise no_model(request.path_params["id"])
    return JSONResponse(found)


async def _metrics(metrics: PrometheusMetrics, _: Gateway, request: Request) -> Response:
    accepted = request.headers.get("accept", "")
    body, kind = await asyncio.to_thread(metrics.scrape, accepted)  # the state of every backend is read
    return Response(body, headers={"content-type": kind})


async def _health(gateway: Gateway, _: Request) -> Response:
    if gateway.draining:
        return JSONResponse({"status": "draining"}, 503, gateway.farewell | {"retry-after": "1"})
    return JSONResponse({"status": "ok"})


def _where(path: str) -> str:
    """What was meant by *path*, which no route has: at times it is one of ours under a wrong base URL."""
    routes = {operation.path for operation in OPERATIONS.values()}
    if f"/v1{path}" in routes:
        return f"/v1{path} is there; end the base URL of the client with /v1"
    if path.startswith("/v1/v1/") and path.removeprefix("/v1") in routes:
        return f"{path.removeprefix('/v1')} is there; leave /v1 out of the base URL of the client"
    return "GET /v1/models, POST /v1/chat/completions and others"


async def _http_error(request: Request, error: Exception) -> Response:
    """What no route answers, in the form of OpenAI's APIs."""
    assert isinstance(error, HTTPException)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    asking().code = code
    failure = Failure(error.status_code, code, f"{error.detail}: {_where(request.url.path)}")
    return JSONResponse(failure.as_openai(), failure.status, {**failure.headers, **(error.headers or {})})
