"""Signals of device and network, sampled beside the requests; predictions of how long each backend takes."""

from hybrid_llm.router.signals.system import FixedSensors, Sensors, SystemSensors

__all__ = ["FixedSensors", "Sensors", "SystemSensors"]
