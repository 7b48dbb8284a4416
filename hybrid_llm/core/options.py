"""The keyword options of a call, and what they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypedDict

from hybrid_llm.core.tools import Tool


class SchemaModel(Protocol):
    """The part of a pydantic model's class that is used here."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """The model's JSON Schema."""

    @classmethod
    def model_validate_json(cls, json_data: str) -> Any:
        """An instance of the model."""


OutputSchema = Mapping[str, Any] | str | type[SchemaModel]
"""What `output_schema` takes: a JSON Schema as a dict or as JSON text, or a pydantic model."""


ToolSource = Tool | type[SchemaModel] | Callable[..., Any]
"""What `tools` takes: a `Tool`, a pydantic model, or a typed function."""


class GenerateOptions(TypedDict, total=False):
    """The keyword options of `generate`, `agenerate`, `stream`, `astream` and `decide`; None is: not given."""

    privacy: frozenset[str] | set[str] | Sequence[str] | None
    task: str | None
    max_tokens: int | None
    deadline: float | None
    priority: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    logprobs: int | None
    output_schema: OutputSchema | None
    tools: Sequence[ToolSource] | None
    tool_choice: str | None
    parallel_tool_calls: bool | None
    session_id: str | None
    tenant: str | None
    request_id: str | None
    backends: Sequence[str] | None
