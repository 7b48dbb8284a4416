"""Functions that the model calls, and arguments that always follow their types: `python examples/tools.py`.

The small model of the package does not choose tools well, so `tool_choice` makes it call one; a grammar holds the
arguments to the function's signature, whatever the model.
"""

from typing import Literal

import hybrid_llm

WEATHER = {"Oslo": "snow, -3 degrees", "Lisbon": "sun, 19 degrees"}


def get_weather(city: Literal["Oslo", "Lisbon"], days: Literal[1, 2, 3] = 1) -> str:
    """Tell the weather.

    Args:
        city: Where.
        days: For how many days.
    """
    return f"{city}, {days} day(s): {WEATHER[city]}"


PROMPT = "What is the weather in Oslo?"

reply = hybrid_llm.generate(PROMPT, tools=[get_weather], tool_choice="required", max_tokens=64)
print(reply.finish_reason, "|", *(f"{call.name} {call.values['city']}" for call in reply.tool_calls))

print("streamed: ", end="")
for chunk in hybrid_llm.stream(PROMPT, tools=[get_weather], tool_choice="get_weather", max_tokens=64):
    print(*(delta.name or delta.arguments for delta in chunk.tool_calls), sep="", end="")
print()

run = hybrid_llm.run_tools(PROMPT, tools=[get_weather], tool_choice="required", max_steps=2, max_tokens=64)
for step in run.steps:
    print(f"{step.call.name} on {step.backend}: {step.result}")

try:
    hybrid_llm.generate(PROMPT, tools=[hybrid_llm.Tool(name="search", parameters='{"properties": {"q": {"not": {}}}}')])
except hybrid_llm.InvalidRequest as error:
    print(f"refused before anything ran: {error}")
