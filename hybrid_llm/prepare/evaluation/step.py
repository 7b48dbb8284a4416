"""The step `evaluate` of recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import ClassVar

from hybrid_llm.core.fields import File, Flag, ListOf, Number, Text, key
from hybrid_llm.prepare.evaluation.evaluating import evaluate
from hybrid_llm.prepare.evaluation.results import Results
from hybrid_llm.prepare.evaluation.subjects.opening import Named
from hybrid_llm.prepare.evaluation.suite import Suite, read_suite
from hybrid_llm.prepare.step import CONFIG, DATA, MODEL, Input, Makes, Outcome, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Measure models, backends and policies by a suite, side by side, with confidence intervals."""

    makes: ClassVar[Makes] = Makes.REPORT

    suite: Path = key(File(), "The suite: a YAML file of tasks.", hint="suite: suite.yaml")
    models: tuple[Input, ...] = key(ListOf(MODEL), "Models, the one that others are compared with first.", default=())
    data: Input | None = key(DATA, "Data that takes the place of that of every task.", default=None)
    config: Path | None = key(CONFIG, "A `hybrid.yaml` whose backends or policy are evaluated too.", default=None)
    backends: tuple[str, ...] = key(ListOf(Text("a backend")), "Backends of it, each alone.", default=())
    policy: bool = key(Flag(), "Evaluate what its policy makes of them.", default=False)
    cascade: float | None = key(
        Number(0.0, 1.0), "Evaluate its policy with labels below this probability asked again.", default=None
    )
    keep_answers: bool = key(Flag(), "Leave the answers beside the results; they may be private.", default=False)

    def depends(self) -> Mapping[str, str]:
        """What the suite reads."""
        return read_suite(self.suite).files if self.data is None else {}

    def run(self, work: Work) -> Outcome:
        """Evaluate; the metrics are those of the last subject, before them those of the first."""
        results = evaluate(
            self._suite(work),
            list(self._subjects(work)),
            work.out,
            work.scratch / "answers",
            seed=work.seed,
            keep_answers=self.keep_answers,
            report=work.progress,
        )
        first, *_, last = (*results.subjects, *results.subjects)
        before = {} if first == last else _metrics(results, first)
        return Outcome(metrics=_metrics(results, last), before=before, card={"evaluation": _card(results)})

    def _suite(self, work: Work) -> Suite:
        suite = read_suite(self.suite)
        if self.data is None:
            return suite
        path = work.path(self.data)
        return replace(suite, tasks={name: replace(task, data=path) for name, task in suite.tasks.items()})

    def _subjects(self, work: Work) -> Iterator[Named]:
        """Each with a name of its own in the report, whatever steps and backends are called."""
        taken: set[str] = set()
        for model in self.models:
            name = _free(Path(model.text).name, "-".join(Path(model.text).parts[-2:]), taken)
            yield Named(name=name, path=work.path(model))
        if self.config is None:
            return
        for backend in self.backends:
            yield Named(name=_free(backend, f"backend-{backend}", taken), path=self.config, backend=backend)
        if self.policy:
            yield Named(name=_free("policy", "policy-of-config", taken), path=self.config)
        if self.cascade is not None:
            yield Named(name=_free("cascade", "cascade-of-config", taken), path=self.config, threshold=self.cascade)


def _free(name: str, longer: str, taken: set[str]) -> str:
    """*name*, or *longer* where it is taken, or that with a number; it is taken from now on."""
    numbered = (f"{longer}-{number}" for number in count(2))
    found = next(one for one in chain((name, longer), numbered) if one not in taken)
    taken.add(found)
    return found


def _metrics(results: Results, subject: str) -> dict[str, float]:
    """`accuracy` where the suite has one task, else `TASK_accuracy`."""
    alone = len(results.tasks) == 1
    return {
        metric if alone else f"{name}_{metric}": found.value
        for name, task in results.tasks.items()
        for metric, found in task.scores[subject].metrics.items()
    }


def _card(results: Results) -> dict[str, object]:
    tasks = {name: {"kind": task.kind, "items": task.items} for name, task in results.tasks.items()}
    return {"suite": results.suite, "suite_sha256": results.suite_digest, "tasks": tasks}
