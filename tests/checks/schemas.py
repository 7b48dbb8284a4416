"""Holds what is generated from the tables of keys to the code: `python tests/checks/schemas.py [--write]`.

These are the JSON Schemas for editors, and the tables of keys between `<!-- fields: NAME -->` and `<!-- end -->` in the
docs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hybrid_llm.backends.node.intake import IntakeLimits
from hybrid_llm.backends.registry import table_of
from hybrid_llm.core.environment import VARIABLES
from hybrid_llm.core.fields import (
    Choice,
    Flag,
    Key,
    Kind,
    ListOf,
    Name,
    Number,
    OneOf,
    Quantity,
    Table,
    Text,
    Whole,
    noun_of,
    table,
)
from hybrid_llm.core.rights.grants import GRANT
from hybrid_llm.core.rights.tokens import TOKENS
from hybrid_llm.gateway.openapi import document
from hybrid_llm.gateway.parameters import markdown
from hybrid_llm.gateway.tables.chat import CHAT
from hybrid_llm.gateway.tables.completions import COMPLETIONS
from hybrid_llm.gateway.tables.messages import MESSAGES
from hybrid_llm.gateway.tables.responses import RESPONSES
from hybrid_llm.lab.casefile import cases_schema
from hybrid_llm.lab.simulate.world import World
from hybrid_llm.policies.document import POLICY, RULE, TAG, policy_schema
from hybrid_llm.policies.reader.scalars import shown_quantity
from hybrid_llm.policies.rights import rights_schema
from hybrid_llm.prepare.evaluation.tasks.kinds import KINDS, task_table
from hybrid_llm.prepare.recipe.document import RECIPE, Bounds, recipe_schema
from hybrid_llm.prepare.steps import table_of as step_table_of
from hybrid_llm.router.caching.spec import CACHE
from hybrid_llm.router.config import config_schema
from hybrid_llm.router.config.config import CONFIG, PRICE, detector_table, guardrail_table

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEMAS = {
    "hybrid.schema.json": config_schema,
    "policy.schema.json": policy_schema,
    "policy.cases.schema.json": cases_schema,
    "recipe.schema.json": recipe_schema,
    "rights.schema.json": rights_schema,
    "openapi.json": document,
}
STEP = "step."
"""Before the kind of a step, in the name of a table of its keys."""
MARKED = re.compile(r"(<!-- fields: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def nested(table: Table, name: str) -> Table:
    """The table under the key *name* of *table*."""
    (kind,) = (key.kind for key in table.keys if key.name == name)
    assert isinstance(kind, Table)
    return kind


def markdown_table(table: Table) -> str:
    """The keys of *table* in Markdown: name, value, default and meaning; those of nested tables after a dot."""
    rows = "".join(f"| `{name}` | {value} | {default} | {about} |\n" for name, value, default, about in _rows(table))
    return f"| key | value | default | |\n|---|---|---|---|\n{rows}"


def _rows(table: Table, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for key in table.keys:
        if isinstance(key.kind, Table):
            yield from _rows(key.kind, f"{prefix}{key.name}.")
        else:
            yield f"{prefix}{key.name}", noun_of(key.kind), _default(key), key.about


def _default(key: Key) -> str:
    if key.required:
        return "required"
    written = as_written(key.kind, key.default)
    return "" if written is None else f"`{written.replace('|', chr(92) + '|')}`"  # a bar would end the cell


def as_written(kind: Kind, value: Any) -> str | None:
    """*value* as a file has it; None where a file cannot say it."""
    match kind:
        case Flag() if value is not None:
            return str(value).lower()
        case Choice():
            return next((word for word, one in kind.values.items() if one == value), None)
        case Quantity() if value is not None:
            return shown_quantity(kind, value)
        case OneOf():
            return next((text for one in kind.kinds if (text := as_written(one, value)) is not None), None)
        case ListOf() if value:
            return f"[{', '.join(str(as_written(kind.item, item)) for item in value)}]"
        case Whole() | Number() | Text() | Name() if value is not None and value != "":
            return f"{value:g}" if isinstance(value, float) else str(value)
    return None


def world() -> str:
    """The constants of a simulation, with their sources."""
    rows = "".join(
        f"| `{one.name}` | {one.shown} | {one.declared.about} | {one.declared.source} |\n"
        for one in World().constants()
    )
    return f"| constant | default | meaning | source |\n|---|---|---|---|\n{rows}"


def _task(kind: str) -> str:
    return markdown_table(task_table(kind))


TABLES: dict[str, Callable[[], str]] = {
    "hybrid": lambda: markdown_table(CONFIG),
    "hybrid.onnx": lambda: markdown_table(table_of("onnx")),
    "hybrid.encoder": lambda: markdown_table(table_of("encoder")),
    "hybrid.litert": lambda: markdown_table(table_of("litert")),
    "hybrid.grpc": lambda: markdown_table(table_of("grpc")),
    "hybrid.openai": lambda: markdown_table(table_of("openai")),
    "hybrid.anthropic": lambda: markdown_table(table_of("anthropic")),
    "hybrid.gateway": lambda: markdown_table(nested(CONFIG, "gateway")),
    "hybrid.cache.memory": lambda: markdown_table(CACHE.get("memory")),
    "hybrid.cache.disk": lambda: markdown_table(CACHE.get("disk")),
    "hybrid.price": lambda: markdown_table(PRICE),
    "hybrid.ner": lambda: markdown_table(detector_table("ner")),
    "hybrid.presidio": lambda: markdown_table(detector_table("presidio")),
    "guardrail.default": lambda: markdown_table(guardrail_table("default")),
    "guardrail.denylist": lambda: markdown_table(guardrail_table("denylist")),
    "guardrail.encoder": lambda: markdown_table(guardrail_table("encoder")),
    "gateway.chat": lambda: markdown(CHAT),
    "gateway.completions": lambda: markdown(COMPLETIONS),
    "gateway.responses": lambda: markdown(RESPONSES),
    "gateway.messages": lambda: markdown(MESSAGES),
    "policy.tag": lambda: markdown_table(TAG),
    "policy.rule": lambda: markdown_table(RULE),
    "policy.objectives": lambda: markdown_table(nested(POLICY, "objectives")),
    "policy.resilience": lambda: markdown_table(nested(POLICY, "resilience")),
    "recipe": lambda: markdown_table(RECIPE),
    "recipe.bounds": lambda: markdown_table(table(Bounds, "a step")),
    **{f"suite.{kind}": partial(_task, kind) for kind in KINDS.names()},
    "rights": lambda: markdown_table(GRANT),
    "rights.tokens": lambda: markdown_table(TOKENS),
    "node.limits": lambda: markdown_table(table(IntakeLimits, "limits")),
    "environment": lambda: markdown_table(VARIABLES).replace("| key |", "| variable |", 1),
    "world": world,
}


def fresh() -> Iterator[tuple[Path, str]]:
    """What each generated file must be."""
    for name, schema in SCHEMAS.items():
        yield DOCS / name, json.dumps(schema(), indent=2) + "\n"
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text("utf-8")
        yield page, MARKED.sub(lambda found: found[1] + written_table(found[2]) + found[3], text)


def written_table(name: str) -> str:
    """The table *name* of `TABLES`; of `step.KIND`, the keys of that kind of step."""
    if name.startswith(STEP):
        return markdown_table(step_table_of(name.removeprefix(STEP)))
    return TABLES[name]()


def stale() -> list[Path]:
    """The generated files that are missing or differ from what the code says."""
    return [path for path, text in fresh() if not path.is_file() or path.read_text("utf-8") != text]


def main(arguments: list[str]) -> int:
    """Compare, or with `--write` bring up to date; the exit code is 1 when something is stale."""
    if arguments == ["--write"]:
        for path, text in fresh():
            path.write_text(text, encoding="utf-8")
    found = stale()
    print(*(f"stale: {path}; run `make schemas`" for path in found), sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
