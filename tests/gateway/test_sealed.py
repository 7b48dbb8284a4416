"""Sealed bodies by EHBP: the gateway as server, a backend of kind `openai` as client, and what stands between them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.openai.spec import OpenAISpec
from hybrid_llm.backends.wire.sealing import ehbp
from hybrid_llm.backends.wire.sealing.keys import SealKey, write_key
from hybrid_llm.backends.wire.sealing.pins import SealedKeys
from hybrid_llm.backends.wire.sealing.suites import HYBRID, X25519
from hybrid_llm.core.errors import ConfigError, DecryptionFailed
from hybrid_llm.gateway import GatewayConfig
from hybrid_llm.policies import parse_policy
from tests.gateway.conftest import Serve, fakes
from tests.gateway.sealing import ANSWER, ASK, SCRIPT, Between, Body, Tamper, app_of, changed, post, raw, send

SEALED_ONLY = "version: 1\nname: s\ntags: {phi: {allow: [cloud], to_cloud: sealed}}\nrules: [{prefer: cloud}]\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealing")
    write_key(folder, "gateway", suite=X25519, days=2)
    return folder


class Recorder:
    """A TCP proxy that records what passes; it stands where TLS has ended."""

    def __init__(self, port: int) -> None:
        self.seen = bytearray()
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self.seen += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def recorded() -> Iterator[Callable[[str], Recorder]]:
    made: list[Recorder] = []

    def record(url: str) -> Recorder:
        made.append(Recorder(int(url.rpartition(":")[2])))
        return made[-1]

    yield record
    for each in made:
        each.close()


def cloud(port: int, keys: Path | None) -> HybridLLM:
    sealed = None if keys is None else SealedKeys(keys=keys / "gateway.seal.pub")
    spec = OpenAISpec(name="cloud", base_url=f"http://127.0.0.1:{port}/v1", model="auto", sealed=sealed)
    return HybridLLM([spec.open()], parse_policy(SEALED_ONLY, backends={"cloud": spec.location}))


def test_what_stands_between_an_app_and_a_sealed_gateway_reads_no_word(
    serve: Serve, keys: Path, recorded: Callable[[str], Recorder]
) -> None:
    """The control sends the same words unsealed, and the same proxy finds each of them."""
    words = [f"planted-{number:04d}-{number * 7919:06x}" for number in range(30)]
    proxy = recorded(serve(*fakes(SCRIPT), sealed=keys))
    with cloud(proxy.port, keys) as llm:
        assert all(llm.generate(f"tell me of {word}", privacy={"phi"}).text == ANSWER for word in words)
    hidden = bytes(proxy.seen)
    with cloud(proxy.port, None) as llm:
        assert all(llm.generate(f"tell me of {word}").text == ANSWER for word in words)
    assert hidden.lower().count(b"ehbp-encapsulated-key") == len(words)
    assert not [word for word in words if word.encode() in hidden]
    assert b"forty-two" not in hidden
    assert b"tell me" not in hidden
    assert all(word.encode() in proxy.seen for word in words)


def test_a_backend_that_is_not_sealed_gets_no_request_that_must_be(serve: Serve, keys: Path) -> None:
    url = serve(*fakes(SCRIPT), sealed=keys)
    with cloud(int(url.rpartition(":")[2]), None) as llm, pytest.raises(Exception, match="only sealed"):
        llm.generate("hello", privacy={"phi"})


def test_an_answer_is_streamed_sealed_and_opened(keys: Path) -> None:
    response = post(app_of(keys), keys)
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in events if each["choices"]) == ANSWER
    assert response.text.rstrip().endswith("data: [DONE]")


def test_an_error_of_the_application_is_sealed_too(keys: Path) -> None:
    def check(response: httpx.Response, body: bytes) -> httpx.Response:
        assert response.status_code == 400
        assert b"messages" not in body
        return changed(response, body)

    response = post(app_of(keys), keys, body={"model": "auto", "messages": "no list"}, tamper=check)
    assert response.status_code == 400
    assert "messages" in response.text


def flip(response: httpx.Response, body: bytes) -> httpx.Response:
    return changed(response, body[:40] + bytes([body[40] ^ 1]) + body[41:])


DAMAGE: dict[str, Tamper] = {
    "a bit is flipped": flip,
    "cut within a frame": lambda response, body: changed(response, body[:-3]),
    "the header is removed": lambda response, body: changed(response, body, ehbp_response_nonce=None),
    "the header is changed": lambda response, body: changed(response, body, ehbp_response_nonce="00" * 32),
    "the header is none": lambda response, body: changed(response, body, ehbp_response_nonce="zz"),
    "a forged answer in the clear": lambda response, _: changed(response, b"data: {}", ehbp_response_nonce=None),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_answer_ends_in_decryption_failed(keys: Path, how: str) -> None:
    with pytest.raises(DecryptionFailed):
        post(app_of(keys), keys, tamper=DAMAGE[how])


def test_an_unsealed_error_of_a_proxy_is_an_error_and_no_more(keys: Path) -> None:
    def busy(_: httpx.Response, __: bytes) -> httpx.Response:
        return httpx.Response(429, stream=Body(b"{}"))

    assert post(app_of(keys), keys, tamper=busy).status_code == 429


def test_a_replay_is_refused(keys: Path) -> None:
    response = post(app_of(keys), keys, repeat=True)
    assert response.status_code == 400
    assert "cannot be opened" in response.text


def test_a_key_that_is_not_pinned_gets_nothing(keys: Path, tmp_path: Path) -> None:
    write_key(tmp_path, "other", suite=X25519, days=1)
    with pytest.raises(DecryptionFailed, match="none of the node's sealing keys"):
        post(app_of(keys), keys, pins=tmp_path / "other.seal.pub")


@pytest.mark.parametrize("config", [b"nonsense", bytes(41), b"\0\0\x20" + bytes(32) + b"\0\4\0\1\0\3"], ids=len)
def test_a_configuration_that_is_none_or_of_another_suite_gets_nothing(keys: Path, config: bytes) -> None:
    with pytest.raises(DecryptionFailed):
        post(app_of(keys), keys, configs=[config])


def test_a_key_that_the_gateway_replaced_is_reported_as_the_protocol_says(tmp_path: Path) -> None:
    old = write_key(tmp_path, "old", suite=X25519, days=1)
    pins = tmp_path / "old.seal.pub"
    (tmp_path / "old.seal").rename(tmp_path / "gone")
    write_key(tmp_path, "new", suite=X25519, days=2)
    with pytest.raises(DecryptionFailed, match="the key that it offers"):
        post(app_of(tmp_path), tmp_path, pins=pins, configs=[ehbp.config_of(old.public)])
    exchange = ehbp.ClientExchange(old.public)
    answer = raw(app_of(tmp_path), exchange.seal(b"{}"), {ehbp.ENC_HEADER: exchange.enc.hex()})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:ietf:params:ehbp:error:key-config"


def test_a_request_is_sealed_once_more_to_the_key_that_replaced_another(tmp_path: Path) -> None:
    """The recovery of the protocol (5.4.3), which needs the new key to be pinned as well."""
    old, pins = write_key(tmp_path, "old", suite=X25519, days=1), tmp_path / "pins"
    (tmp_path / "old.seal").unlink()
    new = write_key(tmp_path, "new", suite=X25519, days=2)
    configs = [ehbp.config_of(old.public), ehbp.config_of(new.public)]
    pins.write_text(f"{old.line()}\n{new.line()}\n")
    inner = Between(app_of(tmp_path), configs=configs)
    assert ANSWER[-9:] in send(inner, pins).text
    assert len(inner.sent) == 2
    inner = Between(app_of(tmp_path), configs=[*configs, *configs])
    pins.write_text(f"{old.line()}\n")
    with pytest.raises(DecryptionFailed, match="none of the node's sealing keys"):
        send(inner, pins)
    assert len(inner.sent) == 1


def test_a_server_that_knows_none_of_its_keys_gets_two_requests_and_no_more(tmp_path: Path) -> None:
    configs, lines = [], []
    for name in ("one", "two"):
        key = write_key(tmp_path / "pinned", name, suite=X25519, days=1)
        configs.append(ehbp.config_of(key.public))
        lines.append(key.line())
    (tmp_path / "pins").write_text("\n".join(lines))
    write_key(tmp_path / "served", "other", suite=X25519, days=1)
    inner = Between(app_of(tmp_path / "served"), configs=configs * 3)
    with pytest.raises(DecryptionFailed, match="the key that it offers"):
        send(inner, tmp_path / "pins")
    assert len(inner.sent) == 2


@pytest.mark.parametrize("body", [b'{"type": "urn:other"}', b"no json", b"[1]", b"\xff" * 70_000], ids=len)
def test_a_problem_of_another_type_is_an_error_and_no_more(keys: Path, body: bytes) -> None:
    def problem(_: httpx.Response, __: bytes) -> httpx.Response:
        return httpx.Response(422, headers={"content-type": "application/problem+json"}, stream=Body(body))

    response = post(app_of(keys), keys, tamper=problem)
    assert response.status_code == 422
    assert response.content[:60_000] == body[:60_000]


def test_a_sealed_request_asks_for_no_compression(keys: Path) -> None:
    """A proxy that compressed what is sealed could not be told from a server that compressed what it sealed."""
    inner = Between(app_of(keys))
    send(inner, keys / "gateway.seal.pub")
    assert [headers["accept-encoding"] for headers, _ in inner.sent] == ["identity"]


def test_two_keys_are_valid_at_once(tmp_path: Path) -> None:
    old = write_key(tmp_path, "old", suite=X25519, days=1)
    new = write_key(tmp_path, "new", suite=X25519, days=2)
    app = app_of(tmp_path)
    offered = raw(app, b"", {}, path=ehbp.KEYS_PATH, method="GET")
    assert offered.headers["content-type"] == "application/ohttp-keys"
    assert ehbp.public_of(offered.content) == new.public
    for key, name in ((old, "old"), (new, "new")):
        pins = tmp_path / f"{name}.seal.pub"
        assert ANSWER[-9:] in post(app, tmp_path, pins=pins, configs=[ehbp.config_of(key.public)]).text


def test_requests_that_are_not_sealed_as_the_protocol_says_are_refused(keys: Path) -> None:
    app, [key] = app_of(keys), list(_public(keys))
    exchange = ehbp.ClientExchange(key)
    sealed, enc = exchange.seal(json.dumps(ASK).encode()), exchange.enc.hex()
    two = b"".join(frame for part in (b'{"model"', b": 1}") for frame in ehbp.frames(part, exchange._context.seal))
    cases = {
        "no key": (sealed, "zz", 400),
        "a short key": (sealed, enc[:-2], 400),
        "a key of low order": (sealed, "00" * 32, 400),
        "empty frames only": (bytes(8), enc, 400),
        "a frame that is cut": (sealed[:-1], enc, 400),
        "a frame of nonsense": (b"\0\0\0\x20" + bytes(32), enc, 422),
        "a flipped bit": (sealed[:-1] + bytes([sealed[-1] ^ 1]), enc, 422),
        "frames of another place in the stream": (two, enc, 422),
        "a second frame of nonsense": (sealed + b"\0\0\0\x20" + bytes(32), enc, 400),
        "a part of a length": (b"\0\0\0", enc, 400),
        "bytes after the last frame": (sealed + b"\0\0", enc, 400),
        "a frame without an end": (b"\xff\xff\xff\xff", enc, 413),
    }
    for name, (body, header, status) in cases.items():
        assert raw(app, body, {ehbp.ENC_HEADER: header}).status_code == status, name


def _public(keys: Path) -> Iterator[bytes]:
    yield ehbp.public_of(raw(app_of(keys), b"", {}, path=ehbp.KEYS_PATH, method="GET").content)


def test_an_error_after_the_first_frame_is_sealed(keys: Path) -> None:
    """Whoever sealed that frame can open the error (5.2), however the frames came."""
    [key] = _public(keys)
    for rest in (b"\0\0\0\x20" + bytes(32), b"\0\0"):
        exchange = ehbp.ClientExchange(key)
        body = exchange.seal(b"{") + rest
        answer = raw(app_of(keys), body, {ehbp.ENC_HEADER: exchange.enc.hex()})
        opener = exchange.opener(answer.headers[ehbp.NONCE_HEADER])
        [frame] = ehbp.FrameReader().feed(answer.content)
        assert b"cannot be opened" in opener.open(frame)


def test_a_request_without_a_body_is_answered_in_the_clear_whatever_its_header(keys: Path) -> None:
    """Nothing proves that the key in the header is the client's (7.4)."""
    header = {ehbp.ENC_HEADER: ehbp.ClientExchange(next(_public(keys))).enc.hex()}
    models = raw(app_of(keys), b"", header, path="/v1/models", method="GET")
    assert models.status_code == 200
    assert ehbp.NONCE_HEADER not in models.headers
    answer = raw(app_of(keys), b"", header)
    assert answer.json()["error"]["code"] == "invalid_json"
    refused = raw(app_of(keys, only_sealed=True), b"", header)
    assert "sealed requests only" in refused.text


