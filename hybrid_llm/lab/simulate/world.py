"""The constants of the simulated world, each with meaning, unit, default and source; world files override them.

docs/simulation.md lists them beside the formulas that use them; its table is generated from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.fields import VERSION, Found, Key, Kind, ListOf, Number, Table, Text, Whole, key, keys_of, table
from hybrid_llm.core.limits import DEADLINE_S, MAX_TOKENS
from hybrid_llm.lab.simulate.rtt import RoundTrips, constant_rtt
from hybrid_llm.lab.simulate.trace import Daily, Spans, parse_clock, parse_daily
from hybrid_llm.policies.reader.fields import parse_document, read_text

_BENCH = "measured: docs/benchmarks.md, Qwen2.5-0.5B shape, int4, 2 threads"
_AIR = "cited: Apple, MacBook Air (M2, 2022), technical specifications"
_LTE = "cited: Huang et al., MobiSys 2012, table 4 (base power of LTE and Wi-Fi)"
_H100 = "cited: InferenceBench, concurrency sweep, Llama-3.1-8B on one H100, vLLM 0.21, 2026-05-16"
_NOT_GIVEN = "the configuration gives none"
_WHAT: Final = "the world file"
_ASSUMED = "assumed: set it from your own device or node"


def _constant(
    default: float | tuple[str, ...],
    about: str,
    source: str = _ASSUMED,
    *,
    least: float = 0.0,
    most: float = 1e9,
    kind: Kind | None = None,
) -> Any:
    limits = Whole(int(least), int(most)) if isinstance(default, int) else Number(least, most)
    return key(kind or limits, about, default=default, source=source)


def _clock(text: str) -> str:
    parse_clock(text)
    return text


def _part_of_the_day(text: str) -> str:
    parse_daily(text)
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """The battery. `capacity_wh: 0` is a device without one, always on the mains."""

    capacity_wh: float = _constant(52.6, "charge when full, Wh; 0: no battery", _AIR)
    start_share: float = _constant(1.0, "charge at the start, share of the capacity", most=1.0)
    charger_w: float = _constant(30.0, "power of the charger, W", _AIR)
    charge_efficiency: float = _constant(0.9, "part of the charger's power that arrives", most=1.0)
    charging: tuple[str, ...] = _constant(
        ("12:30-13:30", "22:00-07:00"),
        "times of day on the mains",
        kind=ListOf(Text("a part of the day", convert=_part_of_the_day)),
    )
    day_starts_at: tuple[str, ...] = _constant(
        ("07:00",),
        "time of day of the first moment of the trace",
        kind=ListOf(Text("a time of day", convert=_clock), least=1, most=1),
    )

    @property
    def days(self) -> Daily:
        """When it is on the mains."""
        return Daily(tuple(map(parse_daily, self.charging)), parse_clock(self.day_starts_at[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The power that the device draws."""

    idle_w: float = _constant(3.5, "all but the model: 52.6 Wh in 15 hours of wireless web, W", _AIR)
    compute_w: float = _constant(15.0, "added while all edge slots work: base power of an Intel U processor, W")
    radio_w: float = _constant(0.133, "added while a call to the cloud is open, W", _LTE)
    radio_metered_w: float = _constant(1.288, "the same on a metered (mobile) connection, W", _LTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermal:
    """One thermal resistance and one capacity between the processor and the air (lumped capacitance)."""

    ambient_c: float = _constant(25.0, "temperature around the device and at the start, C")
    resistance_k_per_w: float = _constant(
        4.0, "kelvin above ambient for each watt: 100 C (Intel's junction limit) at full power"
    )
    time_constant_s: float = _constant(120.0, "time in which 63 % of a step in temperature happens, s", least=1.0)
    throttle_from_c: float = _constant(85.0, "where the device begins to slow down, C")
    throttle_to_c: float = _constant(100.0, "where it is slowest, C")
    throttle_floor: float = _constant(0.5, "speed there, as a share of full speed", least=0.01, most=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The processor."""

    background_share: float = _constant(0.1, "share of the processor that other programs take", most=0.99)
    edge_share: float = _constant(0.8, "share of the processor that all edge slots at work take", least=0.01, most=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """MiB."""

    total_mb: float = _constant(8192.0, "memory of the device, MiB", _AIR)
    used_mb: float = _constant(4096.0, "taken by other programs, MiB")
    model_mb: float = _constant(613.0, "the edge model, loaded, MiB", _BENCH)
    kv_mb_per_1k_tokens: float = _constant(
        23.4, "key-value cache of 1,000 tokens: 24 layers x 2 heads x 64 x 2 x 4 bytes, MiB", "the model's shape"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The model on the device: every backend at the location `edge` has these figures, and slots of its own."""

    slots: int = _constant(
        1,
        "answers at a time, each at full speed",
        "assumed: two that share one processor are no faster",
        least=1,
        most=1000,
    )
    queue_limit: int = _constant(16, "requests that may wait", "default of the edge backend", most=100000)
    context_window: int = _constant(4096, "most tokens of prompt and answer", least=1)
    overhead_ms: float = _constant(5.0, "before the first token, beside the prompt, ms", _BENCH)
    prefill_tokens_per_s: float = _constant(538.0, "prompt tokens read per second", _BENCH, least=0.001)
    decode_tokens_per_s: float = _constant(94.0, "tokens written per second", _BENCH, least=0.001)
    input_per_1k: float = _constant(0.0, "price of 1,000 prompt tokens", "your own device")
    output_per_1k: float = _constant(0.0, "price of 1,000 answer tokens", "your own device")
    energy_per_1k_tokens_j: float = _constant(0.0, "energy for 1,000 tokens in the signals, J", _NOT_GIVEN)
    quality: float = _constant(0.0, "quality of answers in the signals; 0: not evaluated", _NOT_GIVEN, most=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The model in the cloud: every backend at the location `cloud` has these figures, and nodes of its own."""

    count: int = _constant(1, "nodes behind each backend, all alike", least=1, most=1000)
    slots: int = _constant(16, "answers at a time of each node", "default of `hybrid-llm serve`", least=1, most=100000)
    queue_limit: int = _constant(64, "requests that may wait", "default of `hybrid-llm serve`", most=100000)
    background_streams: int = _constant(4, "slots that other clients hold, always", most=100000)
    context_window: int = _constant(32768, "most tokens of prompt and answer", least=1)
    overhead_ms: float = _constant(14.0, "before the first token, beside the prompt, ms", _H100)
    prefill_tokens_per_s: float = _constant(
        5000.0, "prompt tokens read per second", "the prior of the library's predictor, 0.2 ms a token", least=0.001
    )
    decode_ms: float = _constant(6.48, "time per token of a stream alone, ms", _H100, least=0.001)
    batch_slowdown: float = _constant(
        0.046, "added share of decode_ms for each further stream: 10.94 ms with 16", _H100
    )
    failure_share: float = _constant(0.0, "share of the calls that fail after one round trip", most=1.0)
    input_per_1k: float = _constant(0.0004, "price of 1,000 prompt tokens, in the policy's currency")
    output_per_1k: float = _constant(0.0012, "price of 1,000 answer tokens, in the policy's currency")
    energy_per_1k_tokens_j: float = _constant(0.0, "energy for 1,000 tokens in the signals, J", _NOT_GIVEN)
    quality: float = _constant(0.0, "quality of answers in the signals; 0: not evaluated", _NOT_GIVEN, most=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network between device and cloud, without `--rtt`."""

    rtt_ms: float = _constant(30.0, "round-trip time, ms")
    slice_s: float = _constant(
        15.7, "how long one slice of NetLatency lasts, s: three hours in 688 slices", least=0.001
    )
    rtt_weight: float = _constant(
        0.2,
        "weight of the newest round trip in the mean that policies read",
        "the cloud backend",
        least=0.001,
        most=1.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What the requests of a trace do not give."""

    max_tokens: int = _constant(512, "maximum tokens of an answer; longer ones are cut", kind=MAX_TOKENS)
    deadline_s: float = _constant(
        60.0, "where neither trace nor policy gives one, s", "default of the library", kind=DEADLINE_S
    )


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant, for display: its name `section.name`, its value, and how it is declared."""

    name: str
    value: object
    declared: Key

    @property
    def changed(self) -> bool:
        """Whether the value is not the default."""
        return bool(self.value != self.declared.default)

    @property
    def shown(self) -> str:
        """The value as a world file writes it."""
        if isinstance(self.value, tuple):
            return "[" + ", ".join(f'"{item}"' for item in self.value) + "]"
        return f"{Decimal(str(self.value)).normalize():f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All assumptions of a simulation besides trace, round-trip times and policies."""

    battery: Battery = field(default_factory=Battery)
    power: Power = field(default_factory=Power)
    thermal: Thermal = field(default_factory=Thermal)
    load: Load = field(default_factory=Load)
    memory: Memory = field(default_factory=Memory)
    edge: Edge = field(default_factory=Edge)
    node: Node = field(default_factory=Node)
    network: Network = field(default_factory=Network)
    requests: Requests = field(default_factory=Requests)

    def constants(self) -> Iterator[Constant]:
        """Every constant, `section.name`, in the order of a world file."""
        for section in fields(self):
            record = getattr(self, section.name)
            for declared in keys_of(type(record)):
                yield Constant(f"{section.name}.{declared.name}", getattr(record, declared.name), declared)

    def text(self) -> str:
        """A world file with these values and their meaning, to edit."""
        lines = ["version: 1"]
        for section, constants in groupby(self.constants(), lambda one: one.name.partition(".")[0]):
            lines.append(f"{section}:")
            for one in constants:
                line = f"  {one.declared.name}: {one.shown}"
                lines.append(f"{line:40}  # {one.declared.about}; {one.declared.source}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all policies of one comparison share."""

    world: World = field(default_factory=World)
    rtt: RoundTrips = field(default_factory=lambda: constant_rtt(World().network.rtt_ms))
    offline: Spans = field(default_factory=Spans)
    metered: Spans = field(default_factory=Spans)
    seed: int = 1


def load_world(path: Path) -> World:
    """The world in the file at *path*.

    Raises:
        ConfigError: the file cannot be read; as `PolicyError` with everything that is wrong, if it is not valid.
    """
    return parse_world(read_text(path, _WHAT), path=str(path))


def parse_world(text: str, *, path: str = "<world>") -> World:
    """The world in *text*; constants that it does not name keep their defaults.

    Raises:
        PolicyError: the text is not valid; `.errors` has everything that is wrong, with its position.
    """
    found: World = parse_document(text, path, _WHAT, WORLD)
    return found


def _world(found: Found) -> World:
    world = World(**found.values)
    if world.thermal.throttle_to_c <= world.thermal.throttle_from_c:
        found.reject("`throttle_to_c` must be above `throttle_from_c`")
    if world.node.background_streams >= world.node.slots:
        found.reject("`background_streams` leaves no slot: it must be below `slots` of the node")
    return world


def _section(name: str, default: object) -> Key:
    section = table(type(default), f"`{name}`")
    return Key(name, section, section.about, default=default)


WORLD: Final = Table(
    title="a world file",
    about="All assumptions of a simulation besides trace, round-trip times and policies.",
    keys=(
        replace(VERSION, required=False),
        *(_section(item.name, getattr(World(), item.name)) for item in fields(World)),
    ),
    make=_world,
)
