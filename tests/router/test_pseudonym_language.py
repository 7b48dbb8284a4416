"""Pseudonyms through real tokenizers and the real embedded model: what they stream is restored right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.edge.backend import embedded_model
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.privacy.detectors import DETECTORS, Finding, prepare
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable
from hybrid_llm.router.privacy.restore import Restorer

NODE = Path(__file__).resolve().parents[2] / "examples" / "models" / "hybrid-demo-node"
TEXT = (
    "**To:** bob.o'hara@example.org, cc eve@example.com\n\n| name | phone |\n|---|---|\n| 张伟 | +49 30 1234567 |\n\n"
    "请写信给bob.o'hara@example.org。`eve@example.com`s card is 4111 1111 1111 1111, [mail](mailto:eve@example.com) 🙂"
)
SPELLINGS = {
    "as sent": str,
    "in lower case": str.lower,
    "in title case": str.title,
    "escaped for Markdown": lambda name: name.replace("_", "\\_"),
}

pytestmark = pytest.mark.skipif(
    not (embedded_model() / "tokenizer.json").is_file(), reason="the embedded model is not built here"
)


def replaced(*texts: str) -> tuple[PseudonymTable, list[str]]:
    table = PseudonymTable()
    found = [[finding for detector in DETECTORS.values() for finding in detector.find(text)] for text in texts]
    for text, findings in zip(texts, found, strict=True):
        if "张伟" in text:
            start = text.index("张伟")
            findings.append(Finding(kind="person", start=start, end=start + 2))
    return table, table.replace_all(prepare(texts), found)


@pytest.fixture(scope="module", params=["edge", "node"])
def tokenizer(request) -> ChatTokenizer:
    folder = embedded_model() if request.param == "edge" else NODE
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"{folder.name} is not here")
    return ChatTokenizer.load(folder)


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_the_pieces_of_a_real_tokenizer_are_restored_to_the_text(tokenizer, spell):
    table, (written,) = replaced(TEXT)
    assert len(table) == 5
    for name in list(table._entries):
        written = written.replace(name, spell(name))
    request = Request(messages=(Message(role="user", content=written),))
    stream, one = tokenizer.text_stream(request), Restorer(table)
    pieces = [stream.push(token) for token in tokenizer.tokenizer.encode(written).ids] + [stream.flush()]
    assert "".join(pieces) == written
    assert max(len(piece) for piece in pieces) < 12, "the pseudonyms are cut"
    assert "".join(map(one.feed, pieces)) + one.finish() == TEXT


@pytest.fixture(scope="module")
def ask():
    backend, guard = EdgeBackend(EdgeConfig(threads=1, spin=False)), PrivacyGuard()

    def pieces(text: str, schema: str) -> list[str]:
        request = Request(messages=(Message(role="user", content=text),), output_schema=schema, max_tokens=200)
        assessment = Assessment(request=request, allowed=frozenset({Location.EDGE}))
        return [chunk.text for chunk in backend.stream(guard.clear(assessment, Location.EDGE))]

    yield pieces
    backend.close()


def test_a_real_model_that_sees_only_pseudonyms_answers_in_json_with_the_values(ask):
    """The schema leaves it to the model which one it names; that it writes them token by token is what counts."""
    email, quoted = "bob.o'hara@example.org", '张伟 "Wei"'
    prompt = f"Write to {email} or eve@example.com, from {quoted}."
    schema = json.dumps(
        {
            "type": "object",
            "properties": {
                "to": {"enum": [email, "eve@example.com"]},
                "text": {"const": f"Dear 张伟, {email} and eve@example.com."},
                "free": {"type": "string", "maxLength": 8},
            },
            "required": ["to", "text", "free"],
            "additionalProperties": False,
        },
        ensure_ascii=False,
    )
    table, (sent, sent_schema) = replaced(prompt, schema)
    assert not [value for value in (email, "eve@example.com", "张伟") if value in sent + sent_schema]
    pieces = ask(sent, sent_schema)
    assert len(pieces) > 40, "it came token by token"
    one = Restorer(table, json=True)
    answer = json.loads("".join(map(one.feed, pieces)) + one.finish())
    assert answer["to"] in (email, "eve@example.com")
    assert answer["text"] == f"Dear 张伟, {email} and eve@example.com."
    assert all(name not in answer["free"] for name in list(table._entries))
