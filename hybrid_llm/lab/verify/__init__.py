"""Verifies, by bounded search, where the requests of each tag can go: runs the real guard, policy and attempts."""

from hybrid_llm.lab.verify.deciding import Parts
from hybrid_llm.lab.verify.report import Claim, Scope, Statement, Verification, Violation
from hybrid_llm.lab.verify.search import verify

__all__ = ["Claim", "Parts", "Scope", "Statement", "Verification", "Violation", "verify"]
