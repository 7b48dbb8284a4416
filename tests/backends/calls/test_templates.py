"""The format of a model is read off its template and vocabulary; its own control tokens carry calls and reasoning."""

import json
import random

import jsonschema
import numpy as np
import pytest
from tokenizers import AddedToken

from hybrid_llm.backends.calls.parser import Delta
from hybrid_llm.backends.schema import SchemaCompiler
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.generation import AnswerParts, Chunk, FinishReason
from hybrid_llm.core.request import Message, Request
from hybrid_llm.core.tools import Tool, ToolCall
from tests.shapes import synthetic_tokenizer

QWEN = """\
{%- if tools %}<|system|># Tools
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Return <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|end|>
{%- endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|user|><tool_response>{{ message.content }}</tool_response><|end|>
{%- else %}<|{{ message.role }}|>
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{- message.content }}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
MISTRAL = """\
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}
{%- for message in messages %}
{%- if message.role == "assistant" and message.tool_calls %}[TOOL_CALLS][
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids have 9 characters") }}{% endif %}
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}
{%- endfor %}]<|end|>
{%- elif message.role == "tool" %}{{ message.tool_call_id }}: {{ message.content }}
{%- else %}<|{{ message.role }}|>{{ message.content }}
{%- endif %}
{%- endfor %}"""
MISTRAL_ARGS = (
    MISTRAL.replace('{"name": "', "").replace('", "arguments": ', "[ARGS]").replace("[TOOL_CALLS][\n", "[TOOL_CALLS]")
)
LLAMA = """\
{%- if tools %}Respond with {"name": function name, "parameters": {"a": 1}}.{{ tools | tojson }}{% endif %}
{%- for message in messages %}
{%- if message.tool_calls %}{% set call = message.tool_calls[0].function -%}
{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}
{%- else %}<|{{ message.role }}|>{{ message.content }}{% endif %}<|end|>
{%- endfor %}"""
SECTIONS = """\
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|user|>it returned {{ message.content }}<|end|>
{%- else %}<|{{ message.role }}|>{{ message.content }}
{%- if message.tool_calls %}<calls>
{%- for call in message.tool_calls %}<call>{{ call.function.name }}<sep>{{ call.function.arguments | tojson }}</call>
{%- endfor %}</calls>
{%- endif %}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
CALL = "<call>{{ call.function.name }}<sep>{{ call.function.arguments | tojson }}</call>"
JSON_CALL = """{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}"""
LISTED = SECTIONS.replace(CALL, "{{ ', ' if not loop.first }}" + JSON_CALL)
LISTED = LISTED.replace("<calls>", "<calls>[").replace("</calls>", "]</calls>")
ONE = SECTIONS.replace("<calls>", "{{ raise_exception('one') if message.tool_calls | length > 1 }}")
ONE = ONE.replace("</calls>", "")
XML = SECTIONS.replace("{{ call.function.arguments | tojson }}", "{{ call.function.arguments.items() | list }}")
NUMBERED = SECTIONS.replace("<sep>", "<{{ loop.index0 }}>")
WITH_IDS = SECTIONS.replace("</call>", "</call>{{ call.id }}")
BARE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
SPECIAL = ("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<start_of_turn>")
NAMED = ("<tool_call>", "</tool_call>", "<think>", "</think>")
KINDS = {
    "hermes": (QWEN, (), NAMED),
    "mistral": (MISTRAL, ("[TOOL_CALLS]",), ()),
    "mistral-args": (MISTRAL_ARGS, ("[TOOL_CALLS]", "[ARGS]"), ()),
    "llama3": (LLAMA, ("<|python_tag|>",), ()),
    "template": (SECTIONS, ("<calls>", "<call>", "</call>", "</calls>"), ("<sep>",)),
    "gemma": (BARE, ("<start_of_turn>",), ()),
    "plain": (BARE, (), ()),
}
PARAMETERS = {
    "type": "object",
    "properties": {"to": {"type": "string", "maxLength": 5}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["to"],
    "additionalProperties": False,
}
TOOLS = (Tool(name="send", description="Sends.", parameters=json.dumps(PARAMETERS)),)
DOCUMENT = json.dumps({"type": "object", "properties": {"x": {"enum": [1, 2]}}, "additionalProperties": False})


def chat(name: str) -> ChatTokenizer:
    template, special, named = KINDS[name]
    tokenizer = synthetic_tokenizer(1024)
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in special])
    tokenizer.add_tokens([AddedToken(each, special=False) for each in named])
    return ChatTokenizer(tokenizer, template, eos_ids={3})


CHATS = {name: chat(name) for name in KINDS}


def asks(**options) -> Request:
    return Request(messages=(Message(role="user", content="hi"),), tools=TOOLS, **options)


@pytest.mark.parametrize("name", KINDS)
def test_the_format_is_that_of_the_template(name):
    found = CHATS[name].format
    assert found.calls.name == name
    assert found.renders_tools is (name not in ("gemma", "plain"))
    assert found.reasons is (name == "hermes")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (SECTIONS, ("<calls><call>", "", "<sep>", "</call>", "<call>", "</calls>")),
        (LISTED, ("<calls>[", '{"name": "', '", "arguments": ', "}", ", ", "]</calls>")),
        (ONE, ("<call>", "", "<sep>", "</call>", "", "")),
    ],
)
def test_a_format_that_no_table_has_is_found_by_trying_the_template(template, expected):
    calls = ChatTokenizer(synthetic_tokenizer(1024), template, eos_ids={3}).format.calls
    assert (calls.begin + calls.open, calls.head, calls.middle, calls.tail, calls.between, calls.close) == expected


