"""`hybrid.yaml`: which backends there are, which policy decides, and what an app sets beside them."""

from hybrid_llm.router.config.config import Config, config_schema, identities, identity_of
from hybrid_llm.router.config.sources import (
    default_config,
    environment_config,
    load_config,
    parse_config,
    read_config,
)
from hybrid_llm.router.config.stores import RecordSpec

__all__ = [
    "Config",
    "RecordSpec",
    "config_schema",
    "default_config",
    "environment_config",
    "identities",
    "identity_of",
    "load_config",
    "parse_config",
    "read_config",
]
