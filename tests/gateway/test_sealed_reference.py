"""EHBP as its reference implementation speaks it: exchanges that were recorded, and its client in Python live.

`ehbp_exchanges.json` is our own recording, with fixed keys: the reference clients in Python, Go and JavaScript asked a
gateway of ours, and a backend's client of ours asked the reference server, its middleware in Go before a plain gateway.
The secrets of the answers were exported with another implementation of HPKE than ours, pyhpke.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hybrid_llm.backends.wire.sealing import ehbp
from hybrid_llm.backends.wire.sealing.keys import write_key
from hybrid_llm.backends.wire.sealing.messages import AnswerKey
from hybrid_llm.backends.wire.sealing.suites import X25519
from hybrid_llm.core.errors import DecryptionFailed
from tests.gateway.conftest import Serve, fakes
from tests.gateway.sealing import ANSWER, ASK, SCRIPT, Body, app_of, raw, send

RECORDED = json.loads(Path(__file__).with_name("ehbp_exchanges.json").read_text())
CONFIG = bytes.fromhex(RECORDED["server"]["config"])
REQUESTS = [pytest.param(each, id=each["client"]) for each in RECORDED["requests"]]
ANSWERS = {each["name"]: each for each in RECORDED["answers"]}
FAR = "x25519 2099-01-01T00:00:00Z"


def frames_of(text: str) -> list[bytes]:
    reader = ehbp.FrameReader()
    found = list(reader.feed(base64.b64decode(text)))
    reader.finish()
    return found


def answer_key(request: Any, nonce: str) -> AnswerKey:
    return AnswerKey(bytes.fromhex(request["secret"]), bytes.fromhex(request["enc"]), bytes.fromhex(nonce))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sealing key of the recorded gateway."""
    folder = tmp_path_factory.mktemp("recorded")
    private = folder / "recorded.seal"
    private.write_text(f"{FAR} {base64.b64encode(bytes.fromhex(RECORDED['private'])).decode()}\n")
    private.chmod(0o600)
    return folder


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_recorded_request_of_a_reference_client_is_answered_to_its_secret(folder: Path, request_: Any) -> None:
    sealed = base64.b64decode(request_["sealed"])
    answer = raw(app_of(folder), sealed, {ehbp.ENC_HEADER: request_["enc"]})
    assert answer.status_code == 200
    key = answer_key(request_, answer.headers[ehbp.NONCE_HEADER])
    opened = b"".join(key.open(frame) for frame in ehbp.FrameReader().feed(answer.content)).decode()
    if json.loads(request_["plain"])["stream"]:
        events = [json.loads(line[6:]) for line in opened.splitlines() if line.startswith("data: {")]
        assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == ANSWER
    else:
        assert json.loads(opened)["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("request_", REQUESTS)
def test_an_answer_that_a_reference_client_opened_is_sealed_alike_today(request_: Any) -> None:
    recorded = request_["answer"]
    opener, sealer = (answer_key(request_, recorded["nonce"]) for _ in range(2))
    plain = [opener.open(frame) for frame in frames_of(recorded["sealed"])]
    assert b"".join(plain).decode() == recorded["opened"]
    sealed = b"".join(frame for piece in plain for frame in ehbp.frames(piece, sealer.seal))
    assert base64.b64encode(sealed).decode() == recorded["sealed"]


def test_the_key_configuration_of_the_reference_server_is_ours_byte_for_byte() -> None:
    assert RECORDED["server"]["media_type"] == ehbp.KEYS_TYPE
    assert ehbp.config_of(ehbp.public_of(CONFIG)) == CONFIG


@pytest.mark.parametrize("name", ["an answer", "a stream", "an error, sealed"])
def test_a_recorded_answer_of_the_reference_server_is_opened(name: str) -> None:
    """Our request is sealed byte for byte as the server opened it."""
    recorded = ANSWERS[name]
    ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(recorded["ephemeral"]))
    exchange = ehbp.ClientExchange(ehbp.public_of(CONFIG), ephemeral=ephemeral)
    assert base64.b64encode(exchange.seal(recorded["plain"].encode())).decode() == recorded["sealed"]
    opener = exchange.opener(recorded["headers"][ehbp.NONCE_HEADER])
    opened = [opener.open(frame) for frame in frames_of(recorded["body"])]
    assert b"".join(opened).decode() == recorded["opened"]
    assert len(opened) == (5 if name == "a stream" else 1)


