"""`hybrid.yaml`: which backends there are, which policy decides, and what an app sets beside them."""

from hybrid_llm.router.config.config import (
    Config,
    RecordSpec,
    config_schema,
    identities,
    identity_of,
    load_config,
    parse_config,
)

__all__ = ["Config", "RecordSpec", "config_schema", "identities", "identity_of", "load_config", "parse_config"]
