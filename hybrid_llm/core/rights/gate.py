"""The one gate of a node and of a gateway: holds a call to the rights at its beginning, and a request to its quota.

A request is held to the rights of its beginning and to those that hold when it is read: a reload in between can only
narrow what it may do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from hybrid_llm.core.errors import BackendUnavailable, PermissionDenied, QuotaExceeded
from hybrid_llm.core.log import Repeated
from hybrid_llm.core.rights.counters import CountersBusy, CountersError
from hybrid_llm.core.rights.grants import Caller, Limits, Operation, Rights, RightsSource, Wanted
from hybrid_llm.core.rights.quotas import Charge, Quotas
from hybrid_llm.core.rights.tokens import Token, TokenSpec

T = TypeVar("T")
_log = logging.getLogger("hybrid_llm.rights")
_EVERY_S: Final = 10.0
_BUSY_S: Final = 0.002
_BUSY_TRIES: Final = 100
_CALLS_RETRY_S: Final = 0.5
_GRACE_S: Final = 30.0
"""A reservation outlives its request by this much, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A call that was let in: who calls, and the *rights* that held then."""

    caller: Caller
    rights: Rights
    operation: Operation


@dataclass(slots=True, kw_only=True)
class Share:
    """What a request may have: the *account* it counts on, for which *tenant*, within which *limits*.

    *weight* is its share of the engine, in which the requests of one *flow* share; *tokens* are those that the request
    has taken so far.
    """

    account: str
    flow: str = ""
    tenant: str | None = None
    weight: float = 1.0
    limits: Limits = field(default_factory=Limits)
    priority: int = 0
    """The highest that it may ask for."""
    tokens: int = 0


class Gate:
    """Checks calls against the rights that *source* provides, and books tokens in *quotas*. Used from one event loop.

    *backend* is what errors name, such as `node`.
    """

    def __init__(self, source: RightsSource, quotas: Quotas, *, backend: str) -> None:
        self._source = source
        self._quotas = quotas
        self._backend = backend
        self._calls: Counter[str] = Counter()
        self.failures = 0
        """How often the quotas could not be read or written."""
        self._repeated = Repeated(every_s=_EVERY_S, between=logging.DEBUG, logger=_log)

    @property
    def tokens(self) -> TokenSpec | None:
        """Which tokens are accepted now."""
        return self._source.current.tokens

    def admit(self, caller: Caller, operation: Operation, tenant: str | None = None) -> Admitted:
        """Let a call in; *tenant* is the one that it names, where that is known already.

        Raises:
            PermissionDenied: no entry lets *caller* do *operation*, or not for *tenant*.
        """
        rights = self._source.current
        verdict = rights.may(caller, operation, tenant)
        if not verdict.allowed:
            raise self._denied(caller, operation, verdict.objection)
        return Admitted(caller=caller, rights=rights, operation=operation)

    def check(self, admitted: Admitted, wanted: Wanted) -> Share:
        """What the entry gives that allows what is *wanted*, under the rights of the beginning and under those of now.

        Raises:
            PermissionDenied: one of them does not.
        """
        first = admitted.rights.decide(admitted.caller, wanted)
        now = self._source.current
        second = first if now is admitted.rights else now.decide(admitted.caller, wanted)
        for verdict in (first, second):
            if not verdict.allowed or verdict.grant is None:
                raise self._denied(admitted.caller, wanted.operation, verdict.objection)
        grant, tenant = first.grant, Rights.tenant_of(admitted.caller, wanted)
        assert grant is not None
        assert second.grant is not None
        account = grant.account_of(admitted.caller, tenant or "")
        return Share(
            account=account,
            tenant=tenant,
            weight=grant.weight,
            limits=grant.limits,
            priority=min(grant.priority, second.grant.priority),
        )

    def allows(self, admitted: Admitted, wanted: Wanted) -> bool:
        """Whether `check` would allow what is *wanted*; nothing is logged."""
        return all(rights.decide(admitted.caller, wanted).allowed for rights in (admitted.rights, self._source.current))

    def may_use(self, admitted: Admitted, model: str) -> bool:
        """Whether an entry about the caller lets it generate with *model*, for some task and tenant."""
        return self._source.current.names(admitted.caller, model)

    @asynccontextmanager
    async def hold(self, share: Share, tokens: int, *, deadline: float) -> AsyncGenerator[Share, None]:
        """Answer one request: reserve at most *tokens*, and settle `share.tokens` at the end.

        *deadline* is in seconds from now.

        Raises:
            QuotaExceeded: the account has used up its tokens, or has as many requests running as it may.
            BackendUnavailable: the quotas cannot be read or written.
        """
        limit = share.limits.calls
        if limit is not None and self._calls[share.account] >= limit:
            text = f"{limit} requests of this account are being answered, as many as it may have"
            raise QuotaExceeded(text, backend=self._backend, retry_after=_CALLS_RETRY_S)
        self._calls[share.account] += 1
        try:
            charge = await self._reserve(share, tokens, deadline)
            try:
                yield share
            finally:
                self._settle(charge, share.tokens)
        finally:
            self._calls[share.account] -= 1
            if not self._calls[share.account]:
                del self._calls[share.account]

    async def _reserve(self, share: Share, tokens: int, deadline: float) -> Charge | None:
        for left in reversed(range(_BUSY_TRIES)):
            try:
                return await self._aside(
                    partial(
                        self._quotas.reserve,
                        share.account,
                        share.limits,
                        tokens,
                        expires_s=deadline + _GRACE_S,
                        backend=self._backend,
                    )
                )
            except CountersBusy as busy:
                if not left:
                    self._failed(busy)
                    break
                await asyncio.sleep(_BUSY_S)
            except CountersError as error:
                self._failed(error)
                break
        text = "the quotas cannot be checked"
        raise BackendUnavailable(text, backend=self._backend, reason="not_ready", retry_after=1.0)

    async def _aside(self, work: Callable[[], T]) -> T:
        """Do *work* here, or in a thread where it waits for another machine.

        A request that is cancelled meanwhile leaves its reservation until that expires: rather too much.
        """
        return await asyncio.to_thread(work) if self._quotas.is_remote else work()

    def _settle(self, charge: Charge | None, tokens: int) -> None:
        self._quotas.settle(charge, tokens)
        if charge is not None and self._quotas.is_remote:
            asyncio.get_running_loop().run_in_executor(None, self._flush)

    def _flush(self) -> None:
        try:
            self._quotas.flush()
        except CountersError as error:
            self._failed(error)

    def _failed(self, error: CountersError) -> None:
        self.failures += 1
        self._repeated.warn("quotas", "the quotas cannot be read or written: %s", error)

    def reload(self) -> bool:
        """Look for other rights at once."""
        return self._source.reload()

    def start(self) -> None:
        """Watch the rights from now on, and forget quotas that have long been untouched."""
        self._source.start()
        try:
            self._quotas.prune()
        except CountersError as error:
            _log.warning("old quotas stay: %s", error)

    def close(self) -> None:
        """Stop watching, and write what is settled."""
        self._source.close()
        self._quotas.close()

    def _denied(self, caller: Caller, operation: Operation, objection: str) -> PermissionDenied:
        self._repeated.warn(
            f"{caller.identity} {operation} {objection}",
            "refused %s to %s, tenant %s: no entry %s",
            operation, caller.identity, caller.tenant or "-",
            "is about this caller" if objection == "everything" else f"allows {objection}",
        )  # fmt: skip
        return PermissionDenied(f"this identity has no right to {_SAYS[objection]}", backend=self._backend)


_SAYS: Final = {
    "everything": "use this service",
    "the operation": "do this",
    "the model": "use this model",
    "the task": "name this task",
    "the priority": "ask for this priority",
    "the tenant": "name this tenant",
}
"""What an entry does not allow -> the end of the sentence that the caller gets."""


def token_caller(token: Token) -> Caller:
    """The caller whom *token* names."""
    return Caller(identity=token.identity, tenant=token.tenant, claims=token.claims)
