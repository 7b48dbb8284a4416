"""A tenant has a daily budget; once it is spent, the device answers: `python examples/budget.py`."""

from own_backend import Echo

from hybrid_llm import HybridLLM, Location
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.spending.ledger import Price

POLICY = """\
version: 1
name: shop
objectives: {budget: 0.10 USD/day}
rules:
  - prefer: [cloud, edge]
"""

policy = parse_policy(POLICY, backends={"cloud": Location.CLOUD, "edge": Location.EDGE})
prices = {"cloud": Price(input_per_1k=0.5, output_per_1k=2.0, currency="USD")}
with HybridLLM([Echo(), EdgeBackend(EdgeConfig())], policy, prices=prices) as llm:
    for number in range(6):
        reply = llm.generate("Is this review positive? 'A warm, funny film.'", tenant="trial", max_tokens=16)
        print(f"{number}: {reply.backend:5}", reply.decision.excluded.get("cloud", ""))
    print("another tenant:", llm.generate("Hello", tenant="paying", max_tokens=16).backend)
