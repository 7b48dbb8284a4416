"""The step `create`: its options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.fields import Choice, Flag, MapOf, Number, Text, Whole, key, one_of
from hybrid_llm.prepare.step import MODEL, Input, Makes, Outcome, Work

Setting = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Checked):
    """Creates a model whose weights are drawn by the seed, or continue a smaller one; `tune` then trains it."""

    makes: ClassVar[Makes] = Makes.MODEL

    tokenizer: Input = key(MODEL, "What `train-tokenizer` has made, or a folder with a fast tokenizer.")
    architecture: str = key(Text("a model type"), "The model type of transformers, such as `llama`, `qwen3` or `bert`.")
    use: str = key(
        Choice.of("decoder", "encoder"),
        "A decoder with its head, or the body of an encoder, which `tune` gives one.",
        default="decoder",
    )
    config: dict[str, Setting] = key(
        MapOf(one_of(Flag(), Whole(), Number(-math.inf), Text())),
        "Keys of the configuration of this type in transformers; the others have its defaults. The vocabulary comes "
        "from the tokenizer.",
        default={},
        examples=({"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},),
    )
    grown_from: Input | None = key(
        MODEL,
        "A decoder of the same type and width, with fewer layers or narrower inner matrices: the new one computes what "
        "it computes, until it is trained.",
        default=None,
        source="Chen et al. 2016, Net2Net",
    )

    def run(self, work: Work) -> Outcome:
        """Draw the weights, and leave a Hugging Face folder with the tokenizer in `work.out`.

        Raises:
            ConfigError: type, configuration, tokenizer or smaller model do not fit each other.
            NotEnoughMemory: the model does not fit into the memory. NoSpace: the disk is full.
        """
        from hybrid_llm.prepare.creation.drawing import create

        return create(self, work)
