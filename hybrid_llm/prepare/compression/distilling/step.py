"""The step `distil`: a student learns from a teacher's probabilities, or from its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, ListOf, Number, Text, Whole, key
from hybrid_llm.prepare.compression.comparison import figures
from hybrid_llm.prepare.compression.distilling.answers import Teacher
from hybrid_llm.prepare.compression.distilling.from_answers import AnswerDistillation, Lessons
from hybrid_llm.prepare.compression.distilling.from_logits import LogitDistillation, Recipe
from hybrid_llm.prepare.compression.distilling.student import Student, open_student
from hybrid_llm.prepare.compression.distilling.teachers import BackendTeacher, FolderTeacher, check_backend
from hybrid_llm.prepare.compression.folders import save_model, trainable_kind
from hybrid_llm.prepare.compression.training import Schedule, multiplying_in, train
from hybrid_llm.prepare.step import CONFIG, DATA, MODEL, Input, Makes, Outcome, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Distil:
    """Train a small model on what a large one knows.

    `method: logits` follows the teacher's probabilities, which are computed once and stored; the teacher is a folder.
    `method: sequences` has the teacher answer prompts, and trains on its answers; the teacher may be a folder, or a
    backend of a hybrid.yaml, to which the privacy guard of that file lets go only what its policy allows.
    """

    makes: ClassVar[Makes] = Makes.MODEL
    version: ClassVar[int] = 2
    """Since 2 a student that is made of parts of its teacher begins with weights that are fitted again."""

    data: Input = key(DATA, "Texts, conversations or labelled texts; `train` is learnt, `test` measured.")
    teacher: Input | None = key(MODEL, "The Hugging Face folder of the teacher.", default=None)
    config: Path | None = key(CONFIG, "A hybrid.yaml with a backend that teaches, in place of a folder.", default=None)
    backend: str = key(Text("the name of a backend"), "The backend of `config` that teaches.", default="cloud")
    privacy: tuple[str, ...] = key(
        ListOf(Text("a privacy tag")),
        "Privacy tags of all of the data, which the policy of `config` knows.",
        default=(),
    )
    student: Input | None = key(
        MODEL, "The Hugging Face folder of the student; without it, it is made of parts of the teacher.", default=None
    )
    layers: int = key(Whole(), "Layers of a student made from the teacher; 0 for all.", default=0)
    heads: int = key(Whole(), "Its heads of keys and values; 0 for all.", default=0)
    inner: int = key(Whole(), "Its inner units in each feed-forward layer; 0 for all.", default=0)
    width: int = key(Whole(), "Its channels between the layers; 0 for all.", default=0)
    method: str = key(Choice.of("logits", "sequences"), "What the student learns from.", default="logits")
    temperature: float = key(Number(0.1, 100.0), "Divides the logits of both, for `logits`.", default=1.0)
    hard_weight: float = key(
        Number(0.0, 1.0),
        "Share of the loss that is the data's own, for `logits`: the next token, or the label.",
        default=0.1,
    )
    likeliest: int = key(
        Whole(1, 1024), "Tokens of each position whose probability is stored, for `logits`.", default=32
    )
    max_tokens: int = key(Whole(1), "Most tokens of an answer, for `sequences`.", default=128)
    budget_tokens: int = key(
        Whole(), "Most tokens that the teacher writes in all, for `sequences`; 0 for no limit.", default=0
    )
    steps: int = key(Whole(), "Steps of training.", default=200)
    batch: int = key(Whole(1), "Texts or blocks in each step.", default=8)
    precision: str = key(
        Choice.of("fp32", "bf16"), "`bf16` multiplies in half precision; the weights stay in single.", default="fp32"
    )
    learning_rate: float = key(Number(), "Highest learning rate.", default=5e-4)
    length: int = key(Whole(2), "Tokens of a block, or most tokens of a text.", default=128)
    limit: int = key(Whole(1), "Most texts or blocks that are read.", default=4000)
    evaluate_on: int = key(Whole(1), "Most records that the figures before and after are measured on.", default=200)

    def run(self, work: Work) -> Outcome:
        """Ask the teacher, train the student, save and measure it."""
        self._check(work)
        student, source = self._student(work)
        with multiplying_in(self.precision):  # the teacher too
            learning = self._learning(work, student)
        data = work.path(self.data)
        before = figures(source, data, self.evaluate_on)
        schedule = Schedule(
            steps=self.steps, learning_rate=self.learning_rate, seed=work.seed, precision=self.precision
        )
        found = {**learning.metrics, **train(student.model, learning.loss, schedule, work.scratch, work.progress)}
        save_model(student.model, source, work.out)
        work.progress("measuring", 1.0)
        after = figures(work.out, data, self.evaluate_on)
        card = {"training": {"distilled_by": self.method, "steps": self.steps, **learning.card}}
        parameters = {"parameters": student.model.num_parameters()}
        return Outcome(metrics={**after, **parameters, **found}, before=before, card=card)

    def _check(self, work: Work) -> None:
        """What the options ask of each other, before anything is loaded."""
        if (self.teacher is None) == (self.config is None):
            raise ConfigError("name one teacher: `teacher` for a folder, or `config` for a backend of a hybrid.yaml")
        if self.config is not None:
            check_backend(self.config, self.backend)
            if self.method == "logits":
                raise ConfigError("method: logits needs the teacher as a folder: a backend gives answers only")
        if self.student is None and (self.teacher is None or not self._parts):
            raise ConfigError(
                "student is missing: name its folder, or set layers, heads, inner or width of the teacher"
            )
        if self.teacher is not None and self.student is not None and self.method == "logits":
            teacher, student = (trainable_kind(work.path(each)) for each in (self.teacher, self.student))
            if teacher is not student:
                raise ConfigError(f"the teacher is a {teacher}, and the student a {student}: they must be the same")

    @property
    def _parts(self) -> dict[str, int]:
        asked = {"layers": self.layers, "groups": self.heads, "inner": self.inner, "width": self.width}
        return {name: count for name, count in asked.items() if count}

    def _student(self, work: Work) -> tuple[Student, Path]:
        """The student, and the folder that it comes from."""
        given = self.student or self.teacher
        assert given is not None
        source = work.path(given)
        whole = open_student(source)
        return (whole if self.student else whole.smaller(self._parts, work.path(self.data), self.length)), source

    def _learning(self, work: Work, student: Student) -> LogitDistillation | AnswerDistillation:
        data = work.path(self.data)
        if self.method == "sequences":
            lessons = Lessons(budget_tokens=self.budget_tokens, batch=self.batch, length=self.length, limit=self.limit)
            return AnswerDistillation(lessons, self._open_teacher(work), student, data, work)
        assert self.teacher is not None
        recipe = Recipe(
            temperature=self.temperature,
            hard_weight=self.hard_weight,
            likeliest=self.likeliest,
            batch=self.batch,
            length=self.length,
            limit=self.limit,
        )
        return LogitDistillation(recipe, work.path(self.teacher), student, data, work)

    def _open_teacher(self, work: Work) -> Callable[[], Teacher]:
        if self.config is not None:
            return partial(BackendTeacher, self.config, self.backend, self.privacy, self.max_tokens)
        assert self.teacher is not None
        return partial(FolderTeacher, work.path(self.teacher), self.max_tokens)
