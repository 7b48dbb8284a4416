"""What the tools of our MCP server take and return: one model each, from which their JSON Schemas are made."""

from __future__ import annotations

from typing import Any, Literal

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


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    reasoning_tokens: int
    total_tokens: int


class Routing(BaseModel):
    """Which backends the policy chooses, and why."""

    order: list[str] = Field(description="Backends to try, best first.")
    excluded: dict[str, str] = Field(description="Backend -> why it may not answer.")
    rule: str = Field(description="The rule that ordered them.")
    because: str = Field(description="That rule's reason.")
    tags: list[str] = Field(description="The effective privacy tags: declared and detected.")
    policy: str
    digest: str = Field(description="The first 16 hex digits of the SHA-256 of the policy's text.")


class Answer(Routing):
    """An answer, and how it was made."""

    text: str
    parsed: Any = Field(description="The answer as JSON, where `output_schema` was given.")
    finish_reason: str
    backend: str = Field(description="The backend that answered.")
    usage: Usage
    cost: float = Field(description="What it cost, in the currency of the prices.")
    attempts: list[dict[str, Any]] = Field(description="The calls of backends that were made for it, in order.")
    request_id: str
    cached: bool
    notice: str = Field(description="What a reader must know of the backend.")
    warnings: list[dict[str, Any]]


class Explanation(Routing):
    """What would be done with a request."""

    allowed: list[str] = Field(description="Where it may go, whatever the rules say: `edge`, `cloud`.")
    pseudonymised: bool = Field(description="Whether the cloud would see pseudonyms in place of what was found.")
    text: str = Field(description="The decision for people, with every rule and the values it read.")


class Simulated(Explanation):
    """One request under the policy that is tried."""

    name: str
    changed: bool = Field(description="Whether the policy in force orders the backends otherwise.")


class TriedCase(BaseModel):
    """One test case."""

    name: str
    passed: bool
    order: list[str]
    mismatches: list[dict[str, str]]


class Trial(BaseModel):
    """What a policy does with some requests and cases."""

    policy: str
    digest: str
    warnings: list[str] = Field(description="What is valid in the policy and probably a mistake.")
    requests: list[Simulated]
    cases: list[TriedCase]
    passed: bool = Field(description="Whether every test case passed.")
    rules_not_covered: list[str] = Field(description="Rules that no test case matched; empty without cases.")
