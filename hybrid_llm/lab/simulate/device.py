"""The simulated device: charge, temperature, speed, and the signals of it. Exact between events; no random numbers.

Between two events the power is constant, so that charge is a line and temperature an exponential (lumped capacitance;
Incropera et al., *Fundamentals of Heat and Mass Transfer*, ch. 5). The formulas are in docs/simulation.md.
"""

from __future__ import annotations

import math
from typing import Final

from hybrid_llm.core.signals import DeviceSignals, NetworkSignals
from hybrid_llm.lab.simulate.world import Setting

_J_PER_WH: Final = 3600.0
_HAIR: Final = 1e-6


class Device:
    """One device from the start of the trace on. Call `advance` before anything changes."""

    def __init__(self, setting: Setting) -> None:
        self._world, self._metered, self._offline = setting.world, setting.metered, setting.offline
        world, battery = setting.world, setting.world.battery
        self.days = battery.days
        self._capacity_j = battery.capacity_wh * _J_PER_WH
        self._charge_j = self._capacity_j * battery.start_share
        self._at = 0.0
        self._working = 0.0
        self._calls = 0
        self._tokens = 0
        self._slots_busy = 0.0
        self._edge = 0.0
        self.temperature_c = world.thermal.ambient_c
        self.peak_c = self.temperature_c
        self.energy_j = 0.0
        self.model_energy_j = 0.0
        self.on = True
        """Whether it runs: not with an empty battery off the mains."""
        self.on_s = 0.0
        self._settle()

    @property
    def battery(self) -> float | None:
        """Charge, 0 to 1; None without a battery."""
        return self._charge_j / self._capacity_j if self._capacity_j else None

    def work(self, speed: float, tokens: int) -> None:
        """An edge slot begins to work at *speed* on *tokens*; both negative when it ends."""
        slots = self._world.edge.slots
        self._working = max(0.0, self._working + speed / slots)
        self._slots_busy = max(0.0, self._slots_busy + math.copysign(1.0 / slots, speed))
        self._tokens += tokens
        self._weigh()

    def call(self, change: int) -> None:
        """A call to the cloud opens (1) or ends (-1)."""
        self._calls += change
        self._weigh()

    def speed(self) -> float:
        """Share of its full speed at which the edge starts an answer now."""
        heat, load = self._world.thermal, self._world.load
        hot = (self.temperature_c - heat.throttle_from_c) / (heat.throttle_to_c - heat.throttle_from_c)
        throttle = 1.0 - min(1.0, max(0.0, hot)) * (1.0 - heat.throttle_floor)
        return throttle * min(1.0, (1.0 - load.background_share) / load.edge_share)

    def next_change(self) -> float:
        """When, after the last `advance`, charging starts or ends or the battery is empty, if nothing else happens."""
        if self._charging or not self.on or self._power_w <= 0.0:
            return self._edge
        return min(self._edge, self._at + self._charge_j / self._power_w)

    def advance(self, now: float) -> None:
        """Advance to *now*, seconds since the start of the trace."""
        while self._at < now:
            self._pass(min(now, self.next_change()))

    def _pass(self, until: float) -> None:
        seconds = until - self._at
        self.energy_j += self._power_w * seconds
        self.model_energy_j += self._model_w * seconds
        self.on_s += seconds if self.on else 0.0
        self._heat(self._power_w, seconds)
        self._fill(self._power_w, seconds)
        self._at = until
        self._settle()

    def _weigh(self) -> None:
        """Update the power, which depends on what runs, on the connection, and on whether the device is on."""
        power = self._world.power
        radio = power.radio_metered_w if self._metered.covers(self._at) else power.radio_w
        self._model_w = power.compute_w * self._working + (radio if self._calls else 0.0) if self.on else 0.0
        self._power_w = power.idle_w + self._model_w if self.on else 0.0

    def _heat(self, power: float, seconds: float) -> None:
        heat = self._world.thermal
        final = heat.ambient_c + heat.resistance_k_per_w * power
        self.temperature_c = final + (self.temperature_c - final) * math.exp(-seconds / heat.time_constant_s)
        self.peak_c = max(self.peak_c, self.temperature_c)

    def _fill(self, power: float, seconds: float) -> None:
        battery = self._world.battery
        gained = battery.charger_w * battery.charge_efficiency if self._charging else 0.0
        charge = self._charge_j + (gained - power) * seconds
        self._charge_j = min(self._capacity_j, max(0.0, charge))

    def _settle(self) -> None:
        """Update whether it is on the mains, and whether it is on."""
        if self._at >= self._edge:
            self._charging = not self._capacity_j or self.days.covers(self._at + _HAIR)
            self._edge = self.days.next_edge(self._at) if self._capacity_j else math.inf
        if self._charge_j < _HAIR and not self._charging:
            self._charge_j = 0.0
        self.on = self._charging or self._charge_j > 0.0
        self._weigh()

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The signals of the device and its network now, as the router reads them."""
        memory, load = self._world.memory, self._world.load
        taken = memory.used_mb + memory.model_mb + memory.kv_mb_per_1k_tokens * self._tokens / 1000.0
        network = NetworkSignals(online=not self._offline.covers(self._at), metered=self._metered.covers(self._at))
        device = DeviceSignals(
            cpu_load=min(1.0, load.background_share + load.edge_share * self._slots_busy),
            memory_available_mb=max(0.0, memory.total_mb - taken),
            memory_total_mb=memory.total_mb,
            battery=self.battery,
            charging=self._charging if self._capacity_j else None,
            temperature_c=self.temperature_c,
        )
        return device, network

    def close(self) -> None:
        """Do nothing."""
