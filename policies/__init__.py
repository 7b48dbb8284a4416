"""The policy language: load, check, compile and explain the file that decides where requests go.

It decides only; who is called, and what a backend is, it does not know.
"""

from __future__ import annotations

from hybrid_llm.policies.document import Resilience, TagRule
from hybrid_llm.policies.language.schema import KNOWN_DETECTORS, Objectives
from hybrid_llm.policies.load import builtin_names, builtin_policy, load_policy, parse_policy
from hybrid_llm.policies.policy import Policy
from hybrid_llm.policies.reader.source import PolicyWarning
from hybrid_llm.policies.watch import FixedPolicy, PolicyFile, PolicySource

__all__ = [
    "KNOWN_DETECTORS",
    "FixedPolicy",
    "Objectives",
    "Policy",
    "PolicyFile",
    "PolicySource",
    "PolicyWarning",
    "Resilience",
    "TagRule",
    "builtin_names",
    "builtin_policy",
    "load_policy",
    "parse_policy",
]