def test_a_body_that_is_too_large_is_refused_as_such_in_one_frame_and_in_many(keys: Path) -> None:
    app, [key] = app_of(keys, body_bytes=1000), list(_public(keys))
    for size in (1001, 300):
        exchange = ehbp.ClientExchange(key)
        sealed = b"".join(exchange.seal(b"x" * size) for _ in range(4))
        answer = raw(app, sealed, {ehbp.ENC_HEADER: exchange.enc.hex()})
        assert answer.status_code == 413
        assert (ehbp.NONCE_HEADER in answer.headers) == (size == 300)


def test_a_gateway_that_takes_sealed_requests_only_answers_no_text_in_the_clear(keys: Path) -> None:
    app = app_of(keys, only_sealed=True)
    assert raw(app, json.dumps(ASK).encode(), {}).status_code == 400
    assert raw(app, b"", {}, path="/v1/responses/resp_1", method="GET").status_code == 400
    assert raw(app, b"", {}, path="/health", method="GET").status_code == 200
    assert raw(app, b"", {}, path="/v1/models", method="GET").status_code == 200
    assert ANSWER[-9:] in post(app, keys).text


def test_an_unsealed_request_is_answered_as_ever_where_both_are_taken(keys: Path) -> None:
    answer = raw(app_of(keys), json.dumps({**ASK, "stream": False}).encode(), {})
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    assert ehbp.NONCE_HEADER not in answer.headers


def test_keys_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certs seal-key"):
        app_of(tmp_path)
    write_key(tmp_path, "hybrid", suite=HYBRID, days=1)
    with pytest.raises(ConfigError, match="--suite x25519"):
        app_of(tmp_path)
    with pytest.raises(ConfigError, match="only_sealed"):
        GatewayConfig(only_sealed=True)


def test_an_expired_key_is_neither_offered_nor_opened_and_the_app_does_not_use_it(keys: Path, tmp_path: Path) -> None:
    past = SealKey.make(X25519, datetime.now(UTC) - timedelta(seconds=5)).config
    (tmp_path / "past.pub").write_text(past.line())
    with pytest.raises(DecryptionFailed, match="expired"):
        post(app_of(keys), keys, pins=tmp_path / "past.pub", configs=[ehbp.config_of(past.public)])
