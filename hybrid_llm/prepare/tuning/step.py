"""The step `tune`: trains a model on data, and leaves the best weights with their loss curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybrid_llm.prepare.step import Makes, Outcome, Work
from hybrid_llm.prepare.tuning.options import TuneOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Tune(TuneOptions):
    """Tunes a model on data: all its weights, or a LoRA adapter. The format of the data decides what it learns.

    `text` and `blocks` train a language model, `chat` the turns of the assistant, `labelled` and `tagged` a classifier
    of texts or of tokens, and `preference` the better one of two answers (DPO).
    """

    makes: ClassVar[Makes] = Makes.MODEL

    def run(self, work: Work) -> Outcome:
        """Train, from the last whole checkpoint if there is one, and leave the model in `work.out`.

        Raises:
            ConfigError: model, data and options do not fit each other; the message says what to do.
            NotEnoughMemory: the model does not fit into the memory.
            NoSpace: the disk is full; what was saved last stays, and the next run goes on from there.
            TrainingFailed: a process was killed, the loss is no number, or memory ran out.
        """
        from hybrid_llm.prepare.tuning.session import tune

        return tune(self, work)
