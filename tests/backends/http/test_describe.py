"""Whatever a server answers when it is asked what it is, the answer is a description."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from hybrid_llm.backends.anthropic.api import Messages
from hybrid_llm.backends.anthropic.spec import AnthropicSpec
from hybrid_llm.backends.http.api import Known, Reply
from hybrid_llm.backends.openai.api import ChatCompletions
from hybrid_llm.backends.openai.spec import OpenAISpec

NAMES = st.sampled_from(
    [
        *("data", "models", "id", "name", "model", "aliases", "owned_by", "status", "meta", "n_ctx", "capabilities"),
        *("default_generation_settings", "chat_template_caps", "supports_tool_calls", "version", "context_length"),
        *("max_model_len", "loaded_context_length", "max_input_tokens", "structured_outputs", "supported", "error"),
    ]
)
LEAVES = st.sampled_from([None, True, 0, -1, 4096, 2**40, 1.5, "", "m", "vllm", "llamacpp", "sglang", "library"])
JSON = st.recursive(LEAVES, lambda each: st.lists(each, max_size=3) | st.dictionaries(NAMES, each, max_size=4))
REPLIES = st.builds(
    Reply,
    status=st.sampled_from([0, 200, 301, 404, 500]),
    headers=st.sampled_from([{}, {"server": "llama.cpp"}, {"server": "uvicorn"}]),
    document=JSON,
)


@given(st.lists(REPLIES, min_size=5, max_size=5), st.sampled_from(["http://127.0.0.1:9/v1", "https://a.example/v1"]))
def test_any_reply_makes_a_description(replies: list[Reply], url: str) -> None:
    for kind, speaks in ((OpenAISpec, ChatCompletions), (AnthropicSpec, Messages)):
        left = iter(replies[1:])
        api: Any = speaks(kind(name="cloud", base_url=url, model="m"))  # type: ignore[arg-type]
        known = api.describe(replies[0], lambda _, left=left: next(left))
        assert isinstance(known, Known)
        assert 0 <= known.context_window < 2**31
        assert {known.tools, known.output_schema, known.lists_model} <= {None, True, False}
        assert isinstance(known.server, str)
