"""How much is tried: `HYBRID_LLM_FUZZ=100` tries a hundred times as many inputs as the tests do by default."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

FACTOR: Final = max(1, int(os.environ.get("HYBRID_LLM_FUZZ", "1")))


def examples(count: int) -> settings:
    """*count* inputs, times the factor."""
    return settings(max_examples=count * FACTOR, deadline=None, suppress_health_check=list(HealthCheck))
