"""LlamaIndex: a query engine over documents; needs the extra `llama-index`."""

from llama_index.core import Document, SummaryIndex

from hybrid_llm.integrations.llama_index import HybridLLM

index = SummaryIndex.from_documents([Document(text="The library opens at nine and closes at six.")])
# config="hybrid.yaml" names backends and a policy. The embedded model's window is smaller than what LlamaIndex reserves
# for its own templates; with a real model, leave `context_window` out.
model = HybridLLM(max_tokens=24, context_window=2048)
engine = index.as_query_engine(llm=model)
print(engine.query("When does the library open?"))
