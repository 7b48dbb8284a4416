"""What a hostile client with a valid certificate sends through each door of a node, and what must hold then."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from hybrid_llm.backends.audit.keys import make_audit_key
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.channels import client_credentials
from hybrid_llm.backends.wire.sealing.keys import KeyConfig, read_public, write_key
from hybrid_llm.backends.wire.sealing.messages import seal_request
from hybrid_llm.backends.wire.sealing.suites import HYBRID, X25519
from hybrid_llm.backends.wire.status import ERROR_KEY, PROTOCOL_KEY, ROWS
from hybrid_llm.protos import hybrid_pb2 as pb
from tests.chaos.http2 import Connection
from tests.fuzz.node import ANSWER
from tests.fuzz.parsers import claims, claims_of
from tests.issuers import AUDIENCE, ISSUER, Issuer

ROOT: Final = Path(__file__).resolve().parents[2]
GENERATE: Final = "/hybrid_llm.v1.HybridLLM/Generate"
VERSION: Final = (PROTOCOL_KEY, "1")
PLANTED: Final = ("zq8 honest prompt vk3", "zq8 hostile prompt xw5")
"""Texts of an honest client's prompts, and of the hostile one's: neither is in any error, whoever gets it."""
_OF_GRPC: Final = frozenset(
    {"UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "NOT_FOUND"}
)
"""Codes that gRPC and its health service give by themselves: an RPC or a service that is not there, a message or
metadata that are too large, a lost call."""
_TOKEN_RIGHTS: Final = f"""\
version: 1
tokens: {{keys: issuer.pem, algorithm: ES256, issuer: {ISSUER}, audience: {AUDIENCE}, tenant: org}}
rights: [{{name: all, who: ['spiffe://*', 'jwt:*'], models: '*', use: [generate, describe, health, reflection]}}]
"""


def request(text: str = PLANTED[1], **fields: Any) -> pb.GenerateRequest:
    """A small valid one."""
    fields.setdefault("max_tokens", 8)
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content=text)], **fields)


def requests() -> tuple[bytes, ...]:
    """Valid requests that together use every field."""
    tool = pb.Tool(name="f", description="d", parameters='{"type":"object","properties":{"a":{"type":"integer"}}}')
    call = pb.ToolCall(name="f", arguments='{"a":1}')
    loop = [
        pb.Message(role=pb.ROLE_SYSTEM, content="s"),
        pb.Message(role=pb.ROLE_USER, content=PLANTED[1]),
        pb.Message(role=pb.ROLE_ASSISTANT, content="c", reasoning="r", tool_calls=[call]),
        pb.Message(role=pb.ROLE_TOOL, content="2", answers_call=1),
    ]
    sampling = pb.Sampling(temperature=0.7, top_p=0.9, top_k=4, min_p=0.1, repetition_penalty=1.1, seed=3, stop=["x"])
    sampling.presence_penalty, sampling.frequency_penalty = 0.5, -0.5
    schema = '{"type":"object","properties":{"a":{"type":"string","pattern":"^a+$"}},"required":["a"]}'
    made = (
        request(),
        request(deadline_seconds=2.0, tags=["pii"], task="chat", session_id="s", tenant="t", request_id="r1"),
        request(sampling=sampling, answer_prefix="the", logprobs=3),
        request(output_schema=schema),
        pb.GenerateRequest(messages=loop, max_tokens=8, tools=[tool], tool_choice="required", chosen_tool=1,
                           one_tool_call=True, answer_reasoning="why", answer_calls=[call]),
    )  # fmt: skip
    return tuple(each.SerializeToString() for each in made)


@dataclass(slots=True)
class Stage:
    """A node in a process of its own, the channel of a hostile client and that of an honest one."""

    process: subprocess.Popen[str]
    port: int
    rogue: grpc.Channel
    app: grpc.Channel
    tls: TLSFiles
    issuer: Issuer
    keys: tuple[KeyConfig, ...]
    codes: dict[str, int] = field(default_factory=dict)
    """How often each status came."""

    def held(self) -> dict[str, float]:
        """What the node holds now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def settled(self, tasks: float, seconds: float = 10.0) -> dict[str, float]:
        """What it holds once its calls are over."""
        end = time.monotonic() + seconds
        while (found := self.held())["tasks"] > tasks and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def honest(self) -> None:
        """An honest client is answered, with what it should get."""
        call = self.app.unary_stream(GENERATE, None, pb.GenerateChunk.FromString)
        chunks = list(call(request(PLANTED[0], max_tokens=64).SerializeToString(), timeout=20, metadata=(VERSION,)))
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        assert chunks[-1].finish_reason == pb.FINISH_REASON_STOP

    def call(
        self, path: str, messages: Sequence[bytes], metadata: Iterable[tuple[str, str | bytes]] = (VERSION,)
    ) -> None:
        """Send *messages* to *path*; whatever comes back is an answer or a typed status, without a prompt's text."""
        received: list[bytes] = []
        try:
            call = self.rogue.stream_stream(path)(iter(messages), timeout=5, metadata=tuple(metadata))
            for message in call:
                received.append(message)
                if len(received) > 200:
                    call.cancel()
        except grpc.RpcError as error:
            self._check(error)
        except (ValueError, TypeError):  # as above
            return
        _check_silent(b"".join(received))

    def _check(self, error: Any) -> None:
        if error.details() == "Invalid metadata":  # gRPC does not let its own client send it
            return
        trailing = dict(error.trailing_metadata() or ())
        code = error.code().name
        self.codes[code] = self.codes.get(code, 0) + 1
        said = (error.details() or "").encode() + b"".join(_as_bytes(value) for value in trailing.values())
        _check_silent(said)
        if (detail := trailing.get(ERROR_KEY)) is None:
            assert code in _OF_GRPC, (code, error.details())
            return
        kind = pb.ErrorDetail.FromString(detail).kind
        assert ROWS[kind].code is error.code()
        assert "the node failed" not in (error.details() or ""), error.details()


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _check_silent(said: bytes) -> None:
    found = [text for text in PLANTED if text.encode() in said]
    assert not found, found


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A node with rights, tokens, sealing keys and an audit log; its files are in *folder*."""
    make_authority(folder)
    issue(folder, "node", kind="node", hosts=["localhost", "127.0.0.1"])
    for name in ("app", "rogue"):
        issue(folder, name)
    issuer = Issuer()
    (folder / "issuer.pem").write_bytes(issuer.pem)
    (folder / "rights.yaml").write_text(_TOKEN_RIGHTS)
    make_audit_key(folder / "audit.key")
    for name, suite in (("one", HYBRID), ("two", X25519)):
        write_key(folder / "sealing", name, suite=suite, days=1)
    keys = tuple(key for name in ("one", "two") for key in read_public(folder / "sealing" / f"{name}.seal.pub"))
    command = [sys.executable, "-m", "tests.fuzz.node", str(folder)]
    with (
        (folder / "node.log").open("w") as log,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as node,
    ):
        try:
            assert node.stdout is not None
            port = int(node.stdout.readline())
            yield from _connected(folder, node, port, issuer, keys)
        finally:
            node.communicate()  # the end of its input ends it
    _check_silent((folder / "node.log").read_bytes())


def _connected(
    folder: Path, node: subprocess.Popen[str], port: int, issuer: Issuer, keys: tuple[KeyConfig, ...]
) -> Iterator[Stage]:
    rogue, app = (TLSFiles.from_dir(folder, name) for name in ("rogue", "app"))
    options = [("grpc.max_send_message_length", -1)]
    with (
        grpc.secure_channel(f"127.0.0.1:{port}", client_credentials(rogue), options=options) as hostile,
        grpc.secure_channel(f"127.0.0.1:{port}", client_credentials(app)) as honest,
    ):
        yield Stage(node, port, hostile, honest, rogue, issuer, keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A way in: valid inputs, and what sends one."""

    name: str
    seeds: tuple[bytes, ...]
    send: Callable[[Stage, bytes], None]


