"""Sensors: device and network, sampled beside the requests and never on their path."""

from hybrid_llm.router.signals.system import FixedSensors, Sensors, SystemSensors

__all__ = ["FixedSensors", "Sensors", "SystemSensors"]
