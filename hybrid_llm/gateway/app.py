"""The application of a gateway: its routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.gateway.asked import Dialect
from hybrid_llm.gateway.chat import ChatCompletions
from hybrid_llm.gateway.completions import Completions
from hybrid_llm.gateway.config import GatewayConfig
from hybrid_llm.gateway.console import console_routes
from hybrid_llm.gateway.exchange import Exchange, read_json
from hybrid_llm.gateway.gateway import Gateway, no_model
from hybrid_llm.gateway.messages import Messages
from hybrid_llm.gateway.responses import Responses
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.failures import Failure, failure_of
from hybrid_llm.router.observability.prometheus import PrometheusMetrics

Endpoint = Callable[[Request], Awaitable[Response]]


def gateway_app(
    client: HybridLLM, config: GatewayConfig | None = None, *, metrics: PrometheusMetrics | None = None
) -> Starlette:
    """An ASGI application by which clients of OpenAI's and Anthropic's APIs use *client*, which it closes at its end.

    *metrics*, a hook of that client, is served under `/metrics`.

    Raises:
        ConfigError: the keys cannot be used, or there are none though other machines reach the gateway.
    """
    gateway = Gateway(client, config or GatewayConfig())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    posts: dict[str, Dialect] = {
        "/v1/chat/completions": ChatCompletions(),
        "/v1/completions": Completions(),
        "/v1/responses": Responses(),
        "/v1/messages": Messages(),
    }
    return Starlette(
        routes=[
            *[Route(path, Exchange(gateway, dialect), methods=["POST"]) for path, dialect in posts.items()],
            Route("/v1/messages/count_tokens", _guarded(gateway, _count_tokens, anthropic=True), methods=["POST"]),
            Route("/v1/responses/{id}", _guarded(gateway, _kept_response), methods=["GET", "DELETE"]),
            Route("/v1/models", _guarded(gateway, _models)),
            Route("/v1/models/{id:path}", _guarded(gateway, _model)),
            Route("/health", _health),
            *(console_routes(gateway) if gateway.config.console else []),
            *([] if metrics is None else [Route("/metrics", _guarded(gateway, partial(_metrics, metrics)))]),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )


def _guarded(
    gateway: Gateway, endpoint: Callable[[Gateway, Request], Awaitable[Response]], *, anthropic: bool = False
) -> Endpoint:
    """*endpoint* for those who may use the gateway; what it raises is a document of the API."""

    async def guarded(request: Request) -> Response:
        try:
            request.state.client = gateway.admit(request.headers)
            return await endpoint(gateway, request)
        except (Failure, HybridLLMError) as error:
            failure = failure_of(error)
        document = failure.as_anthropic() if anthropic else failure.as_openai()
        return JSONResponse(document, failure.status, failure.headers)

    return guarded


async def _count_tokens(gateway: Gateway, request: Request) -> Response:
    limits = gateway.config
    body = await read_json(request.headers, request.receive, limits.body_bytes, limits.read_timeout_s)
    asked = Messages().read_prompt(body)
    options = {"tools": asked.options["tools"], "output_schema": asked.options["output_schema"]}
    return JSONResponse({"input_tokens": await gateway.client.acount_tokens(asked.prompt, **options)})


async def _kept_response(gateway: Gateway, request: Request) -> Response:
    response_id, tenant = request.path_params["id"], request.state.client.tenant
    if request.method == "DELETE":
        gateway.kept.delete(response_id, tenant)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})
    return JSONResponse(gateway.kept.document(response_id, tenant))


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


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _http_error(_: Request, error: Exception) -> Response:
    """What no route answers, in the form of OpenAI's APIs."""
    assert isinstance(error, HTTPException)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    failure = Failure(error.status_code, code, f"{error.detail}: GET /v1/models, POST /v1/chat/completions and others")
    return JSONResponse(failure.as_openai(), failure.status, {**failure.headers, **(error.headers or {})})
