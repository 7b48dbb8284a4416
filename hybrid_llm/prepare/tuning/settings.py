"""How the processes of a training are started, and what is the same in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, Text, Whole, key, table

Sharding = Literal["none", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The processes that train together, on this machine, or on those of a Ray cluster."""

    processes: int = key(Whole(1, 4096), "Number of processes; each takes an equal part of every batch.", default=1)
    sharding: Sharding = key(
        Choice.of("none", "full"),
        "`none`: each process has the whole model (DDP). `full`: weights, gradients and the state of the optimiser are "
        "divided among them (FSDP2).",
        default="none",
    )
    ray: str = key(
        Text("`local`, or the address of a Ray cluster"),
        "Start the processes by Ray Train: on this machine with `local`, or on the cluster at this address, whose "
        "machines must share the folder of the recipe. Without it, torch starts them on this machine.",
        default="",
        examples=("local", "10.0.0.5:6379"),
    )

    def __post_init__(self) -> None:
        if self.sharding == "full" and self.processes == 1:
            raise ConfigError("`sharding: full` needs more than one of `processes`")


LAUNCH: Final = table(Launch, "how processes are launched")
