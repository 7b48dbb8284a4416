"""A real language server reads the schema: it marks what is wrong, completes keys and values, and explains them.

It runs where `yaml-language-server` is on the path, or where HYBRID_TESTS_YAML_LS names its script; get it with
`npm install yaml-language-server`. Elsewhere the same schema is held to the reader by `test_jsonschema.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid_llm.policies import builtin_names

ROOT = Path(__file__).resolve().parents[2]
SERVER = os.environ.get("HYBRID_TESTS_YAML_LS") or shutil.which("yaml-language-server")
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    not (SERVER and NODE), reason="needs node and yaml-language-server: set HYBRID_TESTS_YAML_LS to its script"
)
Message = dict


class LanguageServer:
    """Speaks the Language Server Protocol over the pipes of a server; one request at a time."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen([NODE, SERVER, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._count = 0
        self._root = root
        abilities = {"textDocument": {"hover": {"contentFormat": ["markdown"]}}}
        self.ask("initialize", {"processId": None, "rootUri": root.as_uri(), "capabilities": abilities})
        self._send({"method": "initialized", "params": {}})
        settings = {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}
        self._send({"method": "workspace/didChangeConfiguration", "params": {"settings": {"yaml": settings}}})

    def _send(self, message: Message) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._process.stdin.flush()

    def _read(self) -> Message:
        length = 0
        while line := self._process.stdout.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return json.loads(self._process.stdout.read(length))

    def _until(self, wanted: Callable[[Message], bool]) -> Message:
        while True:
            message = self._read()
            if "method" in message and "id" in message:
                items = message.get("params", {}).get("items")
                self._send({"id": message["id"], "result": [{} for _ in items] if items else None})
            elif wanted(message):
                return message

    def ask(self, method: str, params: Message) -> object:
        self._count += 1
        number = self._count
        self._send({"id": number, "method": method, "params": params})
        return self._until(lambda message: message.get("id") == number)["result"]

    def open(self, name: str, text: str) -> list[tuple[int, str]]:
        """Line, counted from 1, and message of everything that is marked in *text*."""
        uri = (self._root / name).as_uri()
        item = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": item}})
        told = self._until(lambda m: m.get("method", "").endswith("publishDiagnostics") and m["params"]["uri"] == uri)
        return [(one["range"]["start"]["line"] + 1, one["message"]) for one in told["params"]["diagnostics"]]

    def at(self, method: str, name: str, line: int, column: int) -> object:
        place = {"line": line - 1, "character": column - 1}
        return self.ask(method, {"textDocument": {"uri": (self._root / name).as_uri()}, "position": place})

    def completions(self, name: str, line: int, column: int) -> set[str]:
        return {item["label"] for item in self.at("textDocument/completion", name, line, column)["items"]}

    def stop(self) -> None:
        self.ask("shutdown", {})
        self._send({"method": "exit"})
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = LanguageServer(tmp_path_factory.mktemp("editor"))
    yield running
    running.stop()


def headed(text: str, schema: str = "policy.schema.json") -> str:
    return f"# yaml-language-server: $schema={(ROOT / 'docs' / schema).as_uri()}\n{text}"


@pytest.mark.parametrize("name", builtin_names())
def test_the_built_in_policies_and_their_cases_are_without_a_mark(server, name):
    folder = ROOT / "policies" / "builtin"
    assert server.open(f"{name}.yaml", headed((folder / f"{name}.yaml").read_text("utf-8"))) == []
    cases = headed((folder / f"{name}.test.yaml").read_text("utf-8"), "policy.cases.schema.json")
    assert server.open(f"{name}.test.yaml", cases) == []


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("nam: clinic", 3, "nam is not allowed"),
        ("name: clinic\nobjectives: {ttft: 400}", 4, 'Expected "string"'),
        ("name: clinic\ntags: {phi: {allow: [edgy]}}", 4, 'Valid values: "edge", "cloud"'),
        ("name: clinic\ntags: {phi: {detect: [email]}}", 4, 'Missing property "allow"'),
        ("name: clinic\ntags: {phi: {allow: [edge], detect: [emial]}}", 4, '"email"'),
        ("name: clinic\nrules:\n  - exclude: edge\n    prefer: [cloud]", 6, "prefer is not allowed"),
        ("name: clinic\nresilience: {retries: 11}", 4, "maximum of 10"),
    ],
)
def test_what_is_wrong_is_marked_on_its_line(server, body, line, message):
    marks = server.open(f"broken-{abs(hash(body))}.yaml", headed(f"version: 1\n{body}\n"))
    assert any(at == line and message in text for at, text in marks), marks


def test_keys_places_and_detectors_are_completed_and_keys_are_explained(server):
    body = (
        "version: 1\nname: clinic\nobjectives:\n  ttft: 400ms\n  \nrules:\n  - \n  - exclude: \n"
        "tags:\n  phi: {allow: [edge], detect: [e]}\n"
    )
    server.open("clinic.yaml", headed(body))
    assert {"deadline", "cost", "budget"} <= server.completions("clinic.yaml", 6, 3)
    assert {"exclude", "prefer", "rank", "when", "because"} <= server.completions("clinic.yaml", 8, 5)
    assert {"edge", "cloud"} <= server.completions("clinic.yaml", 9, 14)
    assert {"medical_record", "email"} <= server.completions("clinic.yaml", 11, 33)
    hover = server.at("textDocument/hover", "clinic.yaml", 5, 4)["contents"]["value"]
    assert "Time to the first token" in hover
    assert "400ms" in hover


def test_signals_are_completed_in_cases_with_what_they_mean(server):
    body = "version: 1\ncases:\n  - name: one\n    signals:\n      device.battery: 10%\n      \n    expect: {}\n"
    server.open("clinic.test.yaml", headed(body, "policy.cases.schema.json"))
    assert {"device.charging", "network.online", "cloud.rtt_ms"} <= server.completions("clinic.test.yaml", 7, 7)
    hover = server.at("textDocument/hover", "clinic.test.yaml", 6, 9)["contents"]["value"]
    assert "Charge, 0 to 1" in hover
