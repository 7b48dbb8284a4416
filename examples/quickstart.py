"""An answer, a stream and a decision, with the default model: `python examples/quickstart.py`."""

import hybrid_llm

PROMPT = "Is this review positive? 'A warm, funny film.'"

reply = hybrid_llm.generate(PROMPT)
print(
    f"{reply.text}   ({reply.backend}, {reply.usage.total_tokens} tokens, first after {reply.timings.ttft_ms:.0f} ms)"
)

with hybrid_llm.stream("Count from 3 to 12.") as stream:
    for chunk in stream:
        print(chunk.text, end="", flush=True)
print()

print(hybrid_llm.decide(PROMPT, privacy={"phi"}).explain())