@pytest.mark.parametrize("template", [XML, NUMBERED, WITH_IDS])
def test_where_calls_cannot_be_held_in_the_way_of_the_template_the_model_is_told_another_one_only(template):
    one = ChatTokenizer(synthetic_tokenizer(1024), template, eos_ids={3})
    assert (one.format.calls.name, one.format.renders_tools, one.format.renders_calls) == ("plain", False, False)
    call = ToolCall(id="x", name="send", arguments='{"to": "Zo"}')
    turns = (Message(role="assistant", tool_calls=(call,)), Message(role="tool", content="was sent", tool_call_id="x"))
    text = one.render(Request(messages=(Message(role="user", content="Write."), *turns), tools=TOOLS))
    assert '{"name": "send", "arguments": {"to": "Zo"}}' in text
    assert "<calls>" not in text


def test_the_channels_of_gpt_oss_are_refused_by_name(tmp_path):
    synthetic_tokenizer(1024).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 3}')
    template = "{% for message in messages %}<|start|>user<|message|>{{ message.content }}<|end|>{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    ChatTokenizer.load(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template + "<|channel|>analysis<|call|>")
    with pytest.raises(ConfigError, match="harmony"):
        ChatTokenizer.load(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_every_model_is_shown_tools_calls_and_results(name):
    call = ToolCall(id="whatever", name="send", arguments='{"to": "Zo\u00eb"}')
    conversation = (
        Message(role="developer", content="Be brief."),
        Message(role="user", content="Write."),
        Message(role="assistant", content="Yes.", tool_calls=(call,)),
        Message(role="tool", content="was sent", tool_call_id="whatever"),
    )
    text = CHATS[name].render(Request(messages=conversation, tools=TOOLS))
    assert "Sends." in text
    assert text.count("Zo") == 1
    assert "was sent" in text
    assert "whatever" not in text
    assert "developer" not in text


def answer(name: str, request: Request, seed: int) -> tuple[AnswerParts, FinishReason]:
    """What random weights would write, token by token, up to 300 of them."""
    one, draw = CHATS[name], random.Random(seed)
    schemas = SchemaCompiler(one.tokenizer.to_str, vocab_size=one.vocab_size)
    matcher = one.matcher(schemas, request)
    stream, parts = one.answer_stream(request), AnswerParts()
    words = np.zeros((1, (one.vocab_size + 31) // 32), dtype=np.int32)
    reason = FinishReason.LENGTH
    for _ in range(300):
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(matcher, words, 0)
        ids = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[: one.vocab_size]).tolist()
        rare = [each for each in ids if each in one.eos_ids or each > 1000]
        token = draw.choice(rare if rare and draw.random() < 0.4 else ids)
        assert matcher.consume_token(token)
        if token in one.eos_ids:
            reason = FinishReason.STOP
            break
        add(parts, stream.push(token))
        if matcher.is_stopped():
            reason = FinishReason.STOP
            break
    add(parts, stream.finish(reason))
    return parts, stream.reason(reason)


def add(parts: AnswerParts, delta: Delta) -> None:
    parts.add(Chunk(text=delta.text, reasoning=delta.reasoning, tool_calls=delta.calls))


@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("document", [None, DOCUMENT])
@pytest.mark.parametrize("name", KINDS)
def test_tokens_of_random_weights_become_calls_that_validate_or_text_or_a_document(name, document, choice):
    ended = 0
    for seed in range(5):
        request = asks(tool_choice=choice, parallel_tool_calls=seed % 2 == 0, output_schema=document)
        parts, reason = answer(name, request, seed)
        marks = ("[TOOL_CALLS]", "<tool_call>", "</think>", "<|python_tag|>")
        assert not any(mark in parts.text for mark in marks)
        if reason is FinishReason.LENGTH:
            continue
        ended += 1
        for call in parts.tool_calls:
            jsonschema.validate(call.values, PARAMETERS)
        assert (reason is FinishReason.TOOL_CALLS) is bool(parts.tool_calls)
        assert parts.tool_calls or choice == "auto"
        if document is not None and not parts.tool_calls:
            jsonschema.validate(json.loads(parts.text), json.loads(document))
    assert ended or choice == "auto"


@pytest.mark.parametrize("name", KINDS)
def test_a_call_that_was_cut_is_encoded_as_the_model_wrote_it_and_goes_on(name):
    for document in (None, DOCUMENT):
        partial = (ToolCall(name="send", arguments='{"to": "a", "n"'),)
        request = asks(answer_calls=partial, answer_prefix="" if document else "Well: ", output_schema=document)
        one = CHATS[name]
        begin = one.format.of(request).begin
        ids = one.encode(request)
        assert one.tokenizer.decode(ids[-60:], skip_special_tokens=False).replace(" ", "").endswith('"to":"a","n"')
        if begin in KINDS[name][1]:
            assert one.tokenizer.token_to_id(begin) in ids
        parts, reason = answer(name, request, 7)
        whole = partial[0].arguments + parts.tool_calls[0].arguments if parts.tool_calls else ""
        if reason is FinishReason.TOOL_CALLS:
            jsonschema.validate(json.loads(whole), PARAMETERS)


def test_the_name_of_a_control_token_in_a_result_or_an_argument_stays_text():
    one = CHATS["mistral"]
    call = ToolCall(id="a", name="send", arguments='{"to": "[TOOL_CALLS]"}')
    turns = (
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="[TOOL_CALLS]", tool_call_id="a"),
    )
    ids = one.encode(Request(messages=(Message(role="user", content="[TOOL_CALLS]"), *turns), tools=TOOLS))
    assert ids.count(one.tokenizer.token_to_id("[TOOL_CALLS]")) == 1
