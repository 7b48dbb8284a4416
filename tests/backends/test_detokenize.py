"""Streamed text is the text of all tokens together, whatever the tokens are: no bad byte raises or is lost."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.request import Message, Request, Sampling
from tests.shapes import synthetic_tokenizer

WORDS = ("▁", "J", "日", "本", "▁hi", "a", "\ufffd", "<s>", "</s>")
VOCABULARY = {f"<0x{byte:02X}>": byte for byte in range(256)} | {word: 256 + at for at, word in enumerate(WORDS)}
DECODERS = {
    "llama 2": [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)],
    "gemma": [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()],
    "mistral": [decoders.ByteFallback(), decoders.Metaspace()],
}


def byte_fallback(decoder: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[], byte_fallback=True))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.decoder = decoders.Sequence(DECODERS[decoder])
    return tokenizer


TOKENIZERS = {name: byte_fallback(name) for name in DECODERS} | {"byte level": synthetic_tokenizer(1024)}
CHATS = {name: ChatTokenizer(tokenizer, "x", eos_ids={0}) for name, tokenizer in TOKENIZERS.items()}
REQUEST = Request(messages=(Message(role="user", content="x"),))


def pieces(name: str, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    stream = CHATS[name].text_stream(Request(messages=REQUEST.messages, sampling=Sampling(stop=stop)))
    return [*[stream.push(token_id) for token_id in ids], stream.flush()]


def ids_of(*tokens: str | bytes) -> list[int]:
    return [one for token in tokens for one in (list(token) if isinstance(token, bytes) else [VOCABULARY[token]])]


BYTES = st.one_of(
    st.integers(0, 255),
    st.sampled_from(list("日本é🙂 a\n".encode())),
)
IDS = st.lists(st.one_of(BYTES, st.integers(256, 270)), max_size=40)


@pytest.mark.parametrize("name", DECODERS)
@given(ids=IDS)
@example(ids=ids_of("J", b"\xe6", "日", "本"))
@example(ids=ids_of("J", b"A\xe6", "日"))
@example(ids=ids_of(b"A", b"\xe6"))
@example(ids=ids_of(b"\xe6", "</s>", b"\x97\xa5"))
@example(ids=ids_of(b" ", "▁hi", b" \xf0", "a", "\ufffd"))
@example(ids=ids_of("\ufffd", b"\xe6\x97\xa5", "a"))
@settings(max_examples=400, deadline=None)
def test_pieces_add_up_to_the_whole_text_of_a_byte_fallback_tokenizer(name, ids):
    assert "".join(pieces(name, ids)) == TOKENIZERS[name].decode(ids, skip_special_tokens=True)


@given(ids=st.lists(st.integers(0, 1100), max_size=40))
@settings(max_examples=300, deadline=None)
def test_pieces_add_up_to_the_whole_text_of_a_byte_level_tokenizer(ids):
    assert "".join(pieces("byte level", ids)) == TOKENIZERS["byte level"].decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", DECODERS)
def test_a_lone_byte_becomes_one_replacement_character(name):
    assert "".join(pieces(name, ids_of("J", b"\xe6", "日", "本"))) == "J\ufffd日本"


@pytest.mark.parametrize("name", DECODERS)
def test_a_character_of_several_bytes_is_given_whole(name):
    assert pieces(name, ids_of("a", "日".encode(), "a")) == ["a", "", "", "", "日a", ""]


@pytest.mark.parametrize("name", DECODERS)
def test_an_answer_that_ends_within_a_character_ends_with_a_replacement(name):
    assert "".join(pieces(name, ids_of("J", b"\xe6"))) == "J\ufffd"


@pytest.mark.parametrize("name", DECODERS)
def test_what_is_invalid_is_given_at_once(name):
    assert pieces(name, ids_of(b"A\xff", b"B")) == ["", "\ufffd\ufffd", "\ufffd", ""]


@pytest.mark.parametrize("name", DECODERS)
def test_a_script_without_tokens_of_its_own_is_streamed_after_64_bytes(name):
    text = "བོད་ཡིག་" * 40
    parts = pieces(name, list(text.encode()))
    assert "".join(parts) == text
    assert len([part for part in parts if part]) > 10
    assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize("name", DECODERS)
def test_stop_texts_work_across_runs_of_bytes(name):
    assert "".join(pieces(name, ids_of("a", "日本".encode(), "J", "a"), stop=("本J",))) == "a日"


@pytest.mark.parametrize("name", DECODERS)
def test_a_continued_answer_does_not_repeat_the_run_that_its_prompt_ends_with(name):
    request = Request(messages=REQUEST.messages, answer_prefix="é")
    stream = CHATS[name].text_stream(request, ids_of("a", "é".encode()))
    assert "".join([stream.push(one) for one in ids_of(b"\xe6", "日")]) + stream.flush() == "\ufffd日"


@pytest.mark.parametrize("name", CHATS)
def test_a_continued_answer_does_not_repeat_the_replacement_character_that_its_prompt_ends_with(name):
    prefix, rest = "so \ufffd", "日本"
    known = TOKENIZERS["byte level"].encode(prefix, add_special_tokens=False).ids
    prompt = known if name == "byte level" else ids_of("a", "\ufffd")
    answer = (
        TOKENIZERS["byte level"].encode(rest, add_special_tokens=False).ids
        if name == "byte level"
        else ids_of("日", "本")
    )
    stream = CHATS[name].text_stream(Request(messages=REQUEST.messages, answer_prefix=prefix), prompt)
    assert "".join([stream.push(one) for one in answer]) + stream.flush() == rest
