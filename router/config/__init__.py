"""`hybrid.yaml`: which backends there are, which policy decides, and what an app sets beside them."""

from hybrid_llm.router.config.beside import RecordSpec
from hybrid_llm.router.config.read import Config, load_config, parse_config

__all__ = [
    "Config",
    "RecordSpec",
    "load_config",
    "parse_config",
]
