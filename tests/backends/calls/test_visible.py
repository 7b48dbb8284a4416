"""The listed tokens are exactly those of the visible text, in every chunk, wherever the answer is cut."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.calls.parser import MalformedCall
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Message, Request, Sampling
from hybrid_llm.core.tools import Tool
from tests.backends.calls.test_templates import NAMED, QWEN
from tests.backends.test_detokenize import CHATS, TOKENIZERS, ids_of
from tests.shapes import synthetic_tokenizer

ASKED = (Message(role="user", content="x"),)
CUT = FinishReason.LENGTH


def deltas(chat, ids, reason=CUT, **fields):
    """The deltas of an answer; each token's log-probability is its position, so that it can be told."""
    stream = chat.answer_stream(Request(messages=ASKED, logprobs=0, **fields))
    found = [stream.push(token_id, TokenScores(-float(at))) for at, token_id in enumerate(ids)]
    return [*found, stream.finish(reason)]


def words(chat):
    """Texts of a few bytes, split at random into tokens of the tokenizer."""
    return st.text("ab é日🙂.\n<>", max_size=12).map(lambda text: chat.tokenizer.encode(text).ids)


def check(chat, ids, found):
    """Each delta's tokens are its text; all of them are tokens of the answer, in order, none twice."""
    for delta in found:
        assert b"".join(token.bytes for token in delta.logprobs).decode("utf-8", "replace") == delta.text
        assert all(token.token == token.bytes.decode("utf-8", "replace") for token in delta.logprobs)
    places = [-int(token.logprob) for delta in found for token in delta.logprobs]
    assert places == sorted(set(places))
    listed = [token for delta in found for token in delta.logprobs]
    names = chat.token_names
    for place, token in list(zip(places, listed, strict=True))[:-1]:
        assert token.bytes == names.bytes_of(ids[place]), "only the last may be cut"
    return places


BYTE_LEVEL = CHATS["byte level"]


@given(ids=words(BYTE_LEVEL), stop=st.lists(st.text("ab .é", min_size=1, max_size=3), max_size=2))
@settings(max_examples=300, deadline=None)
def test_the_tokens_of_each_piece_of_text_are_those_that_it_is_made_of(ids, stop):
    found = deltas(BYTE_LEVEL, ids, sampling=Sampling(stop=tuple(stop)))
    plain = Request(messages=ASKED, sampling=Sampling(stop=tuple(stop)))
    stream = BYTE_LEVEL.text_stream(plain)
    assert "".join(delta.text for delta in found) == "".join([stream.push(one) for one in ids]) + stream.flush()
    places = check(BYTE_LEVEL, ids, found)
    assert places == list(range(len(places))), "a beginning of the answer"
    assert stop or len(places) == len(ids)


@pytest.mark.parametrize("name", ["llama 2", "gemma", "mistral"])
@given(ids=st.lists(st.one_of(st.sampled_from(list("日é🙂 a\n".encode())), st.integers(256, 264)), max_size=24))
@example(ids=ids_of("▁hi", "▁", "日".encode(), "</s>", "a"))
@settings(max_examples=200, deadline=None)
def test_tokens_that_are_single_bytes_come_with_their_character(name, ids):
    """Whatever the bytes are: none is lost, none comes twice, control tokens are left out."""
    chat = CHATS[name]
    found = deltas(chat, ids)
    assert "".join(delta.text for delta in found) == TOKENIZERS[name].decode(ids, skip_special_tokens=True)
    places = [-int(token.logprob) for delta in found for token in delta.logprobs]
    seen = [at for at, token_id in enumerate(ids) if chat.token_names.bytes_of(token_id)]
    assert places == seen[: len(places)]
    whole = b"".join(chat.token_names.bytes_of(token_id) for token_id in ids)
    if "\ufffd" not in "".join(delta.text for delta in found):
        assert len(places) == len(seen) or not whole.decode().strip()


def test_a_token_of_which_a_stop_text_takes_the_end_is_cut_there():
    tokenizer = synthetic_tokenizer(1024)
    tokenizer.add_tokens(["one. two"])
    chat = ChatTokenizer(tokenizer, "x", eos_ids={0})
    (delta, last) = deltas(chat, [tokenizer.token_to_id("one. two")], sampling=Sampling(stop=(".",)))
    assert [(token.token, token.bytes) for token in delta.logprobs] == [("one", b"one")]
    assert (delta.text, last.text, last.logprobs) == ("one", "", ())


