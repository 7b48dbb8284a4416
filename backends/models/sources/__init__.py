"""Where a model comes from: `pypi:`, `hf:`, `https:`, `s3:` or a path, each named by the user.

Nothing here imports or runs what it fetches.
"""

from hybrid_llm.backends.models.sources.source import Fetched, Source, Wanted
from hybrid_llm.backends.models.sources.table import parse_source

__all__ = ["Fetched", "Source", "Wanted", "parse_source"]
