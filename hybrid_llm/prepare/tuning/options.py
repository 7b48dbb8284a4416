"""The options of the step `tune`, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, Flag, ListOf, Number, Text, Whole, key, percentage
from hybrid_llm.prepare.step import DATA, MODEL, Input
from hybrid_llm.prepare.tuning.settings import LAUNCH, Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """What to tune, on what, and how."""

    model: Input = key(MODEL, "The model to tune: a step, a Hugging Face folder or a GGUF file.")
    data: Input = key(DATA, "The data, with a split `train`; with `validation` the best weights are kept.")
    method: Literal["full", "lora"] = key(
        Choice.of("full", "lora"), "`full` changes all weights; `lora` adds small ones beside them.", default="full"
    )
    epochs: float = key(Number(0.001, 10_000), "Passes over the split `train`.", default=3.0)
    steps: int | None = key(Whole(1), "Number of steps, in place of `epochs`.", default=None)
    learning_rate: float | None = key(
        Number(1e-12, 10),
        "The highest learning rate. Default: 5e-5; 2e-4 for LoRA; a tenth of these for preferences.",
        default=None,
        source="cited: the defaults of transformers, and those that the authors of LoRA and of DPO use",
    )
    schedule: Literal["linear", "cosine", "constant", "wsd"] = key(
        Choice.of("linear", "cosine", "constant", "wsd"),
        "How the learning rate falls after the warm-up; `wsd` (warm-up, stable, decay) holds it, then falls linearly.",
        default="linear",
    )
    decay: float = key(percentage(), "`wsd`: share of the steps, at the end, in which it falls to zero.", default=0.2)
    warmup: float = key(percentage(), "Share of the steps in which the learning rate rises.", default=0.05)
    optimiser: Literal["adamw", "muon"] = key(
        Choice.of("adamw", "muon"),
        "`muon` orthogonalises the steps of the matrices inside the layers; AdamW has the other weights. For training "
        "from nothing, with `method: full`.",
        default="adamw",
    )
    matrix_rate: float = key(
        Number(1e-12, 10), "Muon: the highest learning rate of these matrices.", default=0.02, source="cited: Muon"
    )
    weight_decay: float = key(
        Number(0, 1), "Decay of the weights by AdamW; with Muon, of the matrices alone.", default=0.0
    )
    clip: float = key(Number(1e-6), "The largest norm of the gradient.", default=1.0)
    batch: int = key(
        Whole(1, 1_000_000),
        "Rows of one step, over all processes: the result does not depend on how many there are.",
        default=16,
    )
    accumulate: int = key(
        Whole(1, 1_000_000), "Parts in which a process takes its rows of a step, to save memory.", default=1
    )
    gradient_checkpointing: bool = key(
        Flag(), "Compute activations again in the backward pass: less memory, a third more time.", default=False
    )
    packing: bool = key(
        Flag(),
        "Conversations: put several whole ones into a row of `max_length`, each of which sees itself alone.",
        default=False,
    )
    prompt_weight: float = key(
        Number(0, 1), "Conversations: how much a token counts that the assistant does not say.", default=0.0
    )
    max_length: int | None = key(
        Whole(2),
        "Tokens of a row at most; longer ones are cut. Default: the context window, at most 512.",
        default=None,
    )
    precision: Literal["fp32", "bf16"] = key(
        Choice.of("fp32", "bf16"), "`bf16` multiplies in half precision; the weights stay in single.", default="fp32"
    )
    every: int | None = key(
        Whole(1),
        "Steps from one evaluation and checkpoint to the next. Default: a tenth of all.",
        default=None,
    )
    early_stopping: int | None = key(
        Whole(1, 1000), "End after so many evaluations without a better loss.", default=None
    )
    lora_rank: int = key(Whole(1, 4096), "Rank of the adapter.", default=16)
    lora_alpha: float = key(Number(1e-3), "The adapter counts `lora_alpha / lora_rank` times.", default=32.0)
    lora_dropout: float = key(Number(0, 0.99), "Share of inputs of the adapter that is left out.", default=0.0)
    lora_targets: tuple[str, ...] = key(
        ListOf(Text("the name of a layer"), single=True),
        "Layers that get an adapter, by the end of their names. Default: all linear layers but the head.",
        default=(),
        examples=(["q_proj", "v_proj"],),
    )
    merge: bool = key(
        Flag(), "Add the adapter to the weights at the end. `false` leaves a folder of the adapter.", default=True
    )
    beta: float = key(
        Number(1e-6, 100), "Preferences: how much the model is held to what it was.", default=0.1, source="cited: DPO"
    )
    report: Literal["none", "tensorboard", "mlflow"] = key(
        Choice.of("none", "tensorboard", "mlflow"), "Write the curves for this tool too.", default="none"
    )
    launch: Launch = key(LAUNCH, "Several processes.", default=Launch(), examples=({"processes": 2},))

    def __post_init__(self) -> None:
        if self.batch % (self.launch.processes * self.accumulate):
            message = "`batch` must be a multiple of `accumulate` times the `processes` of `launch`"
            raise ConfigError(f"{message}: {self.batch} is not one of {self.accumulate} x {self.launch.processes}")
        if not self.merge and self.method != "lora":
            raise ConfigError("`merge: false` leaves an adapter, which only `method: lora` makes")
        if self.optimiser == "muon" and (self.method == "lora" or self.launch.sharding == "full"):
            raise ConfigError("`optimiser: muon` needs whole matrices: leave out `method: lora` and `sharding: full`")
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ConfigError("`warmup` and `decay` are more than all steps together: lower one of them")

    @property
    def rows(self) -> int:
        """Rows that one process computes at once."""
        return self.batch // (self.launch.processes * self.accumulate)
