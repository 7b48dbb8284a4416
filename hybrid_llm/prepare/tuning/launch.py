"""Starts a training: in this process, in several of this machine by torch's elastic launch, or by Ray Train."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from hybrid_llm.prepare.tuning.failures import TrainingFailed, forget_failures, raise_noted
from hybrid_llm.prepare.tuning.plan import Plan
from hybrid_llm.prepare.tuning.training import Report, train

_AGAIN = "run again: the training goes on from its last checkpoint"


def launch(plan: Plan, report: Report) -> None:
    """Train as the plan says; *report* is called with steps and losses.

    Raises:
        TrainingFailed: a process was killed or failed. NoSpace, ConfigError: as `Tune.run`.
    """
    forget_failures(plan.run)
    options = plan.options.launch
    if options.ray:
        from hybrid_llm.prepare.tuning.cluster import launch_by_ray

        with watched(plan.run, report):
            launch_by_ray(plan)
    elif options.processes > 1:
        with watched(plan.run, report):
            _launch_here(plan)
    else:
        train(plan, report)


def _launch_here(plan: Plan) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # failures are reported by what is raised
    run_id = uuid4().hex
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=plan.options.launch.processes,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=str(plan.run / f"rendezvous-{run_id}"),
        rdzv_configs={"store_type": "file"},  # no port is opened
        max_restarts=0,
        monitor_interval=0.2,
        local_addr="localhost",
        logs_specs=DefaultLogsSpecs(log_dir=str(plan.run / "logs"), redirects=Std.ALL),
    )
    with _loopback():
        try:
            elastic_launch(config, sys.executable)("-m", "hybrid_llm.prepare.tuning.worker", str(plan.write()))
        except ChildFailedError as error:
            raise_noted(plan.run)
            raise _killed(error, plan) from None
        finally:
            for name in (f"meeting-{run_id}", f"rendezvous-{run_id}"):
                (plan.run / name).unlink(missing_ok=True)


def _killed(error: object, plan: Plan) -> TrainingFailed:
    rank, failure = error.get_first_failure()  # type: ignore[attr-defined]
    ended = f"was ended by signal {-failure.exitcode}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
    what = f"process {rank} of {plan.options.launch.processes} {ended}"
    return TrainingFailed(f"{what}, and the others were stopped; its output is in {plan.run / 'logs'}. {_AGAIN}")


@contextmanager
def _loopback() -> Iterator[None]:
    """The processes of one machine speak over its loopback interface, unless the user named another one."""
    name = "lo0" if sys.platform == "darwin" else "lo"
    added = [each for each in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if each not in os.environ]
    os.environ.update(dict.fromkeys(added, name))
    try:
        yield
    finally:
        for each in added:
            os.environ.pop(each, None)


@contextmanager
def watched(run: Path, report: Report) -> Iterator[None]:
    """Call *report* with the steps that the first process notes."""
    done = threading.Event()

    def watch() -> None:
        last = ""
        while not done.wait(0.5):
            with suppress(OSError, ValueError):
                if (noted := (run / "step.txt").read_text(encoding="ascii")) != last:
                    last = noted
                    step, loss = noted.split()
                    report(int(step), float(loss))

    thread = threading.Thread(target=watch, name="hybrid-llm-tuning", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
