"""The routes of the console: the page at `/`, its files, and the data that it shows.

The page itself holds nothing of anybody, so that it needs no key; its data do, where the gateway has keys, and then a
tenant sees its own decisions and spending alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import hybrid_llm
from hybrid_llm.core.errors import ConfigError, InvalidRequest, PolicyError
from hybrid_llm.core.jsonable import Json, jsonable
from hybrid_llm.core.limits import DEFAULT_DEADLINE_S
from hybrid_llm.gateway.config import Client
from hybrid_llm.gateway.console import documents
from hybrid_llm.gateway.console.journal import Journal
from hybrid_llm.gateway.console.static import SECURITY, StaticFile, read_static
from hybrid_llm.gateway.exchange import read_json, told
from hybrid_llm.gateway.gateway import Gateway
from hybrid_llm.policies import Policy
from hybrid_llm.router.failures import Failure

_BODY_BYTES: Final = 1 << 20
_POLICY_CHARACTERS: Final = 65_536
_AT_ONCE: Final = 2
"""Previews that run side by side; more wait."""
_USUAL: Final = "hello"
"""A short prompt, for what the budget allows now."""
_PREVIEW: Final = frozenset({"prompt", "policy", "privacy", "task", "max_tokens", "deadline", "backend", "session"})
_FOREIGN: Final = frozenset({"cross-site", "same-site"})
_DATA: Final = {**SECURITY, "cache-control": "no-store"}
_MOST_DIGITS: Final = 18
Endpoint = Callable[[Request], Awaitable[Response]]
Answer = Callable[[Request, Client], Awaitable[object]]


def console_routes(gateway: Gateway) -> list[Route]:
    """The routes of a console for the client of *gateway*, whose requests it notes from now on."""
    console = Console(gateway, Journal(), read_static())
    gateway.client.add_hook(console.journal)
    data: dict[str, Answer] = {
        "overview": console.overview,
        "signals": console.signals,
        "decisions": console.decisions,
        "decisions/{id}": console.decision,
        "spending": console.spending,
        "policy": console.policy,
    }
    posts: dict[str, Answer] = {"preview": console.preview, "forget": console.forget}
    return [
        Route("/", console.page),
        *[Route(f"/console/data/{path}", console.guarded(answer)) for path, answer in data.items()],
        *[Route(f"/console/data/{path}", console.guarded(answer), methods=["POST"]) for path, answer in posts.items()],
        Route("/console/{name}", console.file),
    ]


class Console:
    """What the routes share."""

    def __init__(self, gateway: Gateway, journal: Journal, files: Mapping[str, StaticFile]) -> None:
        self.gateway = gateway
        self.journal = journal
        self.files = files
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def page(self, request: Request) -> Response:
        """The page, for everybody who may ask this host."""
        return self._static("index.html", request)

    async def file(self, request: Request) -> Response:
        """One of its files."""
        return self._static(request.path_params["name"], request)

    def _static(self, name: str, request: Request) -> Response:
        try:
            self.gateway.check_site(request.headers)
            if (found := self.files.get(name)) is None:
                raise Failure(404, "unknown_url", "the console has no such file")
        except Failure as failure:
            told(failure, name)
            return JSONResponse(failure.as_openai(), failure.status, {**failure.headers, **SECURITY})
        return found.response(request)

    def guarded(self, answer: Answer) -> Endpoint:
        """*answer* as JSON for those who may use the gateway, and for no page but ours."""

        async def endpoint(request: Request) -> Response:
            try:
                if request.headers.get("sec-fetch-site") in _FOREIGN:
                    raise Failure(403, "wrong_origin", "pages of other sites are not answered")
                document = await answer(request, self.gateway.admit(request.headers))
            except Exception as error:  # noqa: BLE001  # whatever fails has a status
                failure = told(error, request.url.path)
                return JSONResponse(failure.as_openai(), failure.status, {**failure.headers, **_DATA})
            return JSONResponse(jsonable(document), headers=_DATA)

        return endpoint

    async def overview(self, _: Request, client: Client) -> documents.Overview:
        """What the page needs first."""
        policy = self.gateway.client.policy
        return documents.Overview(
            version=hybrid_llm.__version__,
            tenant=client.tenant,
            policy=policy.name,
            digest=policy.digest,
            tags=[
                documents.TagDocument(
                    name=name, allow=sorted(tag.allow), pseudonymise=tag.pseudonymise, detect=tag.detect
                )
                for name, tag in policy.tags.items()
            ],
            key_tags=sorted(client.privacy),
            backends=[
                documents.BackendDocument(
                    name=each.name,
                    location=each.location.value,
                    model=each.capabilities.model,
                    notice=each.capabilities.notice,
                )
                for each in self.gateway.client.backends
            ],
            deadline_s=policy.objectives.deadline_s or DEFAULT_DEADLINE_S,
            currency=self.gateway.client.currency,
        )

    async def signals(self, _: Request, __: Client) -> documents.SignalsDocument:
        """What is known now; the state of every backend is read."""
        signals = await asyncio.to_thread(self.gateway.client.signals)
        return documents.SignalsDocument(
            at=time.time(),
            device=signals.device,
            network=signals.network,
            backends=list(signals.backends.values()),
            models={name: self.gateway.model_of(name) for name in signals.backends},
        )

    async def decisions(self, request: Request, client: Client) -> Json:
        """The latest decisions beyond the number *after*, without their traces."""
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) <= _MOST_DIGITS):
            raise Failure(400, "invalid_value", "after: the number of a decision, 0 for all", "after")
        entries = self.journal.latest(client.tenant, after=int(after))
        return {"decisions": [documents.decision_of(entry) for entry in entries]}

    async def decision(self, request: Request, client: Client) -> documents.DecisionDocument:
        """One decision, with what each rule read."""
        entry = self.journal.find(request.path_params["id"], client.tenant)
        if entry is None:
            raise Failure(404, "decision_not_found", "no such request among the latest ones", "id")
        return documents.decision_of(entry, trace=True)

    async def spending(self, _: Request, client: Client) -> documents.SpendingDocument:
        """What is spent; a ledger in a file is read."""
        entries = await asyncio.to_thread(self.gateway.client.spending)
        preview = await self.gateway.client.apreview(_USUAL, tenant=client.tenant, privacy=client.privacy)
        objectives = self.gateway.client.policy.objectives
        own = [entry for entry in entries if client.tenant in (None, entry.tenant)]
        return documents.SpendingDocument(
            today=datetime.now(UTC).date().isoformat(),
            excluded=preview.decision.excluded,
            budget=objectives.budget,
            currency=self.gateway.client.currency,
            lines=[documents.line_of(entry) for entry in own],
        )

    async def policy(self, _: Request, client: Client) -> documents.PolicyDocument:
        """The policy in force."""
        policy = self.gateway.client.policy
        return documents.policy_of(policy, self.journal.counts(policy.digest, client.tenant))

    async def preview(self, request: Request, client: Client) -> documents.PreviewDocument:
        """What the policy in force, and an edited one, decide for a prompt. Nothing is sent, and nothing changes."""
        body = await self._body(request, _PREVIEW)
        prompt, options = _prompt_of(body), self._options(body, client)
        text = _typed(body, "policy", str, "the text of a policy")
        async with self._turns:
            current = self.gateway.client.policy
            side = documents.side_of(current, await self.gateway.client.apreview(prompt, **options))
            if text is None:
                return documents.PreviewDocument(current=side)
            return await self._edited(side, text, prompt, options | {"session_id": None})

    async def _edited(
        self, current: documents.Side, text: str, prompt: Any, options: Json
    ) -> documents.PreviewDocument:
        if len(text) > _POLICY_CHARACTERS:
            raise Failure(413, "request_too_large", f"policy: at most {_POLICY_CHARACTERS} characters", "policy")
        try:
            policy = await asyncio.to_thread(self.gateway.client.parse_policy, text)
        except PolicyError as error:
            return documents.PreviewDocument(current=current, faults=[documents.fault_of(one) for one in error.errors])
        except ConfigError as error:
            fault = documents.Fault(line=0, column=0, message=str(error), hint="")
            return documents.PreviewDocument(current=current, faults=[fault])
        warnings = [
            documents.Fault(line=each.line, column=each.column, message=each.message, hint=each.hint or "")
            for each in policy.warnings
        ]
        side = await self._side(policy, prompt, options)
        return documents.PreviewDocument(current=current, edited=side, warnings=warnings)

    async def _side(self, policy: Policy, prompt: Any, options: Json) -> documents.Side:
        """What *policy* decides, or why it refuses what the policy in force takes, such as a tag that it lacks."""
        try:
            return documents.side_of(policy, await self.gateway.client.apreview(prompt, policy, **options))
        except InvalidRequest as error:
            return documents.Side(policy=policy.name, digest=policy.digest, refused=str(error))

    def _options(self, body: Json, client: Client) -> Json:
        tags = _typed(body, "privacy", list, "a list of tags") or []
        if not all(isinstance(tag, str) for tag in tags):
            raise Failure(400, "invalid_type", "privacy: it must be a list of tags", "privacy")
        options: Json = {
            "privacy": client.privacy.union(tags),
            "task": _typed(body, "task", str, "a name"),
            "max_tokens": _typed(body, "max_tokens", int, "a number of tokens"),
            "deadline": _typed(body, "deadline", (int, float), "a number of seconds"),
            "session_id": _typed(body, "session", str, "the name of a session"),
            "tenant": client.tenant,
        }
        backend = _typed(body, "backend", str, "`auto`, or the name of a backend or model")
        if names := self.gateway.backends_of(backend or "auto"):
            options["backends"] = names
        return options

    async def forget(self, request: Request, client: Client) -> Json:
        """Wipe the pseudonyms of a session, and what this device holds of it."""
        body = await self._body(request, frozenset({"session"}))
        session = _typed(body, "session", str, "the name of a session")
        if not session:
            raise Failure(400, "missing_required_parameter", "session: it is missing", "session")
        await asyncio.to_thread(self.gateway.client.forget, session, tenant=client.tenant)
        return {"forgotten": True}

    async def _body(self, request: Request, known: frozenset[str]) -> Json:
        limits = self.gateway.config
        most = min(_BODY_BYTES, limits.body_bytes)

        def read(body: Json) -> Json:
            if unknown := sorted(body.keys() - known):
                message = f"Unrecognized request argument supplied: {unknown[0][:64]}"
                raise Failure(400, "unknown_parameter", message, unknown[0][:64])
            return body

        return await read_json(request.headers, request.receive, most, limits.read_timeout_s, read)


def _prompt_of(body: Json) -> Any:
    """A text, or a conversation as `generate` takes it, which checks it."""
    prompt = body.get("prompt")
    if isinstance(prompt, str | list) and prompt:
        return prompt
    raise Failure(400, "missing_required_parameter", "prompt: a text, or a list of messages", "prompt")


def _typed(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], what: str) -> Any:
    """The field *name*, None if it is absent or null. Raises `Failure` if it is no *kind*, in words *what*."""
    value = body.get(name)
    if value is None or (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)):
        return value
    raise Failure(400, "invalid_type", f"{name}: it must be {what}", param=name)
