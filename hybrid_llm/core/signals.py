"""What is known about the device, the network and each backend at one instant, as plain records.

The sources in `router.signals` fill them. A policy reads the fields under these names, with the unit in the name. A
field that may be None is a signal that a device need not have: a policy must guard it with `has()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from hybrid_llm.core.request import Location

DISPLAY_ONLY: Final = frozenset({"reason", "members"})
"""Fields that rules cannot read and recordings do not contain."""


class Breaker(StrEnum):
    """The state of a circuit breaker (Nygard, *Release It!*)."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSignals:
    """The device that the app runs on; in a container, the part that the container may use."""

    cpu_load: float = 0.0
    """Share of the usable processors that is busy, 0 to 1; NaN if it cannot be read."""
    memory_available_mb: float = 0.0
    """Memory available without swapping, MiB, within the limits of the control groups."""
    memory_total_mb: float = 0.0
    """Total memory, MiB, within the limits of the control groups."""
    swap_available_mb: float | None = None
    """Available swap, MiB; None without swap."""
    memory_pressure: float | None = None
    """PSI `some avg10` of memory, percent of time stalled; None without PSI."""
    cpu_pressure: float | None = None
    """PSI `some avg10` of the processors, percent of time stalled; None without PSI."""
    io_pressure: float | None = None
    """PSI `some avg10` of I/O, percent of time stalled; None without PSI."""
    battery: float | None = None
    """Charge, 0 to 1; None on a device without a battery."""
    charging: bool | None = None
    """On external power; None on a device without a battery."""
    temperature_c: float | None = None
    """Temperature of the hottest processor sensor, degrees Celsius; None without one."""
    thermal_headroom_c: float | None = None
    """Degrees Celsius until the system throttles, negative beyond that; None if it reports no such limit."""
    throttled: bool | None = None
    """Whether the processors are being throttled; None if the system does not report it."""
    gpu_load: float | None = None
    """Share of time that the GPU was busy, 0 to 1; None without a supported GPU."""
    gpu_memory_available_mb: float | None = None
    """Free memory of the GPU itself, MiB; None without any."""
    gpu_memory_total_mb: float | None = None
    """Total memory of the GPU itself, MiB; None without any."""
    gpu_temperature_c: float | None = None
    """Temperature of the GPU, degrees Celsius; None if it is not reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSignals:
    """The network route to the cloud."""

    online: bool = True
    """False without a route off the device, or behind a captive portal; true where unknown. True does not promise that
    a node answers."""
    metered: bool | None = None
    """The connection is paid by volume; None if the system does not report it."""


class EndpointHealth(StrEnum):
    """Whether an endpoint gets calls now, and if not, why: the states of `core.health.HealthProbe`."""

    NEW = "new"
    """It gets calls, and has not answered yet."""
    READY = "ready"
    """It gets calls, and has answered before."""
    SUSPECTED = "suspected"
    """A call lost its connection, failed or receives nothing; until a probe has found out why, others get the calls."""
    RESTING = "resting"
    """It was overloaded, and gets no calls for the time that it named."""
    EJECTED = "ejected"
    """Its circuit breaker is open."""
    HALF_OPEN = "half_open"
    """Its circuit breaker lets one call at a time find out whether it works again."""
    UNREACHABLE = "unreachable"
    """The last probe could not reach it, or does not trust it; it is probed again beside the calls."""
    STOPPING = "stopping"
    """It reported that it stops: its calls finish, and it gets no new ones."""
    CLOSED = "closed"
    """The client is closed."""

    @property
    def is_usable(self) -> bool:
        """Whether a call may go there now."""
        return self in (EndpointHealth.NEW, EndpointHealth.READY, EndpointHealth.HALF_OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """One endpoint of a backend that has several, for people and metrics; policies see the backend."""

    address: str
    """`HOST:PORT`."""
    health: EndpointHealth = EndpointHealth.NEW
    reason: str = ""
    """The name of the error class if it is unreachable, such as `UntrustedPeer`; else empty."""
    breaker: Breaker = Breaker.CLOSED
    """Its own circuit breaker; that of the backend opens only once those of all endpoints have."""
    active: int = 0
    """Requests in progress there, as it reported, or those of this client alone."""
    queue: int = 0
    """Requests that wait there."""
    load: float = 0.0
    """Share of its slots in use, 0 to 1 and above 1 when requests wait; 0 without a recent report."""
    rtt_ms: float | None = None
    """Round-trip time without the node's own work, ms; None before the first call."""
    ttft_ms: float | None = None
    """Its average time to first token, ms; None before the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendState:
    """One backend, as the calls so far have shown it to be."""

    name: str
    location: Location
    ready: bool = True
    """It can take a request now, or will load on first use."""
    reason: str = ""
    """Why it is not ready, for people."""
    sealed: bool = False
    """What is sent to it is sealed to its own key, so that nothing between can read it."""
    specialist: bool = False
    """It serves few tasks, and this request is one of them: an encoder that knows the labels, for example."""
    breaker: Breaker = Breaker.CLOSED
    """Its circuit breaker: open while it gets no calls after failures."""
    serves: bool = False
    """The last probe beside the calls found that a node can be reached and trusted and serves; false where nothing
    probes it."""
    nodes: int = 1
    """Its usable nodes."""
    active: int = 0
    """Requests in progress."""
    queue: int = 0
    """Requests that wait."""
    load: float = 0.0
    """Share of its slots in use, 0 to 1 and above 1 when requests wait."""
    context_window: int = 0
    """Maximum tokens of prompt and answer together. Until a node has reported its own, no limit is assumed here: the
    node itself rejects what does not fit, before computing anything."""
    rtt_ms: float | None = None
    """Round-trip time without the backend's own work, ms; None before the first call and on the device."""
    predicted_ttft_ms: float = 0.0
    """Expected time to the first token of the current request, ms."""
    predicted_tpot_ms: float = 0.0
    """Expected time per further token, ms."""
    predicted_ttft_error_ms: float = 0.0
    """Mean absolute error of the latest predictions of the first token, ms; the prediction itself before the first
    comparison."""
    predicted_tpot_error_ms: float = 0.0
    """The same for further tokens."""
    predictions: int = 0
    """The number of predictions that have been compared with a measured time."""
    cost_per_1k_tokens: float = 0.0
    """Price per 1,000 tokens, in the currency of the configuration."""
    energy_per_1k_tokens_j: float = 0.0
    """Energy that the device spends per 1,000 tokens, joules."""
    quality: float | None = None
    """How good its answers to the task of this request were when its model was evaluated, 0 to 1; None where they were
    not."""
    members: tuple[EndpointState, ...] = ()
    """Its nodes, if it has several, in a client's status; empty in the signals of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSignals:
    """What the tenant has spent, in the currency of the configuration; a day begins at 00:00 UTC."""

    spent: float = 0.0
    """Spent today, with requests in flight at their highest price."""
    left: float | None = None
    """What is left of today's budget, at least 0; None if the policy sets none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """All signals at one instant: the second argument of `Policy.decide`. *backends* is keyed by name, in order."""

    device: DeviceSignals = field(default_factory=DeviceSignals)
    network: NetworkSignals = field(default_factory=NetworkSignals)
    budget: BudgetSignals = field(default_factory=BudgetSignals)
    backends: Mapping[str, BackendState] = field(default_factory=dict)
