"""pydantic-ai: an agent that returns an object; needs the extra `pydantic-ai`."""

from pydantic import BaseModel, ConfigDict
from pydantic_ai import Agent

from hybrid_llm.integrations.pydantic_ai import HybridModel


class Mood(BaseModel):
    """How a review sounds."""

    model_config = ConfigDict(extra="forbid")
    positive: bool


model = HybridModel(settings={"max_tokens": 32})  # config="hybrid.yaml" names backends and a policy
run = Agent(model, output_type=Mood).run_sync("Is this review positive? 'A warm, funny film.'")
print(run.output, run.usage.output_tokens, "tokens")
print(run.all_messages()[-1].provider_details["because"])
