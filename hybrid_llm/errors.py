"""The public names of all errors, as `from hybrid_llm.errors import HybridLLMError`; `core.errors` draws their tree."""

from hybrid_llm.core.errors import *  # noqa: F403
from hybrid_llm.core.errors import __all__ as __all__