class Replayed(httpx.AsyncBaseTransport):
    """The reference server, which gives one recorded answer."""

    def __init__(self, recorded: Any) -> None:
        self._recorded = recorded

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == ehbp.KEYS_PATH:
            return httpx.Response(200, stream=Body(CONFIG))
        body = Body(base64.b64decode(self._recorded["body"]))
        return httpx.Response(self._recorded["status"], headers=self._recorded["headers"], stream=body)


def test_a_refusal_of_the_reference_server_has_its_meaning(tmp_path: Path) -> None:
    pins = tmp_path / "pins"
    pins.write_text(f"{FAR} {base64.b64encode(ehbp.public_of(CONFIG)).decode()}\n")
    with pytest.raises(DecryptionFailed, match="the key that it offers"):
        send(Replayed(ANSWERS["sealed to another key"]), pins)
    assert send(Replayed(ANSWERS["a frame that is cut"]), pins).status_code == 400
    with pytest.raises(DecryptionFailed):  # the answer to another request
        send(Replayed(ANSWERS["an answer"]), pins)


@pytest.fixture(scope="module")
def reference() -> Any:
    """The reference client."""
    return pytest.importorskip("ehbp", reason="the reference client is not installed: pip install tinfoil-ehbp")


@pytest.fixture
def sealing(tmp_path: Path) -> Path:
    write_key(tmp_path, "gateway", suite=X25519, days=2)
    return tmp_path


def test_the_reference_client_is_answered(reference: Any, serve: Serve, sealing: Path) -> None:
    with reference.Client.discover(serve(*fakes(SCRIPT), sealed=sealing, only_sealed=True)) as client:
        plain = client.post("/v1/chat/completions", json_body={**ASK, "stream": False})
        assert plain.json()["choices"][0]["message"]["content"] == ANSWER
        long = {**ASK, "messages": [{"role": "user", "content": "hello " * 30_000}]}  # in three frames
        with client.stream("POST", "/v1/chat/completions", json_body=long) as stream:
            assert b"".join(stream).rstrip().endswith(b"data: [DONE]")
        refused = client.post("/v1/chat/completions", json_body={"model": "auto", "messages": "no list"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
        assert ehbp.NONCE_HEADER in refused.headers
        assert client.get("/v1/models").status_code == 200


def test_openais_client_is_answered_through_the_reference_transport(
    reference: Any, serve: Serve, sealing: Path
) -> None:
    url = serve(*fakes(SCRIPT), sealed=sealing, only_sealed=True)
    identity = reference.Client.discover(url).server_identity
    with httpx.Client(transport=reference.EHBPTransport(identity)) as http:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http)
        stream = client.chat.completions.create(model="auto", messages=ASK["messages"], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == ANSWER
        with pytest.raises(openai.NotFoundError):
            client.post("/nothing", body={"a": 1}, cast_to=httpx.Response)


def test_the_reference_client_reads_that_the_key_was_replaced(
    reference: Any, serve: Serve, sealing: Path, tmp_path: Path
) -> None:
    url = serve(*fakes(SCRIPT), sealed=sealing)
    other = write_key(tmp_path / "other", "other", suite=X25519, days=1)
    client = reference.Client.with_public_key_hex(url, other.public.hex())
    with client, pytest.raises(reference.KeyConfigMismatchError):
        client.post("/v1/chat/completions", json_body=ASK)
