"""The suite: a YAML file of tasks, each with its data, what is asked, and the metrics of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.fields import VERSION, Found, ListOf, MapOf, Text, Variants, key, table
from hybrid_llm.policies.reader.fields import parse_document, read_text
from hybrid_llm.policies.reader.schemas import Json, json_schema
from hybrid_llm.prepare.data.folder import DATA_NAME
from hybrid_llm.prepare.evaluation.tasks.kinds import KINDS, task_table
from hybrid_llm.prepare.recipe.digests import digest_path

if TYPE_CHECKING:
    from hybrid_llm.prepare.evaluation.tasks.task import Task

_WHAT: Final = "the suite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Tasks by which models, backends and configurations are compared."""

    name: str = key(Text(), "The name of the suite.", hint="name: support")
    about: str = key(Text(), "What it is for; it stands in the report.", default="")
    privacy: tuple[str, ...] = key(
        ListOf(Text("a privacy tag")),
        "Privacy tags of every request: with a tag that does not allow `cloud`, no item leaves this device.",
        default=(),
    )
    tasks: Mapping[str, Task] = key(
        MapOf(Variants("task", KINDS.names, task_table), least=1),
        "Name -> task.",
        hint="each task has a name, a kind and data",
    )
    digest: str = field(default="", compare=False)
    """Of the file alone."""

    @property
    def files(self) -> Mapping[str, str]:
        """What its tasks read, in words -> its hash; ConfigError if it cannot be read."""
        paths: dict[str, Path] = {}
        for name, task in self.tasks.items():
            paths[f"the data of `{name}`"] = task.data.parent if task.data.name == DATA_NAME else task.data
            if schema := getattr(task, "schema", None):
                paths[f"the schema of `{name}`"] = schema
        return {what: digest_path(path) for what, path in paths.items()}


def _suite(found: Found) -> Suite:
    suite = Suite(**found.values)
    return replace(suite, tasks={name: replace(task, name=name) for name, task in suite.tasks.items()})


SUITE: Final = table(Suite, "suite", make=_suite, extra=(VERSION,))


def read_suite(path: Path) -> Suite:
    """The suite in the file at *path*; its data is read when a task runs.

    Raises:
        ConfigError: the file cannot be read or is not valid; the message has everything that is wrong, with positions.
    """
    text = read_text(path, _WHAT)
    try:
        suite: Suite = parse_document(text, str(path), _WHAT, SUITE, path.parent)
    except PolicyError as error:
        raise ConfigError(str(error), path=str(path)) from None
    return replace(suite, digest=sha256(text.encode()).hexdigest())


def suite_schema() -> Json:
    """The JSON Schema of suites, for editors."""
    return json_schema(SUITE, "A suite of evaluation tasks", "hybrid-llm models evaluate --schema")
