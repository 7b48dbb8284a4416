"""Ask with the `hybrid.yaml` beside this file: `python examples/clinic/ask.py "your question" [TAG ...]`."""

import sys
from pathlib import Path

from hybrid_llm import HybridLLM, HybridLLMError

question = sys.argv[1] if len(sys.argv) > 1 else "Is this review positive? 'Patient number 77-1234 liked the film.'"
try:
    with HybridLLM.from_config(Path(__file__).with_name("hybrid.yaml")) as llm:
        reply = llm.generate(question, privacy=set(sys.argv[2:]))
except HybridLLMError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(reply.text)
print(reply.decision.explain())
