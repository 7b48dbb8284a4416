"""The rights of the callers of a node: each call is checked before its request is read, and each request once it is.

Without a rights file every authenticated client may do everything, and counts as one account by its identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from hybrid_llm.backends.node.requests import NODE
from hybrid_llm.backends.wire.certificates import TRUST_DOMAIN
from hybrid_llm.backends.wire.status import PRIORITY_KEY
from hybrid_llm.core.errors import PermissionDenied, RequestRejected
from hybrid_llm.core.request import Request
from hybrid_llm.core.rights.gate import Admitted, Gate, Share, token_caller
from hybrid_llm.core.rights.grants import Caller, Operation, Wanted
from hybrid_llm.core.rights.keys import TokenVerifier
from hybrid_llm.core.rights.tokens import TokenSpec, bearer, refused

CLIENT: Final = f"{TRUST_DOMAIN}/client/"
AUTHORIZATION: Final = "authorization"
_PRIORITIES: Final = frozenset("0123456789")
OPERATIONS: Final[Mapping[str, Operation]] = {
    "/hybrid_llm.v1.HybridLLM/Generate": Operation.GENERATE,
    "/hybrid_llm.v1.HybridLLM/Describe": Operation.DESCRIBE,
    "/grpc.health.v1.Health/Check": Operation.HEALTH,
    "/grpc.health.v1.Health/Watch": Operation.HEALTH,
    "/grpc.health.v1.Health/List": Operation.HEALTH,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Operation.REFLECTION,
}
"""Each RPC of a node, and what a caller does by it; under a rights file, one that is missing here is refused to all."""

Metadata = Iterable[tuple[str, str | bytes]]


class CallRights(Protocol):
    """What one call may do."""

    @property
    def priorities(self) -> bool:
        """Whether the priority that it asks for is followed."""
        ...

    def check(self, request: Request, model: str) -> Share:
        """What *request* may have of *model*; raises PermissionDenied."""
        ...

    def may_use(self, model: str) -> bool:
        """Whether some request may use *model*: others need not know of it."""
        ...

    def hold(self, share: Share, tokens: int, *, deadline: float) -> AbstractAsyncContextManager[Share]:
        """Book the request while it is answered; see `Gate.hold`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCall:
    """A call on a node without a rights file."""

    identity: str = ""
    weight: float = 1.0
    priorities: ClassVar = False
    """Nothing bounds what a client may ask for, so none of it is followed."""

    def check(self, request: Request, model: str) -> Share:  # noqa: ARG002 - it may use any
        """Everything, on the account of its identity."""
        return Share(account=self.identity, tenant=request.tenant, weight=self.weight)

    def may_use(self, model: str) -> bool:  # noqa: ARG002
        """Any."""
        return True

    def hold(self, share: Share, tokens: int, *, deadline: float) -> AbstractAsyncContextManager[Share]:  # noqa: ARG002
        """Nothing is booked."""
        return nullcontext(share)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedCall:
    """A call that *gate* has let in."""

    gate: Gate
    admitted: Admitted
    priority: int = 0
    priorities: ClassVar = True

    def check(self, request: Request, model: str) -> Share:
        """What the rights give it; each step of priority doubles its share of the engine."""
        wanted = Wanted(
            operation=Operation.GENERATE,
            models=(model,),
            task=request.task or "",
            tenant=request.tenant,
            priority=self.priority,
        )
        share = self.gate.check(self.admitted, wanted)
        share.weight *= 2.0**self.priority
        share.flow = f"{share.account} priority {self.priority}"
        return share

    def may_use(self, model: str) -> bool:
        """Whether an entry about the caller names it."""
        return self.gate.may_use(self.admitted, model)

    def hold(self, share: Share, tokens: int, *, deadline: float) -> AbstractAsyncContextManager[Share]:
        """Book it in the quotas."""
        return self.gate.hold(share, tokens, deadline=deadline)


class NodeRights:
    """Lets calls in. Without a *gate* every client may do everything; *weights* has their shares by name."""

    def __init__(self, gate: Gate | None = None, weights: Mapping[str, float] | None = None) -> None:
        self._gate = gate
        self._weights = weights or {}
        self._verifier: TokenVerifier | None = None

    async def caller(self, certificate: str, metadata: Metadata) -> Caller:
        """Who calls; *certificate* is the identity of the connection.

        Raises:
            AuthenticationFailed: the call has a token that is not valid.
            BackendUnavailable: the keys of tokens cannot be fetched.
        """
        spec = self._gate.tokens if self._gate is not None else None
        return await self._caller(certificate, metadata, spec)

    def admit(self, caller: Caller, method: str, metadata: Metadata) -> CallRights:
        """What a call may do. Raises PermissionDenied if *caller* may not call *method*."""
        if self._gate is None:
            return OpenCall(identity=caller.identity, weight=self._weights.get(client_name(caller.identity), 1.0))
        operation = OPERATIONS.get(method)
        if operation is None:
            raise PermissionDenied("this identity has no right to do this", backend=NODE)
        admitted = self._gate.admit(caller, operation)
        return GatedCall(gate=self._gate, admitted=admitted, priority=_priority(metadata))

    async def _caller(self, certificate: str, metadata: Metadata, spec: TokenSpec | None) -> Caller:
        headers = [value for key, value in metadata if key == AUTHORIZATION]
        if spec is None or not headers:
            return Caller(identity=certificate)
        if len(headers) > 1:
            raise refused("there are several", NODE)
        if self._verifier is None or self._verifier.spec != spec:
            self._verifier = TokenVerifier(spec, backend=NODE)
        return token_caller(await self._verifier.verify(bearer(headers[0])))

    @property
    def quota_failures(self) -> int:
        """Requests for which the quotas could not be read or written."""
        return 0 if self._gate is None else self._gate.failures

    def reload(self) -> None:
        """Look for other rights at once."""
        if self._gate is not None:
            self._gate.reload()

    def start(self) -> None:
        """Watch the rights from now on."""
        if self._gate is not None:
            self._gate.start()

    def close(self) -> None:
        """Stop watching, and write what is settled."""
        if self._gate is not None:
            self._gate.close()


def _priority(metadata: Metadata) -> int:
    """The priority that a call asks for, 0 where it asks for none. Raises RequestRejected if it is no such number."""
    text = next((value for key, value in metadata if key == PRIORITY_KEY), "0")
    if text not in _PRIORITIES:
        message = "the priority must be a whole number from 0 to 9"
        raise RequestRejected(message, backend=NODE, reason="invalid_argument")
    return int(text)


def client_name(identity: str) -> str:
    """The name of a client's certificate, such as `app` of `spiffe://hybrid-llm/client/app`."""
    return identity.removeprefix(CLIENT)
