"""How sure the model was of each token of an answer: `python examples/logprobs.py`."""

from math import exp

import hybrid_llm

reply = hybrid_llm.generate("Is this review positive? 'A warm, funny film.'", logprobs=3)
for token in reply.logprobs:
    others = ", ".join(f"{other.token!r} {exp(other.logprob):.0%}" for other in token.top)
    print(f"{token.token!r:12} {exp(token.logprob):4.0%}   of {others}")
