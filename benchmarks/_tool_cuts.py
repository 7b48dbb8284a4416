"""Answers that break off inside tool arguments or reasoning, and go on with a model of another template."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any, Final

from benchmarks._resilience import MANY_FAILURES, client
from benchmarks._tool_schemas import QUESTIONS, tool
from hybrid_llm.backends.edge.store import embedded_model
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.protocols import Backend
from tests.e2e.conftest import NODE_MODEL
from tests.e2e.test_continuations import Cut

_HERMES: Final = """\
{{ bos_token }}{% for message in messages %}{% set role = message.role if message.role != 'tool' else 'user' %}
{{- '<|' + role + '|>' + (message.content | trim) }}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}
{{- eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
_THINKS: Final = _HERMES.replace("'<|assistant|>' }}{% endif", "'<|assistant|><think>' }}{% endif")
TEMPLATES: Final = {"plain": "", "hermes": _HERMES, "thinks": _THINKS}
"""Chat templates: that of the model, which has no calls; that of Hermes and Qwen; one that begins with reasoning."""
TOOLS: Final = ("get_weather", "book-train", "convert", "label", "tags", "move", "pay", "remind")
MOST_TOKENS: Final = 96
LATEST_CUT: Final = 20
"""Chunks before the cut at most: the shortest calls have as many."""


def variants(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Folders of the device's model and of the node's, by the name of their template; copies are made in *folder*."""
    edges, nodes = (
        {name: _variant(model, folder / f"{side}-{name}", template) for name, template in TEMPLATES.items()}
        for side, model in (("edge", embedded_model()), ("node", NODE_MODEL))
    )
    return edges, nodes


def _variant(model: Path, copy: Path, template: str) -> Path:
    if not template:
        return model
    shutil.copytree(model, copy)
    data = template.encode()
    (copy / "chat_template.jinja").write_bytes(data)
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    if "chat_template.jinja" in manifest.get("files", {}):
        manifest["files"]["chat_template.jinja"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return copy


def ask_cut(first: Backend, second: Backend, number: int) -> Generation:
    """The answer that *first* begins, and *second* goes on with: that of case *number*."""
    draw = random.Random(number)
    name = draw.choice(TOOLS)
    options: dict[str, Any] = {"tools": [tool(name)], "tool_choice": "required", "parallel_tool_calls": False}
    options |= {"temperature": 1.0, "seed": number, "max_tokens": MOST_TOKENS, "deadline": 300.0}
    text = f"retries: 1, retry_budget: 100%, continue_streams: true, {MANY_FAILURES}"
    with client([Cut(first, draw.randint(1, LATEST_CUT)), Cut(second)], text) as llm:
        return llm.generate(draw.choice(QUESTIONS), **options)
