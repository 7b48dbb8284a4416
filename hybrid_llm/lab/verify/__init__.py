"""Proves what a policy promises for each tag, by running guard, policy and attempts over all their cases."""

from hybrid_llm.lab.verify.records import Bound, Broken, Claim, Proof, Statement
from hybrid_llm.lab.verify.runs import Parts
from hybrid_llm.lab.verify.verify import prove

__all__ = ["Bound", "Broken", "Claim", "Parts", "Proof", "Statement", "prove"]
