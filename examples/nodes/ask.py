"""Eight requests over two nodes; stop one while this runs, and none is lost: `python examples/nodes/ask.py`.

hybrid-llm certs init examples/nodes/tls
hybrid-llm certs issue examples/nodes/tls --name node --kind node --host 127.0.0.1
hybrid-llm certs issue examples/nodes/tls --name app --kind client
hybrid-llm serve --model examples/models/hybrid-demo-node --listen 127.0.0.1:7443 --tls examples/nodes/tls &
hybrid-llm serve --model examples/models/hybrid-demo-node --listen 127.0.0.1:7444 --tls examples/nodes/tls &
"""

import asyncio
import sys
from pathlib import Path

from hybrid_llm import HybridLLM, HybridLLMError, RequestEvent


def tell(event: RequestEvent) -> None:
    """Once per request: which calls were made, and how each ended."""
    print([f"{attempt.backend} {attempt.error or 'ok'}" for attempt in event.attempts])


async def main() -> None:
    """Ask eight times at once, and tell how many nodes could be asked."""
    async with HybridLLM.from_config(Path(__file__).with_name("hybrid.yaml"), hooks=[tell]) as llm:
        prompts = [f"Count from {number} to 30." for number in range(8)]
        replies = await asyncio.gather(*(llm.agenerate(prompt) for prompt in prompts))
        print({reply.backend for reply in replies}, len(replies), "answers;", llm.signals().backends["cloud"].nodes)


try:
    asyncio.run(main())
except HybridLLMError as error:
    sys.exit(f"{type(error).__name__}: {error}")
