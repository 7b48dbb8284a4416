"""The kinds of tasks, and the keys of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hybrid_llm.core.fields import Found, Table, keys_of, table
from hybrid_llm.core.registry import Registry

if TYPE_CHECKING:
    from hybrid_llm.prepare.evaluation.tasks.task import Task

_TASKS: Final = "hybrid_llm.prepare.evaluation.tasks"
KINDS: Final[Registry[type[Task]]] = Registry(
    "kind of task",
    group="hybrid_llm.tasks",
    builtin={
        "generate": f"{_TASKS}.generate:Generate",
        "classify": f"{_TASKS}.classify:Classify",
        "choose": f"{_TASKS}.choose:Choose",
        "perplexity": f"{_TASKS}.perplexity:TextPerplexity",
    },
)
"""Kind -> the dataclass that its keys are read into."""


def task_table(kind: str) -> Table:
    """The keys of a task of *kind*."""
    task = KINDS.get(kind)

    def make(found: Found) -> Task:
        made = task(**found.values)
        if made.quality and made.quality not in made.metrics:
            message = f"`{made.quality}` is none of the metrics of this task: {', '.join(made.metrics)}"
            found.reject(message, "add it to metrics", "quality")
        return made

    assert any(key.name == "metrics" for key in keys_of(task))
    return table(task, f"a task of kind `{kind}`", make=make)
