"""Another backend continues an answer that breaks off, and repeats nothing: `python examples/continuation.py`."""

from own_backend import Echo

from hybrid_llm import HybridLLM, Location
from hybrid_llm.policies import parse_policy

POLICY = """\
version: 1
name: trains
rules:
  - prefer: [near, far]
resilience: {continue_streams: true}
"""

near, far = Echo("near", breaks_after=4), Echo("far")
policy = parse_policy(POLICY, backends={"near": Location.CLOUD, "far": Location.CLOUD})
with HybridLLM([near, far], policy) as llm, llm.stream("The train leaves at nine from platform four.") as stream:
    for chunk in stream:
        print(chunk.text, end="", flush=True)
    reply = stream.generation
print()
for continuation in reply.continuations:
    print(f"{continuation.backend} continued after {reply.text[: continuation.at]!r}")