def doors(stage: Stage) -> tuple[Door, ...]:
    """All doors of a node."""
    sealed = tuple(
        seal_request(data, key, issued_ms=time.time_ns() // 1_000_000)[0]
        for key in stage.keys
        for data in requests()[:2]
    )
    paths = (
        (GENERATE, request().SerializeToString()),
        ("/hybrid_llm.v1.HybridLLM/Describe", b""),
        ("/hybrid_llm.v1.HybridLLM/Delete", b"x"),
        ("/grpc.health.v1.Health/Check", b""),
        ("/grpc.health.v1.Health/List", b""),
        ("/grpc.health.v1.Health/Check", b"\n\x17hybrid_llm.v1.HybridLLM"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b":\0"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b'"\x17hybrid_llm.v1.HybridLLM'),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b"*\x05\n\x01x\x10\x01"),
    )
    token = stage.issuer.token().encode()
    traced = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ntracestate: a=b"
    metadata = (
        b"hybrid-llm-protocol: 1\nauthorization: Bearer " + token,
        b"hybrid-llm-protocol: 1\n" + traced,
        b"hybrid-llm-protocol: 2\nbaggage: x=1\ngrpc-encoding: gzip\nx-bin: \xff\x00",
    )
    return (
        Door(name="message", seeds=requests(), send=lambda at, data: at.call(GENERATE, [data])),
        Door(name="sealed message", seeds=sealed, send=lambda at, data: at.call(GENERATE, [data])),
        Door(name="content of a sealed message", seeds=requests(), send=_sealed),
        Door(name="RPC", seeds=tuple(path.encode() + b"\n" + body for path, body in paths), send=_path),
        Door(name="metadata", seeds=metadata, send=_metadata),
        Door(name="claims of a token", seeds=(claims_of(), claims_of("zoe")), send=_claims),
        Door(name="HTTP/2", seeds=_frames(), send=_http2),
        Door(name="several messages", seeds=requests(), send=lambda at, data: at.call(GENERATE, [data, data, b""])),
    )


