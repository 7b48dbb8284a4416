"""The rights of the clients of a gateway: a route is checked before it reads anything, a request once it is read.

Without a rights file nothing changes: keys say who may use the gateway, and for which tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from hybrid_llm.core.errors import AuthenticationFailed, PermissionDenied
from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.core.limits import DEFAULT_MAX_TOKENS
from hybrid_llm.core.rights.counters import open_counters
from hybrid_llm.core.rights.gate import Admitted, Gate, Share, token_caller
from hybrid_llm.core.rights.grants import Caller, Operation, Wanted
from hybrid_llm.core.rights.keys import TokenVerifier
from hybrid_llm.core.rights.quotas import Quotas
from hybrid_llm.core.rights.tokens import looks_like_jwt
from hybrid_llm.gateway.asked import Asked, dumped
from hybrid_llm.gateway.config import ANYBODY, Client, identity_of, secret_of
from hybrid_llm.gateway.refusals import asking
from hybrid_llm.gateway.tiers import priority_of
from hybrid_llm.policies.rights import open_rights
from hybrid_llm.router.failures import Failure

if TYPE_CHECKING:
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.config.gateway import GatewayConfig

_GATEWAY: Final = "gateway"
_DEADLINE_S: Final = 3600.0
"""For so long tokens stay reserved if the gateway dies, seconds."""
_TASK: Final = "chat"
"""The task of a request that names none."""
OF_ENDPOINTS: Final[Mapping[str, Operation]] = {
    **dict.fromkeys(("chat", "completions", "responses", "messages", "managed_predict"), Operation.GENERATE),
    **dict.fromkeys(("count_tokens", "input_tokens"), Operation.COUNT),
    **dict.fromkeys(("response", "delete_response"), Operation.STORED),
    **dict.fromkeys(("models", "model", "openapi"), Operation.DESCRIBE),
    **dict.fromkeys(("health", "managed_health"), Operation.HEALTH),
    "metrics": Operation.METRICS,
}
"""Each endpoint of the API, and what a client does by it."""


class Site(Protocol):
    """What is asked of a gateway."""

    client: HybridLLM
    config: GatewayConfig

    @property
    def has_keys(self) -> bool:
        """Whether clients need a key."""
        ...

    def client_of(self, headers: Mapping[str, str]) -> Client:
        """Who sends a request, by its key alone; raises Failure."""
        ...

    def model_of(self, backend: str) -> str:
        """The model of *backend*."""
        ...


def operation_of(path: str, endpoints: Mapping[str, str]) -> Operation | None:
    """What a client does at the route *path*, None if that is not known; *endpoints* has the API's by their paths."""
    if path == "/" or path.startswith("/console/"):
        return Operation.CONSOLE
    return OF_ENDPOINTS.get(endpoints.get(path.replace("{id:path}", "{id}"), ""))


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let in: for whom, and under which rights."""

    gate: Gate
    admitted: Admitted
    client: Client

    def check_tenant(self, tenant: str | None) -> None:
        """Raise Failure if no entry allows the operation for *tenant*, which the request names."""
        try:
            self.gate.admit(self.admitted.caller, self.admitted.operation, tenant)
        except PermissionDenied as denied:
            raise Failure(403, "permission_denied", str(denied)) from None


CALL: Final[ContextVar[Call]] = ContextVar("hybrid_llm_gateway_call")
"""The request that runs, where there is a rights file; each has a task of its own."""


class GatewayRights:
    """Lets requests in under the rights file of *config*.

    Raises:
        ConfigError: the file of quotas cannot be used.
        PolicyError: the rights file is not valid.
    """

    def __init__(self, config: GatewayConfig) -> None:
        assert config.rights is not None
        source = open_rights(config.rights, "gateway")
        self._gate = Gate(source, Quotas(open_counters(config.quotas)), backend=_GATEWAY)
        self._verifier: TokenVerifier | None = None
        self.start, self.close = self._gate.start, self._gate.close

    @property
    def failures(self) -> int:
        """How often the quotas could not be read or written."""
        return self._gate.failures

    async def admit(self, gateway: Site, headers: Mapping[str, str], operation: Operation | None) -> Call:
        """Who sends a request, and that they may do *operation*.

        Raises:
            Failure: they may not, or their key or token is not valid.
            BackendUnavailable: the keys of tokens cannot be fetched.
        """
        caller, client = await self._caller(gateway, headers)
        asking().identity, asking().tenant = caller.identity, caller.tenant or ""
        if operation is None:
            raise Failure(403, "permission_denied", "this identity has no right to do this")
        try:
            return Call(self._gate, self._gate.admit(caller, operation), client)
        except PermissionDenied as denied:
            status, code = (401, "invalid_api_key") if caller.identity == "anonymous" else (403, "permission_denied")
            raise Failure(status, code, str(denied)) from None

    async def _caller(self, gateway: Site, headers: Mapping[str, str]) -> tuple[Caller, Client]:
        secret, spec = secret_of(headers), self._gate.tokens
        if spec is not None and looks_like_jwt(secret):
            if self._verifier is None or self._verifier.spec != spec:
                self._verifier = TokenVerifier(spec, backend=_GATEWAY)
            try:
                caller = token_caller(await self._verifier.verify(secret))
            except AuthenticationFailed as error:
                raise Failure(401, "invalid_token", str(error)) from None
            return caller, Client(tenant=caller.tenant)
        # Without keys only this machine is `local`: what others send as a key, or as the name of a host, shows nothing.
        if not (secret if gateway.has_keys else gateway.config.is_local):
            return Caller(identity="anonymous"), ANYBODY
        client = gateway.client_of(headers)
        return Caller(identity=identity_of(client), tenant=client.tenant), client


@dataclass(slots=True)
class Booking:
    """What one answer takes of a quota: the prompt as it is estimated, until the backend reports what it was."""

    share: Share
    prompt: int = 0

    def take(self, chunk: Chunk) -> None:
        """Count a piece of the answer."""
        self.share.tokens = max(self.share.tokens, self.prompt) + (chunk.tokens or bool(chunk.text))

    def finish(self, generation: Generation) -> None:
        """Count the whole answer, as its backend reports it."""
        self.share.tokens = generation.usage.prompt_tokens + generation.usage.completion_tokens


class Booked:
    """Answers what is *asked* within the rights and the quota of the request that runs.

    The backends in *options* are narrowed to those that may answer it. A class, for `contextlib` cannot pass a Failure
    on, which is frozen.
    """

    def __init__(self, gateway: Site, asked: Asked, options: dict[str, Any]) -> None:
        self._gateway, self._asked, self._options = gateway, asked, options
        self._held: AbstractAsyncContextManager[Share] = nullcontext(Share(account=""))

    async def __aenter__(self) -> Booking:
        """Begin; raises Failure if no backend may answer it, QuotaExceeded if the quota does not allow it now."""
        call, prompt, highest = CALL.get(None), 0, 0
        if call is not None:
            share, prompt = _narrowed(call, self._gateway, self._options), _estimate(self._asked)
            highest = share.priority
            longest = prompt + int(self._options.get("max_tokens") or DEFAULT_MAX_TOKENS)
            self._held = call.gate.hold(share, longest, deadline=_DEADLINE_S)
        if self._options.get("priority") is None:
            self._options["priority"] = priority_of(self._asked.body, highest)
        return Booking(await self._held.__aenter__(), prompt)

    async def __aexit__(self, *_: object) -> None:
        await self._held.__aexit__(None, None, None)


def _narrowed(call: Call, gateway: Site, options: dict[str, Any]) -> Share:
    named = options.get("backends") or tuple(each.name for each in gateway.client.backends)
    wanted = Wanted(
        operation=Operation.GENERATE,
        task=options.get("task") or _TASK,
        tenant=options["tenant"],
        priority=options.get("priority") or 0,
    )
    each = {name: replace(wanted, models=(name, gateway.model_of(name))) for name in named}
    allowed = [name for name, one in each.items() if call.gate.allows(call.admitted, one)]
    try:
        share = call.gate.check(call.admitted, each[(allowed or named)[0]])
    except PermissionDenied as denied:
        raise Failure(403, "permission_denied", str(denied)) from None
    if len(allowed) < len(named) or options.get("backends"):
        options["backends"] = tuple(allowed)
    return share


def _estimate(asked: Asked) -> int:
    """Tokens of the prompt, on the high side: three bytes of its JSON a token."""
    texts = dumped({"messages": [*asked.instructions, *asked.prompt], "tools": asked.options.get("tools") or []})
    return len(texts.encode("utf-8", "surrogatepass")) // 3
