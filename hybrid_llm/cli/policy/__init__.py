"""`hybrid-llm policy`: the commands for writing and trying policies."""

from typing import Final

from hybrid_llm.cli.arguments import Group
from hybrid_llm.cli.terminal import Exit

POLICY: Final = Group(
    about="Check, test, verify, simulate and compare policies.",
    commands={
        "check": ("hybrid_llm.cli.policy.files:CHECK", "validate policy files and report every error"),
        "explain": ("hybrid_llm.cli.explain:EXPLAIN_POLICY", "show what a policy decides for one prompt, and why"),
        "test": ("hybrid_llm.cli.policy.test:TEST", "run the test cases of a policy"),
        "verify": ("hybrid_llm.cli.policy.verify:VERIFY", "search for requests that a policy lets leave the device"),
        "diff": ("hybrid_llm.cli.policy.diff:DIFF", "show which recorded requests another policy routes differently"),
        "simulate": ("hybrid_llm.cli.policy.simulate:SIMULATE", "simulate a trace under a policy and its baselines"),
        "schema": ("hybrid_llm.cli.policy.files:SCHEMA", "print a JSON Schema for editors"),
        "show": ("hybrid_llm.cli.policy.files:SHOW", "print a built-in policy"),
        "list": ("hybrid_llm.cli.policy.files:LIST", "list the built-in policies"),
    },
    examples=(
        "hybrid-llm policy check clinic.yaml",
        "hybrid-llm policy test clinic.yaml --strict",
        "hybrid-llm policy show balanced > policy.yaml",
    ),
    codes=(Exit.CONFIG,),
)