def _sealed(stage: Stage, data: bytes) -> None:
    """*data* is sealed as it must be: what is inside may be anything."""
    for key in stage.keys:
        stage.call(GENERATE, [seal_request(data, key, issued_ms=time.time_ns() // 1_000_000)[0]])


def _path(stage: Stage, data: bytes) -> None:
    path, _, body = data.partition(b"\n")
    with contextlib.suppress(UnicodeDecodeError):
        stage.call(path.decode("ascii"), [body])


def _metadata(stage: Stage, data: bytes) -> None:
    pairs: list[tuple[str, str | bytes]] = []
    for line in data.split(b"\n"):
        key, _, value = line.partition(b": ")
        name = key.decode("latin-1").lower()
        pairs.append((name, value if name.endswith("-bin") else value.decode("latin-1")))
    stage.call(GENERATE, [request().SerializeToString()], pairs)


def _claims(stage: Stage, data: bytes) -> None:
    metadata = (VERSION, ("authorization", f"Bearer {claims(data, stage.issuer)}"))
    stage.call(GENERATE, [request().SerializeToString()], metadata)


def _frames() -> tuple[bytes, ...]:
    """Frames of HTTP/2, each with the length that its content has."""

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + content

    made = (
        frame(4, 0, 0, struct.pack(">HI", 4, 2**31 - 1)),  # SETTINGS
        frame(8, 0, 0, struct.pack(">I", 2**31 - 1)),  # WINDOW_UPDATE
        frame(6, 0, 0, bytes(8)),  # PING
        frame(1, 5, 1, b"\x83\x87\x44\x01/"),  # HEADERS
        frame(0, 1, 1, b"\0\0\0\0\x05hello"),  # DATA
        frame(9, 4, 1, b"\xff" * 60),  # CONTINUATION
        frame(5, 4, 1, bytes(6)),  # PUSH_PROMISE
        frame(7, 0, 0, bytes(8)),  # GOAWAY
        frame(3, 0, 7, bytes(4)),  # RST_STREAM
    )
    return (*made, b"".join(made[:5]))


def _http2(stage: Stage, data: bytes) -> None:
    connection = Connection(stage.port, stage.tls)
    try:
        connection.send([data])
    finally:
        connection.close()
