"""Several answers at once from one event loop, and a stream that is left early: `python examples/many_at_once.py`."""

import asyncio

import hybrid_llm

REVIEWS = ["A warm, funny film.", "Dull and far too long.", "A small gem.", "I wanted my money back."]


async def main() -> None:
    """Ask about all reviews at the same time, then leave a long answer after ten pieces."""
    asked = [hybrid_llm.agenerate(f"Is this review positive? '{review}'", max_tokens=16) for review in REVIEWS]
    for review, reply in zip(REVIEWS, await asyncio.gather(*asked), strict=True):
        print(f"{review:28} {reply.text}")

    async with hybrid_llm.astream("Count from 3 to 60.", max_tokens=200) as stream:
        pieces = 0
        async for chunk in stream:
            print(chunk.text, end="", flush=True)
            pieces += 1
            if pieces == 10:
                break  # leaving the block stops the device
    print(" ...")


asyncio.run(main())
