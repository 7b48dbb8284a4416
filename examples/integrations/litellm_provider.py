"""LiteLLM: a provider of its own beside all others; needs the extra `litellm`."""

import litellm

from hybrid_llm.integrations.litellm import HybridCustomLLM

litellm.custom_provider_map = [{"provider": "hybrid", "custom_handler": HybridCustomLLM()}]
messages = [{"role": "user", "content": "Is this review positive? 'A warm, funny film.'"}]
reply = litellm.completion("hybrid/auto", messages, max_tokens=32)
print(reply.choices[0].message.content, f"({reply.model})")
for chunk in litellm.completion("hybrid/auto", messages, max_tokens=32, stream=True):
    print(chunk.choices[0].delta.content or "", end="")
print()
