"""The HTTP front of a client: OpenAI's Chat Completions, Completions and Responses, and Anthropic's Messages."""

from hybrid_llm.gateway.app import gateway_app
from hybrid_llm.router.config.gateway import GatewayConfig

__all__ = ["GatewayConfig", "gateway_app"]
