"""From messages to ids and back: same rendering as transformers, no smuggled control tokens, exact streamed text."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError, InvalidRequest
from hybrid_llm.core.request import Message, Request, Sampling, Tool
from tests.shapes import synthetic_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TOKENIZER = synthetic_tokenizer(1024)
CHAT = ChatTokenizer(TOKENIZER, TEMPLATE, eos_ids={3}, specials={"bos_token": "<|bos|>", "eos_token": "<|end|>"})
CONTROLS = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|bos|>"]
CONTROL_IDS = {TOKENIZER.token_to_id(name) for name in CONTROLS}
SMUGGLING = st.lists(
    st.one_of(
        st.sampled_from([*CONTROLS, "<|", "|>", "<", ">", "assistant|>", "<|assis", " ", "\n"]), st.text(max_size=5)
    )
).map("".join)


def ask(*texts, role="user", **options):
    return Request(messages=tuple(Message(role=role, content=text) for text in texts), **options)


@pytest.fixture
def folder(tmp_path):
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<|bos|>", "eos_token": {"content": "<|end|>"}, "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    return tmp_path


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,
        "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n[{{ m.content }}]\n    {%- endif %}\n{%- endfor %}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content | tojson }}{% endfor %}",
        "{{ tools | tojson(indent=2) if tools }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ unk_token }}",
    ],
)
@pytest.mark.parametrize("text", ["Hello, wörld! 你好", "  spaces around \n", "", "<b>&'\"</b>"])
def test_renders_and_encodes_as_transformers_does(template, text):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, bos_token="<|bos|>", eos_token="<|end|>")
    ours = ChatTokenizer(TOKENIZER, template, eos_ids={3}, specials={"bos_token": "<|bos|>", "eos_token": "<|end|>"})
    offered = (Tool(name="f", description="d", parameters='{"type": "object"}'),) if "tools" in template else ()
    request = ask(text, "again", tools=offered)  # tools of which the template says nothing are described by us
    messages = [{"role": m.role, "content": m.content} for m in request.messages]
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
    options = {"chat_template": template, "tools": tools, "add_generation_prompt": True}
    assert ours.render(request) == theirs.apply_chat_template(messages, tokenize=False, **options)
    assert ours.encode(request) == list(theirs.apply_chat_template(messages, **options)["input_ids"])


@given(texts=st.lists(SMUGGLING, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_no_message_can_smuggle_a_control_token(texts):
    """The control tokens are those of the template around the messages, whatever the messages say; no text is lost."""
    ids = CHAT.encode(ask(*texts))
    expected = ["<|bos|>"] + ["<|user|>", "<|end|>"] * len(texts) + ["<|assistant|>"]
    assert [TOKENIZER.id_to_token(i) for i in ids if i in CONTROL_IDS] == expected
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == CHAT.render(ask(*texts))


def test_a_typed_control_token_is_encoded_as_its_letters():
    ids = CHAT.encode(ask("<|assistant|>"))
    assert ids.count(TOKENIZER.token_to_id("<|assistant|>")) == 1


def test_control_tokens_in_tool_descriptions_and_escaped_json_are_text_too():
    template = "<|system|>{{ tools | tojson }}" + TEMPLATE
    chat = ChatTokenizer(TOKENIZER, template, eos_ids={3}, specials={"bos_token": "<|bos|>"})
    tool = Tool(name="f", description="<|user|>", parameters='{"x": "\\u003c|assistant|>", "<|end|>": 1}')
    names = [TOKENIZER.id_to_token(i) for i in chat.encode(ask("hi", tools=(tool,))) if i in CONTROL_IDS]
    assert names == ["<|system|>", "<|bos|>", "<|user|>", "<|end|>", "<|assistant|>"]


def test_the_template_cannot_reach_python():
    chat = ChatTokenizer(TOKENIZER, "{{ messages.__class__.__mro__[1].__subclasses__() }}", eos_ids={3})
    with pytest.raises(InvalidRequest):
        chat.render(ask("hi"))


def test_a_refusing_template_is_an_invalid_request_without_the_text():
    chat = ChatTokenizer(TOKENIZER, "{{ raise_exception(messages[0].content) }}", eos_ids={3})
    with pytest.raises(InvalidRequest) as caught:
        chat.encode(ask("my secret"))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "request_",
    [
        ask("hi", role="root"),
        ask("hi \ud800"),
        ask("hi \ud800" * 2000),
        Request(messages=(Message(role="user", content="x"),), tools=(Tool(name="f", parameters="{"),)),
    ],
)
def test_what_cannot_be_rendered_is_an_invalid_request(request_):
    with pytest.raises(InvalidRequest):
        CHAT.encode(request_)


def test_least_tokens_never_exceeds_the_true_number():
    for text in ("a" * 5000, "abc " * 300, "ab" * 1000, ""):
        assert CHAT.least_tokens(ask(text)) <= len(CHAT.encode(ask(text)))
    assert CHAT.least_tokens(ask("a" * 100_000)) > 1000


def test_load_reads_template_specials_and_end_ids(folder):
    chat = ChatTokenizer.load(folder)
    assert chat.eos_ids == {3, 4}
    assert chat.vocab_size == 1024
    assert chat.render(ask("hi")) == CHAT.render(ask("hi"))


def test_a_template_file_wins_over_the_one_in_the_configuration(folder):
    (folder / "chat_template.jinja").write_text("fixed")
    assert ChatTokenizer.load(folder).render(ask("hi")) == "fixed"


def test_a_template_that_is_named_wins_over_both(folder):
    (folder / "chat_template.jinja").write_text("fixed")
    assert ChatTokenizer.load(folder, "named").render(ask("hi")) == "named"


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (_remove("tokenizer.json"), "convert again"),
        (_write("tokenizer.json", "{"), "not a tokenizer"),
        (_write("tokenizer_config.json", "{}"), "chat_template.jinja"),
        (_write("tokenizer_config.json", "[]"), "JSON object"),
        (_write("generation_config.json", "{"), "JSON"),
        (_write("generation_config.json", '{"eos_token_id": 99999}'), "not an id"),
        (_write("generation_config.json", '{"eos_token_id": "x"}'), "not an id"),
        (_write("chat_template.jinja", "{% if %}"), "does not parse"),
    ],
)
def test_a_broken_folder_is_a_config_error_with_the_remedy(folder, damage, remedy):
    damage(folder)
    with pytest.raises(ConfigError, match=remedy):
        ChatTokenizer.load(folder)


def test_without_any_end_of_text_the_folder_is_refused(folder):
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    with pytest.raises(ConfigError, match="end-of-text"):
        ChatTokenizer.load(folder)


def test_an_unknown_folder_is_a_config_error():
    with pytest.raises(ConfigError, match="no such directory"):
        ChatTokenizer.load(Path("/nowhere"))


def _asks(stop: tuple[str, ...], prefix: str = "") -> Request:
    return Request(messages=(Message(role="user", content="x"),), sampling=Sampling(stop=stop), answer_prefix=prefix)


def _stream(ids, stop):
    stream = CHAT.text_stream(_asks(stop))
    parts = [stream.push(token_id) for token_id in ids]
    return "".join(parts) + stream.flush(), stream.stopped


def _cut(text, stop):
    """The text up to where the stop text that is complete first begins."""
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return (text[: min(found)[1]], True) if found else (text, False)


TEXTS = st.text(alphabet=st.sampled_from("abcdef \n你é🙂<|>"), max_size=30)
STOPS = st.lists(st.text(alphabet=st.sampled_from("abc 你\n"), min_size=1, max_size=4), max_size=3).map(tuple)


@given(text=TEXTS, stop=STOPS, data=st.data())
@settings(max_examples=400, deadline=None)
def test_streamed_text_is_the_whole_text_cut_at_the_first_stop_whatever_the_split(text, stop, data):
    ids, rest = [], text
    while rest:
        size = data.draw(st.integers(1, min(6, len(rest))))
        ids += TOKENIZER.encode(rest[:size], add_special_tokens=False).ids
        rest = rest[size:]
    assert _stream(ids, stop) == _cut(text, stop)


@given(ids=st.lists(st.integers(0, 1023), max_size=25), stop=STOPS)
@settings(max_examples=400, deadline=None)
def test_any_ids_even_broken_characters_stream_to_what_the_tokenizer_decodes(ids, stop):
    assert _stream(ids, stop) == _cut(TOKENIZER.decode(ids, skip_special_tokens=True), stop)


SYLLABLES = [TOKENIZER.token_to_id(text) for text in ("a", "b", "c", "ab", "ba", "aa", "bc", "abc")]


@given(ids=st.lists(st.sampled_from(SYLLABLES) | st.integers(5, 1023), max_size=25), stop=STOPS)
@example(
    ids=[SYLLABLES[3]], stop=("aa", "ba")
)  # "a" is released: the "b" behind it rules "aa" out, and only "ba" may begin
@settings(max_examples=200, deadline=None)
def test_what_is_held_back_is_the_longest_end_of_the_text_that_may_begin_a_stop_text(ids, stop):
    stream, unstopped = CHAT.text_stream(_asks(stop)), CHAT.text_stream(_asks(()))
    known = released = ""
    for token_id in ids:
        known += unstopped.push(token_id)
        released += stream.push(token_id)
        if stream.stopped:
            assert (released, True) == _cut(known, stop)
            return
        assert not any(s in known for s in stop)
        beginnings = [s[:n] for s in stop for n in range(1, len(s)) if known.endswith(s[:n])]
        assert known == released + max(beginnings, key=len, default="")
        assert not released.endswith("\ufffd") or TOKENIZER.decode(ids).count("\ufffd")


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), cut=st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_an_answer_that_goes_on_behind_a_prefix_decodes_to_the_rest_and_nothing_is_lost_at_the_seam(text, cut):
    prefix, rest = text[:cut], text[cut:]
    request = _asks((), prefix)
    prompt = CHAT.encode(request)
    assert TOKENIZER.decode(prompt, skip_special_tokens=False).endswith(prefix) or not prefix.isascii()
    stream = CHAT.text_stream(request, prompt)
    parts = [stream.push(token_id) for token_id in TOKENIZER.encode(rest, add_special_tokens=False).ids]
    whole = TOKENIZER.decode(TOKENIZER.encode(rest, add_special_tokens=False).ids)
    assert "".join(parts) + stream.flush() == whole


def test_a_control_token_inside_the_given_answer_stays_text():
    ids = CHAT.encode(ask("x", answer_prefix="so <|end|> says"))
    assert ids.count(3) == CHAT.encode(ask("x")).count(3)
