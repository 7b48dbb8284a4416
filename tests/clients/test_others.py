"""Other clients of these APIs, unchanged: `make clients`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

litellm = pytest.importorskip("litellm", reason="make clients")
pydantic_ai = pytest.importorskip("pydantic_ai", reason="make clients")
Agent = pydantic_ai.Agent


class City(BaseModel):
    name: str
    mayor: str


def test_litellm_whole_and_streamed(base_url: str) -> None:
    asked = {"model": "openai/auto", "api_base": base_url, "api_key": "none"}
    asked["messages"] = [{"role": "user", "content": "Is it sunny?"}]
    whole = litellm.completion(**asked)
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
    assert whole.choices[0].message.content == "".join(pieces) == "It is sunny, and the answer is yes."
    assert whole.usage.completion_tokens > 0


def test_litellm_speaks_anthropic_too(base_url: str) -> None:
    reply = litellm.completion(
        model="anthropic/auto",
        api_base=base_url.removesuffix("/v1"),
        api_key="none",
        max_tokens=20,
        messages=[{"role": "user", "content": "Is it sunny?"}],
    )
    assert reply.choices[0].message.content.startswith("It is sunny")


def test_an_agent_of_pydantic_ai_calls_tools_and_returns_an_object(base_url: str) -> None:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("auto", provider=OpenAIProvider(base_url=base_url, api_key="none"))
    called = []
    agent = Agent(model)

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return "sunny"

    assert "sunny" in agent.run_sync("How is the weather?").output
    assert called == ["cats"]
    assert Agent(model, output_type=City).run_sync("Which city?").output == City(name="cats", mayor="cats")


def test_the_llm_command(base_url: str, tmp_path: Path) -> None:
    pytest.importorskip("llm", reason="make clients")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- {{model_id: here, model_name: auto, api_base: '{base_url}', supports_schema: true, supports_tools: true}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "here", "--no-log", "Is it sunny?"],
        env={"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "It is sunny, and the answer is yes.", done.stderr
