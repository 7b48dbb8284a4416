"""Proves what a policy promises for each tag, by running guard, policy and attempts over all their cases."""

from hybrid_llm.router.proof.prove import Parts, prove
from hybrid_llm.router.proof.records import Bound, Broken, Claim, Proof, Statement

__all__ = ["Bound", "Broken", "Claim", "Parts", "Proof", "Statement", "prove"]
