"""Planted faults of the choice among endpoints, and of the check whether an endpoint is there."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, returns, swap
from tests.mutants.mutant import Mutant

_BACKEND = "hybrid_llm.backends.grpc.backend"
_POOL = "hybrid_llm.backends.grpc.pool"
_HEALTH = "hybrid_llm.core.health"
_PICKER = "hybrid_llm.backends.grpc.picker"
_PROBER = "hybrid_llm.backends.prober"
_CONNECTION = "hybrid_llm.backends.grpc.connection"
_EXCHANGE = "hybrid_llm.backends.grpc.exchange"
_HANDSHAKE = "hybrid_llm.backends.wire.handshake"
_ADDRESS = "hybrid_llm.backends.grpc.address"

MUTANTS = (
    Mutant(
        "an answer does not close an endpoint's breaker",
        f"{_BACKEND}:GrpcBackend._complete",
        drop("self.health.succeeded()"),
    ),
    Mutant(
        "a node that fails is not ejected",
        f"{_BACKEND}:GrpcBackend._judge",
        drop("self.health.failed(began, hung=hung)"),
    ),
    Mutant(
        "an overloaded node is called again at once",
        f"{_BACKEND}:GrpcBackend._judged",
        drop("self.health.overloaded(error.retry_after)"),
    ),
    Mutant(
        "a node is called twice for one request",
        f"{_POOL}:GrpcPool._pick",
        drop("self._called.add(request, endpoint.address)"),
    ),
    Mutant(
        "a request that tried all nodes may try no more",
        f"{_POOL}:GrpcPool._pick",
        drop("if not candidates and called: ..."),
    ),
    Mutant(
        "a node that is stopping gets requests", f"{_HEALTH}:HealthProbe.health", drop("return EndpointHealth.STOPPING")
    ),
    Mutant(
        "an unreachable node gets requests", f"{_HEALTH}:HealthProbe.health", drop("return EndpointHealth.UNREACHABLE")
    ),
    Mutant(
        "an endpoint that is reachable again stays ejected",
        f"{_HEALTH}:HealthProbe.probe_succeeded",
        swap("self._reset() if was_lost else self._readmitted()", "self._readmitted()"),
    ),
    Mutant(
        "the first call that a node cancels is a failure",
        f"{_HEALTH}:HealthProbe.cancelled",
        swap("not self._cancelled, True", "False, True"),
    ),
    Mutant(
        "a node may cancel every call",
        f"{_HEALTH}:HealthProbe.cancelled",
        swap("not self._cancelled, True", "True, True"),
    ),
    Mutant("silence opens the breaker", f"{_HEALTH}:HealthProbe.failed", drop_operand("self.silent")),
    Mutant(
        "a lost connection is a failure",
        f"{_EXCHANGE}:Exchange.was_answered_wrongly",
        drop_operand("not self.lost"),
    ),
    Mutant(
        "calls that fail together count one by one",
        f"{_HEALTH}:HealthProbe.failed",
        drop("if began is not None and __: ..."),
    ),
    Mutant(
        "a probe does not end an ejection",
        f"{_HEALTH}:HealthProbe.probe_succeeded",
        swap("self._reset() if was_lost else self._readmitted()", "was_lost and self._reset()"),
    ),
    Mutant(
        "every probe ends an ejection",
        f"{_HEALTH}:HealthProbe._readmitted",
        drop_operand("self._clock() < self._counted + self._hold"),
    ),
    Mutant(
        "an endpoint that a probe readmits gets as many chances as before",
        f"{_HEALTH}:HealthProbe._readmitted",
        swap("self._limit - 1", "0"),
    ),
    Mutant(
        "an endpoint that was gone rests when it is back",
        f"{_HEALTH}:HealthProbe.probe_succeeded",
        drop("self._resting_until = _NEVER"),
    ),
    Mutant("a failed call starts no probe", f"{_BACKEND}:GrpcBackend._judge", drop("if hung or failed: ...")),
    Mutant("nobody is asked whether it serves", f"{_PROBER}:Prober._try", drop("if self._doubted is not None: ...")),
    Mutant(
        "an ejected endpoint is probed once",
        f"{_PROBER}:Prober._is_well",
        drop_operand("self.health.breaker is not Breaker.OPEN"),
    ),
    Mutant(
        "a thread that does not start blocks all probes",
        f"{_PROBER}:Prober._probe",
        swap("running: Result = Future()", "running: Result = Future()\nself._running = running"),
    ),
    Mutant(
        "one of several endpoints has the limits of one alone",
        f"{_HEALTH}:BackendHealth.refresh",
        swap("len(probes) > 1", "False"),
    ),
    Mutant(
        "one failing endpoint opens the breaker of its backend",
        f"{_HEALTH}:BackendHealth.breaker",
        drop_operand("Breaker.CLOSED in breakers"),
    ),
    Mutant("a hung node is not ejected", f"{_BACKEND}:GrpcBackend._judge", swap("exchange.hung(error)", "False")),
    Mutant("endpoints are not remembered", f"{_POOL}:GrpcPool._update", swap("kept | new", "kept")),
    Mutant("a session is not sticky", f"{_PICKER}:Picker.pick", drop_operand("self._reader(endpoints, blocks)")),
    Mutant(
        "a session stays with an overloaded node",
        f"{_PICKER}:Picker._reader",
        swap("reader if reader.busy <= bound else None", "reader"),
    ),
    Mutant(
        "sessions of two tenants share a key",
        f"{_PICKER}:blocks_of",
        swap("f'{request.tenant}\\x00{request.session_id}'", "f'{request.session_id}'"),
    ),
    Mutant("a short common prefix is enough", f"{_PICKER}:_WORTH", swap("0.5", "0.0")),
    Mutant(
        "the slower of two endpoints is picked",
        f"{_PICKER}:Picker._quicker",
        swap(
            "min(drawn, key=lambda endpoint: endpoint.expected_ttft_ms)",
            "max(drawn, key=lambda endpoint: endpoint.expected_ttft_ms)",
        ),
    ),
    Mutant("a node that never answered is not probed", f"{_PROBER}:Prober.suspect", swap("since", "0")),
    Mutant("a node that just answered is probed", f"{_PROBER}:Prober.suspect", drop_operand("self._heard > since")),
    Mutant("probes of one node run at once", f"{_PROBER}:Prober._probe", always("self._running is None")),
    Mutant("a lost node is not probed", f"{_PROBER}:Prober._run", drop("if repeats: ...")),
    Mutant("a node that is back is probed", f"{_PROBER}:Prober._is_settled", returns("False")),
    Mutant("a closed connection goes on probing", f"{_PROBER}:Prober.close", drop("self._closed.set()")),
    Mutant(
        "a silent call does not start a probe", f"{_CONNECTION}:Connection._watch", drop("self.prober.suspect(since)")
    ),
    Mutant(
        "the other nodes are not probed meanwhile",
        f"{_CONNECTION}:Connection._watch",
        drop("self._on_unreachable(since)"),
    ),
    Mutant("calls of a silent node are not cancelled", f"{_CONNECTION}:Connection._cancel", drop("cancel()")),
    Mutant("a slow node is probed all the time", f"{_EXCHANGE}:Exchange._usual_patience", returns("0.0")),
    Mutant(
        "requests are sent without a route",
        f"{_CONNECTION}:Connection._open_link",
        drop_operand("not self.has_route()"),
    ),
    Mutant(
        "running calls do not notice a lost route",
        f"{_CONNECTION}:Connection._watch",
        drop("self.prober.suspect(time.monotonic())"),
    ),
    Mutant(
        "a lost route is not silence", f"{_HANDSHAKE}:is_silence", swap("error.errno in NO_ROUTE", "error.errno == 0")
    ),
    Mutant("there is always a route", f"{_HANDSHAKE}:has_route", always("error.errno not in NO_ROUTE")),
    Mutant("lookups of one name run at once", f"{_HANDSHAKE}:Lookup.begin", always("pending is None")),
    Mutant(
        "a lookup has no timeout",
        f"{_HANDSHAKE}:Lookup.__call__",
        swap("__.result(timeout)", "self.begin(host).result()"),
    ),
    Mutant(
        "a pool of silent nodes is ready", f"{_POOL}:_silence", swap("SILENT if SILENT in reasons else NO_ROUTE", "''")
    ),
    Mutant(
        "a pool is silent if one of its nodes is",
        f"{_POOL}:_silence",
        swap("reasons <= {SILENT, NO_ROUTE}", "reasons & {SILENT, NO_ROUTE}"),
    ),
    Mutant("the name is looked up each time", f"{_ADDRESS}:EndpointAddress._candidates", swap("self._preferred", "''")),
    Mutant(
        "a node that has moved is never found", f"{_ADDRESS}:EndpointAddress._candidates", drop_operand("left <= 0")
    ),
    Mutant(
        "a silent address gets the whole timeout",
        f"{_ADDRESS}:EndpointAddress._candidates",
        swap("(end - time.monotonic()) / (len(found) - number)", "end - time.monotonic()"),
    ),
    Mutant(
        "a failed lookup drops its nodes", f"{_ADDRESS}:Resolver._addresses", swap("self._found[config]", "(config,)")
    ),
    Mutant(
        "a name is looked up only once",
        f"{_ADDRESS}:Resolver.refresh",
        swap("self._clock() < self._due", "self._due > 0"),
    ),
    Mutant(
        "the first lookup of a pool has no timeout",
        f"{_ADDRESS}:Resolver.refresh",
        swap("min(timeout, _FIRST_S)", "None"),
    ),
    Mutant(
        "the first lookup serves only one request",
        f"{_ADDRESS}:Resolver.refresh",
        swap("self.endpoints and __rest", "(self.endpoints or self._due) and __rest"),
    ),
)