def test_text_that_is_held_back_comes_with_its_tokens():
    ids = BYTE_LEVEL.tokenizer.encode("a<b").ids
    held = deltas(BYTE_LEVEL, ids, sampling=Sampling(stop=("<bc",)))
    assert [len(delta.logprobs) for delta in held] == [1, 0, 0, len(ids) - 1]


@pytest.fixture(scope="module")
def hermes():
    tokenizer = synthetic_tokenizer(1024)
    tokenizer.add_tokens(list(NAMED))
    return ChatTokenizer(tokenizer, QWEN, eos_ids={0})


CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("<think>Let me see.</think>\n\n Yes, it is. ", "Yes, it is. "),
        ("<think>Let me see.</think>", ""),
        ("It is so \n\n" + CALL, "It is so"),
        (CALL, ""),
        ("<think>a</think>b " + CALL, "b"),
        ("a < b <tool", "a < b"),
        ("  indented", "  indented"),
    ],
)
def test_the_tokens_of_reasoning_and_of_calls_are_left_out(hermes, text, visible):
    ids = hermes.tokenizer.encode(text, add_special_tokens=False).ids
    found = deltas(hermes, ids, tools=(Tool(name="f"),))
    assert "".join(delta.text for delta in found).rstrip() == visible.rstrip()
    assert "".join(token.token for delta in found for token in delta.logprobs).strip() == visible.strip()
    places = [-int(token.logprob) for delta in found for token in delta.logprobs]
    assert places == list(range(places[0], places[0] + len(places))) if places else not visible


@given(seed=st.integers(0, 10**6), text=st.text("ab <>{}\n", max_size=20), stop=st.text("ab<", max_size=2))
@settings(max_examples=200, deadline=None)
def test_with_tools_and_reasoning_the_tokens_are_those_of_the_text_too(hermes, seed, text, stop):
    draw = random.Random(seed)
    whole = draw.choice(["", "<think>hm</think>", "<think>"]) + text + draw.choice(["", CALL, " " + CALL])
    ids = hermes.tokenizer.encode(whole, add_special_tokens=False).ids
    fields = {"tools": (Tool(name="f"),), "sampling": Sampling(stop=(stop,) if stop else ())}
    stream = hermes.answer_stream(Request(messages=ASKED, **fields))
    try:
        expected = [stream.push(one) for one in ids] + [stream.finish(CUT)]
    except MalformedCall:
        return
    found = deltas(hermes, ids, **fields)
    joined = "".join(delta.text for delta in found)
    assert joined == "".join(delta.text for delta in expected)
    assert "".join(delta.reasoning for delta in found) == "".join(delta.reasoning for delta in expected)
    assert b"".join(token.bytes for delta in found for token in delta.logprobs).decode().endswith(joined)
    given_up_to = 0
    for delta in found:
        given_up_to += len(delta.text)
        assert b"".join(token.bytes for token in delta.logprobs).decode().endswith(delta.text)


@pytest.mark.parametrize("name", CHATS)
def test_the_bytes_of_a_token_are_those_that_it_adds_to_a_text(name):
    """Judged by the tokenizer's own decoder, behind a token that is left unchanged."""
    tokenizer, names = TOKENIZERS[name], CHATS[name].token_names
    first = tokenizer.encode("a", add_special_tokens=False).ids if name == "byte level" else ids_of("a")
    for token_id in range(tokenizer.get_vocab_size()):
        added = tokenizer.decode([*first, token_id], skip_special_tokens=True)[1:]
        if "\ufffd" not in added:
            assert names.bytes_of(token_id).decode() == added


def test_a_control_token_among_the_alternatives_has_its_name_and_no_bytes():
    tokenizer, names = TOKENIZERS["byte level"], CHATS["byte level"].token_names
    end = tokenizer.token_to_id("<|end|>")
    (alternative,) = names.listed(tokenizer.encode("a").ids[0], TokenScores(-1.0, ((end, -0.5),))).top
    assert (alternative.token, alternative.bytes, alternative.logprob) == ("<|end|>", b"", -0.5)
    assert names.listed(end, TokenScores(-1.0)) is None
