"""The options of `generate` as fields of a pydantic model, which several libraries make their settings of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from hybrid_llm.core.request import GenerateOptions


class OptionFields(BaseModel):
    """Options of `generate` that are settings; None is not given."""

    task: str | None = Field(default=None, description="What the request is for, as rules of the policy read it.")
    deadline: float | None = Field(default=None, description="Seconds until the whole answer must be there.")
    priority: int | None = Field(default=None, description="0 to 9, as far as the rights file of the nodes allows.")
    session_id: str | None = Field(default=None, description="The conversation, in which pseudonyms stay the same.")
    tenant: str | None = Field(default=None, description="The tenant whose budget pays.")
    max_tokens: int | None = Field(default=None, description="Maximum tokens of the answer.")
    temperature: float | None = Field(default=None, description="0 is greedy; above it the next token is drawn.")
    top_p: float | None = Field(default=None, description="Keep the likeliest tokens that reach this probability.")
    top_k: int | None = Field(default=None, description="Keep this many of the likeliest tokens; 0 keeps all.")
    min_p: float | None = Field(default=None, description="Keep tokens this fraction as likely as the likeliest.")
    repetition_penalty: float | None = Field(default=None, description="Makes tokens seen less likely; 1 is off.")
    presence_penalty: float | None = Field(
        default=None, description="Makes tokens of the answer less likely, -2 to 2; 0 is off."
    )
    frequency_penalty: float | None = Field(
        default=None, description="The same, for each time that the answer has the token."
    )
    seed: int | None = Field(default=None, description="The same seed, model and backend draw the same answer.")

    def option_values(self) -> dict[str, Any]:
        """The options that are fields, by the names of `generate`."""
        names = GenerateOptions.__annotations__.keys() & type(self).model_fields.keys()
        return {name: getattr(self, name) for name in names}


class ListedOptionFields(OptionFields):
    """Those that are lists too, where a library's settings can hold such."""

    privacy: frozenset[str] | None = Field(default=None, description="Privacy tags of the policy; a call can add some.")
    backends: tuple[str, ...] | None = Field(default=None, description="The only backends that may answer.")
