"""The kinds of steps that a recipe can name, and how a package adds one."""

from __future__ import annotations

from typing import Final

from hybrid_llm.core.fields import Table, declared, table
from hybrid_llm.core.registry import Registry
from hybrid_llm.prepare.step import Step

STEPS: Final[Registry[type[Step]]] = Registry(
    "kind of step",
    group="hybrid_llm.steps",
    builtin={
        "fetch": "hybrid_llm.prepare.recipe.fetch:Fetch",
        "prepare-data": "hybrid_llm.prepare.data.step:PrepareData",
        "train-tokenizer": "hybrid_llm.prepare.creation.tokenizer:TrainTokenizer",
        "create": "hybrid_llm.prepare.creation.step:Create",
        "tune": "hybrid_llm.prepare.tuning.step:Tune",
        "merge": "hybrid_llm.prepare.tuning.adapters:Merge",
        "tune-private": "hybrid_llm.prepare.privacy.step:TunePrivate",
        "audit-privacy": "hybrid_llm.prepare.privacy.audit:AuditPrivacy",
        "federate": "hybrid_llm.prepare.federated.server:Federate",
        "join": "hybrid_llm.prepare.federated.client:Join",
        "federate-simulation": "hybrid_llm.prepare.federated.simulation:FederateSimulation",
        "distil": "hybrid_llm.prepare.compression.distilling.step:Distil",
        "prune": "hybrid_llm.prepare.compression.pruning.step:Prune",
        "quantise": "hybrid_llm.prepare.compression.quantising.step:Quantise",
        "fuse": "hybrid_llm.prepare.compression.quantising.step:Fuse",
        "convert": "hybrid_llm.prepare.convert:Convert",
        "evaluate": "hybrid_llm.prepare.evaluation.step:Evaluate",
        "frontier": "hybrid_llm.prepare.compression.frontier.step:FrontierStep",
        "explain": "hybrid_llm.prepare.explain.step:Explain",
        "sign": "hybrid_llm.prepare.release:Sign",
        "publish": "hybrid_llm.prepare.release:Publish",
        "pull": "hybrid_llm.prepare.release:Pull",
    },
)
"""Kind -> the dataclass that its options are read into."""


def register_step(kind: str, step: type[Step]) -> None:
    """Let `kind: KIND` in a recipe mean *step*; call it before the recipe is read.

    Raises:
        ConfigError: the kind is taken.
    """
    STEPS.register(kind, step)


def table_of(kind: str) -> Table:
    """The keys of a step of *kind*: what its `table()` returns where keys depend on each other, else its fields.

    Raises:
        ConfigError: there is no such kind, or its package cannot be imported.
    """
    step = STEPS.get(kind)
    return declared(step) or table(step, f"a step of kind `{kind}`")
