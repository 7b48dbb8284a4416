"""The keys of `follow` in `hybrid.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.core.fields import File, Number, Table, Text, Whole, duration, key, percentage, table

MOST: Final = 200
"""Requests whose figures are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """When a new version counts as good, and when the version before it comes back."""

    requests: int = key(Whole(1, MOST), "Requests that a new version answers before it counts as good.", default=30)
    errors: float = key(
        percentage(), "Share of failed requests, beyond that of the version before, that ends the trial.", default=0.1
    )
    latency: float = key(
        Number(1.0),
        "Median time to the first token, or per further token, as a multiple of that of the version before, "
        "that ends the trial.",
        default=2.0,
    )


TRIAL: Final[Table] = table(TrialSpec, "the trial of a new version")


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSpec:
    """The model follows an alias of a registry: its new versions are fetched, tried and used without a restart."""

    registry: str = key(
        Text("the URL of a registry"), "The registry, such as `s3://BUCKET/FOLDER` or `file:///FOLDER`."
    )
    model: str = key(Text("the name of a model"), "The name of the model in the registry, and in the store of models.")
    alias: str = key(Text("the name of an alias"), "The alias that is followed.", default="prod")
    every_s: float = key(
        duration(least=1.0),
        "Time between two looks at the registry; a tenth more or less.",
        name="every",
        default=3600.0,
    )
    key_file: Path | None = key(File(), "The key of a registry that is encrypted.", default=None)
    device: str = key(
        Text("a name of this device"),
        "What distinguishes this device in staged roll-outs; by default a random one in the store of models.",
        default="",
    )
    trial: TrialSpec = key(TRIAL, "How a new version is tried.", default=TrialSpec())


FOLLOW: Final[Table] = table(FollowSpec, "what a model follows")
