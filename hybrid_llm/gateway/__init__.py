"""The HTTP front of a client: OpenAI's Chat Completions, Completions and Responses, and Anthropic's Messages."""

from hybrid_llm.core.extras import install_hint
from hybrid_llm.router.config.gateway import GatewayConfig

try:
    from hybrid_llm.gateway.app import gateway_app
except ModuleNotFoundError as error:
    raise ImportError(f"the gateway needs {error.name}: {install_hint('gateway')}") from error

__all__ = ["GatewayConfig", "gateway_app"]
