"""Trainers of transformers and trl whose checkpoints are whole or not there, and that end on a loss that is no number.

The classes are made when they are needed: the libraries take seconds to load.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.prepare.tuning.checkpoints import folder_of, prune, seal
from hybrid_llm.prepare.tuning.failures import TrainingFailed, disk_is_full


class Sound:
    """Put before a `Trainer` in a class: its checkpoints are whole, or deleted."""

    args: Any
    state: Any
    accelerator: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run, step = Path(self.args.output_dir), int(self.state.global_step)
        with saving(folder_of(run, step), lead=self.args.should_save):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                seal(folder_of(run, step))
                prune(run, self.state.best_global_step)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of an evaluation, with the last one that is not full: every row counts."""
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.args.dataloader_drop_last = dropped

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the card is written by the recipe."""

    def _send_telemetry(self) -> None:
        """Nothing is reported to anyone."""


def trainer_of(*bases: Any) -> Any:
    """A class of trainers: `Sound`, then *bases*, of which the last one is a `Trainer`."""
    return type("SoundTrainer", (Sound, *bases), {})


@contextmanager
def saving(checkpoint: Path, *, lead: bool) -> Iterator[None]:
    """Delete *checkpoint* if it cannot be written whole; *lead*: whether this process is the one that deletes.

    Raises:
        NoSpace: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if lead:
            shutil.rmtree(checkpoint, ignore_errors=True)
        if disk_is_full(error):
            what = f"the disk is full: {checkpoint.name} could not be written to {checkpoint.parent}"
            remedy = "the one before it stays. Free some space and run again: the training goes on from there"
            raise NoSpace(f"{what}; {remedy}") from None
        raise


def progress(report: Callable[[int, float], None]) -> Any:
    """A callback of transformers that reports each step, and ends the training on a loss that is no number."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            loss = (logs or {}).get("loss")
            if loss is None:
                return
            if not math.isfinite(loss):
                remedy = "lower `learning_rate`, raise `warmup`, or use `precision: fp32`"
                raise TrainingFailed(f"the loss is no finite number after step {state.global_step}: {remedy}")
            if state.is_world_process_zero:
                report(int(state.global_step), float(loss))

    return Progress()
