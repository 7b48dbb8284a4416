"""One of several processes that torch starts: `python -m hybrid_llm.prepare.tuning.worker PLAN`."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from math import floor
from pathlib import Path
from typing import Final

from hybrid_llm.backends.edge.runtime import usable_processors
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.files import replace_text
from hybrid_llm.prepare.hub_folder import work_offline
from hybrid_llm.prepare.tuning.failures import note_failure
from hybrid_llm.prepare.tuning.plan import Plan
from hybrid_llm.prepare.tuning.training import Report, train

_FAILED: Final = 3
_TIMEOUT: Final = timedelta(minutes=30)


def join(plan: Plan) -> None:
    """Join the process group; the processes of one machine meet in a file, so that none listens to the network."""
    import torch

    torch.set_num_threads(max(1, floor(usable_processors()) // plan.options.launch.processes))
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group(
        "nccl" if gpus else "gloo",
        init_method=(plan.run / f"meeting-{os.environ['TORCHELASTIC_RUN_ID']}").absolute().as_uri(),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_TIMEOUT,
    )


def run_noted(plan: Plan, rank: int, report: Report = lambda step, loss: None) -> int:  # noqa: ARG005
    """Train, and leave an error of ours where the process that started this one finds it; returns the exit status."""
    try:
        train(plan, report)
    except HybridLLMError as error:
        note_failure(plan.run, rank, error)
        return _FAILED
    return 0


def main() -> int:
    """Train as one process of the group; the first one notes each step."""
    import torch

    work_offline()
    plan = Plan.read(Path(sys.argv[1]))
    rank = int(os.environ["RANK"])
    join(plan)
    status = run_noted(plan, rank, lambda step, loss: note_step(plan.run, step, loss))
    if status == 0:
        torch.distributed.destroy_process_group()
    return status


def note_step(run: Path, step: int, loss: float) -> None:
    """Let the process that started this one see how far the training is."""
    replace_text(run / "step.txt", f"{step} {loss}")


if __name__ == "__main__":
    os._exit(main())  # threads of gloo may be waiting for a process that failed
