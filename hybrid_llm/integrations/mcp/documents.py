"""What the tools of our MCP server take and return, with the JSON Schemas of both."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import GenerateOptions, Prompt


class Arguments(BaseModel):
    """What a tool takes: exactly its fields, with no conversion of values."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    @classmethod
    def read(cls, values: dict[str, Any]) -> Any:
        """The arguments in *values*.

        Raises:
            InvalidRequest: they are others; the message quotes none of them.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        at = ".".join(str(part) for part in fault["loc"])
        raise InvalidRequest(f"{at or 'arguments'}: {fault['msg']}", field=at)


class Turn(Arguments):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(repr=False)


class Call(Arguments):
    """A request: its prompt, or its whole conversation, and the options that a policy reads."""

    prompt: str | None = Field(None, description="The prompt. Give either this or `messages`.", repr=False)
    messages: list[Turn] | None = Field(None, description="The conversation, oldest turn first.", repr=False)
    privacy: list[str] = Field(
        default_factory=list,
        description="Privacy tags of the policy, such as `phi`. They can only narrow where the request may go.",
    )
    task: str | None = Field(None, description="What the request is for; rules of the policy may read it.")
    max_tokens: int | None = Field(None, description="Maximum tokens of the answer.")
    deadline: float | None = Field(None, description="Seconds until the answer must be complete.")
    backends: list[str] | None = Field(
        None, description="Only these backends may answer, as far as the policy allows them; else all may."
    )
    session_id: str | None = Field(None, description="The conversation that the request belongs to.")

    @property
    def asked(self) -> Prompt:
        """The prompt, as `generate` takes it.

        Raises:
            InvalidRequest: there is none, or there are two.
        """
        if (self.prompt is None) is (self.messages is None):
            raise InvalidRequest("give either `prompt` or `messages`", field="prompt")
        return self.prompt if self.prompt is not None else [turn.model_dump() for turn in self.messages or ()]

    @property
    def options(self) -> GenerateOptions:
        """The options, as `generate` takes them."""
        names = self.__class__.model_fields.keys() & GenerateOptions.__annotations__.keys()
        options: GenerateOptions = {name: getattr(self, name) for name in names}  # type: ignore[assignment]
        return options


class GenerateCall(Call):
    """A request that is answered."""

    temperature: float | None = Field(None, description="0 is greedy.")
    seed: int | None = Field(None, description="The same seed gives the same draw.")
    output_schema: dict[str, Any] | None = Field(None, description="A JSON Schema that the answer must follow.")


class SimulatedCall(Call):
    """A request that is only decided, under a name for the report."""

    name: str = Field("", description="What the report calls it; by default its number.")


class Simulation(Arguments):
    """A policy, and what to try it with."""

    policy: str = Field(
        "", description="The text of the policy, in YAML, or the name of a built-in one; empty for the one in force."
    )
    requests: list[SimulatedCall] = Field(
        default_factory=list, max_length=1000, description="Requests to decide with the signals of this moment."
    )
    cases: str = Field("", description="The text of a file of test cases, in YAML, as `policy test` reads it.")


def _schema(**types: str) -> dict[str, Any]:
    """The JSON Schema of an object that has these names, each with a value of that type."""
    return {
        "type": "object",
        "properties": {name: {"type": each} for name, each in types.items()},
        "required": [*types],
    }


_ROUTING: Final = {
    "order": "array",
    "excluded": "object",
    "rule": "string",
    "because": "string",
    "tags": "array",
    "policy": "string",
    "digest": "string",
}
ANSWER: Final = _schema(
    text="string",
    finish_reason="string",
    backend="string",
    usage="object",
    cost="number",
    attempts="array",
    request_id="string",
    cached="boolean",
    notice="string",
    warnings="array",
    **_ROUTING,
)
"""What `generate` returns; and `parsed`, of any type."""
EXPLANATION: Final = _schema(**_ROUTING, allowed="array", pseudonymised="boolean", text="string")
TRIAL: Final = _schema(
    policy="string",
    digest="string",
    warnings="array",
    requests="array",
    cases="array",
    passed="boolean",
    rules_not_covered="array",
    tags_not_covered="array",
)
