"""LangChain: a chat model whose answers say where they were made; needs the extra `langchain`."""

from pydantic import BaseModel, ConfigDict

from hybrid_llm.integrations.langchain import ChatHybridLLM


class Mood(BaseModel):
    """How a review sounds."""

    model_config = ConfigDict(extra="forbid")
    positive: bool


review = "Is this review positive? 'A warm, funny film.'"
model = ChatHybridLLM(max_tokens=32)  # config="hybrid.yaml" names backends and a policy
for chunk in model.stream(review):
    print(chunk.content, end="")
    made = chunk.response_metadata or {}
print(f" ({made['backend']}, by {made['rule']}, cost {made['cost']})")
print(model.with_structured_output(Mood).invoke(review))
