"""The plug-in for `llm`: as its Python library, and as the command: `make clients`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

pytest.importorskip("llm", reason="make clients")
import llm as simon

from hybrid_llm import HybridLLM, errors
from hybrid_llm.integrations.llm import AsyncHybridModel, HybridModel
from tests.clients.conftest import Pair

ANSWER = "It is sunny, and the answer is yes."
SECRET = "The patient is Jane."


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    mayor: str


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def test_every_way_of_asking_gives_the_same_answer(llm: HybridLLM) -> None:
    response = HybridModel(client=llm).prompt("Is it sunny?")
    assert "".join(response) == response.text() == ANSWER
    assert HybridModel(client=llm).prompt("Is it sunny?", stream=False).text() == ANSWER
    awaited = AsyncHybridModel(client=llm).prompt("Is it sunny?")
    assert "".join([piece async for piece in awaited]) == await awaited.text() == ANSWER


def test_an_answer_says_where_and_why_it_was_made(pair: Pair) -> None:
    response = HybridModel(client=pair()[0]).prompt("Is it sunny?")
    assert response.text() == ANSWER
    assert (response.resolved_model, response.response_json["backend"]) == ("capable", "cloud")
    assert response.response_json["rule"] == "rules[0]"
    assert response.response_json["cost"] == pytest.approx((response.input_tokens + response.output_tokens) / 1000)


def test_options_reach_the_request(pair: Pair) -> None:
    client, edge, cloud = pair()
    model = HybridModel(client=client)
    model.prompt(SECRET, privacy="phi, public", task="hard", deadline="7", max_tokens="9", stop="X").text()
    model.prompt("Hi.", system="Be brief.", backends=["cloud"], frequency_penalty=0.5, seed=3).text()
    (private,), (sent,) = edge.requests, cloud.requests
    assert (private.privacy, private.task, private.deadline) == ({"phi", "public"}, "hard", 7.0)
    assert (private.max_tokens, private.sampling.stop) == (9, ("X",))
    assert ([message.role for message in sent.messages], sent.sampling.seed) == (["system", "user"], 3)
    assert sent.sampling.frequency_penalty == 0.5
    with pytest.raises(ValueError, match="privcy"):
        model.prompt(SECRET, privcy="phi")


async def test_a_conversation_is_a_session(pair: Pair) -> None:
    client, _, cloud = pair(reasoning="Look outside.")
    talk = HybridModel(client=client).conversation()
    talk.prompt("Is it sunny?", system="Be brief.").text()
    talk.prompt("Sure?", system="Be brief.").text()
    first, second = cloud.requests
    assert [message.role for message in second.messages] == ["system", "user", "assistant", "user"]
    assert second.messages[2].reasoning == "Look outside."
    assert first.session_id == second.session_id == talk.id
    other = AsyncHybridModel(client=client).conversation()
    assert await other.prompt("Is it sunny?").text() == ANSWER
    assert cloud.requests[-1].session_id == other.id


async def test_a_chain_calls_tools_and_answers(pair: Pair) -> None:
    client, _, cloud = pair()
    assert HybridModel(client=client).chain("How is the weather?", tools=[weather]).text() == ANSWER
    assert await AsyncHybridModel(client=client).chain("How is the weather?", tools=[weather]).text() == ANSWER
    results = [sent.messages[-1].content for sent in cloud.requests if sent.messages[-1].role == "tool"]
    assert results == ["sunny in cats"] * 2


def test_a_schema_is_followed(llm: HybridLLM) -> None:
    answer = HybridModel(client=llm).prompt("Which city?", schema=City).text()
    assert City.model_validate_json(answer) == City(name="cats", mayor="cats")


def test_reasoning_is_no_part_of_the_text(pair: Pair) -> None:
    model = HybridModel(client=pair(reasoning="Look outside.")[0])
    events = list(model.prompt("Is it sunny?").stream_events())
    assert [event.chunk for event in events if event.type == "reasoning"] == ["Look outside."]
    assert all(event.type == "text" for event in model.prompt("Is it sunny?", hide_reasoning=True).stream_events())


async def test_errors_are_ours_and_llms_at_once(pair: Pair) -> None:
    client, *_ = pair(error=errors.DeadlineExceeded("late", backend="cloud"))
    with pytest.raises(simon.ModelError) as raised:
        HybridModel(client=client).prompt(SECRET).text()
    assert isinstance(raised.value, errors.DeadlineExceeded)
    assert SECRET not in str(raised.value)
    with pytest.raises(errors.DeadlineExceeded):
        await AsyncHybridModel(client=client).prompt(SECRET).text()


async def test_leaving_and_cancelling_stop_the_backend(pair: Pair) -> None:
    client, _, cloud = pair(endless=True)
    for _ in HybridModel(client=client).prompt("Go on."):
        break
    assert cloud.left == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await AsyncHybridModel(client=client).prompt("Go on.").text()
    await asyncio.sleep(0.01)
    assert cloud.left == 2


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs the command in an environment of its own, with the embedded model; returns what it prints."""
    folder = tmp_path_factory.mktemp("llm")
    config = folder / "hybrid.yaml"
    policy = "tags: {phi: {allow: [edge]}, public: {allow: [edge, cloud]}}"
    (folder / "policy.yaml").write_text(f"version: 1\nname: p\n{policy}\n")
    config.write_text("version: 1\npolicy: policy.yaml\nbackends: {edge: {kind: onnx, model: embedded}}\n")
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")}
    environment = {**kept, "LLM_USER_PATH": str(folder), "HYBRID_LLM_CONFIG": str(config), "HOME": str(folder)}

    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    run.folder = folder  # type: ignore[attr-defined]
    return run


def test_the_command_answers_and_logs_where(command: Any) -> None:
    asked = "Is this review positive? 'A warm, funny film.'"
    assert command("-m", "hybrid-llm", "-o", "max_tokens", "12", "-o", "privacy", "phi", asked).strip()
    (logged,) = json.loads(command("logs", "list", "--json", "-n", "1"))
    assert (logged["model"], logged["resolved_model"]) == ("hybrid-llm", "hybrid-demo-edge")
    assert logged["options_json"] == {"max_tokens": 12, "privacy": "phi"}
    assert (logged["response_json"]["backend"], logged["response_json"]["tags"]) == ("edge", ["phi"])


def test_the_command_lists_the_model_and_its_options(command: Any) -> None:
    shown = command("models", "--options", "-m", "hybrid-llm")
    assert "hybrid-llm: hybrid-llm" in shown
    assert "Privacy tags of the policy, with commas." in shown


def test_the_command_shows_an_error_and_no_traceback(command: Any) -> None:
    shown = command("-m", "hybrid-llm", "--no-log", "-o", "privacy", "nothing", "Hello", status=1)
    (error,) = [line for line in shown.splitlines() if line.startswith("Error: ")]
    assert "'nothing' is not declared" in error
    assert "Traceback" not in shown
