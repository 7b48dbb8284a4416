"""Asks subjects the items of a task, one after the other, and makes figures of their answers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np

from hybrid_llm.core.errors import HybridLLMError, SecurityError
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.bootstrap import Resamples, mcnemar
from hybrid_llm.prepare.evaluation.metrics.labels import Bin, confusion, reliability
from hybrid_llm.prepare.evaluation.metrics.metric import METRICS, Numbers
from hybrid_llm.prepare.evaluation.results import Compared, Energy, Latency, Scores, TaskResult
from hybrid_llm.prepare.evaluation.stored import StoredAnswers
from hybrid_llm.prepare.evaluation.subjects.subject import Subject, Unsupported
from hybrid_llm.prepare.evaluation.tasks.task import Task
from hybrid_llm.prepare.recipe.meter import Meter

Report = Callable[[str, float], None]
_BINARY: Final = frozenset({"accuracy", "accuracy_by_length", "exact_match", "json_valid", "verbatim", "json_equal"})
"""Metrics that are right or wrong by item."""


class TaskRun:
    """One task, its items read, and what each subject answered to them."""

    def __init__(self, task: Task, privacy: Sequence[str], seed: int) -> None:
        """Read the items; ConfigError if the data is unusable."""
        self.task = task
        self.items: Final = task.items()
        self.setting: Final = task.setting(self.items)
        self._expected = [
            replace(item, references=tuple(task.compared(each) for each in item.references)) for item in self.items
        ]
        self.answers: dict[str, list[Answer]] = {}
        tags = frozenset((*privacy, *task.privacy))
        self._options: GenerateOptions = {"deadline": task.deadline_s, "privacy": tags}
        self._resamples = Resamples(len(self.items), seed)
        self._scores: dict[str, Scores] = {}

    def ask(self, subject: Subject, stored: StoredAnswers, report: Report) -> None:
        """Let *subject* answer every item that is not *stored*."""
        meter, new = Meter(), 0
        answers: list[Answer] = []
        try:
            for number, item in enumerate(self.items):
                report(f"{self.task.name}: {subject.name}", number / len(self.items))
                answer = stored.get(item)
                if answer is None:
                    answer = self._answer(subject, item)
                    stored.put(item, answer)
                    new += 1
                answers.append(answer)
        except Unsupported as error:
            self._scores[subject.name] = Scores(skipped=str(error))
            return
        self.answers[subject.name] = answers
        energy = None
        if new:
            spent = meter.read().energy
            energy = Energy(joules_per_item=spent.joules / new, how=spent.how, by=spent.by)
        self._scores[subject.name] = replace(self._scored(answers), energy=energy)

    def _answer(self, subject: Subject, item: Item) -> Answer:
        """The answer, or the class of its error; what is wrong with trust or the subject itself ends the run."""
        try:
            return self.task.answer(subject, item, self.setting, self._options)
        except (SecurityError, Unsupported):
            raise
        except HybridLLMError as error:
            return Answer(error=type(error).__name__)

    def _scored(self, answers: Sequence[Answer]) -> Scores:
        answered = [answer for answer in answers if not answer.error]
        metrics = {
            name: self._resamples.estimate(METRICS.get(name), self._numbers(name, answers))
            for name in self.task.metrics
        }
        return Scores(
            metrics=metrics,
            errors=dict(Counter(answer.error for answer in answers if answer.error)),
            routes=dict(Counter(answer.backend for answer in answered)),
            cloud=sum(answer.cloud for answer in answered),
            cost=math.fsum(answer.cost for answer in answered),
            latency=latency(answered),
            reliability=self._reliability(answers),
            confusion=self._confusion(answers),
        )

    def _numbers(self, name: str, answers: Sequence[Answer]) -> Numbers:
        compared = [replace(answer, text=self.task.compared(answer.text)) for answer in answers]
        return METRICS.get(name).numbers(self._expected, compared, self.setting)

    def _reliability(self, answers: Sequence[Answer]) -> tuple[Bin, ...]:
        if "calibration_error" not in self.task.metrics:
            return ()
        pairs = [
            (answer.score, answer.text in item.references)
            for item, answer in zip(self.items, answers, strict=True)
            if answer.score is not None
        ]
        return reliability([score for score, _ in pairs], [right for _, right in pairs])

    def _confusion(self, answers: Sequence[Answer]) -> tuple[tuple[int, ...], ...]:
        if not self.setting.labels:
            return ()
        gold = [item.references[0] for item in self.items]
        return confusion(gold, [answer.text for answer in answers], self.setting.labels).counts

    def result(self) -> TaskResult:
        """The figures of all subjects, and those of each pair."""
        quality = self.task.quality_metric
        return TaskResult(
            kind=self.task.kind,
            items=len(self.items),
            request_task=self.task.request_task,
            quality=quality,
            scale=METRICS.get(quality).scale if quality else 0.0,
            labels=self.setting.labels,
            scores=dict(self._scores),
            compared=tuple(
                self._compared(name, first, second)
                for first, second in combinations(self.answers, 2)
                for name in self.task.metrics
            ),
        )

    def _compared(self, name: str, first: str, second: str) -> Compared:
        metric = METRICS.get(name)
        one, other = (self._numbers(name, self.answers[subject]) for subject in (first, second))
        return Compared(
            metric=name,
            first=first,
            second=second,
            difference=self._resamples.difference(metric, one, other),
            mcnemar=mcnemar(one, other) if name in _BINARY else None,
        )

    @property
    def identity(self) -> str:
        """What answers depend on beside the subject and the item."""
        asked = replace(self.task, limit=0, metrics=(), quality="", data=Path(), split="")
        plain = [jsonable(asked), jsonable(self.setting), sorted(self._options["privacy"] or ())]
        return json.dumps(plain, sort_keys=True, default=str)


def latency(answers: Sequence[Answer]) -> Latency | None:
    """Medians and 95th percentiles of the answers that were timed; None without any."""
    timings = [answer.timing for answer in answers if answer.timing is not None]
    if not timings:
        return None
    ttft, total = ([getattr(one, name) for one in timings] for name in ("ttft_ms", "total_ms"))
    rates = [
        1e3 * (t.tokens - 1) / (t.total_ms - t.ttft_ms) for t in timings if t.tokens > 1 and t.total_ms > t.ttft_ms
    ]
    return Latency(
        ttft_ms_p50=float(np.percentile(ttft, 50)),
        ttft_ms_p95=float(np.percentile(ttft, 95)),
        total_ms_p50=float(np.percentile(total, 50)),
        total_ms_p95=float(np.percentile(total, 95)),
        tokens_per_s_p50=float(np.percentile(rates, 50)) if rates else None,
    )
