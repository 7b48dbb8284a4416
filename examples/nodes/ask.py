"""Eight requests over two nodes; stop one node meanwhile, and no request is lost: `python examples/nodes/ask.py`.

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


def log_attempts(event: RequestEvent) -> None:
    """Called once per request: print the attempts and how each ended."""
    print([f"{attempt.backend} {attempt.error or 'ok'}" for attempt in event.attempts])


async def main() -> None:
    """Send eight requests at once, then print how many nodes are usable."""
    async with HybridLLM.from_config(Path(__file__).with_name("hybrid.yaml"), hooks=[log_attempts]) as llm:
        prompts = [f"Count from {number} to 30." for number in range(8)]
        replies = await asyncio.gather(*(llm.agenerate(prompt) for prompt in prompts))
        nodes = llm.signals().backends["cloud"].nodes
        print({reply.backend for reply in replies}, len(replies), "answers from", nodes, "usable nodes")


try:
    asyncio.run(main())
except HybridLLMError as error:
    sys.exit(f"{type(error).__name__}: {error}")
