"""Concurrent requests on one event loop, and a stream that is closed early: `python examples/many_at_once.py`."""

import asyncio

import hybrid_llm

REVIEWS = ["A warm, funny film.", "Dull and far too long.", "A small gem.", "I wanted my money back."]


async def main() -> None:
    """Classify all reviews concurrently, then close a long answer after ten chunks."""
    tasks = [hybrid_llm.agenerate(f"Is this review positive? '{review}'", max_tokens=16) for review in REVIEWS]
    for review, reply in zip(REVIEWS, await asyncio.gather(*tasks), strict=True):
        print(f"{review:28} {reply.text}")

    async with hybrid_llm.astream("Count from 3 to 60.", max_tokens=200) as stream:
        received = 0
        async for chunk in stream:
            print(chunk.text, end="", flush=True)
            received += 1
            if received == 10:
                break  # leaving the block stops generation on the device
    print(" ...")


asyncio.run(main())
