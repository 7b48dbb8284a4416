"""Planted faults of the choice among endpoints, of their health, and of the probes."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, swap
from tests.mutants.mutant import Mutant

_POOL = "hybrid_llm.backends.grpc.pool"
_BACKEND = "hybrid_llm.backends.grpc.backend"
_PICKER = "hybrid_llm.backends.grpc.picker"
_PROBER = "hybrid_llm.backends.grpc.prober"
_CONNECTION = "hybrid_llm.backends.grpc.connection"
_EXCHANGE = "hybrid_llm.backends.grpc.exchange"
_HANDSHAKE = "hybrid_llm.backends.wire.handshake"
_ADDRESS = "hybrid_llm.backends.grpc.address"
_HEALTH = "hybrid_llm.core.health"

MUTANTS = (
    Mutant(
        "an answer does not close an endpoint's breaker",
        f"{_BACKEND}:GrpcBackend._complete",
        drop("self.health.succeeded()"),
    ),
    Mutant("an endpoint that fails is not ejected", f"{_BACKEND}:GrpcBackend._judge", drop("self.health.failed()")),
    Mutant(
        "a full endpoint is called again at once",
        f"{_BACKEND}:GrpcBackend._judge",
        drop("self.health.overloaded(error.retry_after)"),
    ),
    Mutant(
        "an endpoint is called twice for one request",
        f"{_POOL}:GrpcPool._pick",
        drop("called.add(endpoint.address)"),
    ),
    Mutant(
        "a request that has called all endpoints may call no more",
        f"{_POOL}:GrpcPool._called_by",
        drop("called.clear()"),
    ),
    Mutant(
        "a stopping endpoint gets requests",
        f"{_HEALTH}:HealthProbe.health",
        drop("return EndpointHealth.STOPPING"),
    ),
    Mutant(
        "an endpoint that cannot be trusted gets requests",
        f"{_HEALTH}:HealthProbe.health",
        drop("return EndpointHealth.UNREACHABLE"),
    ),
    Mutant(
        "an endpoint that is back stays ejected",
        f"{_HEALTH}:HealthProbe.probe_succeeded",
        drop("self._reset()"),
    ),
    Mutant(
        "the silence of an endpoint opens its breaker",
        f"{_HEALTH}:HealthProbe.failed",
        drop_operand("self._silent"),
    ),
    Mutant(
        "one of several endpoints is as patiently judged as one alone",
        f"{_HEALTH}:BackendHealth.refresh",
        swap("len(probes) > 1", "False"),
    ),
    Mutant(
        "one failing endpoint opens the backend's breaker",
        f"{_HEALTH}:BackendHealth.breaker",
        drop_operand("Breaker.CLOSED in breakers"),
    ),
    Mutant("endpoints are added to no list", f"{_POOL}:GrpcPool._update", swap("self._endpoints[target]", "_")),
    Mutant("a session goes anywhere", f"{_PICKER}:Picker.pick", drop_operand("self._reader(endpoints, blocks)")),
    Mutant(
        "a session stays with an endpoint that is far too busy",
        f"{_PICKER}:Picker._reader",
        swap("reader if reader.busy <= bound else None", "reader"),
    ),
    Mutant(
        "sessions of two tenants are one",
        f"{_PICKER}:blocks_of",
        swap("f'{request.tenant}\\x00{request.session_id}'", "f'{request.session_id}'"),
    ),
    Mutant("a short beginning binds a prompt", f"{_PICKER}:_WORTH", swap("0.5", "0.0")),
    Mutant(
        "the slower of two is picked", f"{_PICKER}:Picker._quicker", swap("min(drawn, key=__k)", "max(drawn, key=__k)")
    ),
    Mutant("a silent endpoint is not suspected", f"{_PROBER}:Prober.suspect", swap("since", "0")),
    Mutant("an endpoint that was heard is suspected", f"{_PROBER}:Prober.suspect", drop_operand("self._heard > since")),
    Mutant("every caller probes for itself", f"{_PROBER}:Prober._probe", always("self._running is None")),
    Mutant("an unreachable endpoint is not probed again", f"{_PROBER}:Prober._run", drop("if repeats: ...")),
    Mutant(
        "what a caller has found is probed again",
        f"{_PROBER}:Prober._repeat",
        swap("if self._is_settled():\n    return\nlost = __", "lost = not self._has_route()"),
    ),
    Mutant("a closed one goes on probing", f"{_PROBER}:Prober.close", drop("self._closed.set()")),
    Mutant(
        "nothing is probed beside a call that receives nothing",
        f"{_CONNECTION}:Connection._watch",
        drop("self.prober.suspect(since)"),
    ),
    Mutant(
        "the other endpoints are not probed meanwhile",
        f"{_CONNECTION}:Connection._watch",
        drop("self._on_unreachable(since)"),
    ),
    Mutant(
        "calls of a silent endpoint wait for their deadline",
        f"{_CONNECTION}:Connection._cancel_silent",
        drop("cancel()"),
    ),
    Mutant(
        "a slow endpoint is probed all the time",
        f"{_EXCHANGE}:Exchange._usual_patience",
        swap("max(_PATIENCE_S, __usual)", "0.0"),
    ),
    Mutant(
        "requests are sent without a route",
        f"{_CONNECTION}:Connection._check_open",
        drop_operand("not self.has_route()"),
    ),
    Mutant(
        "running calls do not notice a lost route",
        f"{_CONNECTION}:Connection._watch",
        drop("self.prober.suspect(time.monotonic())"),
    ),
    Mutant(
        "a lost route is no silence", f"{_HANDSHAKE}:is_silence", swap("error.errno in NO_ROUTE", "error.errno == 0")
    ),
    Mutant("there is always a route", f"{_HANDSHAKE}:has_route", always("error.errno not in NO_ROUTE")),
    Mutant("every caller looks a name up", f"{_HANDSHAKE}:Lookup.__call__", always("pending is None")),
    Mutant(
        "a name is waited for without end",
        f"{_HANDSHAKE}:Lookup.__call__",
        swap("pending.result(timeout)", "pending.result()"),
    ),
    Mutant(
        "a pool of silent endpoints is ready",
        f"{_POOL}:_silence",
        swap("SILENT if SILENT in reasons else NO_ROUTE", "''"),
    ),
    Mutant(
        "a pool is silent with one of its endpoints",
        f"{_POOL}:_silence",
        swap("reasons <= {SILENT, NO_ROUTE}", "reasons & {SILENT, NO_ROUTE}"),
    ),
    Mutant("the name is looked up each time", f"{_ADDRESS}:EndpointAddress._candidates", swap("self._preferred", "''")),
    Mutant(
        "a node that has moved is never found",
        f"{_ADDRESS}:EndpointAddress._candidates",
        drop_operand("left <= 0"),
    ),
    Mutant(
        "an address that does not respond gets all the time",
        f"{_ADDRESS}:EndpointAddress._candidates",
        swap("(end - time.monotonic()) / (len(found) - number)", "end - time.monotonic()"),
    ),
    Mutant(
        "a name that fails loses its endpoints",
        f"{_ADDRESS}:Resolver._addresses",
        swap("self._found[config]", "(config,)"),
    ),
    Mutant(
        "a name is looked up once for ever",
        f"{_ADDRESS}:Resolver.refresh",
        swap("self._clock() >= self._due", "self._due < 0"),
    ),
    Mutant(
        "the first of many requests has all endpoints for itself",
        f"{_ADDRESS}:Resolver.refresh",
        swap("not self.endpoints", "not self.endpoints and (not self._due)"),
    ),
)
