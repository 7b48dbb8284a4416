"""Answers that follow a schema, and a pydantic model where pydantic is installed: `python examples/structured.py`.

The grammar is enforced on the device and on nodes, so the document is valid whatever the model would prefer to write.
"""

import importlib.util

import hybrid_llm

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "city": {"enum": ["Lisbon", "Oslo", "elsewhere"]}},
    "required": ["name", "city"],
    "additionalProperties": False,
}
PROMPT = "Extract name and city as JSON: Anna Keller lives in Lisbon."

reply = hybrid_llm.generate(PROMPT, output_schema=PERSON, max_tokens=64)
print(reply.parsed["name"], "|", reply.parsed["city"], "|", reply.finish_reason)

if importlib.util.find_spec("pydantic") is not None:
    from typing import Literal

    from pydantic import BaseModel, Field

    class Person(BaseModel):
        """The same schema as `PERSON`."""

        name: str = Field(max_length=20)
        city: Literal["Lisbon", "Oslo", "elsewhere"]

    person = hybrid_llm.generate(PROMPT, output_schema=Person, max_tokens=64).parsed
    assert isinstance(person, Person)
    print(repr(person))

try:
    hybrid_llm.generate(PROMPT, output_schema={"not": {"type": "string"}})
except hybrid_llm.InvalidRequest as error:
    print(f"rejected before anything ran: {error}")
