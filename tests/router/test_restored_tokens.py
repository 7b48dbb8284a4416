"""Under pseudonyms the tokens follow the restored text: a value is one token, the others are as the model had them."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.request import Message, Request
from hybrid_llm.router.privacy.restore import AnswerRestorer
from tests.router.test_restore import FILLERS, NAMES, SPELLINGS, TABLE, VALUES, stream

ASKED = (Message(role="user", content="x"),)


def tokens_of(text, draw):
    """*text* as tokens of 1 to 5 bytes, which may split a character; the n-th has the log-probability -n."""
    data, found = text.encode(), []
    while data:
        size = draw.randint(1, 5)
        part, data = data[:size], data[size:]
        top = (Alternative(token="?", logprob=-0.5, bytes=b"?"),)
        word = part.decode(errors="replace")
        found.append(TokenLogprob(token=word, logprob=-float(len(found)), bytes=part, top=top))
    return found


def chunks_of(tokens, draw):
    """Chunks of whole characters, each with its tokens, as backends give them; the last has a finish reason."""
    waiting, chunks = [], []
    for token in tokens:
        waiting.append(token)
        try:
            text = b"".join(each.bytes for each in waiting).decode()
        except UnicodeDecodeError:
            continue
        if draw.random() < 0.6:
            chunks.append(Chunk(text=text, logprobs=tuple(waiting)))
            waiting = []
    text = b"".join(each.bytes for each in waiting).decode()
    return [*chunks, Chunk(text=text, logprobs=tuple(waiting), finish_reason=FinishReason.STOP)]


SPELLED = st.builds(lambda spell, name: spell(name), st.sampled_from(SPELLINGS), st.sampled_from(NAMES))
FILLED = st.sampled_from([text for text in FILLERS if not any("\ud800" <= each < "\ue000" for each in text)])
ANSWERS = st.lists(st.one_of(FILLED, SPELLED), max_size=8).map("".join)


@pytest.mark.parametrize("in_json", [False, True])
@given(text=ANSWERS, seed=st.integers(0, 10**6))
@settings(max_examples=400, deadline=None)
def test_the_text_is_as_without_and_in_every_chunk_the_tokens_are_its_text(in_json, text, seed):
    draw = random.Random(seed)
    text = f'{{"a": "{text}"}}' if in_json else text
    request = Request(messages=ASKED, logprobs=1, output_schema="{}" if in_json else None)
    sent = tokens_of(text, draw)
    restorer = AnswerRestorer(TABLE, request)
    got = [restorer.restore(chunk) for chunk in chunks_of(sent, draw)]
    assert "".join(chunk.text for chunk in got) == stream(TABLE, [text], in_json=in_json)
    for chunk in got:
        assert b"".join(token.bytes for token in chunk.logprobs).decode() == chunk.text
    found = [token for chunk in got for token in chunk.logprobs]
    assert sum(token.logprob for token in found) == pytest.approx(sum(token.logprob for token in sent))
    merged = [token for token in found if not token.top]
    assert [token for token in found if token.top] == [token for token in sent if token in found]
    for token in merged:
        assert any(value[:3] in token.token or "Zhang" in token.token for value in VALUES)


def test_a_value_is_one_token_with_the_sum_and_no_alternatives():
    text = f"Ask {NAMES[0]}."
    name = tokens_of(NAMES[0], random.Random(2))
    sent = [*tokens_of("Ask ", random.Random(1)), *name, *tokens_of(".", random.Random(3))]
    restorer = AnswerRestorer(TABLE, Request(messages=ASKED, logprobs=1))
    chunks = [Chunk(text=token.token, logprobs=(token,)) for token in sent]
    got = [restorer.restore(chunk) for chunk in [*chunks, Chunk(finish_reason=FinishReason.STOP)]]
    tokens = [token for chunk in got for token in chunk.logprobs]
    (value,) = [token for token in tokens if not token.top]
    assert value.token == VALUES[0]
    assert value.bytes == VALUES[0].encode()
    assert value.logprob == sum(token.logprob for token in name)
    assert not any(NAMES[0][:6] in token.token for token in tokens)
    assert "".join(chunk.text for chunk in got) == text.replace(NAMES[0], VALUES[0])


def test_text_without_tokens_is_restored_all_the_same():
    restorer = AnswerRestorer(TABLE, Request(messages=ASKED, logprobs=1))
    got = restorer.restore(Chunk(text=NAMES[0], finish_reason=FinishReason.STOP))
    assert (got.text, got.logprobs) == (VALUES[0], ())


def test_a_request_that_does_not_ask_gets_none_whatever_the_backend_sends():
    token = TokenLogprob(token="a", logprob=-1.0, bytes=b"a")
    restorer = AnswerRestorer(TABLE, Request(messages=ASKED))
    assert restorer.restore(Chunk(text="a", logprobs=(token,))).logprobs == ()
